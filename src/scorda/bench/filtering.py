r"""Twin experiments of filters, scored from the stream of cycles.

The analysis at each observed step after the spin-up has these scores:

* ``rmse``: spatial RMSE of the mean, time mean;
* ``spread``, and ``spread_skill``, the ratio of mean squares of Fortin et al. (2014);
* ``crps``: fair continuous ranked probability score;
* ``coverage``: share of the truth inside the central 90 % of the members;
* ``rmse_path``: the RMSE over all steps, forecasts between the analyses included;
* ``cycle_seconds``: seconds of one analysis; ``evaluations``: of the score or denoiser per
  analysis and member, where the method has them.

Only sums are kept, so the memory does not grow with the run. The definitions are those of
`scorda.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from scorda.assimilation.cycle import Cycle
from scorda.assimilation.filter import Filter
from scorda.bench.entry import Entry
from scorda.bench.tuning import Length, Tuning
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.metrics.accuracy import crps, rmse, spread
from scorda.metrics.calibration import coverage
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.base import System

__all__ = ["RunningScores", "Setup", "Start"]

# Cycles of spin-up and of scores in a shortened set-up.
QUICK_CYCLES = 20
LEVEL = 0.9

Twin = tuple[Tensor, Problem]
Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Start:
    r"""Truth and members at step 0, as draws of :math:`N(m, \mathrm{std}^2 I)`.

    Arguments:
        std: Standard deviation of each component.
        mean: Mean of all components of the members, whatever the truth, a state of the attractor;
            None: m is a state of the attractor, common to truth and members.
    """

    std: float
    mean: float | None = None


@dataclass(frozen=True)
class Setup:
    """A twin experiment of filters.

    Small systems with published scores begin near the truth (`start`); small ensembles without
    localization may never find the truth from independent states of the attractor.

    Arguments:
        system: Truth and forecast model.
        model: Observation model.
        every: Steps between observations.
        length: Observed steps that are scored, and those before them.
        start: Law of truth and members at step 0; None: independent draws of the system, of which
            one stream is the truth's alone.
        entries: Methods.
        source: Where the set-up is from.
        seeds: Number of twin experiments.
        tuning: How the options of entries with a grid are chosen.
        shown: Scores that the command prints; the table has all of them.
        drawn: Cycles at the end of one run whose means the command draws against the truth.
        told: Model that the methods are told instead of the true one, or None.
        further: Further scores by name, functions of an analysis ``(ensemble, *state)`` and the
            truth; the mean over the cycles is taken.
    """

    system: System
    model: ObservationModel
    every: int
    length: Length
    start: Start | None
    entries: tuple[Entry, ...]
    source: str
    seeds: int = 3
    tuning: Tuning = field(default_factory=Tuning)
    shown: tuple[str, ...] = ("rmse", "crps", "spread_skill", "coverage")
    drawn: int = 0
    told: ObservationModel | None = None
    further: Mapping[str, Score] = field(default_factory=dict)

    statistic: ClassVar[str] = "mean"

    def prepare(self, seed: int) -> Twin:
        """Return truth and problem of one seed; they are the same for all methods."""
        steps = self.every * (self.length.spinup + self.length.cycles)
        generator = rng.seeded(seed)
        truth, problem = twin_experiment(self.system, self.model, steps, self.every, generator)
        if self.told is not None:
            (seen,) = problem.instruments
            problem = replace(problem, observations=replace(seen, model=self.told))
        if self.start is None:
            # Once for all entries: such draws take long. Member i is the same in any number.
            most = max(entry.members for entry in self.entries)
            draws = problem.system.prior(most, rng.at((seed, 1), 0))
            problem = replace(problem, initial=draws)
        return truth, problem

    def score(self, entry: Entry, twin: Twin, seed: int) -> dict[str, float]:
        """Return the scores of one run (see the module).

        Raises:
            FloatingPointError: If the run diverges, or its ensemble degenerates after the first
                cycle so that the method cannot go on.
        """
        scores = RunningScores(self.further)
        for cycle in self._run(entry, twin, seed):
            if cycle.step > self.every * self.length.spinup:
                scores.add(cycle, twin[0][cycle.step])
        return scores.result()

    def means(self, entry: Entry, twin: Twin, seed: int) -> Float[Tensor, "time *state"]:
        """Return the ensemble means over the last steps of a run, which are drawn."""
        last, means = len(twin[0]) - self.every * self.drawn, []
        for cycle in self._run(entry, twin, seed):
            if cycle.step >= last:
                w = cycle.weights
                x = cycle.ensemble
                means.append(x.mean(0) if w is None else torch.tensordot(w.to(x), x, 1))
        return torch.stack(means)

    def _run(self, entry: Entry, twin: Twin, seed: int) -> Iterator[Cycle]:
        _, problem = twin
        problem = replace(problem, initial=self.initial(twin, entry.members, seed))
        method: Filter = entry.ready
        cycles = 0
        try:
            for cycle in method.run(problem, entry.members, rng.at((seed, 2), 0)):
                yield cycle
                cycles += cycle.forecast is not None
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            if cycles == 0:
                raise
            raise FloatingPointError(f"Degenerate after {cycles} cycles: {error}") from error

    def shortened(self) -> Setup:
        """Return the set-up with few cycles, to test that it runs.

        Methods that are trained beforehand are left out where there are others.
        """
        fast = [entry for entry in self.entries if entry.trained is None] or self.entries
        entries = tuple(replace(entry, grid=entry.grid[:2]) for entry in fast)
        quick = Tuning(self.tuning.seeds[:1], Length(1, 0), self.tuning.score)
        length = Length(QUICK_CYCLES, QUICK_CYCLES)
        return replace(self, length=length, seeds=1, entries=entries, tuning=quick)

    def trial(self) -> Setup:
        """Return the set-up in which options are chosen."""
        return replace(self.tuning.pilot or self, length=self.tuning.length)

    def initial(self, twin: Twin, members: int, seed: int) -> Float[Tensor, "ensemble *state"]:
        """Return members at step 0, as `start` says."""
        truth, problem = twin
        if self.start is None:
            assert problem.initial is not None
            return problem.initial[:members]
        # Row 0 is the truth's own deviation from the common mean m.
        noise = rng.normal(members + 1, self.system.space.shape, rng.at((seed, 1), 0), like=truth)
        if self.start.mean is not None:
            return self.start.mean + self.start.std * noise[1:]
        return truth[0] + self.start.std * (noise[1:] - noise[0])


class RunningScores:
    """Time means of the scores of a run, which takes in one step at a time."""

    def __init__(self, further: Mapping[str, Score] | None = None) -> None:
        self._further = further or {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, cycle: Cycle, truth: Float[Tensor, "*state"]) -> None:
        """Take in one step of a run.

        Arguments:
            cycle: The step; only one with an analysis counts for more than ``rmse_path``.
            truth: Truth at this step.
        """
        # With an axis of time, since a truth of several axes would be read as one.
        x, y = cycle.ensemble[:, None], truth[None]
        weights = None if cycle.weights is None else cycle.weights[:, None]
        error = float(rmse(x, y, weights))
        self._count("rmse_path", error)
        if cycle.forecast is None:
            return
        width = float(spread(x, weights=weights))
        share = 1 / len(x) if weights is None else float(weights.square().sum())
        self._count("rmse", error)
        self._count("spread", width)
        self._count("mse", error**2)
        self._count("variance", (1 + share) * width**2)
        self._count("crps", float(crps(x, y, weights)))
        self._count("coverage", float(coverage(x, y, weights, LEVEL)))
        for name, score in self._further.items():
            self._count(name, score(cycle.ensemble, truth))
        self._count("cycle_seconds", float(cycle.report["seconds"]))
        if "evaluations" in cycle.report:
            self._count("evaluations", float(cycle.report["evaluations"]))

    def result(self) -> dict[str, float]:
        """Return the means so far."""
        mean = {name: total / self._counts[name] for name, total in self._sums.items()}
        mse, variance = mean.pop("mse"), mean.pop("variance")
        path = mean.pop("rmse_path")
        ratio = math.sqrt(variance / mse) if mse > 0 else math.nan
        return {**mean, "spread_skill": ratio, "rmse_path": path}

    def _count(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1
