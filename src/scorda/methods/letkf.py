r"""The local ensemble transform Kalman filter: a small analysis per grid point, in batches."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.kalman_algebra import (
    check_inflation,
    innovation_statistics,
    symmetric_transform,
    white_innovation,
)
from scorda.assimilation.local import Geometry
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn
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
        inflation: Factor of the analysis anomalies, at least 1.
        localization: Taper of the inverse error variances by distance.
        block: Grid points along each axis that share one analysis, made at the centre of their
            block. 1 is exact; 2 is an approximation for a quarter of the cost in two dimensions,
            good where the radius spans several grid points.
    """

    inflation: float = 1.0
    _: KW_ONLY
    localization: GaspariCohn
    block: int = 1

    needs = ("simulator", "positions", "independent_errors")
    exact = "linear-Gaussian, N and radius → ∞"

    @classmethod
    def example(cls, problem: Problem) -> LETKF:
        """Return an instance with a radius of three grid points of unit distance."""
        return cls(localization=GaspariCohn(3.0))

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        if not isinstance(self.localization, GaspariCohn):
            raise ValueError(
                f"Got localization = {self.localization!r}: give a taper, such as GaspariCohn(4)."
            )
        if self.block < 1:
            raise ValueError(f"Got block = {self.block}: give the points of a block, >= 1.")

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        if problem is None:
            raise ValueError("LETKF needs the geometry of the space: call `begin(problem)` first.")
        geometry = Geometry.of(problem, (self.localization,), self.block)
        return _Local(self.inflation, geometry)


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
        geometry = self.geometry
        anomalies, innovation = white_innovation(forecast, y, model)
        # Gathered below by observation, so observations come first.
        white = torch.cat((anomalies, innovation[None])).mT.contiguous()
        members = len(forecast)
        # (points, ensemble, variables)
        states = forecast.reshape(members, -1, geometry.points).permute(2, 0, 1)
        analysis = states.clone(memory_format=torch.contiguous_format)
        for local in geometry.local(model.operator.coordinates(geometry.space), members):
            local = local.to(white)
            near = white[local.observations] * local.root_weights[0].unsqueeze(-1)
            mean_weights, transform = symmetric_transform(near[..., :-1].mT, near[..., -1])
            # (blocks, points of a block, ensemble, variables): one column per point and variable.
            x = states[local.points].to(white)
            mean = x.mean(2, keepdim=True)
            A = (x - mean).transpose(1, 2).flatten(2)
            moved = mean_weights @ A + self.inflation * (A + transform.increment(A))
            x = mean + moved.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2)
            analysis[local.points[local.exists]] = x[local.exists].to(forecast)
        analysis = analysis.permute(1, 2, 0).reshape(forecast.shape)
        return analysis, innovation_statistics(anomalies, innovation)
