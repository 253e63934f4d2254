r"""The local ensemble transform Kalman filter: a small analysis per grid point, in batches."""

from __future__ import annotations

import copy
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch

from scorda.assimilate import Filter, GaspariCohn
from scorda.assimilate.ensemble import (
    check_inflation,
    innovation_statistics,
    symmetric_transform,
    white_innovation,
)
from scorda.observe import ObservationModel
from scorda.problem import Problem
from scorda.shapes import Bool, Float, Int, Tensor
from scorda.space import StateSpace

__all__ = ["LETKF"]

# Numbers held at once by a batch of local analyses (16 MiB in single precision).
BATCH = 2**22


@dataclass(frozen=True)
class LETKF(Filter):
    r"""Local ensemble transform Kalman filter with localized observation errors.

    At each grid point the analysis is that of the `ETKF`, from the observations within reach 2c of
    the Gaspari-Cohn function and with their inverse error variances multiplied by its value,

    .. math:: R_{jj}^{-1} \leftarrow \rho(\mathrm{distance}_j / c) \, R_{jj}^{-1}, \quad
        c = 1.82 \, \mathrm{radius}

    All variables at a point share one analysis. A point without observations in reach keeps its
    forecast, bit for bit and without inflation. An infinite radius gives the ETKF.

    Source: Hunt, Kostelich & Szunyogh (2007), Physica D 230, section 2.3 and equations 20-25.

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1.
        radius: Localization radius in the units of the space's coordinates.
        block: Grid points along each axis that share one analysis, made at the centre of their
            block. 1 is exact; 2 is an approximation for a quarter of the cost in two dimensions,
            good where the radius spans several grid points.
    """

    inflation: float = 1.0
    _: KW_ONLY
    radius: float
    block: int = 1
    _geometry: _Geometry | None = field(default=None, init=False, repr=False, compare=False)

    needs = ("simulator", "positions", "independent_errors")
    least_members = 2
    exact = "linear-Gaussian, N and radius → ∞"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        GaspariCohn(self.radius)
        if self.block < 1:
            raise ValueError(f"Got block = {self.block}: give the points of a block, >= 1.")

    def begin(self, problem: Problem, weights: Float[Tensor, "ensemble"] | None = None) -> LETKF:
        """Return a copy that owns the geometry of the space."""
        run = copy.copy(self)
        geometry = _Geometry(problem.space, GaspariCohn(self.radius), self.block)
        object.__setattr__(run, "_geometry", geometry)
        return run

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        geometry = self._geometry
        if geometry is None:
            raise ValueError("LETKF needs the geometry of the space: call `begin(problem)` first.")
        if model.cov is not None:
            raise ValueError(
                "LETKF needs independent errors of observation: give `std` instead of `cov`, or "
                "use EnKF with localization."
            )
        anomalies, innovation = white_innovation(forecast, y, model)
        # Gathered below by observation, so observations come first.
        white = torch.cat((anomalies, innovation[None])).mT.contiguous()
        members = len(forecast)
        # (points, ensemble, variables)
        states = forecast.reshape(members, -1, geometry.points).permute(2, 0, 1)
        analysis = states.clone(memory_format=torch.contiguous_format)
        for local in geometry.local(model.operator.coordinates(geometry.space), members):
            local = local.to(forecast)
            near = white[local.observations] * local.root_weights.unsqueeze(-1)
            mean_weights, transform = symmetric_transform(near[..., :-1].mT, near[..., -1])
            # (blocks, points of a block, ensemble, variables): one column per point and variable.
            x = states[local.points]
            mean = x.mean(2, keepdim=True)
            A = (x - mean).transpose(1, 2).flatten(2)
            moved = mean_weights @ A + self.inflation * (A + transform.increment(A))
            x = mean + moved.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2)
            analysis[local.points[local.exists]] = x[local.exists]
        analysis = analysis.permute(1, 2, 0).reshape(forecast.shape)
        return analysis, innovation_statistics(anomalies, innovation)


@dataclass(frozen=True)
class _Local:
    """A batch of local analyses: which points, which observations, with which weights.

    Lists of unequal length are padded: points where `exists` is False, observations where the
    weight is 0.
    """

    points: Int[Tensor, "blocks points"]
    exists: Bool[Tensor, "blocks points"]
    observations: Int[Tensor, "blocks near"]
    root_weights: Float[Tensor, "blocks near"]

    def to(self, like: Tensor) -> _Local:
        """The same on the device and in the precision of another tensor."""
        device = like.device
        return _Local(
            self.points.to(device),
            self.exists.to(device),
            self.observations.to(device),
            self.root_weights.to(like),
        )


class _Geometry:
    """Blocks of a grid, and the observations near them; kept until the observations move."""

    def __init__(self, space: StateSpace, taper: GaspariCohn, block: int) -> None:
        self.space, self.taper = space, taper
        positions = space.positions()
        self.points = len(positions)
        self.members, self.exists = _blocks(space.grid, block)
        count = self.exists.sum(1, keepdim=True)
        # Blocks do not cross the seam of a periodic axis, so the plain mean is their centre.
        self.centres = (positions[self.members] * self.exists.unsqueeze(-1)).sum(1) / count
        self.where: Tensor | None = None
        self.ensemble = 0
        self.batches: list[_Local] = []

    def local(self, where: Float[Tensor, "obs axes"], ensemble: int) -> list[_Local]:
        """Batches of local analyses for observations at given positions."""
        same = self.where is not None and self.ensemble == ensemble
        if not (same and self.where is not None and torch.equal(self.where, where)):
            self.batches = self._near(where, ensemble)
            self.where, self.ensemble = where, ensemble
        return self.batches

    def _near(self, where: Tensor, ensemble: int) -> list[_Local]:
        batches = []
        width = len(where) * (where.shape[1] + 1)
        for rows in torch.arange(len(self.centres)).split(max(1, BATCH // width)):
            weights = self.taper(self.space.distance(self.centres[rows], where))
            counts = (weights > 0).sum(1)
            rows, weights, counts = (part[counts > 0] for part in (rows, weights, counts))
            if not len(rows):
                continue
            near = int(counts.max())
            # Sorted by weight, so that what is cut off has weight 0.
            values, indices = weights.topk(near, dim=1)
            batches += [
                _Local(self.members[r], self.exists[r], i, v.sqrt())
                for r, i, v in zip(
                    *(part.split(self._batch(ensemble, near)) for part in (rows, indices, values)),
                    strict=True,
                )
            ]
        return batches

    @staticmethod
    def _batch(ensemble: int, near: int) -> int:
        smaller = min(ensemble, near)
        return max(1, BATCH // (ensemble * (ensemble + near) + 2 * smaller**2))


def _blocks(
    grid: tuple[int, ...], block: int
) -> tuple[Int[Tensor, "blocks points"], Bool[Tensor, "blocks points"]]:
    """Indices of the grid points of each block, padded where a block is cut off by the border."""
    points = torch.arange(max(1, int(torch.tensor(grid).prod()))).reshape(grid)
    padded = torch.full([-(-n // block) * block for n in grid], -1)
    padded[tuple(slice(n) for n in grid)] = points
    split = [size for n in padded.shape for size in (n // block, block)]
    axes = [*range(0, 2 * len(grid), 2), *range(1, 2 * len(grid), 2)]
    tiles = padded.reshape(split).permute(axes).reshape(-1, block ** len(grid))
    exists = tiles >= 0
    return tiles.clamp_min(0), exists
