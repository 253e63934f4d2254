r"""The iterative ensemble Kalman smoother: a Gauss-Newton minimisation in the ensemble's space.

The states of a window that ends at an observation are functions of its first state. So the
analysis conditions the first states, through the model, and runs it again from where they have
moved to, until they stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from scorda.assimilation.base import Assimilator, Cost, check_members, check_needs
from scorda.assimilation.controls import ControlledModel
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.diagnostics import Statistics, White, collect
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import (
    in_double,
    mean_preserving_rotation,
    white_innovation,
)
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.errors import (
    DivergenceError,
    check_finite,
    check_predicted,
    check_spread,
    locating,
)
from scorda.core.shapes import Float, Tensor
from scorda.core.threads import few_threads
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_problem

__all__ = ["IEnKS"]

Observed = Mapping[int, tuple[Tensor, ObservationModel]]


@dataclass(frozen=True)
class IEnKS(Assimilator):
    r"""Iterative ensemble Kalman smoother, in the transform variant.

    At each observed step k the window begins at the observed step `lag` before it. With the
    mean :math:`\bar x` and the anomalies A of the ensemble there, it minimises

    .. math:: J(w) = \tfrac12 \lVert y - h(\mathcal M(\bar x + w A)) \rVert^2_{R^{-1}}
        + \tfrac{N - 1}{2} \lVert w \rVert^2

    by Gauss-Newton. With the predicted observations of the ensemble :math:`\bar x + (w + T) A`,
    white anomalies Y about their mean and the white innovation d,

    .. math:: w \leftarrow w + C (Y_0 d - (N - 1) w), \quad T = \sqrt{N - 1} \, C^{1/2}, \quad
        C = (Y_0 Y_0^T + (N - 1) I)^{-1}, \quad Y_0 = T^{-1} Y ,

    from w = 0 and T = I, until w stays. Then :math:`\bar x + (w + T) A` is the ensemble, the model
    takes it through the window, and the window moves on by one observed step. With a lag of 1 this
    is the iterative ensemble Kalman filter, whose estimates of the present are those of `run`; 0
    iterates the operator alone. The states are those of the last window that each is in:
    conditioned on the observations up to `lag` observed steps after it.

    Inflation and rotation act on the ensemble with which the next window begins. Those that are
    handed out have passed the model without, and are then inflated and rotated at each step: a
    nonlinear model would move the mean of a wider ensemble.

    One iteration of a linear model and operator is exact, and equal to the `ETKF` and its
    smoother. Model errors are controls beside the first state, with anomalies and updates of their
    own (see ``scorda.assimilation.controls``).

    With `mda` (multiple data assimilation) each observation counts with the weight 1 / `lag` in
    each of the `lag` windows that it is in, which keeps the minimisation of a long window close to
    where it starts. The states that are handed out come from a second minimisation, the balancing
    step, in which each observation counts with all the weight that it has not had yet.

    Sources: Bocquet & Sakov (2014), Q. J. R. Meteorol. Soc. 140, 1521-1535; lag 1: Sakov, Oliver &
    Bertino (2012), Mon. Wea. Rev. 140, 1988-2004. Model errors: one ensemble of states and errors
    (Evensen 2019) instead of separate anomalies of the errors (Sakov, Haussaire & Bocquet 2018, Q.
    J. R. Meteorol. Soc. 144, 1297-1309, https://arxiv.org/abs/1711.06110): both tend to the Kalman
    smoother of a linear system, this one as N grows, with the sampling errors of the `ETKF`.

    Arguments:
        inflation: Factor of the anomalies after each analysis, at least 1.
        rotation: Whether the anomalies are multiplied in each cycle by a random orthogonal matrix
            that keeps mean and covariance.
        lag: Observed steps from the beginning of a window to its end.
        mda: Whether observations count in several windows.
        iterations: Largest number of iterations.
        tolerance: They end where the mean square of the change of w is smaller.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.IEnKS(lag=2).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float = 1.0
    rotation: bool = False
    lag: int = 1
    mda: bool = False
    iterations: int = 10
    tolerance: float = 1e-5

    smoother = True
    needs = ("simulator",)
    least_members = 2
    exact = "linear-Gaussian, N and lag → ∞"
    cost = Cost(1, note="and the model through the window, per cycle and iteration")

    def __post_init__(self) -> None:
        if isinstance(self.inflation, Inflation):
            raise ValueError(
                f"Got inflation = {self.inflation}: IEnKS multiplies the anomalies with which its "
                "next window begins, so give a number of at least 1."
            )
        check_inflation(self.inflation)
        if self.lag < 0:
            raise ValueError(f"Got lag = {self.lag}: give a number of observed steps, >= 0.")
        if self.iterations < 1:
            raise ValueError(f"Got iterations = {self.iterations}: give at least 1.")
        if not self.tolerance > 0:
            raise ValueError(f"Got tolerance = {self.tolerance}: give a positive number.")

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Run forward and keep the last states of each step.

        ``info``: as for a filter, of the forecasts of the end of each window, and its
        ``iterations``.
        """
        states: Tensor | None = None
        reports: list[dict[str, Any]] = []
        stats = Statistics()
        for stage in self._stages(problem, members, generator, stats):
            window = stage.forecast if stage.analysis is None else stage.analysis
            if states is None:
                shape = (members, problem.steps + 1, *problem.space.shape)
                states = window.states.new_empty(shape)
            states[:, window.first : window.last + 1] = problem.space.bounded(window.states)
            if stage.analysis is not None:
                reports.append(stage.report)
        assert states is not None
        stats.settle()
        info = collect(reports)
        return Analysis(states, problem.space, None, info, self.name, start=problem.start)

    def run(self, problem: Problem, members: int, generator: rng.Seed = None) -> Iterator[Cycle]:
        """Yield the estimates of a filter, each step given the observations up to it.

        With `mda` the forecasts between observed steps are those of the ensemble in which the last
        observations have not had all their weight.
        """
        done, stats = -1, Statistics()
        for stage in self._stages(problem, members, generator, stats):
            forecast, analysis = stage.forecast, stage.analysis
            before = forecast.last if analysis is None else forecast.last - 1
            for step in range(done + 1, before + 1):
                yield Cycle(step, problem.space.bounded(forecast.at(step)), statistics=stats)
            done = forecast.last
            if analysis is not None:
                x, last = (problem.space.bounded(w.at(done)) for w in (analysis, forecast))
                yield Cycle(done, x, None, None, last, stage.report, stats)

    def _stages(
        self, problem: Problem, members: int, generator: rng.Seed, stats: Statistics
    ) -> Iterator[_Stage]:
        """Yield the window of each cycle before and after its analysis; at last, one without.

        Bounded variables are in their coordinates without bounds.
        """
        check_needs(self, problem)
        check_members(self, members)
        check_memory(self, problem, members)
        space, problem = problem.space, unbounded_problem(problem)
        observed = problem.observed()
        cycles = list(observed)
        generator = rng.as_generator(generator)
        draw, error, analysis = (rng.key(generator) for _ in range(3))
        model = ControlledModel(problem, error)
        with locating(self.name, 0, 0):
            window = out = _Window.begin(problem.members_at_start(members, rng.at(draw, 0)))
        for cycle, step in enumerate(cycles):
            clock = time.perf_counter()
            with few_threads(window.states.numel()), locating(self.name, step, cycle):
                if cycle >= self.lag > 0:
                    window = window.since(cycles[cycle - self.lag])
                forecast = window.until(step, model)
                check_spread(forecast.states[:, -1])
                window = forecast if self.lag else forecast.since(step)
                turn = self._turn(window.states, rng.at(analysis, step))
                used = cycles[max(0, cycle - self.lag + 1) : cycle + 1]
                if self.mda and self.lag > 1:
                    # The newest has had none of its weight, each one before it one part more.
                    left = {k: 1 - i / self.lag for i, k in enumerate(reversed(used))}
                    w, T, info = self._minimum(window, left, observed, model)
                    parts = dict.fromkeys(used, 1 / self.lag)
                    next_w, next_T, _ = self._minimum(window, parts, observed, model)
                else:
                    w, T, info = self._minimum(window, {step: 1.0}, observed, model)
                    next_w, next_T = w, T
                turned = next_T if turn is None else turn @ next_T
                out = window.moved(w + T, model)
                window = out if turned is T else window.moved(next_w + turned, model)
                out = out if turn is None else out.combined(turn)
            report = stats.report(step, info, space, space.bounded(out.at(step)), None)
            report["seconds"] = time.perf_counter() - clock
            yield _Stage(forecast, out, report)
        with few_threads(out.states.numel()), locating(self.name, problem.steps, len(cycles)):
            last = out.until(problem.steps, model)
        yield _Stage(last)

    def _turn(self, like: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return inflation and rotation of the anomalies as one matrix, or None for neither."""
        double = like.new_empty(0, dtype=torch.float64)
        if self.rotation:
            return self.inflation * mean_preserving_rotation(len(like), double, generator)
        return self.inflation * torch.eye(len(like)).to(double) if self.inflation > 1 else None

    def _minimum(
        self,
        window: _Window,
        weights: Mapping[int, float],
        observed: Observed,
        model: ControlledModel,
    ) -> tuple[Float[Tensor, "ensemble"], Float[Tensor, "ensemble ensemble"], dict[str, Any]]:
        """Return w and T given observations, each with a weight, and a report.

        Arguments:
            window: The window before.
            weights: Weights of the observations of some of its steps.
            observed: All observations.
            model: The model.
        """
        Y, d = _white(window, weights, observed)
        # The innovation that is reported is that of the whole newest observation.
        newest = _white(window, {window.last: 1.0}, observed)
        w, inverse = Y.new_zeros(len(Y)), torch.eye(len(Y)).to(Y)
        for count in range(1, self.iterations + 1):
            change, root, inverse = _gauss_newton(inverse @ Y, d, w)
            w = w + change
            if count == self.iterations or change.square().mean() < self.tolerance:
                break
            Y, d = _white(window.moved(w + root, model), weights, observed)
        return w, root, {"white": newest, "iterations": count}


@dataclass(frozen=True, eq=False)
class _Window:
    """Trajectories of the members between two steps.

    Arguments:
        first: First step.
        states: ``(ensemble, time, *state)``.
        errors: Model errors between them, as of a `ControlledModel`.
    """

    first: int
    states: Float[Tensor, "ensemble time ..."]
    errors: Float[Tensor, "ensemble steps ..."]

    @classmethod
    def begin(cls, x: Float[Tensor, "ensemble ..."]) -> _Window:
        check_finite(x, "draw of the start")
        return cls(0, x[:, None], x.new_zeros(len(x), 0, *x.shape[1:]))

    @property
    def last(self) -> int:
        return self.first + self.states.shape[1] - 1

    def at(self, step: int) -> Float[Tensor, "ensemble ..."]:
        return self.states[:, step - self.first]

    def until(self, step: int, model: ControlledModel) -> _Window:
        """Return the window with forecasts up to a step."""
        states, errors = model.drawn(self.at(self.last), self.last, step)
        states = torch.cat((self.states, states[:, 1:]), 1)
        return _Window(self.first, states, torch.cat((self.errors, errors), 1))

    def since(self, step: int) -> _Window:
        """Return the window without what is before a step."""
        past = step - self.first
        return _Window(step, self.states[:, past:], self.errors[:, past:])

    def moved(
        self, weights: Float[Tensor, "ensemble ensemble"], model: ControlledModel
    ) -> _Window:
        """Return the window of first states and errors that are combined from these."""
        start = _Window(self.first, self.states[:, :1], self.errors).combined(weights)
        states = model.run(start.states[:, 0], start.errors, self.first, self.last)
        return _Window(self.first, states, start.errors)

    def combined(self, weights: Float[Tensor, "ensemble ensemble"]) -> _Window:
        """Return the window with the anomalies of each step combined by weights."""

        def change(x: Tensor) -> Tensor:
            mean = x.mean(0, keepdim=True)
            return mean + weights @ (x - mean)

        errors = in_double(change, self.errors) if self.errors.numel() else self.errors
        return _Window(self.first, in_double(change, self.states), errors)


@dataclass(frozen=True, eq=False)
class _Stage:
    """A window before and after its analysis, if it has one, and the report of it."""

    forecast: _Window
    analysis: _Window | None = None
    report: dict[str, Any] = field(default_factory=dict)


def _white(window: _Window, weights: Mapping[int, float], observed: Observed) -> White:
    """White anomalies and innovations of the observations of some steps, by their weights."""
    parts = []
    for step, weight in weights.items():
        (y, model), x = observed[step], window.at(step)
        Y, d = white_innovation(x, y.to(x), model)
        if not (Y.isfinite().all() and torch.dot(d, d).isfinite()):
            check_predicted(model.operator(x))
            raise DivergenceError(
                "The innovation is too large to square in standard deviations of the observation "
                "error; check the observations and their `std`."
            )
        parts.append((Y * weight**0.5, d * weight**0.5))
    return torch.cat([Y for Y, _ in parts], 1), torch.cat([d for _, d in parts])


def _gauss_newton(
    Y: Float[Tensor, "ensemble obs"], d: Float[Tensor, "obs"], w: Float[Tensor, "ensemble"]
) -> tuple[Float[Tensor, "ensemble"], Tensor, Tensor]:
    """Return the change of w, the root T and its inverse."""
    rest = len(Y) - 1
    values, vectors = torch.linalg.eigh(Y @ Y.mT)
    total = values.clamp_min(0) + rest
    change = (vectors / total) @ (vectors.mT @ (Y @ d - rest * w))
    scale = (total / rest).sqrt()
    return change, (vectors / scale) @ vectors.mT, (vectors * scale) @ vectors.mT
