r"""The forecast/analysis cycle.

A *filter* alternates forecasts, :math:`x_{k+1} \sim p(x_{k+1} \mid x_k)` member by member, and
analyses, which condition the forecast ensemble on the observation of that step. `Filter.run` is
that cycle, once for all filters; a subclass writes `analyse`. The streams of the ensemble at
step 0, of the model error and of the analysis are distinct, and the noise of member i at step k
is a function of (seed, stream, k, i): a run continued from a stored step has the same bits as
one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

import torch

from scorda.assimilation.base import Assimilator, check_members, check_needs
from scorda.assimilation.gross_errors import check_reject, gross_errors
from scorda.core import rng
from scorda.core.errors import DivergenceError, RunError, check_finite, check_spread
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Analysis, Problem

__all__ = ["Cycle", "Filter", "collect"]

# What an analysis of numbers that overflow may raise.
LinAlgError = torch.linalg.LinAlgError  # type: ignore[attr-defined]
FAILURES = (FloatingPointError, LinAlgError)


@dataclass(frozen=True)
class Cycle:
    """One step of a run of a filter: all that is needed to continue from there.

    Arguments:
        step: Step of the ensemble.
        ensemble: ``(ensemble, *state)``: the analysis where observed, else the forecast.
        weights: Weights of the members, ``(ensemble,)``, or None where all are equal.
        info: What is reported of the analysis; empty where nothing was observed.
        carried: Tensors that the method hands from one analysis to the next (a network's
            weights), or None.
        forecast: Where observed, the ensemble before the analysis; else None. A run is
            continued without it.
    """

    step: int
    ensemble: Float[Tensor, "ensemble ..."]
    weights: Float[Tensor, "ensemble"] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    carried: dict[str, Tensor] | None = None
    forecast: Float[Tensor, "ensemble ..."] | None = None


@dataclass(frozen=True)
class Filter(Assimilator):
    """A method that alternates forecasts and analyses; subclasses write `analyse` alone.

    A filter whose `least_members` is 1 makes no use of the spread of its members; any other is
    stopped where they have become equal.

    Arguments:
        reject: Standard deviations of an innovation beyond which an observed value is left out as
            a gross error, see `assimilation.gross_errors`; None: all are used. The number of
            values left out is reported as ``rejected``, one entry per cycle.
    """

    _: KW_ONLY
    reject: float | None = None

    needs: tuple[str, ...] = field(default=("simulator",), init=False, repr=False, compare=False)

    least_members = 2

    def begin(self, problem: Problem, weights: Float[Tensor, "ensemble"] | None = None) -> Filter:
        """Return self, or a copy that owns what one run needs (weights, geometry, network).

        Arguments:
            problem: What will be assimilated.
            weights: Weights of the members where the run starts, ``(ensemble,)``; None: equal.
                A filter that carries weights from one analysis to the next takes them from here
                and reports them as ``info["weights"]``, in full, so that a continued run is exact.
        """
        return self

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        """Take up what an earlier analysis carried, after `begin`, where a run is continued."""

    @abstractmethod
    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis ensemble and what is to be reported of this cycle.

        Arguments:
            forecast: Ensemble ``(ensemble, *state)``; must not be changed.
            y: Observation, flat, complete, of the forecast's dtype.
            model: Its model, whose operator returns ``(ensemble, obs)``.
            generator: Source of randomness.

        Returns:
            Members, and a dictionary of numbers and tensors, the same keys in each cycle.
            The key ``weights`` stands for the weights of the members from here on, ``carried``
            for tensors that `restore` needs to go on from here.
        """

    @final
    def update(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """The members of `analyse` alone [final]."""
        return self.analyse(forecast, y, model, generator)[0]

    @final
    def run(
        self,
        problem: Problem,
        members: int,
        generator: torch.Generator | None = None,
        start: Cycle | None = None,
    ) -> Iterator[Cycle]:
        """Yield the steps of a run one after another, from step 0 or after `start` [final].

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
            generator: Source of randomness; where a run is continued, one with the seed of the
                run that made `start`.
            start: A step of an earlier run with the same problem, members and seed (`info` is
                not needed); the first step yielded is the next one.

        Raises:
            ValueError: If the problem lacks what the method needs.
            DivergenceError: If a member is no longer finite, or too large to square.
            DegenerateEnsemble: If there are too few members, or all are equal where an analysis
                needs their spread. Both know step, cycle and members; what was yielded before
                stays usable.
        """
        check_needs(self, problem)
        check_members(self, members)
        check_reject(self.reject)
        observed = problem.observed()
        cycles = list(observed)
        draw, error, analysis = (rng.key(generator) for _ in range(3))
        stochastic = getattr(problem.system, "stochastic", True)
        if start is None:
            first, weights = 0, None
            ensemble = problem.members_at_start(members, rng.at(draw, 0))
        else:
            first, weights, ensemble = start.step + 1, start.weights, start.ensemble
            _check_start(start, members, problem)
        method = self.begin(problem, weights)
        carried = None if start is None else start.carried
        if carried is not None:
            method.restore(carried)
        forecast_seconds = 0.0
        for step in range(first, problem.steps + 1):
            info: dict[str, Any] = {}
            forecast = None
            clock = time.perf_counter()
            with _locating(self, step, bisect_left(cycles, step)):
                if step > 0:
                    stream = rng.at(error, step) if stochastic else None
                    ensemble = problem.system.step(ensemble, stream)
                    check_finite(ensemble, "forecast")
                    forecast_seconds += time.perf_counter() - clock
                if step in observed:
                    clock, forecast = time.perf_counter(), ensemble
                    ensemble, info = method._observe(
                        forecast, weights, *observed[step], rng.at(analysis, step)
                    )
            if step in observed:
                weights = info.pop("weights", weights)
                carried = info.pop("carried", carried)
                info = {
                    "step": step,
                    "spread": _spread(ensemble, weights),
                    **info,
                    "seconds": time.perf_counter() - clock,
                    "forecast_seconds": forecast_seconds,
                }
                forecast_seconds = 0.0
            yield Cycle(step, ensemble, weights, info, carried, forecast)

    def _observe(
        self,
        forecast: Tensor,
        weights: Tensor | None,
        y: Tensor,
        model: ObservationModel,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Any]]:
        """The analysis of one cycle of a run, without gross errors, and checked."""
        y, screened = y.to(forecast), {}
        if self.reject is not None:
            gross = gross_errors(forecast, weights, y, model, self.reject)
            screened = {"rejected": int(gross.sum())}
            if gross.all():
                return forecast, screened
            if gross.any():
                y, model = y[~gross], model.only(~gross, y)
        if self.least_members > 1:
            check_spread(forecast)
        try:
            analysis, info = self.analyse(forecast, y, model, generator)
            check_finite(analysis, "analysis")
            if "innovation" not in info:
                info["innovation"] = _innovation(forecast, weights, y, model)
            if not math.isfinite(info.get("innovation", 0.0)):
                raise DivergenceError(
                    "The innovation is too large to square in standard deviations of the "
                    "observation error; check the observations and their `std`."
                )
        except FAILURES:
            # Where the operator is to blame, say so.
            _check_predicted(forecast, model)
            raise
        return analysis, {**screened, **info}

    @final
    def assimilate(
        self,
        problem: Problem,
        members: int,
        generator: torch.Generator | None = None,
        report: Callable[[int, dict[str, Any]], None] | None = None,
    ) -> Analysis:
        """Run the cycle over all steps of the problem and keep each ensemble [final].

        ``info`` holds, with one entry per cycle, the observed ``step``, the ``spread`` of the
        analysis, the ``innovation`` (root mean square of y less the forecast mean of h(x), in
        standard deviations of the error), the ``seconds`` of the analysis and the
        ``forecast_seconds`` before it, and what the method reports: ``evaluations`` of a
        denoiser per member, ``ess``, the ``loss`` of a network.

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
            generator: Source of randomness.
            report: Called after each step with the step and what was reported of it.
        """
        states, weights, infos = [], [], []
        for cycle in self.run(problem, members, generator):
            states.append(cycle.ensemble)
            weights.append(cycle.weights)
            if cycle.info:
                infos.append(cycle.info)
            if report is not None:
                report(cycle.step, cycle.info)
        return Analysis(
            torch.stack(states, 1),
            problem.space,
            _join_weights(weights, states[0]),
            collect(infos),
            self.name,
        )


