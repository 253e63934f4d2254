"""The cycle of a filter, step by step: the forecast, and the analysis where there is data.

`Filter.run` and `Online`, a run that waits for its data, both take their steps here.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from scorda.assimilation.base import check_members
from scorda.assimilation.diagnostics import Statistics, innovation_of
from scorda.assimilation.dropped import Roster, normalised, present
from scorda.assimilation.gross_errors import gross_errors
from scorda.assimilation.inflation import PREFIX, parted
from scorda.assimilation.kalman_algebra import white_innovation
from scorda.assimilation.reweighting import taken
from scorda.core import rng
from scorda.core.arrays import laid_out
from scorda.core.errors import (
    OVERFLOW,
    DivergenceError,
    check_finite,
    check_predicted,
    check_spread,
    locating,
)
from scorda.core.shapes import Float, Tensor
from scorda.core.threads import few_threads
from scorda.observations.circular import unrolled
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_model
from scorda.systems.base import forecast as advanced

if TYPE_CHECKING:
    from scorda.assimilation.filter import Filter

__all__ = ["Cycle", "Stepper"]


@dataclass(frozen=True)
class Cycle:
    """One step of a run of a filter, with all that is needed to continue from there.

    Arguments:
        step: Step of the ensemble.
        ensemble: ``(ensemble, *state)``: the analysis where observed, else the forecast.
        weights: Weights of the members, ``(ensemble,)``, or None where all are equal.
        carried: Tensors that the method hands from one analysis to the next (the weights of a
            network), and its inflation (names that begin with ``inflation.``), or None.
        forecast: Where observed, the ensemble before the analysis; else None. A run is
            continued without it.
        report: Report of the analysis, which `statistics` complete.
        statistics: Those of the run.
    """

    step: int
    ensemble: Float[Tensor, "ensemble ..."]
    weights: Float[Tensor, "ensemble"] | None = None
    carried: dict[str, Tensor] | None = None
    forecast: Float[Tensor, "ensemble ..."] | None = None
    report: dict[str, Any] = field(default_factory=dict, repr=False)
    statistics: Statistics = field(default_factory=Statistics, repr=False, compare=False)

    @property
    def info(self) -> dict[str, Any]:
        """Return the report of the analysis; empty where nothing was observed.

        It is best read late: whoever asks first has the statistics of all cycles so far computed.
        """
        self.statistics.settle()
        return self.report


class Stepper:
    """A run of a filter at one of its steps, and what it owns from there on.

    Arguments:
        method: The filter.
        problem: What is assimilated.
        start: The step before the first; -1: the ensemble of step 0, before its analysis.
        error: Streams of the model error, by step.
        analysis: Streams of the analyses, by step.
        cycles: Number of analyses before.
        first: Number of step 0 in the whole run, by which the streams and the system count.
    """

    def __init__(
        self,
        method: Filter,
        problem: Problem,
        start: Cycle,
        error: rng.Steps,
        analysis: rng.Steps,
        cycles: int = 0,
        first: int = 0,
    ) -> None:
        self._method = method
        self._error, self._analysis, self._cycles = error, analysis, cycles
        self._first = first
        self._step, self._ensemble = start.step, laid_out(start.ensemble)
        self._weights, self._carried = start.weights, start.carried
        self._roster = Roster(len(start.ensemble))
        self._drops = getattr(problem.system, "drops", False)
        if self._drops and not (there := present(problem.space, self._ensemble)).all():
            self._leave_out(~there)
            self._weights = None if start.weights is None else start.weights[there]
        self._statistics, self._forecast_seconds = Statistics(), 0.0
        self._before: Tensor | None = None
        self._report: dict[str, Any] = {}
        self.begin(problem)

    def begin(self, problem: Problem) -> None:
        """Make what analyses the observations of a problem from here on."""
        self._problem, self._run = problem, self._method.begin(problem, self._weights)
        self._inflation = self._method.inflation_beside.begin(problem)
        of_run, of_inflation = parted(self._carried)
        if of_run:
            self._run.restore(of_run)
        if of_inflation:
            self._inflation.restore(of_inflation)

    def forecast(self) -> None:
        """Advance the ensemble to the next step; from before step 0, that is the ensemble itself.

        Raises:
            DivergenceError: If a member is no longer finite, or too large to square.
            DegenerateEnsemble: If too few members are left.
        """
        clock = time.perf_counter()
        self._step += 1
        self._before, self._report = None, {}
        if self._step == 0:
            return
        system, step, place = self._problem.system, self._first + self._step, self._place
        with few_threads(self._ensemble.numel()), place:
            stochastic = getattr(system, "stochastic", True)
            stream = self._error.at(step) if stochastic else None
            self._ensemble = advanced(system, self._ensemble, stream, step - 1, self._roster.left)
            gone = ~present(self._problem.space, self._ensemble) if self._drops else None
            if gone is not None and gone.any():
                check_members(self._method, int((~gone).sum()))
                self._weights = normalised(self._weights, ~gone)
                self._leave_out(gone)
                self.begin(self._problem)
            check_finite(self._ensemble, "forecast")
            self._ensemble = laid_out(self._ensemble)
        self._forecast_seconds += time.perf_counter() - clock

    def observe(self, y: Float[Tensor, "obs"], model: ObservationModel) -> None:
        """Analyse what was observed at this step, once.

        Arguments:
            y: Flat and complete observation.
            model: Its model.

        Raises:
            DivergenceError: If the analysis is not finite.
            DegenerateEnsemble: If all members are equal.
        """
        clock, space = time.perf_counter(), self._problem.space
        with few_threads(self._ensemble.numel()), self._place:
            analysis, info = self._analysed(y, model, self._analysis.at(self._first + self._step))
            self._before, self._ensemble = self._ensemble, laid_out(space.filled(analysis))
        self._cycles += 1
        self._weights = info.pop("weights", self._weights)
        self._carried = info.pop("carried", self._carried)
        members = space.unrolled(self._ensemble, self._weights)
        report = self._statistics.report(self._step, info, space, members, self._weights)
        report["seconds"] = time.perf_counter() - clock
        report["forecast_seconds"], self._forecast_seconds = self._forecast_seconds, 0.0
        self._report = report

    def cycle(self) -> Cycle:
        """Return this step, with all members: those that were dropped are NaN and weigh 0."""
        roster, report, before = self._roster, self._report, self._before
        now = Cycle(
            self._step, self._ensemble, self._weights, self._carried, before, report,
            self._statistics,
        )  # fmt: skip
        if roster.left is None:
            return now
        return replace(
            now,
            ensemble=roster.all(now.ensemble),
            weights=None if now.weights is None else roster.all(now.weights, 0.0),
            report=now.info and {**now.info, "dropped": roster.dropped},
            forecast=None if before is None else roster.all(before),
        )

    @property
    def _place(self) -> AbstractContextManager[None]:
        return locating(self._method.name, self._step, self._cycles)

    def _leave_out(self, gone: Tensor) -> None:
        self._roster, self._ensemble = self._roster.without(gone), laid_out(self._ensemble[~gone])

    def _analysed(
        self, y: Tensor, model: ObservationModel, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Leave out gross errors, analyse and inflate, check the analysis, report its innovation.

        The innovation is that of the forecast that is analysed, after an inflation before it.
        """
        forecast, weights, method = self._ensemble, self._weights, self._method
        space = self._problem.space
        forecast, y, model = unrolled(forecast, weights, y.to(forecast), model, space)
        screened = {}
        if method.gross_error_check is not None:
            gross = gross_errors(forecast, weights, y, model, method.gross_error_check)
            screened = {"rejected": int(gross.sum())}
            if gross.all():
                return space.rolled(forecast), screened
            if gross.any():
                y, model = y[~gross], model.only(~gross, y)
        if method.least_members > 1:
            check_spread(forecast)
        # Bounded variables are analysed, and inflated, in their coordinates without bounds.
        forecast, model = space.unbounded(forecast), unbounded_model(model, space)
        try:
            forecast = self._inflation.before(forecast, y, model, generator)
            seen = taken(method, self._run.analyse, forecast, y, model, generator)
            analysis, told = self._run.analyse(forecast, *seen, generator)
            if model.law is not None:
                # They are of the Gaussian in the place of the law.
                told.pop("white", None)
            info = {**screened, **told}
            check_finite(analysis, "analysis")
            if "white" not in info and "innovation" not in info:
                alone = weights is not None or "weights" in info or model.law is not None
                if alone or method.least_members < 2:
                    info["innovation"] = innovation_of(forecast, weights, y, model)
                else:
                    info["white"] = white_innovation(forecast, y, model)
            d = info["white"][1] if "white" in info else None
            if not math.isfinite(info["innovation"] if d is None else torch.dot(d, d)):
                raise DivergenceError(
                    "The innovation is too large to square in standard deviations of the "
                    "observation error; check the observations and their `std`."
                )
        except OVERFLOW:
            # Where the operator is to blame, say so.
            check_predicted(model.operator(forecast))
            raise
        inflated = self._inflated(forecast, analysis, generator, info)
        return space.rolled(space.bounded(inflated)), info

    def _inflated(
        self, forecast: Tensor, analysis: Tensor, generator: torch.Generator, info: dict[str, Any]
    ) -> Tensor:
        """Return the inflated analysis, and add to the report what the inflation has to tell."""
        if "weights" in info and self._method.inflation != 1:
            raise ValueError(
                f"{self._method.name} weighs its members, and inflation would move them from "
                "where their weights belong: leave `inflation` out."
            )
        analysis = laid_out(analysis)
        inflated = self._inflation.after(forecast, analysis, generator)
        if inflated is not analysis:
            check_finite(inflated, "inflated analysis")
        info |= self._inflation.report()
        if carried := self._inflation.carried:
            own = {f"{PREFIX}{name}": tensor for name, tensor in carried.items()}
            info["carried"] = (info.get("carried") or {}) | own
        return inflated
