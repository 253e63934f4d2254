r"""The deterministic ensemble Kalman filter: half the gain for the anomalies, no perturbations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.filter import Filter
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import (
    inflate,
    kalman_transform,
    white_innovation,
)
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["DEnKF"]


@dataclass(frozen=True)
class DEnKF(Filter):
    r"""Deterministic ensemble Kalman filter.

    .. math:: \bar x^a = \bar x + K (y - \overline{h(x)}), \quad
        A^a = A - \tfrac{1}{2} K Y

    A and Y are the anomalies of the members and of their predicted observations, and K is the gain
    of their sample covariances. The mean is that of the Kalman update. For a linear h the
    covariance is :math:`(I - K H) P + \tfrac{1}{4} K H P H^T K^T`: larger than that of the Kalman
    update by the last term, which is of second order in K H and acts as an adaptive inflation.
    For a nonlinear h, Y is the spread of h(x), so that no gradient of h is needed.

    Source: Sakov & Oke (2008), Tellus A 60, 361-371.
    https://doi.org/10.1111/j.1600-0870.2007.00299.x

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.DEnKF(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float | Inflation = 1.0

    errors = "robust_errors"
    exact = "mean: linear-Gaussian, one analysis, N → ∞"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        Y, d = white_innovation(forecast, y, model)
        analysis = kalman_transform(Y, d - Y / 2)(forecast)
        return inflate(analysis, self.inflation_factor), {"white": (Y, d)}