def _check_start(start: Cycle, members: int, problem: Problem) -> None:
    if len(start.ensemble) != members or not 0 <= start.step <= problem.steps:
        raise ValueError(
            f"Got a start at step {start.step} with {len(start.ensemble)} members for a run of "
            f"{problem.steps} steps and {members} members: continue the run that it came from."
        )
    problem.space.check(start.ensemble, "the ensemble to continue from")


@contextmanager
def _locating(method: Assimilator, step: int, cycle: int) -> Iterator[None]:
    """Say of what stops a run where that was."""
    try:
        yield
    except RunError as error:
        raise error.located(method.name, step, cycle) from error
    except FloatingPointError as error:
        raise DivergenceError(str(error)).located(method.name, step, cycle) from error
    except LinAlgError as error:
        reason = (
            f"A matrix could not be factorised ({error}); check the scale of the observations and "
            "of their `std`."
        )
        raise DivergenceError(reason).located(method.name, step, cycle) from error


def _check_predicted(forecast: Tensor, model: ObservationModel) -> None:
    """Check that the operator is finite for each member."""
    finite = model.operator(forecast).flatten(1).isfinite().all(1)
    if not finite.all():
        broken = (~finite).nonzero().flatten().tolist()
        raise DivergenceError(
            f"The observation operator is not finite for {len(broken)} of {len(forecast)} "
            f"members, the first is member {broken[0]}; make it finite for every state that the "
            "system may reach.",
            members=tuple(broken),
        )


