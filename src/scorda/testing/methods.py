"""Contracts of assimilators and filters."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from scorda.assimilation.base import REQUIREMENTS, Assimilator
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.core.transforms import Circular, Logit
from scorda.observations.analysis import Analysis
from scorda.observations.laws import Density
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.observations.robust_laws import StudentT
from scorda.observations.value_laws import Poisson
from scorda.systems.function import FunctionSystem
from scorda.testing.promise import is_slow, keeps, promise

__all__ = ["check_assimilator", "check_filter"]

HUGE = 1e8
SHAPES = ((4,), (2, 5), (3, 4))


def check_assimilator(method: Assimilator, problem: Problem, members: int = 40) -> None:
    """Check a method on a problem that it can solve.

    Promises: ``(members, steps + 1, *state)`` finite states in the precision of the problem's
    states; weights that sum to one at each step; the same result for the same seed, given as a
    generator or as a whole number; the problem untouched; a row of NaN alone changes no bit;
    observations with a huge error leave the law of the states as it is without any: means and
    variances within 4 standard errors (skipped for a method whose `inflation` is not 1 or whose
    `jitter` is not 0, which then change it, and for one that `forgets` its forecast).

    Arguments:
        method: The method.
        problem: A problem with at least one unobserved step and one instrument, whose states have
            finite variance.
        members: Number of members.

    Raises:
        AssertionError: If a promise is broken.
    """
    _check_runs(method, problem, max(members, method.least_members))


def _check_runs(method: Assimilator, problem: Problem, members: int) -> Analysis:
    """Keep the promises of `check_assimilator`, and return one of the runs."""
    instrument = _instruments(problem)[0]
    values = instrument.values.clone()
    analysis = method.assimilate(problem, members, rng.seeded(0))
    promise(isinstance(analysis, Analysis), method, "does not return an Analysis")
    like = problem.initial
    like = problem.system.prior(1, rng.seeded(0)) if like is None else like
    shape = (members, problem.steps + 1, *problem.space.shape)
    keeps(method, "assimilate", like, analysis.states, shape)
    if analysis.weights is not None:
        total = analysis.weights.sum(0)
        promise(
            torch.allclose(total, torch.ones_like(total)) and bool((analysis.weights >= 0).all()),
            method,
            "returns weights that are negative or do not sum to one at each step",
        )
    promise(
        torch.equal(instrument.values.nan_to_num(nan=HUGE), values.nan_to_num(nan=HUGE)),
        method,
        "changes the observations of its problem",
    )
    again = method.assimilate(problem, members, 0)
    promise(
        torch.equal(analysis.states, again.states),
        method,
        "gives another result for the same seed",
    )
    padded = method.assimilate(_with_absent_row(problem), members, rng.seeded(0))
    promise(
        torch.equal(analysis.states, padded.states),
        method,
        "lets a row of NaN change the result: absent observations must leave no trace",
    )
    if _is_neutral(method):
        vague = method.assimilate(_with_std(problem, HUGE), members, rng.seeded(1))
        free = method.assimilate(_without_values(problem), members, rng.seeded(2))
        _same_moments(method, vague, free)
    return analysis


def check_filter(method: Filter, members: int = 60, device: str = "cpu") -> None:
    """Check a filter, on states of several shapes in single and double precision.

    A method whose class declares a high `cost` is checked on each shape in one precision only.

    Promises of `analyse`: shape, precision and device kept, finite, inputs untouched, the same
    result for the same seed, and with a huge observation error the moments of the forecast
    within 4 standard errors (at inflation 1 and without jitter). Promises of a run: those of
    `check_assimilator`, and at an unobserved step the forecast bit for bit. Observations of
    another law than the Gaussian give a finite run, the same for the same seed, or are refused by
    a sentence that begins with the name of the method and "needs", as `errors` says. A variable
    with bounds stays inside of them, and a circular one is what it is on a line where no member
    comes near the cut, or is refused, as `circular` says.

    Arguments:
        method: The filter.
        members: Number of members.
        device: Where the states live.

    Raises:
        AssertionError: If a promise is broken.
    """
    members = max(members, method.least_members)
    _check_laws(method, members, device)
    single, double = torch.float32, torch.float64
    cases = list(zip(SHAPES, (single, double, single), strict=True))
    if not is_slow(method):
        cases += zip(SHAPES, (double, single, double), strict=True)
    for shape, dtype in cases:
        problem = _problem(shape, members, dtype, device)
        _check_analyse(method, problem)
        states = _check_runs(method, problem, members).states
        for k in (0, 2, 3):  # The steps after these are not observed, the last one is NaN.
            promise(
                torch.equal(states[:, k + 1], problem.system.step(states[:, k])),
                method,
                "changes the forecast bit for bit where nothing is observed",
            )
    _check_transforms(method, members, device)


def _check_analyse(method: Filter, problem: Problem) -> None:
    assert problem.initial is not None
    forecast, (y, model) = problem.initial, problem.observed()[2]
    copies = forecast.clone(), y.clone()
    analysis, info = method.begin(problem).analyse(forecast, y, model, rng.seeded(0))
    promise(
        torch.equal(forecast, copies[0]) and torch.equal(y, copies[1]),
        method,
        "changes the forecast or the observation that `analyse` is given",
    )
    keeps(method, "analyse", forecast, analysis)
    promise(isinstance(info, dict), method, "does not report a dictionary from `analyse`")
    again = method.begin(problem).analyse(forecast, y, model, rng.seeded(0))[0]
    promise(torch.equal(again, analysis), method, "gives another analysis for the same seed")
    if _is_neutral(method):
        vague = ObservationModel(model.operator, std=HUGE)
        analysis, info = method.begin(problem).analyse(forecast, y, vague, rng.seeded(0))
        weights = info.get("weights")
        weights = None if weights is None else weights[:, None]
        space = problem.space
        _same_moments(
            method, Analysis(analysis[:, None], space, weights), Analysis(forecast[:, None], space)
        )


def _check_laws(method: Filter, members: int, device: str) -> None:
    """Keep the promises about laws, on a heavy tail, a count, and a density of a user."""

    def own(y: Tensor, h: Tensor) -> Tensor:
        return -torch.log1p((y - h).square())

    problem = _problem(SHAPES[0], members, torch.float64, device)
    values = torch.full((1, 2), 2.0, dtype=torch.float64, device=device)
    for law in (StudentT(), Poisson(), Density(own)):
        model = ObservationModel(Select([0, 3]), std=0.7 if law.scaled else None, law=law)
        seen = replace(problem, observations=[Observations(model, [2], values)])
        what = f"observations of {type(law).__name__}"
        takes = REQUIREMENTS[method.errors_taken][0](seen)
        try:
            states = method.assimilate(seen, members, rng.seeded(0)).states
        except ValueError as error:
            named = str(error).startswith(f"{method.name} needs")
            promise(named and not takes, method, f"refuses {what}: {error}")
            continue
        promise(takes, method, f"takes {what}, which is not what `errors` says")
        promise(states.isfinite().all(), method, f"is not finite with {what}")
        again = method.assimilate(seen, members, rng.seeded(0)).states
        promise(torch.equal(states, again), method, f"gives other results again with {what}")


def _check_transforms(method: Filter, members: int, device: str) -> None:
    """Keep the promises about bounds, of states that come near them, and about circles."""
    plain = _problem(SHAPES[0], members, torch.float64, device)
    bounds, circle = Logit(-4.5, 6.0), Circular(40.0, -20.0)
    for transform in (bounds, circle):
        system = plain.system.with_transforms({"q": transform})
        what = f"a variable with {type(transform).__name__}"
        try:
            problem = replace(plain, system=system)
            states = method.assimilate(problem, members, rng.seeded(0)).states
        except ValueError as error:
            named = str(error).startswith(f"{method.name} needs")
            # Of a prior that the method has.
            named = named or "takes no circular variables" in str(error)
            promise(named, method, f"refuses {what}: {error}")
            continue
        promise(states.isfinite().all(), method, f"is not finite with {what}")
        again = method.assimilate(problem, members, rng.seeded(0)).states
        told = f"gives another result for the same seed with {what}"
        promise(torch.equal(states, again), method, told)
        if transform is bounds:
            inside = (states > bounds.lower) & (states < bounds.upper)
            promise(inside.all(), method, "leaves the bounds of a variable")
            continue
        line = method.assimilate(plain, members, rng.seeded(0)).states
        if line.abs().max() < circle.period / 4:
            promise(torch.equal(states, line), method, "is another filter on a circle")


def _is_neutral(method: Assimilator) -> bool:
    if method.forgets:
        return False
    return getattr(method, "inflation", 1.0) == 1 and getattr(method, "jitter", 0.0) == 0


def _same_moments(method: Assimilator, vague: Analysis, free: Analysis) -> None:
    """Two samples of one law: 4 standard errors of the difference of means and log variances."""
    size = len(free.states)
    (mean, var), (other, other_var) = _moments(vague), _moments(free)
    floor = 1e-6 * (1 + other.abs())
    promise(
        ((mean - other).abs() <= 4 * ((var + other_var) / size).sqrt() + floor).all(),
        method,
        "moves the mean by more than 4 standard errors for an observation of huge error",
    )
    ratio = (var + floor.square()) / (other_var + floor.square())
    promise(
        (ratio.log().abs() <= 4 * math.sqrt(4 / (size - 1))).all(),
        method,
        "changes the variance by more than 4 standard errors for an observation of huge error",
    )


def _moments(analysis: Analysis) -> tuple[Tensor, Tensor]:
    states = analysis.states.double()
    weights = torch.full(states.shape[:2], 1 / len(states), dtype=states.dtype)
    weights = weights.to(states) if analysis.weights is None else analysis.weights.to(states)
    mean = torch.einsum("et,et...->t...", weights, states)
    return mean, torch.einsum("et,et...->t...", weights, (states - mean).square())


def _problem(shape: tuple[int, ...], members: int, dtype: torch.dtype, device: str) -> Problem:
    """A deterministic contraction on a periodic space, observed at step 2; step 4 is NaN."""

    def step(x: Tensor) -> Tensor:
        return 0.9 * x.roll(1, -1) + 0.1 * x.sin() + 0.2

    def initial(members: int, seed: int) -> Tensor:
        return rng.normal(members, shape, rng.seeded(seed))

    axes = {name: np.arange(n) for name, n in zip("zyx"[-len(shape) :], shape, strict=True)}
    period = {name: float(n) for name, n in zip(axes, shape, strict=True)}
    space = StateSpace(shape, variables=("q",), coordinates=axes, period=period)
    system = FunctionSystem(step, initial, space, library="torch")
    start = initial(members, 5).to(device, dtype)
    values = torch.tensor([[0.3, -0.5], [math.nan, math.nan]], dtype=dtype, device=device)
    model = ObservationModel(Select([0, 3]), std=0.7)
    return Problem(system, Observations(model, (2, 4), values), 4, start)


def _instruments(problem: Problem) -> tuple[Observations, ...]:
    """The observations, which a problem keeps as a tuple whatever it was given."""
    assert isinstance(problem.observations, tuple)
    return problem.observations


def _with_absent_row(problem: Problem) -> Problem:
    """The same problem with a row of NaN at the first step that nobody observes."""
    first, *others = _instruments(problem)
    taken = {step for part in _instruments(problem) for step in part.steps}
    free = next((k for k in range(problem.steps + 1) if k not in taken), None)
    if free is None:
        return problem
    rows = sorted([*zip(first.steps, first.values, strict=True), (free, None)], key=lambda r: r[0])
    absent = torch.full_like(first.values[0], math.nan)
    values = torch.stack([absent if row is None else row for _, row in rows])
    padded = replace(first, steps=tuple(step for step, _ in rows), values=values)
    return replace(problem, observations=[padded, *others])


def _with_std(problem: Problem, std: float) -> Problem:
    parts = [
        replace(part, model=ObservationModel(part.model.operator, std=std), std=None)
        for part in _instruments(problem)
    ]
    return replace(problem, observations=parts)


def _without_values(problem: Problem) -> Problem:
    parts = [
        replace(part, values=torch.full_like(part.values, math.nan))
        for part in _instruments(problem)
    ]
    return replace(problem, observations=parts)
