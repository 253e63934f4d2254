r"""Gaussian observations that stand for those of another law, for methods that take no other.

Near predictions h the law is a Gaussian with the observation :math:`\tilde y` and the variances R
of `Law.linearised`. The analysis with it has another mean, near which the law is another Gaussian;
and so on, until the mean stays where it is,

.. math:: h \leftarrow E_a[h(x)], \qquad a = \mathrm{analysis}(\tilde y(h), R(h)) .

For a linear h and a Gaussian forecast the mean is then the mode of the posterior (of `Laplace`:
nearly its mean). For `StudentT` and `Huber` this is iterated reweighting, :math:`\tilde y = y` and
:math:`R = s^2 / w`; for counts it is Fisher scoring. The spread of the analysis is that of the
last Gaussian: about a mode, narrower than the posterior where its tails are heavy.

Where this goes to and fro, as it does for `Laplace` with errors that are much smaller than the
forecast's, each sweep takes a share of the new Gaussian alone, in :math:`R^{-1}` and
:math:`R^{-1} \tilde y`; the end is the same.

The mean is that of an ensemble Kalman analysis of the predicted observations, without the state,
and the iteration ends where no weight changes by more than a millionth. A filter with
localization or a hybrid covariance, whose mean is another, is run as a whole each time, to a
thousandth. That of the `EnKFN` is another too where it inflates, and its weights are those of the
`ETKF`.

A law that is not log-concave may have several modes. The iteration then starts at the forecast and
at the observation, and keeps the mode of the larger density

.. math:: \log p(y \mid h) - \tfrac12 (\tilde y - h)^T R^{-1} (h - \bar h) .

Sources: Huber (1964), Ann. Math. Stat. 35, 73-101; Holland & Welsch (1977), Commun. Stat. A 6,
813-827 (reweighting). Their use in ensemble filters: derived here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.kalman_algebra import symmetric_transform
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["gaussian_observation", "taken"]

# Change of a weight or of a mean, in standard deviations, at which the iteration ends: that of
# predictions alone, and that of whole analyses; and the sweeps that it takes at most.
FINE, COARSE, SWEEPS = 1e-6, 1e-3, 200
# After so many sweeps, steps that turn back and do not shrink below a share of the last one lessen
# the share of a new Gaussian in the next, by a factor and not below the least.
FREE, SHRINK, TURN, LEAST = 10, 0.9, 0.7, 1 / 64

# Mean and variance of the predicted observations after an analysis with a Gaussian observation.
Analysed = Callable[[Tensor, ObservationModel], tuple[Tensor, Tensor]]


class _Mode(NamedTuple):
    """A Gaussian that has settled, and the log density of the posterior at its mean."""

    y: Tensor
    var: Tensor
    log_density: float


def taken(
    method: Assimilator,
    analyse: Callable[[Tensor, Tensor, ObservationModel, torch.Generator], tuple[Tensor, Any]],
    forecast: Float[Tensor, "ensemble ..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "obs"], ObservationModel]:
    """Return the observation that a method takes: of another law, a Gaussian if it must.

    Arguments:
        method: The method.
        analyse: Its analysis.
        forecast: Members.
        y: A complete observation, flat.
        model: Its model.
        generator: Source of the perturbations of the analysis, which is left as it is.
    """
    if model.law is None or method.errors == "density":
        return y, model
    own_mean = any(getattr(method, name, None) is not None for name in ("localization", "hybrid"))
    if method.errors == "linearised_errors" or not own_mean:
        return gaussian_observation(forecast, y, model)
    state = generator.get_state()

    def analysed(pseudo: Tensor, gaussian: ObservationModel) -> Tensor:
        # The same perturbations each time: else nothing would settle.
        again = torch.Generator(generator.device)
        again.set_state(state)
        return analyse(forecast, pseudo, gaussian, again)[0]

    return gaussian_observation(forecast, y, model, analysed)


def gaussian_observation(
    forecast: Float[Tensor, "ensemble ..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    analyse: Callable[[Tensor, ObservationModel], Tensor] | None = None,
) -> tuple[Float[Tensor, "obs"], ObservationModel]:
    """Return the Gaussian observation whose analysis has the mode of the posterior as its mean.

    Arguments:
        forecast: Members.
        y: A complete observation, flat.
        model: Its model, with a law.
        analyse: The analysis of a filter with another mean, of an observation and its Gaussian
            model; None: that of an ensemble Kalman filter with the covariance of its members.
    """
    predicted = model.predict(forecast, y).double()
    mean, var = predicted.mean(0), predicted.var(0)

    def analysed(pseudo: Tensor, gaussian: ObservationModel) -> tuple[Tensor, Tensor]:
        if analyse is None:
            return _kalman(predicted, pseudo, gaussian)
        moved = model.predict(analyse(pseudo.to(y), gaussian), y).double()
        return moved.mean(0), moved.var(0)

    starts = [mean] if model.law.log_concave else [mean, y.double()]
    limit = FINE if analyse is None else COARSE
    modes = [_settled(start, mean, var, y.double(), model, analysed, limit) for start in starts]
    best = max(modes, key=lambda mode: mode.log_density)
    return best.y.to(y), _gaussian(model, best.var.to(y))


def _settled(
    start: Tensor,
    mean: Tensor,
    prior_var: Tensor,
    y: Tensor,
    model: ObservationModel,
    analysed: Analysed,
    limit: float,
) -> _Mode:
    """Iterate from a start until the mean stays."""
    h, std, spread = start, model.scale(tuple(y.shape), y), prior_var
    # Where the law is far from the Gaussian, as a count is, a whole step may lead too far; the way
    # from an observation back to the forecast may be many of its standard deviations.
    reach = torch.maximum(prior_var.sqrt(), (start - mean).abs())
    before: tuple[Tensor, Tensor, Tensor] | None = None
    share, last = 1.0, math.inf
    for sweep in range(SWEEPS):
        residual, var = model.law.linearised(y, h, std, 0.0, spread)
        pseudo = h + residual
        if before is not None and share < 1:
            precision = torch.lerp(1 / before[1], 1 / var, share)
            pseudo = torch.lerp(before[0] / before[1], pseudo / var, share) / precision
            var = 1 / precision
        moved, spread = analysed(pseudo, _gaussian(model, var))
        step = torch.clamp(moved - h, -reach, reach)
        white = step / var.sqrt()
        change = 1.0 if before is None else float((var / before[1] - 1).abs().max())
        if max(change, size := float(white.abs().max())) <= share * limit:
            break
        # Steps that turn back and do not shrink would go to and fro for ever.
        turns = before is not None and float(white @ before[2]) < 0
        if turns and sweep >= FREE and size >= SHRINK * last:
            share = max(share * TURN, LEAST)
        h, before, last = h + step, (pseudo, var, white), size
    else:
        warnings.warn(
            f"The Gaussian in the place of {model.law} has not settled in {SWEEPS} sweeps: its "
            f"mean still moves by {size:.1g} standard deviations of the error. Check the errors "
            "that are stated; a particle filter takes the law as it is.",
            stacklevel=2,
        )
    likelihood = model.law.log_density(y, h, std).sum()
    return _Mode(pseudo, var, float(likelihood - 0.5 * ((pseudo - h) / var) @ (h - mean)))


def _gaussian(model: ObservationModel, var: Tensor) -> ObservationModel:
    return ObservationModel(model.operator, std=var.sqrt())


def _kalman(predicted: Tensor, y: Tensor, gaussian: ObservationModel) -> tuple[Tensor, Tensor]:
    """Return mean and variance of an ensemble Kalman analysis of predicted observations."""
    mean = predicted.mean(0)
    Y = predicted - mean
    weights, transform = symmetric_transform(
        gaussian.whiten(Y), gaussian.whiten((y - mean)[None])[0]
    )
    return mean + (weights @ Y)[0], (Y + transform.increment(Y)).var(0)