def _innovation(
    forecast: Tensor, weights: Tensor | None, y: Tensor, model: ObservationModel
) -> Tensor:
    predicted = model.operator(forecast).flatten(1)
    if weights is None:
        mean = predicted.mean(0)
    else:
        mean = torch.tensordot(weights.to(predicted), predicted, 1)
    return model.whiten((y - mean)[None]).square().mean().sqrt()


def _spread(ensemble: Tensor, weights: Tensor | None) -> Tensor:
    """Root of the spatial mean of the unbiased ensemble variance, as `scorda.metrics.spread`."""
    if weights is None:
        # One member has no variance, and says so with a zero.
        return ensemble.var(0, correction=min(1, len(ensemble) - 1)).mean().sqrt()
    weights = weights.to(ensemble)
    mean = torch.tensordot(weights, ensemble, 1)
    square = torch.tensordot(weights, (ensemble - mean).square(), 1).mean()
    # Where one member has all the weight this is 0 / 0 but for the floor.
    rest = 1 - weights.square().sum()
    return (square / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()


def _join_weights(weights: list[Tensor | None], like: Tensor) -> Tensor | None:
    if all(w is None for w in weights):
        return None
    equal = torch.full_like(next(w for w in weights if w is not None), 1 / len(like))
    return torch.stack([equal if w is None else w for w in weights], 1)


def collect(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """One tensor per key where all cycles have it in one shape, else a list."""
    collected: dict[str, Any] = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        values = [info[key] for info in infos if key in info]
        numbers = [isinstance(v, Tensor | int | float) for v in values]
        if all(numbers) and len({tuple(torch.as_tensor(v).shape) for v in values}) == 1:
            stacked = [torch.as_tensor(v) for v in values]
            collected[key] = torch.stack(stacked) if len(stacked) == len(infos) else values
        else:
            collected[key] = values
    return collected
