"""The ensemble smoother with multiple data assimilation: all observations at once, in stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from scorda.assimilation.base import ENSEMBLES, Assimilator, Cost, check_members, check_needs
from scorda.assimilation.controls import ControlledModel
from scorda.assimilation.kalman_algebra import kalman_transform
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.errors import DivergenceError, check_finite, check_spread, locating
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_problem

__all__ = ["ESMDA"]

# How far the inverses of given factors may add up beside 1: published ones are rounded.
ROUNDED = 1e-3


@dataclass(frozen=True)
class ESMDA(Assimilator):
    r"""Ensemble smoother with multiple data assimilation, over whole trajectories.

    The first states of the members and their model errors, which decide their trajectories, are
    updated with all observations at once, and the model is run again, in a few stages i:

    .. math:: z_j \leftarrow z_j + C_{zd} (C_{dd} + \alpha_i R)^{-1}
        (y + \sqrt{\alpha_i} \, \varepsilon_{ij} - d_j), \quad \varepsilon_{ij} \sim N(0, R),
        \quad \sum_i 1 / \alpha_i = 1

    with the predicted observations :math:`d_j` of all steps and the covariances of the members.
    The perturbations are drawn anew in each stage and centred. One stage is the ensemble smoother.

    Parameters are estimated where they are part of the state: a model that leaves them as they are
    has them in its first state. For linear-Gaussian problems any number of stages is exact as N
    grows, and more stages cost sampling error; for nonlinear ones each stage linearises about a
    place that is closer to the posterior, and no number of stages is exact. A chaotic system
    forgets its first state: the trajectories may be a few of its predictability times long.

    Sources: Emerick & Reynolds (2013), Comput. Geosci. 55, 3-15; one stage: van Leeuwen & Evensen
    (1996), Mon. Wea. Rev. 124, 2898-2913; model errors: Evensen (2019), Comput. Geosci. 23,
    761-775, https://arxiv.org/abs/1806.00237.

    Arguments:
        stages: Number of stages; 1 is the ensemble smoother.
        ratio: Ratio of the factor of a stage to that of the next one; 1: all are equal to
            `stages`, more: the first stages change little.
        alphas: Instead of both: the factors, in the shell as ``--alphas 4 4 2``, whose inverses
            add up to 1 within a thousandth; they are scaled so that it is 1.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.ESMDA(stages=4).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    stages: int = 4
    ratio: float = 1.0
    alphas: float | tuple[float, ...] | None = None

    smoother = True
    needs = ("simulator",)
    least_members = 2
    exact = "linear-Gaussian, N → ∞"
    cost = Cost(4, note="per cycle, and 4 runs of the model")

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"Got stages = {self.stages}: give at least 1.")
        if not 0 < self.ratio < float("inf"):
            raise ValueError(f"Got ratio = {self.ratio}: give a positive number.")
        if self.alphas is not None:
            total = sum(1 / a if a > 0 else float("nan") for a in self._given)
            if not abs(total - 1) <= ROUNDED:
                raise ValueError(
                    f"Got alphas = {self.alphas}, whose inverses add up to {total:.4g}: give "
                    "positive numbers whose inverses add up to 1."
                )

    def memory(self, problem: Problem, members: int) -> int:
        observed = sum(part.values.numel() for part in problem.instruments)
        return super().memory(problem, members) + ENSEMBLES * 8 * members * observed

    @property
    def factors(self) -> tuple[float, ...]:
        """Factors of R, one per stage, whose inverses add up to 1."""
        total = sum(1 / a for a in self._given)
        return tuple(a * total for a in self._given)

    @property
    def _given(self) -> tuple[float, ...]:
        if self.alphas is None:
            return tuple(self.ratio**-i for i in range(self.stages))
        return self.alphas if isinstance(self.alphas, tuple) else (self.alphas,)

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Update the trajectories in stages.

        ``info``: ``alpha`` of each stage; ``misfit``, the mean square of y less the predicted
        values of each member in standard deviations of the error, before each stage and at the
        end; and ``seconds``.
        """
        check_needs(self, problem)
        check_members(self, members)
        check_memory(self, problem, members)
        space, problem = problem.space, unbounded_problem(problem)
        clock, steps, stage = time.perf_counter(), problem.steps, 0
        generator = rng.as_generator(generator)
        draw, error, perturbations = (rng.key(generator) for _ in range(3))
        model, misfits = ControlledModel(problem, error), []
        with locating(self.name, 0, 0):
            x = problem.members_at_start(members, rng.at(draw, 0))
            check_finite(x, "draw of the start")
            check_spread(x)
            states, errors = model.drawn(x, 0, steps)
        for stage, alpha in enumerate(self.factors):
            with locating(self.name, steps, stage):
                Y, d = _white(problem, states)
                misfits.append(_misfit(Y, d))
                noise = rng.normal(members, tuple(d.shape), rng.at(perturbations, stage), like=Y)
                residuals = d - Y + alpha**0.5 * (noise - noise.mean(0))
                change = kalman_transform(Y / alpha**0.5, residuals / alpha**0.5)
                x, errors = change(x), change(errors) if errors.numel() else errors
                states = model.run(x, errors, 0, steps)
        misfits.append(_misfit(*_white(problem, states)))
        info = {
            "alpha": torch.tensor(self.factors),
            "misfit": torch.stack(misfits),
            "seconds": time.perf_counter() - clock,
        }
        states = space.bounded(states)
        return Analysis(states, space, None, info, self.name, start=problem.start)


def _white(
    problem: Problem, states: Float[Tensor, "ensemble time ..."]
) -> tuple[Float[Tensor, "ensemble obs"], Float[Tensor, "obs"]]:
    """Return white anomalies and the white innovation of all observations, in double precision."""
    rows = list(_rows(problem, states))
    white = torch.cat(rows, 1) if rows else states.new_zeros(len(states) + 1, 0).double()
    if not white.square().sum().isfinite():
        raise DivergenceError(
            "The innovations are not finite, or too large to square, in standard deviations of "
            "the observation error; check the operator, the observations and their `std`."
        )
    return white[:-1], white[-1]


def _rows(problem: Problem, states: Tensor) -> Iterator[Float[Tensor, "ensemble+1 present"]]:
    """Yield the white anomalies and, below, the innovation of each row of observations."""
    for part in problem.instruments:
        seen = [k for k in range(len(part)) if part.observed(k)]
        if not seen:
            continue
        predicted = part.predict(states).reshape(len(states), len(part), -1).double()
        for k in seen:
            y, model = part.at(k)
            values = predicted[:, k][:, ~part.flat[k].isnan()]
            both = torch.cat((values, y.to(values)[None]))
            yield model.whiten(both - values.mean(0))


def _misfit(Y: Tensor, d: Tensor) -> Tensor:
    return (d - Y).square().mean() if len(d) else d.new_zeros(())
