r"""The forecast/analysis cycle.

A *filter* alternates two stages. The forecast advances each member by the system,
:math:`x_{k+1} \sim p(x_{k+1} \mid x_k)`. The analysis conditions the forecast ensemble on the
observation of that step. `Filter.run` is this cycle, written once for all filters.

A filter is a set of frozen settings. What a run owns beside them (weights of the members, the
geometry of a space, a network) lives in the `Run` that `Filter.begin` returns.

The initial ensemble, the model error and the analysis have streams of random numbers of their own.
The noise of member i at step k is a function of (seed, stream, k, i), so a run that is continued
from a stored step has the same bits as one that was never interrupted.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch

from scorda.assimilation.base import Assimilator, check_members, check_needs
from scorda.assimilation.cycle import Cycle, Stepper
from scorda.assimilation.diagnostics import collect, join_weights
from scorda.assimilation.dropped import dropped, present
from scorda.assimilation.gross_errors import check_gross_errors
from scorda.assimilation.inflation import (
    Inflation,
    Multiplicative,
    check_inflation,
    factor_of,
)
from scorda.assimilation.memory import check_memory
from scorda.assimilation.remembered import forgetting, reaches_back, remembered
from scorda.core import rng
from scorda.core.errors import check_finite, locating
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

if TYPE_CHECKING:
    from scorda.core.arrays import ArrayLike
    from scorda.store.online import Online

__all__ = ["Filter", "PreparedFilter", "Run", "check_start"]


class Run(ABC):
    """One run of a filter: it analyses one cycle after another, and owns what they share."""

    @abstractmethod
    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis ensemble and the report of this cycle.

        Arguments:
            forecast: Ensemble ``(ensemble, *state)``; it must not be changed.
            y: Flat and complete observation, of the forecast's dtype.
            model: Model of the observation, whose operator returns ``(ensemble, obs)``.
            generator: Source of randomness.

        Returns:
            Members, in memory that no later call changes, and a dictionary of numbers and tensors
            with the same keys in each cycle. The key ``weights`` holds the weights of the members
            from here on, ``carried`` the tensors that `restore` needs to go on from here, under
            names that do not begin with ``inflation.``. Of
            ``white``, the white anomalies and innovation (`white_innovation`), the run reports
            ``innovation`` and ``chi2``.
        """

    def restore(self, carried: Mapping[str, Tensor]) -> None:  # noqa: B027 (most carry nothing)
        """Take up what an earlier analysis carried, where a run is continued."""

    @final
    def update(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: rng.Seed = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members of `analyse` alone [final]."""
        return self.analyse(forecast, y, model, rng.as_generator(generator))[0]


@dataclass(frozen=True)
class Filter(Assimilator, Run):
    """A method that alternates forecasts and analyses.

    A filter that owns nothing in a run writes `analyse` alone, and is its own run. One that does
    is a `PreparedFilter`.

    A filter whose `least_members` is 1 makes no use of the spread of its members. Any other is
    stopped where they have become equal.

    Arguments:
        gross_error_check: Standard deviations of an innovation beyond which an observed value is
            left out as a gross error (see ``scorda.assimilation.gross_errors``); None uses all
            values. The number of values left out is reported as ``rejected``, one per cycle.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation such as
            ``RTPS(0.9)``. It acts in a run, not in `analyse`. A subclass that declares the
            setting again multiplies by `inflation_factor` within `analyse`; the run does the rest.

    Example:
        A filter halfway between the forecast and the `EnKF` is written and used like this:

        >>> class Halfway(sc.Filter):
        ...     def analyse(self, forecast, y, model, generator=None):
        ...         states, told = sc.EnKF().analyse(forecast, y, model, generator)
        ...         return (states + forecast) / 2, told
        >>> Halfway().assimilate(problem, members=20, generator=0).states.shape
        torch.Size([20, 17, 3])
    """

    _: KW_ONLY
    gross_error_check: float | None = None
    inflation: float | Inflation = 1.0

    needs: tuple[str, ...] = field(default=("simulator",), init=False, repr=False, compare=False)

    least_members = 2
    drops = True
    circular = True

    @property
    def inflation_factor(self) -> float:
        """Return the factor of the analysis anomalies, or 1 where the inflation is another."""
        return factor_of(self.inflation)

    @property
    def errors_taken(self) -> str:
        learns = isinstance(self.inflation, Inflation) and self.inflation.gaussian
        return "gaussian_errors" if learns else self.errors

    @property
    def inflation_beside(self) -> Inflation:
        """Return what is left of the inflation for the run, beside `analyse`."""
        own = type(self).__dataclass_fields__["inflation"]
        if own is not Filter.__dataclass_fields__["inflation"] and self.inflation_factor != 1:
            return Multiplicative(1.0)
        given = self.inflation
        return given if isinstance(given, Inflation) else Multiplicative(given)

    def begin(self, problem: Problem, weights: Float[Tensor, "ensemble"] | None = None) -> Run:
        """Return what analyses the cycles of one run.

        Arguments:
            problem: What will be assimilated.
            weights: Weights of the members where the run starts, ``(ensemble,)``; None: equal.
                A filter that carries weights from one analysis to the next takes them from here
                and reports all of them as ``info["weights"]``, so that a continued run is exact.
        """
        return self

    @final
    def run(
        self,
        problem: Problem,
        members: int,
        generator: rng.Seed = None,
        start: Cycle | None = None,
        first: int = 0,
    ) -> Iterator[Cycle]:
        """Yield the steps of a run one after another, from step 0 or after `start` [final].

        Where rows of the observations are of several steps the run remembers the states that they
        need (``scorda.observations.memory``); each analysis then updates these too, but what was
        yielded stays.

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
            generator: Source of randomness or its seed; to continue, that of the run of `start`.
            start: Step of an equal run (problem, members, seed) to go on after, without `info`;
                -1: the ensemble of step 0 before its analysis.
            first: Number of step 0 in the whole run, of which this is a later part.

        Raises:
            ValueError: If the problem lacks what the method needs.
            DivergenceError: If a member is no longer finite, or too large to square.
            DegenerateEnsemble: If there are too few members, or all are equal. Both errors name
                step, cycle and members; what was yielded before stays usable.
        """
        if reaches_back(problem):
            yield from remembered(self, problem, members, generator, start, first)
            return
        self.check(problem, members, first)
        start = forgetting(start, problem.space)
        observed = problem.observed()
        cycles = list(observed)
        generator = rng.as_generator(generator)
        draw, *keys = (rng.key(generator) for _ in range(3))
        steps = range(first, first + problem.steps + 1), [first + step for step in cycles]
        error, analysis = (rng.Steps(key, each) for key, each in zip(keys, steps, strict=True))
        if start is None:
            start = self.drawn(problem, members, draw)
        else:
            check_start(start, members, problem)
        before = bisect_left(cycles, start.step + 1)
        stepper = Stepper(self, problem, start, error, analysis, before, first)
        for step in range(start.step + 1, problem.steps + 1):
            stepper.forecast()
            if step in observed:
                stepper.observe(*observed[step])
            yield stepper.cycle()

    @final
    def check(self, problem: Problem, members: int, first: int = 0) -> None:
        """Check settings, problem and members before a run from a step of the system on [final].

        Raises:
            ValueError: If a setting is out of range, or the problem lacks what the method needs.
            DegenerateEnsemble: If there are too few members.
        """
        check_needs(self, problem, first)
        check_members(self, members)
        check_memory(self, problem, members)
        check_gross_errors(self.gross_error_check)
        check_inflation(self.inflation)

    @final
    def start(
        self,
        system: Any,
        ensemble: int | Float[Tensor, "ensemble ..."] | ArrayLike,
        generator: rng.Seed = None,
    ) -> Online:
        """Return a run that waits for its data, at step 0 [final].

        With the same generator and data it has the bits of `assimilate`.

        Arguments:
            system: What makes the forecasts.
            ensemble: Members at step 0, ``(ensemble, *state)``, or how many to draw of the system.
            generator: Source of randomness.

        Raises:
            ValueError: If the system lacks what the method needs, or the members do not fit it.
            DegenerateEnsemble: If there are too few members.
        """
        # By name, because what is saved stands on a higher floor.
        store = importlib.import_module("scorda.store.online")
        made: Online = store.begun(self, system, ensemble, generator)
        return made

    @final
    def drawn(self, problem: Problem, members: int, key: rng.Key) -> Cycle:
        """Return the ensemble before the first step [final]."""
        with locating(self.name, 0, 0):
            ensemble = problem.members_at_start(members, rng.at(key, 0))
            if not ensemble.isfinite().all():
                check_finite(ensemble, "draw of the start")
        return Cycle(-1, ensemble)

    @final
    def assimilate(
        self,
        problem: Problem,
        members: int,
        generator: rng.Seed = None,
        report: Callable[[int, dict[str, Any]], None] | None = None,
    ) -> Analysis:
        """Run the cycle over all steps of the problem and keep each ensemble [final].

        ``info`` holds, with one entry per cycle, the observed ``step``, the ``spread`` of the
        analysis, the ``innovation`` (root mean square of y less the forecast mean of h(x), in
        standard deviations of the error), its ``chi2`` where members are several and count alike
        (see `innovation_statistics`), the ``seconds`` of the analysis and the
        ``forecast_seconds`` before it, and what the method reports: ``evaluations`` of a
        denoiser per member, ``ess``, the ``loss`` of a network.

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
            generator: Source of randomness.
            report: Called after each step with the step and the report of it.
        """
        states, weights, reports = [], [], []
        for cycle in self.run(problem, members, generator):
            states.append(cycle.ensemble)
            weights.append(cycle.weights)
            if cycle.forecast is not None:
                reports.append(cycle.report)
            if report is not None:
                report(cycle.step, cycle.info)
        cycle.statistics.settle()
        made = torch.stack(states, 1)
        drops = getattr(problem.system, "drops", False)
        return Analysis(
            made,
            problem.space,
            join_weights(weights, made),
            collect(reports),
            self.name,
            dropped(made) if drops else {},
            problem.start,
        )


@dataclass(frozen=True)
class PreparedFilter(Filter):
    """A filter whose run owns something: weights, a geometry, a network; it writes `begin`."""

    @abstractmethod
    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        """Return what analyses the cycles of one run, as in `Filter`.

        Arguments:
            problem: What will be assimilated, or None for an analysis outside a run.
            weights: Weights of the members where the run starts, or None where they are equal.

        Raises:
            ValueError: If the run needs a problem, and there is none.
        """

    @final
    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return one analysis outside a run, and its report [final]."""
        return self.begin(None).analyse(forecast, y, model, generator)


def check_start(start: Cycle, members: int, problem: Problem) -> None:
    """Check that a run of a problem can go on after a step.

    Raises:
        ValueError: If number of members or step are others, or states do not fit the space.
    """
    if len(start.ensemble) != members or not -1 <= start.step <= problem.steps:
        raise ValueError(
            f"Got a start at step {start.step} with {len(start.ensemble)} members for a run of "
            f"{problem.steps} steps and {members} members: continue the run that it came from."
        )
    ensemble = start.ensemble
    if getattr(problem.system, "drops", False):
        ensemble = ensemble[present(problem.space, ensemble)]
    problem.space.check(ensemble, "the ensemble to continue from")
