"""Contract of units: what is computed does not depend on the units that a caller chose.

Each variable of the state is multiplied by a factor of its own, and the ensemble, the model, the
observations and their errors with it. The result, divided by the factors, must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch

from scorda.assimilation.base import Assimilator
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Operator, Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian
from scorda.testing.promise import draw, promise

__all__ = ["check_metric_units", "check_prior_units", "check_units"]

# Factors of three variables: from kg/kg beside kelvin to the ends of what is promised.
FACTORS = ((1.0, 3e-3, 1.0), (1e8, 1e-8, 1.0), (1e-8, 1.0, 1e8))
# The same in powers of two, which round nothing: for methods that train a network, where
# training makes the last digit a different network.
EXACT = ((1.0, 2.0**-8, 1.0), (2.0**26, 2.0**-26, 1.0))
# Largest difference, in standard deviations of the variable.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
POINTS, STEPS = 4, 3
OBSERVED = (0, 2, 5, 9)

Make = Callable[[Problem], Assimilator]
Factors = tuple[float, ...]


@runtime_checkable
class Fitted(Protocol):
    """A prior of ensembles, as `scorda.priors.EnsemblePrior`."""

    def begin(self, problem: Problem | None) -> Any:
        """Return what is fitted in one run."""


def check_units(
    method: Assimilator | Make, members: int = 20, trained: bool = False, sums: bool = True
) -> None:
    """Check that an analysis is the same in any units, to rounding.

    Three variables on a line of four points are multiplied by factors from 1e-8 to 1e8, and all
    that belongs to them. The states of a run with the same seed, divided by the factors, are the
    same to 1e-9 standard deviations of each variable in double precision, and to 1e-3 in single
    precision. A method of a `LinearGaussian` system has three variables without a grid.

    Arguments:
        method: The method, or what makes it of a problem (one whose prior is that of a system).
        members: Number of members.
        trained: Whether it trains a network. Factors are then powers of two, which change no
            rounding: training makes the last digit another network.
        sums: Whether it takes an operator that adds variables, beside one that picks entries.

    Raises:
        AssertionError: If the promise is broken.
    """
    for dtype, sum_up in [
        (d, s) for d in TOLERANCE for s in ((False, True) if sums else (False,))
    ]:
        expected: Tensor | None = None
        for factors in ((1.0, 1.0, 1.0), *(EXACT if trained else FACTORS)):
            case = _Case(dtype, factors, sum_up)
            linear = not isinstance(method, Assimilator) or "linear_system" in method.needs
            problem = case.linear() if linear else case.problem(members)
            subject = method if isinstance(method, Assimilator) else method(problem)
            size = members if problem.initial is None else len(problem.initial)
            states = subject.assimilate(problem, size, rng.seeded(0)).states.double()
            states = states / case.factor(problem.space)
            expected = states if expected is None else expected
            _same(subject, expected, states, problem.space, case)


def check_prior_units(prior: Fitted, members: int = 20, trained: bool = False) -> None:
    """Check that the denoiser of an ensemble is the same in any units, to rounding.

    Members, noisy copies and the noise level of each variable are multiplied by its factor, as
    in `check_units`.

    Arguments:
        prior: The prior.
        members: Number of members.
        trained: Whether it trains a network, as for `check_units`.

    Raises:
        AssertionError: If the promise is broken.
    """
    for dtype in TOLERANCE:
        expected: Tensor | None = None
        for factors in ((1.0, 1.0, 1.0), *(EXACT if trained else FACTORS)):
            case = _Case(dtype, factors)
            problem = case.problem(members)
            x, f = cast(Tensor, problem.initial), case.factor(problem.space).to(dtype)
            u = x + f * draw(len(x), problem.space.shape, dtype, "cpu", 1)
            level = (0.5 * f).expand(1, *problem.space.shape)
            fitted = prior.begin(problem).fit(x, None, problem.space)
            mean = fitted.denoise(u, level).double() / f.double()
            expected = mean if expected is None else expected
            _same(prior, expected, mean, problem.space, case)


def check_metric_units(
    metric: Callable[[Tensor, Tensor], Any], power: float = 1.0, shape: tuple[int, ...] = (5, 3)
) -> None:
    """Check that a score is the same in any unit, as a power of the factor of that unit.

    A score that pools variables of different units is no counterexample: it is that of numbers
    of one unit, and mixes what it is given. So members and truth have one factor here.

    Arguments:
        metric: Function of an ensemble ``(ensemble, *shape)`` and a truth ``(*shape)``.
        power: Power of the unit that the score has: 1 for an error, 0 for a probability.
        shape: Shape of the truth.

    Raises:
        AssertionError: If the promise is broken.
    """
    x = draw(12, shape, torch.float64, "cpu")
    y = draw(1, shape, torch.float64, "cpu", 1)[0]
    expected = torch.as_tensor(metric(x, y)).double()
    for factor in (1e-8, 3e-3, 1e8):
        found = torch.as_tensor(metric(x * factor, y * factor)).double() / factor**power
        promise(
            torch.allclose(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True),
            metric,
            f"is not the same in a unit that is {factor:g} of another",
        )


def _same(
    subject: object, expected: Tensor, found: Tensor, space: StateSpace, case: _Case
) -> None:
    """Promise that states in common units agree, in standard deviations of each variable."""
    axis = expected.ndim - len(space.shape)
    spread = expected.std([a for a in range(expected.ndim) if a != axis], keepdim=True)
    worst = float(((found - expected) / spread).abs().max())
    promise(
        worst <= TOLERANCE[case.dtype],
        subject,
        f"differs by {worst:.2g} standard deviations with variables multiplied by {case.factors} "
        f"in {str(case.dtype).removeprefix('torch.')}{' where sums are observed' * case.sums}: it "
        "must be the same in any units",
    )


@dataclass(frozen=True)
class _Case:
    """A problem with three variables, each multiplied by its factor.

    Arguments:
        dtype: Precision of the states.
        factors: Factor of each variable.
        sums: Whether sums of the variables, in common units, are observed, or entries.
    """

    dtype: torch.dtype
    factors: Factors
    sums: bool = False

    def factor(self, space: StateSpace) -> Tensor:
        """The factors beside states, in double precision."""
        return space.constant(torch.tensor(self.factors, dtype=torch.float64))

    def problem(self, members: int) -> Problem:
        """A contraction with model error that mixes variables and points."""
        space = StateSpace(
            (3, POINTS),
            variables=("p", "q", "t"),
            coordinates={"x": torch.arange(POINTS).numpy()},
            period={"x": float(POINTS)},
        )
        factor = self.factor(space)

        def step(x: Tensor) -> Tensor:
            f = factor.to(x)
            z = x / f
            return f * (0.7 * z.roll(1, -1) + 0.2 * z.roll(1, -2) + 0.1 * z.sin() + 0.2)

        def initial(members: int, seed: int) -> Tensor:
            like = torch.zeros(0, dtype=torch.float64)
            return factor * rng.normal(members, space.shape, rng.seeded(seed), like)

        std = 0.3 * factor.expand(space.shape)
        system = FunctionSystem(step, initial, space, std, "torch")
        start = initial(members, 5).to(self.dtype)
        return Problem(system, self._observed(space), STEPS, start)

    def linear(self) -> Problem:
        """A linear system of three variables without a grid."""
        space = StateSpace((3,))
        f = self.factor(space)
        transition = torch.tensor([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.1, 0.7]])
        transition = transition.double() * f[:, None] / f
        cov = 0.5 * (torch.eye(3) + 1).double() * f[:, None] * f
        # The last variable is without model error.
        error = torch.diag(torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)) * f[:, None] * f
        system = LinearGaussian(transition, error, f.clone(), cov)
        return Problem(system, self._observed(space), STEPS)

    def _observed(self, space: StateSpace) -> Observations:
        """Observations at the second step and the last one."""
        f = self.factor(space).expand(space.shape).flatten()
        at = [i for i in OBSERVED if i < space.size]
        values = 0.5 * draw(2, (len(at),), torch.float64, "cpu", 7)
        operator: Operator = Select(at)
        std = 0.4 * f[at]
        if self.sums:
            weights = draw(len(at), (space.size,), torch.float64, "cpu", 8)
            operator, std = Linear((weights / f).to(self.dtype)), torch.full((len(at),), 1.5)
        else:
            values = values * f[at]
        model = ObservationModel(operator, std=std.to(self.dtype))
        return Observations(model, (1, STEPS), values.to(self.dtype))
