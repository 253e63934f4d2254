r"""Scores of what the members predict of observations that they have not seen.

Before the analysis of a step, member i predicts of a value y the law
:math:`N(h(x_i), \sigma^2)`, with weight :math:`w_i`. The scores of this mixture are proper: in
expectation no other forecast has a smaller one than the law of the observation given the past. So
they rank settings without a truth. Both are in units of :math:`\sigma`, so that instruments count
alike, and small is good:

* ``crps``: fair CRPS of the mixture (Grimit et al. 2006), of at most 128 equal members;
* ``log``: minus the log density of the Gaussian with the mean :math:`\bar h` and variance
  :math:`s^2 + \sigma^2` of the mixture,

  .. math:: \tfrac12 \log (2 \pi (1 + s^2 / \sigma^2)) +
      \frac{(y - \bar h)^2}{2 (s^2 + \sigma^2)}

  (Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, 359-378). It punishes overconfidence harder.

Of a law other than the Gaussian there is the log density of the mixture of the laws given each
member, :math:`-\log \sum_i w_i \, p(y \mid h(x_i))`, which is proper too, and no CRPS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.observations.circular import predicted
from scorda.observations.memory import remembering
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.store.withheld import QUANTITIES, mixture_log_density, row_sums

__all__ = ["SCORES", "Predictive", "predict"]

SCORES = ("crps", "log")
# Members of equal weights whose pairs are compared.
PAIRED = 128


@dataclass
class Predictive:
    """Means of the scores over the values so far."""

    _log: float = field(default=0.0, init=False)
    _of_laws: int = field(default=0, init=False)
    _sums: Tensor = field(
        default_factory=lambda: torch.zeros(len(QUANTITIES), dtype=torch.float64), init=False
    )

    def add(
        self,
        predicted: Float[Tensor, "ensemble values"],
        weights: Float[Tensor, "ensemble"] | None,
        y: Float[Tensor, "values"],
        std: Float[Tensor, "values"],
    ) -> None:
        """Take in values that the members predict without error.

        Arguments:
            predicted: What each member predicts; a member that is not finite was dropped.
            weights: Weights of the members, or None where all are equal.
            y: The values.
            std: Standard deviations of their errors.
        """
        x, y, std = (values.detach().cpu().double() for values in (predicted, y, std))
        there = x.isfinite().all(1)
        x = x[there]
        w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.cpu().double()[there]
        w = (w / w.sum())[:, None].expand(x.shape)
        mean = (w * x).sum(0)
        free = (1 - w.square().sum(0)).clamp_min(1e-12)
        var = (w * (x - mean).square()).sum(0) / free / std.square()
        square = ((y - mean) / std).square() / (1 + var)
        self._log += float(0.5 * ((2 * math.pi * (1 + var)).log() + square).sum())
        if weights is None and len(x) > PAIRED:
            # The fair score of fewer equal members is the same in expectation.
            x, w = x[:PAIRED], w[:PAIRED] * (len(x) / PAIRED)
        place = torch.zeros(len(y), dtype=torch.long)
        self._sums += row_sums({"value": y, "std": std}, x, w, place, 1)[:, 0]

    def add_law(
        self,
        predicted: Float[Tensor, "ensemble values"],
        weights: Float[Tensor, "ensemble"] | None,
        y: Float[Tensor, "values"],
        model: ObservationModel,
    ) -> None:
        """Take in values of another law than the Gaussian, as `add` does; they have ``log`` alone.

        It is minus the log density of the mixture of the laws given each member.
        """
        x = predicted.detach()
        there = x.isfinite().all(1)
        w = torch.ones(len(x)) if weights is None else weights.cpu()
        w = w[there.cpu()].double()
        density = model.log_densities(y, x[there]).cpu()
        w = (w / w.sum())[:, None].expand(density.shape)
        self._log -= float(mixture_log_density(density, w).sum())
        self._of_laws += len(y)

    def result(self) -> dict[str, float]:
        """Return the scores, and ``chi2`` and ``coverage`` of the predictive law."""
        of = dict(zip(QUANTITIES, self._sums.tolist(), strict=True))
        number = of["present"]
        if self._of_laws:
            return {"log": self._log / (number + self._of_laws)}
        if not number:
            return {}
        return {
            "crps": of["relative_crps"] / number,
            "log": self._log / number,
            "chi2": of["chi2"] / number,
            "coverage": of["inside"] / number,
        }


def predict(
    method: Assimilator, problem: Problem, members: int, generator: rng.Seed, first: int = 0
) -> dict[str, float]:
    """Run a filter and score what it predicts of each observation before it is used.

    Arguments:
        method: The filter.
        problem: What is to be assimilated.
        members: Number of members.
        generator: Source of randomness or its seed.
        first: First step whose observations count.

    Raises:
        ValueError: If the method is no filter: a smoother has seen them all.
    """
    if not isinstance(method, Filter):
        raise ValueError(
            f"{method.name} makes no forecasts of observations before it uses them: score it "
            "with observations that are kept back (`withheld`)."
        )
    problem = remembering(problem)
    found, observed = Predictive(), problem.observed()
    weights: Tensor | None = None
    for cycle in method.run(problem, members, generator):
        if cycle.forecast is not None and cycle.step >= first:
            y, model = observed[cycle.step]
            seen = predicted(model.operator, cycle.forecast, problem.space, y, weights).flatten(1)
            if model.law is not None:
                found.add_law(seen, weights, y, model)
            else:
                found.add(seen, weights, y, model.error_std(tuple(y.shape), seen))
        weights = cycle.weights
    return found.result()
