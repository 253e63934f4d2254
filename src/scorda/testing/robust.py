"""Contract of filters on data as they come: gaps, gross errors, other units, broken ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble, DivergenceError
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.testing.promise import is_slow, keeps, promise

__all__ = ["check_robust"]

# Observed steps, with a gap of ten cycles: of a run, of one of a slow method, and of one that need
# not be long.
STEPS = (*range(0, 13, 2), 34, 36, 38)
FEW, FEWEST = (0, 2, 4, 6, 28), (0, 2, 4)
STD, NOISE = 0.5, 0.3
MISSING, OUTLIER, CHECK = 0.2, 20.0, 7.0
# A pressure in Pa.
ORIGIN, UNIT = 1e5, 100.0


def check_robust(
    method: Filter, members: int = 20, device: str = "cpu", any_units: bool = True
) -> None:
    """Check that a filter survives what real observations and models do to it.

    Promises:

    * With a fifth of the values missing at random, a cycle without any and a gap of ten cycles a
      run is finite, and has the forecast bit for bit where nothing is observed.
    * A value 20 standard deviations off is left out with ``gross_error_check=7``, in the cycle
      where it is and nowhere else, and the run is bit for bit that without the value.
    * All members equal, or fewer than `least_members`, end in a `DegenerateEnsemble`, a member
      that the model blows up, or of which the operator is not finite, in a `DivergenceError`; all
      name step, cycle and members, and the steps before have been yielded.
    * A run is finite with one component, one observation, the fewest members, more observations
      than members, and whole numbers as observations. A component in which all members agree
      stays as it is.
    * With a pressure in Pa, 1e5 with deviations of 100, in single precision, a run is finite and
      about as accurate as in units of those deviations in double precision.

    A method whose class declares a high `cost` is checked in shorter runs.

    Arguments:
        method: The filter. Lengths among its settings are grid points or deviations of the state.
        members: Number of members.
        device: Where the states live.
        any_units: Whether components may have units and spreads of their own. Methods that are
            published for states of unit variance about zero, and isotropic kernels, only promise
            finite runs there.

    Raises:
        AssertionError: If a promise is broken.
    """
    steps = FEW if is_slow(method) else STEPS
    case = _Case(max(members, method.least_members), device, steps)
    _check_missing(method, case)
    _check_outlier(method, case)
    _check_degenerate(method, case)
    _check_divergence(method, case)
    _check_operator(method, case)
    _check_sizes(method, case, any_units)
    _check_units(method, case, any_units)


class _Line:
    """A contraction with model error on a periodic line, in given units."""

    stochastic = True

    def __init__(self, case: _Case) -> None:
        self.case = case
        self.space = StateSpace(
            (case.size,),
            variables=("q",),
            coordinates={"x": np.arange(case.size)},
            period={"x": float(case.size)},
        )

    def prior(self, members: int, generator: torch.Generator | None = None) -> Tensor:
        z = rng.normal(members, (self.case.size,), generator)
        return self._made(z).to(self.case.device, self.case.dtype)

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        z = (x - self.case.origin) / self.case.unit
        noise = rng.normal(len(z), tuple(z.shape[1:]), generator, like=z)
        return self._made(0.9 * z.roll(1, -1) + 0.1 * z.sin() + 0.2 + NOISE * noise)

    def _made(self, z: Tensor) -> Tensor:
        if self.case.still:
            z = torch.cat((z[:, :-1], torch.ones_like(z[:, -1:])), 1)
        return self.case.origin + self.case.unit * z


class _Exploding(_Line):
    """It blows up the second member in the step after the fourth analysis."""

    def __init__(self, case: _Case) -> None:
        super().__init__(case)
        self.steps = 0

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.steps += 1
        x = super().step(x, generator)
        if self.steps > self.case.steps[3]:
            x[1] = math.inf
        return x


@dataclass(frozen=True)
class _Case:
    """A twin experiment: its sizes and units, and whether the last component stands still."""

    members: int
    device: str
    steps: tuple[int, ...]
    size: int = 6
    observed: tuple[int, ...] = (0, 3, 4)
    origin: float = 0.0
    unit: float = 1.0
    dtype: torch.dtype = torch.float64
    whole: bool = False
    still: bool = False

    def truth(self) -> Tensor:
        """In double precision, ``(time, size)``."""
        line = _Line(replace(self, dtype=torch.float64, device="cpu"))
        x = [line.prior(1, rng.seeded(9))]
        for step in range(self.steps[-1]):
            x.append(line.step(x[-1], rng.seeded(step)))
        return torch.cat(x)

    def problem(self, change: Callable[[Tensor], Tensor] | None = None) -> Problem:
        """The problem; `change` makes other values of those observed, in standard units."""
        shape = len(self.steps), (len(self.observed),)
        z = (self.truth()[list(self.steps)][:, list(self.observed)] - self.origin) / self.unit
        z = z + STD * rng.normal(*shape, rng.seeded(7), like=z)
        values = self.origin + self.unit * (z if change is None else change(z))
        values = values.round().long() if self.whole else values.to(self.dtype)
        model = ObservationModel(Select(self.observed), std=STD * self.unit)
        line = _Line(self)
        observations = Observations(model, self.steps, values.to(self.device))
        return Problem(line, observations, self.steps[-1], line.prior(self.members, rng.seeded(5)))

    def run(
        self, method: Filter, what: str, change: Callable[[Tensor], Tensor] | None = None
    ) -> Analysis:
        """A run, which must be finite."""
        problem = self.problem(change)
        assert problem.initial is not None
        try:
            analysis = method.assimilate(problem, self.members, rng.seeded(0))
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise AssertionError(f"{type(method).__name__} fails {what}: {error}") from error
        shape = (self.members, problem.steps + 1, self.size)
        keeps(method, f"a run {what}", problem.initial, analysis.states, shape)
        return analysis


def _check_missing(method: Filter, case: _Case) -> None:
    def holes(values: Tensor) -> Tensor:
        lost = rng.uniform(len(values), tuple(values.shape[1:]), rng.seeded(3)) < MISSING
        lost[2] = True
        return values.masked_fill(lost, math.nan)

    states = case.run(method, "with missing observations", holes).states
    problem, generator = case.problem(holes), rng.seeded(0)
    _, error, _ = (rng.key(generator) for _ in range(3))
    observed = problem.observed()
    for k in range(problem.steps):
        if k + 1 not in observed:
            forecast = problem.system.step(states[:, k], rng.at(error, k + 1))
            promise(
                torch.equal(states[:, k + 1], forecast),
                method,
                "changes the forecast bit for bit where nothing is observed",
            )


def _check_outlier(method: Filter, case: _Case) -> None:
    # Of an innovation: the error, and a spread that is no smaller than that of any filter here.
    gross = OUTLIER * math.hypot(STD, 1.0)

    def spoilt(values: Tensor) -> Tensor:
        values = values.clone()
        values[3, 1] += gross
        return values

    def absent(values: Tensor) -> Tensor:
        values = values.clone()
        values[3, 1] = math.nan
        return values

    try:
        robust = replace(method, gross_error_check=CHECK)
    except TypeError as error:
        raise AssertionError(
            f"{type(method).__name__} does not take `gross_error_check`: {error}"
        ) from error
    case.run(method, f"with an observation {OUTLIER:g} standard deviations off", spoilt)
    with_it = case.run(robust, "with an observation that is rejected", spoilt)
    without = case.run(robust, "with an observation that is absent", absent)
    rejected = torch.as_tensor(with_it.info["rejected"]).tolist()
    expected = torch.as_tensor(without.info["rejected"]).tolist()
    expected[3] += 1
    promise(rejected == expected, method, f"rejects {rejected} values per cycle, not {expected}")
    promise(
        torch.equal(with_it.states, without.states),
        method,
        "lets a rejected observation change the result",
    )


def _check_degenerate(method: Filter, case: _Case) -> None:
    if method.least_members < 2:
        return
    problem = case.problem()
    assert problem.initial is not None
    same = replace(problem, initial=problem.initial[:1].expand(case.members, -1).clone())
    error = _stopped(method, same, case.members, DegenerateEnsemble)
    promise(
        (error.step, error.cycle) == (0, 0) and len(error.members) == case.members,
        method,
        "does not name step, cycle and members where all members are equal",
    )
    few = method.least_members - 1
    _stopped(method, replace(problem, initial=problem.initial[:few]), few, DegenerateEnsemble)


def _check_divergence(method: Filter, case: _Case) -> None:
    problem, broken, last = case.problem(), 1, case.steps[3]
    problem = replace(problem, system=_Exploding(case))
    made: list[Tensor] = []
    error = _stopped(method, problem, case.members, DivergenceError, made)
    promise(
        (error.step, error.cycle, error.members) == (last + 1, 4, (broken,)),
        method,
        f"names step {error.step}, cycle {error.cycle} and members {error.members} where "
        f"member {broken} diverges at step {last + 1} in cycle 4",
    )
    promise(
        len(made) == last + 1 and all(x.isfinite().all() for x in made),
        method,
        "does not yield the steps before a divergence",
    )


def _check_operator(method: Filter, case: _Case) -> None:
    class Broken(Select):
        def __call__(self, x: Tensor) -> Tensor:
            y = super().__call__(x)
            return torch.where(torch.arange(len(y), device=y.device)[:, None] == 1, math.nan, y)

    problem = case.problem()
    (part,) = problem.instruments
    part = replace(part, model=ObservationModel(Broken(case.observed), std=STD))
    error = _stopped(method, replace(problem, observations=part), case.members, DivergenceError)
    promise(
        (error.step, error.cycle, error.members) == (0, 0, (1,)) and "operator" in str(error),
        method,
        f"does not say that the operator is not finite for member 1: {error}",
    )


def _stopped(
    method: Filter,
    problem: Problem,
    members: int,
    kind: type[DivergenceError] | type[DegenerateEnsemble],
    made: list[Tensor] | None = None,
) -> DivergenceError | DegenerateEnsemble:
    """The error that ends a run."""
    try:
        for cycle in method.run(problem, members, rng.seeded(0)):
            if made is not None:
                made.append(cycle.ensemble)
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(
            f"{type(method).__name__} raises {type(error).__name__} where a {kind.__name__} is "
            f"promised: {error}"
        ) from error
    raise AssertionError(f"{type(method).__name__} goes on where a {kind.__name__} is promised.")


def _check_sizes(method: Filter, case: _Case, any_units: bool) -> None:
    fewest = max(method.least_members, 2)
    if is_slow(method):
        case = replace(case, steps=FEWEST)
    others = {
        "with one component": replace(case, size=1, observed=(0,)),
        "with one observation": replace(case, observed=(3,)),
        f"with {fewest} members": replace(case, members=fewest),
        "with more observations than members": replace(
            case, size=16, observed=tuple(range(16)), members=max(fewest, 5)
        ),
        "with whole numbers as observations": replace(case, whole=True),
    }
    for what, other in others.items():
        other.run(method, what)
    still = replace(case, still=True).run(method, "with a component in which members agree")
    # Rounding of a weighted mean of ones, and what a sampler leaves of them.
    promise(
        not any_units or ((still.states[..., -1] - 1).abs() < 1e-9).all(),
        method,
        "moves a component in which all members agree",
    )


def _check_units(method: Filter, case: _Case, any_units: bool) -> None:
    pressure = replace(case, origin=ORIGIN, unit=UNIT, dtype=torch.float32)
    errors = []
    for one in (case, pressure):
        analysis = one.run(method, f"in units of {one.unit:g} about {one.origin:g}")
        error = (analysis.mean.double().cpu() - one.truth()) / one.unit
        errors.append(float(error.square().mean().sqrt()))
    promise(
        not any_units or errors[1] <= 1.5 * errors[0] + 0.1,
        method,
        f"has an error of {errors[1]:.2f} in Pa and single precision, {errors[0]:.2f} in units "
        "of the deviations",
    )
