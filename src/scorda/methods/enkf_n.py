r"""The finite-size ensemble Kalman filter: its inflation follows from the size of the ensemble."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorda.assimilation.filter import Filter
from scorda.assimilation.kalman_algebra import (
    in_double,
    mean_preserving_rotation,
    symmetric_transform,
    white_innovation,
)
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["EnKFN"]

# Logarithms of the squares of the inflations among which the least value of D is looked for; the
# steps of Newton's method from there, at most, and the change at which they end.
SCANNED = np.linspace(2 * math.log(0.3), 2 * math.log(1e4), 128)
NEWTON, TOLERANCE = 40, 1e-10


@dataclass(frozen=True)
class EnKFN(Filter):
    r"""Finite-size ensemble Kalman filter (EnKF-N), without an inflation to tune.

    Mean and covariance of the forecast are not taken to be those of N members, but are integrated
    out with Jeffreys' prior. The Gaussian prior of the weights w of an analysis :math:`\bar x +
    w A` then has heavier tails,

    .. math:: J(w) = \tfrac12 |d - w Y|^2 + \tfrac{c}{2} \ln(\varepsilon_N + |w|^2), \quad
        \varepsilon_N = 1 + \tfrac1N, \quad c = N + g,

    for white anomalies Y and innovation d (primal form). Its minimum is that of the dual form, a
    function of one number,

    .. math:: D(\zeta) = \tfrac12 d (I + Y^T Y / \zeta)^{-1} d^T + \tfrac{\varepsilon_N \zeta}{2}
        + \tfrac{c}{2} \ln \tfrac{c}{\zeta} - \tfrac{c}{2}, \quad
        0 < \zeta \le \tfrac{c}{\varepsilon_N}.

    The analysis is that of the `ETKF` with the anomalies of the forecast multiplied by
    :math:`\lambda = \sqrt{(N - 1) / \zeta}`, which each cycle reports as ``inflation``. The
    Hessian of J without its term in :math:`w^T w` gives the covariance, as is usual. Errors of the
    model and biases are absorbed in :math:`\lambda` too, without limit. The weights of robust laws
    are those of the `ETKF`, without :math:`\lambda`.

    With weak observations D alone would inflate although there is nothing to correct. So
    :math:`\varepsilon_N` is divided, and c multiplied, by the power :math:`\eta / 2` of
    :math:`\varepsilon_N (N - 1) / c`, where :math:`\eta = \mathrm{mean}_i (N - 1) / (N - 1 +
    s_i^2)` and s are the singular values of Y: :math:`\lambda \to 1` where R grows.

    Source: Bocquet (2011), Nonlin. Processes Geophys. 18, 735-750.
    https://doi.org/10.5194/npg-18-735-2011; the dual form and the correction: Bocquet, Raanes &
    Hannart (2015), Nonlin. Processes Geophys. 22, 645-662.
    https://doi.org/10.5194/npg-22-645-2015

    Arguments:
        certainty: Factor of :math:`\varepsilon_N` and c, positive: how sure one is of the
            ensemble. 1 assumes nothing, 2 suits nearly linear systems, and a large one leaves an
            inflation near 1.
        gauge: g: 1 where the weights that move no member are integrated out too, else 0.
        rotation: Whether the anomalies are multiplied in each cycle by a random orthogonal matrix
            that keeps mean and covariance.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKFN().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    certainty: float = 1.0
    gauge: int = 0
    rotation: bool = False

    errors = "robust_errors"
    exact = "linear-Gaussian, N → ∞"

    def __post_init__(self) -> None:
        if not 0 < self.certainty < float("inf"):
            raise ValueError(
                f"Got certainty = {self.certainty}: it multiplies two numbers of the prior, so "
                "give a positive one; 1 assumes nothing, 2 suits nearly linear systems."
            )
        if self.gauge not in (0, 1):
            raise ValueError(f"Got gauge = {self.gauge}: give 0 or 1.")

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``inflation``, ``innovation`` and ``chi2`` of this cycle."""
        anomalies, innovation = white_innovation(forecast, y, model)
        factor = self.factor(anomalies, innovation)
        mean_weights, transform = symmetric_transform(factor * anomalies, innovation)
        turn = None
        if self.rotation:
            turn = mean_preserving_rotation(len(forecast), anomalies, generator)

        def moved(x: Tensor) -> Tensor:
            mean = x.mean(0, keepdim=True)
            A = factor * (x - mean)
            around = A + transform.increment(A)
            return mean + (mean_weights @ A + (around if turn is None else turn @ around))

        report = {"white": (anomalies, innovation), "inflation": factor}
        return in_double(moved, forecast), report

    def factor(
        self, anomalies: Float[Tensor, "ensemble obs"], innovation: Float[Tensor, "obs"]
    ) -> float:
        r"""Return :math:`\lambda` at the least value of D.

        .. math:: \frac{2 D}{N - 1} = \sum_i \frac{(d u_i)^2}{N - 1 + \lambda^2 s_i^2}
            + \frac{\varepsilon_N}{\lambda^2} + \frac{c}{N - 1} \ln \lambda^2 + \mathrm{const}

        with right singular vectors u of Y, by Newton's method from the least of some values
        between 0.3 and 10 000; D may have several minima.

        Arguments:
            anomalies: White anomalies Y of the predicted observations.
            innovation: White innovation d.
        """
        _, values, right = torch.linalg.svd(anomalies, full_matrices=False)
        squares = values.square().numpy(force=True)
        explained = (right @ innovation).square().numpy(force=True)
        rest = len(anomalies) - 1
        epsilon, c = self._prior(len(anomalies), squares)

        def slopes(log: float) -> tuple[float, float]:
            """Return the first two derivatives of the sum in the logarithm of lambda^2."""
            grown = squares * math.exp(log)
            share = grown / (rest + grown)
            each, prior = explained / (rest + grown) * share, epsilon * math.exp(-log)
            return c / rest - prior - each.sum(), prior - (each * (1 - 2 * share)).sum()

        totals = explained / (rest + np.exp(SCANNED)[:, None] * squares)
        best = int((totals.sum(1) + epsilon * np.exp(-SCANNED) + c / rest * SCANNED).argmin())
        low, high = SCANNED[max(best - 1, 0)], SCANNED[min(best + 1, len(SCANNED) - 1)]
        log = SCANNED[best]
        for _ in range(NEWTON):
            slope, curvature = slopes(log)
            low, high = (log, high) if slope < 0 else (low, log)
            before, log = log, log - slope / curvature if curvature > 0 else low
            if not low < log < high:
                log = (low + high) / 2
            if abs(log - before) < TOLERANCE:
                break
        return math.exp(log / 2)

    def _prior(self, members: int, squares: np.ndarray) -> tuple[float, float]:
        r"""Return :math:`\varepsilon_N` and c, corrected for weak observations."""
        rest = members - 1
        epsilon, c = 1 + 1 / members, members + self.gauge
        # The singular values that are missing are zeros, and each counts for 1.
        unexplained = 1 - float((squares / (rest + squares)).sum()) / members
        correction = (epsilon * rest / c) ** (unexplained / 2)
        return self.certainty * epsilon / correction, self.certainty * c * correction
