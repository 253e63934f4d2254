r"""The serial square-root filter: observations one after another, without perturbations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import inflate, rotated, white_innovation
from scorda.assimilation.localization import check_taper
from scorda.assimilation.serial import SerialLocal, serial_analysis, serial_memory
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["EnSRF"]


@dataclass(frozen=True)
class EnSRF(PreparedFilter):
    r"""Serial ensemble square-root filter, which is the ensemble adjustment Kalman filter (EAKF).

    For each scalar observation with error variance r, predicted as z with variance v,

    .. math:: x_i \leftarrow x_i + \rho \, K \, [\, y - \bar z - \alpha (z_i - \bar z) \,], \quad
        K = \frac{\mathrm{cov}(x, z)}{v + r}, \quad
        \alpha = \Bigl( 1 + \sqrt{r / (v + r)} \Bigr)^{-1},

    and the predicted values of the observations that follow move likewise. This is the filter of
    Whitaker & Hamill. Anderson's EAKF moves z to its new mean and scales its anomalies by
    :math:`\sqrt{r / (v + r)}`, and regresses these increments on the state, which is the same
    analysis: :math:`(1 - \alpha k)^2 v = (1 - k) v` with :math:`k = v / (v + r)`.

    Without localization mean and covariance of the analysis are exactly those of the Kalman update
    with the sample moments of the forecast (for a linear h), in any order of the observations;
    correlated errors are made white first. With localization the analysis depends on the order,
    which is that of the observation. A nonlinear h is evaluated once, for the forecast: later
    observations are predicted by regression.

    Source: Whitaker & Hamill (2002), Mon. Wea. Rev. 130, 1913-1924;
    Anderson (2003), Mon. Wea. Rev. 131, 634-642.
    https://doi.org/10.1175/1520-0493(2003)131<0634:ALLSFF>2.0.CO;2

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).
        localization: Taper of the regressions by distance, or None.
        rotation: Whether the anomalies are multiplied in each cycle by a random orthogonal matrix
            that keeps mean and covariance.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnSRF(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float | Inflation = 1.0
    localization: GaspariCohn | None = None
    rotation: bool = False

    errors = "robust_errors"
    exact = "linear-Gaussian, N → ∞"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        check_taper(self, self.localization)
        if self.localization is not None:
            needs = ("simulator", "positions", "independent_errors")
            object.__setattr__(self, "needs", needs)

    def memory(self, problem: Problem, members: int) -> int:
        return super().memory(problem, members) + serial_memory(problem, self.localization)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        return _Serial(self, SerialLocal.of(problem, self.localization))


@dataclass(frozen=True)
class _Serial(Run):
    """Analyses of the EnSRF."""

    settings: EnSRF
    local: SerialLocal | None

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        anomalies, innovation = white_innovation(forecast, y, model)

        def scalar(z: Tensor, j: int) -> Tensor:
            mean = z.mean()
            around = z - mean
            total = around.square().sum() / (len(z) - 1) + 1
            # v / (v + 1), and alpha times it.
            gain = 1 - 1 / total
            return gain * (innovation[j] - mean) - around * (1 - total.rsqrt())

        analysis = serial_analysis(forecast, anomalies, scalar, model, self.local)
        if self.settings.rotation:
            analysis = rotated(analysis, generator)
        return inflate(analysis, self.settings.inflation_factor), {
            "white": (anomalies, innovation)
        }
