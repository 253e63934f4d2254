r"""Hybrid covariances: those of an ensemble and of the climatology, weighted.

.. math:: P = (1 - w) \, P^f + w B

P is that of the joint anomalies :math:`\sqrt{(1 - w) / (N - 1)} \, A` of the N members and
:math:`\sqrt{w / (n - 1)} \, A_c` of the climatology, of which a gain is a combination. B is of
full rank where few members are not, and knows no error of the day.

Source: Hamill & Snyder (2000), Mon. Wea. Rev. 128, 2905-2919.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.climatology import Climatology, StaticCovariance
from scorda.assimilation.filter import Run
from scorda.assimilation.kalman_algebra import (
    in_double,
    inflate,
    kalman_transform,
    mean_preserving_rotation,
    white_innovation,
)
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["Hybrid", "HybridETKF", "HybridEnKF"]


@dataclass(frozen=True)
class Hybrid:
    """How much of the climatological covariance there is beside that of the ensemble.

    Arguments:
        weight: w in [0, 1]; 0: the ensemble alone, bit for bit as without a hybrid; 1: the
            covariance of 3D-Var.
        scale: Factor of the climatological covariance, as of a `Climatology`: well below 1, since
            errors of forecasts are much smaller than the spread of the climate.
        draws: Number of draws of the system's `prior`.

    Example:
        With `problem` as in `twin_experiment`:

        >>> method = sc.ETKF(hybrid=sc.Hybrid(weight=0.2, scale=0.1))
        >>> analysis = method.assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    weight: float
    scale: float = 1.0
    draws: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"Got weight = {self.weight}: give a share between 0 and 1.")
        Climatology(self.scale, self.draws)

    @property
    def climatology(self) -> Climatology:
        return Climatology(self.scale, self.draws)

    def joint(
        self,
        ensemble: Float[Tensor, "ensemble columns"],
        static: Float[Tensor, "draws columns"],
    ) -> Float[Tensor, "joint columns"]:
        """Return joint anomalies, whose sample covariance is P."""
        rows = len(ensemble) + len(static) - 1
        of_ensemble = ((1 - self.weight) * rows / (len(ensemble) - 1)) ** 0.5
        of_static = (self.weight * rows / (len(static) - 1)) ** 0.5
        return torch.cat((of_ensemble * ensemble, of_static * static))


@dataclass(frozen=True, eq=False)
class _HybridRun(Run):
    """What the analyses share: the members and the climatology as they see an observation."""

    inflation: float
    hybrid: Hybrid
    static: StaticCovariance

    def _seen(
        self, forecast: Tensor, y: Tensor, model: ObservationModel
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """White anomalies and innovation of the members, and joint anomalies, white and not."""
        Y, d = white_innovation(forecast, y, model)
        mean = forecast.mean(0)
        joint = self.hybrid.joint(Y, self.static.predicted(mean, y, model)[0])
        A = (forecast - mean).flatten(1)
        return Y, d, joint, self.hybrid.joint(A, self.static.anomalies.flatten(1))


@dataclass(frozen=True, eq=False)
class HybridEnKF(_HybridRun):
    """Analyses of the EnKF with the gain of a hybrid covariance."""

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        Y, d, joint, A = self._seen(forecast, y, model)
        noise = rng.normal(len(Y), tuple(d.shape), generator, like=Y)
        gain = kalman_transform(joint, d - Y + noise - noise.mean(0))
        moved = in_double(gain.increment, A).reshape(forecast.shape)
        return inflate(forecast + moved, self.inflation), {"white": (Y, d)}


@dataclass(frozen=True, eq=False)
class HybridETKF(_HybridRun):
    r"""Analyses of the ETKF with the gains of a hybrid covariance.

    .. math:: \bar x^a = \bar x + K d, \quad A^a = A - Y \tilde K^T, \quad
        \tilde K = P H^T (S + S^{1/2})^{-1}, \quad S = H P H^T + I

    in white units. The reduced gain of the anomalies is the square root of the update of P,
    :math:`(I - \tilde K H) P (I - \tilde K H)^T = (I - K H) P`, and with w = 0 it is the transform
    of the ETKF. It costs one singular value decomposition of the joint anomalies.

    Source of the reduced gain: Whitaker & Hamill (2002), Mon. Wea. Rev. 130, 1913-1924, equation
    10; for several observations its symmetric form.
    """

    rotation: bool = False

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        Y, d, joint, A = self._seen(forecast, y, model)
        left, s, right = torch.linalg.svd(joint, full_matrices=False)
        rest = len(joint) - 1
        S = 1 + s.square() / rest
        # What innovations become along the singular vectors, of which the increments are made.
        mean = (d @ right.mT) * s / S / rest @ left.mT
        around = -(Y @ right.mT) * s / (S + S.sqrt()) / rest @ left.mT
        eye = self.inflation * torch.eye(len(Y)).to(Y)
        turn = eye @ mean_preserving_rotation(len(Y), Y, generator) if self.rotation else eye

        def moved(joint: Tensor) -> Tensor:
            return mean @ joint + turn @ (around @ joint)

        x, centre = forecast.double(), forecast.double().mean(0)
        kept = torch.tensordot(turn, x - centre, 1) + centre
        return (kept + in_double(moved, A.double()).view(x.shape)).to(forecast), {"white": (Y, d)}
