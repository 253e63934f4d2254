r"""Problems in coordinates without bounds, in which methods estimate bounded variables.

With the transforms of a space, :math:`z = f(x)`, an observation :math:`y = h(x) + \varepsilon` is
one of z by :math:`h \circ f^{-1}`. A linear operator that sees no bounded variable stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.moving import MovingInterpolate
from scorda.observations.observations import Observations
from scorda.observations.operators import Operator
from scorda.observations.problem import Problem
from scorda.systems.unbounded import Unbounded

__all__ = ["OfUnbounded", "unbounded_model", "unbounded_observations", "unbounded_problem"]


@dataclass(frozen=True, eq=False)
class OfUnbounded(Operator):
    """Observe states whose bounded variables are in their coordinates without bounds.

    Arguments:
        operator: Operator of the states themselves.
        space: Their space.
    """

    operator: Operator
    space: StateSpace

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def check(self, space: StateSpace) -> None:
        self.operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.operator(self.space.bounded(x))

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return self.operator.coordinates(space)

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        return self.operator.variables(space)


def unbounded_model(
    model: ObservationModel, space: StateSpace, states: tuple[int, ...] = ()
) -> ObservationModel:
    """Return the model of observations of states in coordinates without bounds.

    Arguments:
        model: Model of observations of the states themselves.
        space: Their space.
        states: Number of states that the operator takes at once, ``(len,)``, or none for one.
    """
    operator = model.operator
    if not space.transforms or _sees_none(operator, space, states):
        return model
    return replace(model, operator=OfUnbounded(operator, space))


def unbounded_observations(part: Observations, space: StateSpace) -> Observations:
    """Return an instrument that observes states in coordinates without bounds."""
    if not space.transforms:
        return part
    first = part.steps[0] if part.steps else 0
    states = (len(first),) if isinstance(first, tuple) else ()
    return replace(part, model=unbounded_model(part.model, space, states))


def unbounded_problem(problem: Problem) -> Problem:
    """Return a problem of states in coordinates without bounds; itself where none has any."""
    space = problem.space
    if not space.transforms:
        return problem
    initial = None if problem.initial is None else space.unbounded(problem.initial)
    observations = [unbounded_observations(part, space) for part in problem.instruments]
    system = Unbounded(problem.system)
    return replace(problem, system=system, observations=observations, initial=initial)


def _sees_none(operator: Operator, space: StateSpace, states: tuple[int, ...]) -> bool:
    """Say whether a linear operator gives no bounded variable any weight."""
    with_bounds = set(space.transforms) - set(space.circular)
    if isinstance(operator, MovingInterpolate):
        # It observes at positions, on the grids of fields.
        return with_bounds <= set(space.parameters)
    if not operator.linear:
        return False
    bounded = torch.zeros(space.size, dtype=torch.bool)
    for name in with_bounds:
        bounded[space.entries(name)] = True
    # Weights of random entries do not cancel.
    noise = rng.normal(1, (*states, *space.shape), rng.seeded(0))
    seen = operator(noise * bounded.view(space.shape))
    return not bool(seen.any())
