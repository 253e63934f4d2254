r"""The local ensemble transform Kalman filter: a small analysis per grid point, in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import (
    symmetric_transform,
    white_innovation,
)
from scorda.assimilation.local import Geometry, Local, NearBlocks
from scorda.assimilation.localization import Localization, Scene, local_weights
from scorda.assimilation.memory import pairs_near
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.core.threads import one_thread
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["LETKF"]


@dataclass(frozen=True)
class LETKF(PreparedFilter):
    r"""Local ensemble transform Kalman filter with localized observation errors.

    At each grid point the analysis is that of the `ETKF`, from the observations within reach 2c of
    the Gaspari-Cohn function and with their inverse error variances multiplied by its value,

    .. math:: R_{jj}^{-1} \leftarrow \rho(\mathrm{distance}_j / c) \, R_{jj}^{-1}, \quad
        c = 1.82 \, \mathrm{radius}

    All variables at a point share one analysis. A point without observations in reach keeps its
    forecast, bit for bit and without inflation. An infinite radius gives the ETKF.

    Source: Hunt, Kostelich & Szunyogh (2007), Physica D 230, section 2.3 and equations 20-25.

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).
        localization: Taper of the inverse error variances by distance, or another
            `Localization`: each component of the state then has an analysis of its own.
        block: Grid points along each axis that share one analysis, made at the centre of their
            block. 1 is exact; 2 is an approximation for a quarter of the cost in two dimensions,
            good where the radius spans several grid points.
        tile: Grid points along each axis of a tile, a multiple of `block`; None: no tiles. Each
            tile is analysed by itself from the observations in reach of it, as many tiles at once
            as torch has threads. The order of sums, and so the last digit, depends on the tiles,
            but not on how many are analysed at once.

    Example:
        Lorenz-96, whose twelve variables are on a ring:

        >>> system = sc.systems.Lorenz96(dim=12)
        >>> seen = sc.ObservationModel(sc.Select(range(0, 12, 2)), std=1.0)
        >>> truth, problem = sc.twin_experiment(system, seen, steps=8, every=4, generator=0)
        >>> method = sc.LETKF(inflation=1.02, localization=sc.GaspariCohn(4.0))
        >>> method.assimilate(problem, members=10, generator=0).states.shape
        torch.Size([10, 9, 12])
    """

    inflation: float | Inflation = 1.0
    _: KW_ONLY
    localization: GaspariCohn | Localization
    block: int = 1
    tile: int | None = None

    needs = ("simulator", "positions", "independent_errors")
    errors = "robust_errors"
    exact = "linear-Gaussian, N and radius → ∞"

    @classmethod
    def example(cls, problem: Problem) -> LETKF:
        """Return an instance with a radius of three grid points of unit distance."""
        return cls(localization=GaspariCohn(3.0))

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        if not isinstance(self.localization, GaspariCohn | Localization):
            raise ValueError(
                f"Got localization = {self.localization!r}: give one, such as GaspariCohn(4)."
            )
        if isinstance(self.localization, Localization):
            if self.block != 1 or self.tile is not None:
                raise ValueError(
                    f"Got block = {self.block} and tile = {self.tile}: they are for GaspariCohn "
                    "alone; leave them out."
                )
            if not self.localization.positions:
                object.__setattr__(self, "needs", ("simulator", "independent_errors"))
        if self.block < 1:
            raise ValueError(f"Got block = {self.block}: give the points of a block, >= 1.")
        if self.tile is not None and (self.tile < 1 or self.tile % self.block):
            raise ValueError(
                f"Got tile = {self.tile} and block = {self.block}: give a tile of whole blocks, "
                "or None."
            )

    def memory(self, problem: Problem, members: int) -> int:
        needed = super().memory(problem, members)
        if isinstance(self.localization, Localization):
            return needed
        return needed + 8 * pairs_near(problem, self.localization)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        if problem is None:
            raise ValueError("LETKF needs the geometry of the space: call `begin(problem)` first.")
        if isinstance(self.localization, Localization):
            return _Weighed(self.inflation_factor, self.localization, problem.space)
        geometry = Geometry.of(problem, (self.localization,), self.block, self.tile)
        return _Local(self.inflation_factor, geometry)


@dataclass(frozen=True)
class _Local(Run):
    """Analyses of the LETKF in one space."""

    inflation: float
    geometry: Geometry

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        if model.cov is not None:
            raise ValueError(
                "LETKF needs independent errors of observation: give `std` instead of `cov`, or "
                "use EnKF with localization."
            )
        geometry, members = self.geometry, len(forecast)
        anomalies, innovation = white_innovation(forecast, y, model)
        # Gathered below by observation, so observations come first.
        white = torch.cat((anomalies, innovation[None])).mT.contiguous()
        # (points, ensemble, variables)
        states = forecast.reshape(members, -1, geometry.points).permute(2, 0, 1)
        analysis = states.clone(memory_format=torch.contiguous_format)

        def analysed(lists: list[NearBlocks]) -> None:
            for local in geometry.batches(lists, members):
                x = moved(states[local.points], local.to(white), white, self.inflation)
                analysis[local.points[local.exists]] = x[local.exists].to(forecast)

        tiles = geometry.lists(model.operator.coordinates(geometry.space))
        workers = 1 if geometry.tiles is None else torch.get_num_threads()
        if workers > 1:
            # A tile is the work of one thread.
            with one_thread(), ThreadPoolExecutor(workers) as pool:
                list(pool.map(analysed, tiles))
        else:
            for lists in tiles:
                analysed(lists)
        analysis = analysis.permute(1, 2, 0).reshape(forecast.shape)
        return analysis, {"white": (anomalies, innovation)}


@dataclass(frozen=True)
class _Weighed(Run):
    """Analyses of the LETKF with the weights of any localization, component by component."""

    inflation: float
    localization: Localization
    space: StateSpace

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        anomalies, innovation = white_innovation(forecast, y, model)
        white = torch.cat((anomalies, innovation[None])).mT.contiguous()
        analysis, states = forecast.flatten(1).clone(), forecast.flatten(1).mT
        for local in local_weights(
            Scene(self.localization, self.space, model, forecast, anomalies)
        ):
            x = states[local.points].unsqueeze(-1)
            x = moved(x, local.to(white), white, self.inflation)
            analysis[:, local.points[:, 0]] = x[:, 0, :, 0].mT.to(forecast)
        return analysis.reshape(forecast.shape), {"white": (anomalies, innovation)}


def moved(
    states: Float[Tensor, "blocks points ensemble variables"],
    local: Local,
    white: Float[Tensor, "obs columns"],
    inflation: float,
) -> Float[Tensor, "blocks points ensemble variables"]:
    """Return the analysis of a batch of blocks."""
    near = white[local.observations] * local.root_weights[0].unsqueeze(-1)
    mean_weights, transform = symmetric_transform(near[..., :-1].mT, near[..., -1])
    x = states.to(white)
    mean = x.mean(2, keepdim=True)
    # (blocks, ensemble, columns): one column per point and variable.
    A = (x - mean).transpose(1, 2).flatten(2)
    A = mean_weights @ A + inflation * (A + transform.increment(A))
    return mean + A.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2)
