r"""A fully adapted particle filter: ancestors are weighed by what they predict.

From weighted ancestors :math:`x_{k-1}^i` and an observation y of the next step,

.. math:: \omega_i = p(y \mid x_{k-1}^i) = \int p(y \mid x) p(x \mid x_{k-1}^i) dx, \qquad
    a_i \sim \omega / \textstyle\sum \omega, \quad
    x_k^i \sim p(x_k \mid x_{k-1}^{a_i}, y), \quad
    \hat p(y) = \tfrac1N \textstyle\sum_i \omega_i,

so that all children have the same weight: the optimal proposal, and the auxiliary filter of it.
The law of a step is known by its draws alone, as that of an emulator is. M draws of each ancestor
give the mean :math:`\hat h_i` of what it predicts, and all of them together the covariances
:math:`C_{hh}` and :math:`C_{xh}` of the model error about it:

.. math:: \omega_i = N(y; \hat h_i, R + (1 - \tfrac1M) C_{hh}), \qquad
    x_k = x + C_{xh} (R + C_{hh})^{-1} (y + \varepsilon - h(x)), \quad
    x \sim p(x_k \mid x_{k-1}^{a}), \; \varepsilon \sim N(0, R).

The factor leaves the sampling error of the mean, of covariance :math:`C_{hh} / M`, without effect
on the expected weight.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch

from scorda.assimilation.base import Assimilator, Cost, check_members, check_needs
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.errors import DivergenceError, check_finite, locating
from scorda.core.resampling import resample
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_model
from scorda.systems.base import forecast

__all__ = ["EmulatorParticleFilter"]

# Halvings in the search for the power of the weights.
HALVINGS = 60


@dataclass(frozen=True)
class EmulatorParticleFilter(Assimilator):
    r"""Fully adapted particle filter of a stochastic system, such as an `Emulator`.

    It looks at the observation before the step and not after it, so that it needs far fewer
    members than the bootstrap filter where a step has much error, and as many where it has none.
    Where several steps lie between observations it looks at the next one from `ahead` steps
    before, at most from the one before: x and p are then those of so many steps together.
    Exact as N grows where this law is Gaussian with a covariance that all states share and h is
    linear: children then have exactly equal weights, and the estimate of the evidence is unbiased
    but for the sampling error of the covariances. Elsewhere both are linearised by the
    draws, and nothing corrects for it: a step without a density has no second weights.

    The weights still degenerate with the number of independent observations, later than those of
    the bootstrap filter. `least_effective` keeps an effective number of ancestors by weights
    :math:`\omega^a`, a < 1, which is biased. On Lorenz-63 it helped with the model and not with an
    emulator (benchmarks/NOTES.md).

    Of members from a climate the first observation leaves few ancestors. `roots` draws more
    states of step 0 for it, of which it keeps as many as there are members.

    An observation of step 0, which has no ancestors, weighs the members by their likelihood.

    Source: Pitt & Shephard (1999), J. Am. Stat. Assoc. 94, 590-599 (auxiliary filter, fully
    adapted); Savary, Rozet & Louppe (2026), https://arxiv.org/abs/2605.20028, with emulators. The
    moments from draws and their factor are our own; theirs are those of a denoiser, with R alone.

    Arguments:
        draws: M, draws of each ancestor that its predictive law is made of, at least 2.
        ahead: Steps before an observation from which its ancestors are taken, at least 1; from
            the observation before where that is nearer.
        least_effective: Least effective number of ancestors, as a share of the members, in
            [0, 1); 0 leaves the weights as they are, and the filter exact.
        roots: States of step 0 drawn for each member, at least 1, until the first observation;
            1 where the problem has an ensemble of step 0. On Lorenz-63, observed every 8 steps,
            100 members with ``ahead=8, roots=10`` come within 1.1 of the W1 of 10 000 of the
            bootstrap filter (docs/emulator.md).

    Raises:
        ValueError: If a setting is out of range, or there are roots of a given ensemble.
        DivergenceError: If the predictive density of every member is zero or not finite.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EmulatorParticleFilter(draws=4).assimilate(problem, 50, generator=0)
        >>> analysis.states.shape
        torch.Size([50, 17, 3])
    """

    draws: int = 8
    least_effective: float = 0.0
    ahead: int = 1
    roots: int = 1

    needs = ("simulator",)
    exact = "linear-Gaussian, N → ∞"
    cost = Cost(10, note="M + 1 steps")
    least_members = 2

    def __post_init__(self) -> None:
        least = min(self.draws - 1, self.ahead, self.roots)
        if not 0 <= self.least_effective < 1 or least < 1:
            raise ValueError(
                f"Got draws = {self.draws}, least_effective = {self.least_effective}, ahead = "
                f"{self.ahead}, roots = {self.roots}: give at least 2 draws, a share in [0, 1), "
                "at least 1 step and at least 1 root."
            )

    def memory(self, problem: Problem, members: int) -> int:
        drawn = 3 * self.draws * self.roots * members * problem.space.size
        carried = (self.roots - 1) * min(self.ahead, problem.steps)
        return super().memory(problem, members * (problem.steps + 1 + carried)) + 8 * drawn

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Draw members of the filter at each step, ``(members, steps + 1, *state)``.

        ``info`` holds per observed step its ``step``, the ``log_evidence``, and ``ess``: the
        effective number of ancestors, before `least_effective` acts.
        """
        check_needs(self, problem)
        if self.roots > 1 and problem.initial is not None:
            raise ValueError(
                f"Got roots = {self.roots} for a problem with an ensemble of step 0, of which no "
                "more states can be drawn: give roots = 1, or leave the ensemble out."
            )
        check_members(self, members)
        check_memory(self, problem, members)
        generator = rng.as_generator(generator)
        draw, error, analysis = (rng.key(generator) for _ in range(3))
        observed = problem.observed()
        x = problem.members_at_start(self.roots * members, rng.at(draw, 0))
        states: list[Tensor] = []
        # Ancestors of the last steps: all roots, until the first observation.
        recent: deque[Tensor] = deque(maxlen=min(self.ahead, problem.steps + 1))
        told: list[Tensor] = []
        last = 0
        for k in range(problem.steps + 1):
            with locating(self.name, k, len(told)):
                if k in observed:
                    y, model = observed[k]
                    y, streams = y.to(x), rng.spawn(rng.at(analysis, k), 4)
                    if k:
                        first = max(k - self.ahead, last)
                        given = problem, first, k, recent[first - k], y, model, members, streams
                        x, numbers = self._adapted(*given)
                    else:
                        log_weights = model.log_likelihood(y, x).double()
                        chosen, numbers = self._chosen(log_weights, members, streams[0])
                        x = x[chosen]
                    told.append(numbers)
                    last = k
                elif k:
                    x = forecast(problem.system, x, rng.at(error, k), k - 1)
                check_finite(x, "step")
            recent.append(x)
            # Before the first observation all roots have the same law.
            states.append(x[:members].clone())
        numbers = torch.stack(told) if told else x.new_zeros(0, 2)
        info = {"step": list(observed), "log_evidence": numbers[:, 0], "ess": numbers[:, 1]}
        return Analysis(
            torch.stack(states, 1), problem.space, None, info, self.name, start=problem.start
        )

    def _adapted(
        self,
        problem: Problem,
        first: int,
        k: int,
        x: Float[Tensor, "ancestors ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        members: int,
        streams: list[torch.Generator],
    ) -> tuple[Float[Tensor, "children ..."], Float[Tensor, "2"]]:
        """Return the children of step k of ancestors of a step, log evidence, effective size."""
        space, ancestors = problem.space, len(x)
        choice, ahead, step, error = streams

        def moved_on(x: Tensor, generator: torch.Generator) -> Tensor:
            for j in range(first, k):
                x = forecast(problem.system, x, generator, j)
            return space.unbounded(x).double()

        model = unbounded_model(model, space)
        several = x.repeat(self.draws, *(1,) * (x.ndim - 1))
        drawn = moved_on(several, ahead)
        log_density, white = model.compare(y, model.predict(drawn, y.double()))
        log_norm = (log_density + 0.5 * white.square().sum(1))[0]
        # Residuals y - h(x) in standard deviations of R, so that R is 1.
        white = white.unflatten(0, (self.draws, ancestors))
        mean, anomalies = white.mean(0), white - white.mean(0)
        states = drawn.flatten(1).unflatten(0, (self.draws, ancestors))
        states = (states - states.mean(0)).flatten(0, 1)
        rows = anomalies.flatten(0, 1)
        degrees = (self.draws - 1) * ancestors
        C_hh, C_xh = rows.mT @ rows / degrees, -states.mT @ rows / degrees
        one = torch.eye(len(C_hh)).to(C_hh)
        factor = torch.linalg.cholesky(one + (1 - 1 / self.draws) * C_hh)
        fit = torch.linalg.solve_triangular(factor, mean.mT, upper=False).square().sum(0)
        log_omega = log_norm - 0.5 * fit - factor.diagonal().log().sum()
        chosen, numbers = self._chosen(log_omega, members, choice)
        child = moved_on(x[chosen], step)
        residual = model.compare(y, model.predict(child, y.double()))[1]
        residual = residual + rng.normal(members, (len(C_hh),), error, like=residual)
        moved = torch.linalg.solve(one + C_hh, residual.mT).mT @ C_xh.mT
        analysis = (child + moved.view_as(child)).to(x)
        return space.filled(space.bounded(analysis)), numbers

    def _chosen(
        self, log_weights: Float[Tensor, "ancestors"], members: int, generator: torch.Generator
    ) -> tuple[Tensor, Float[Tensor, "2"]]:
        """Return which ancestors have children, log evidence and effective size."""
        evidence = log_weights.logsumexp(0) - math.log(len(log_weights))
        if not evidence.isfinite():
            raise DivergenceError(
                "No member predicts the observation with a finite density: use more members, or "
                "a larger observation error."
            )
        ess, least = _effective(log_weights), self.least_effective * members
        low, high = 0.0, 1.0
        if ess < least:
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                enough = _effective(middle * log_weights) >= least
                low, high = (middle, high) if enough else (low, middle)
            high = low
        chosen = resample((high * log_weights).softmax(0), members, "systematic", generator)
        return chosen, torch.stack((evidence, ess))


def _effective(log_weights: Float[Tensor, "ensemble"]) -> Float[Tensor, ""]:
    return 1 / log_weights.softmax(0).square().sum()
