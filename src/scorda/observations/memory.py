r"""Observations of several steps in filters: means and sums over time, and lagged values.

A filter knows one state at a time. Where rows need more, `Filter.run` makes it remember. The state
that remembers,
:math:`X_k = (x_k, x_{k-1}, \dots, x_{k-L})`, is Markov again: its step moves the copies on and
advances the first. A row of observations of several steps is an observation of the last of these
states, with any operator, and each analysis updates all copies that are still needed. For a
linear-Gaussian system this is the exact posterior of the filter; it is a fixed-lag smoother of the
copies.

Source: state augmentation as in Anderson & Moore (1979), Optimal Filtering, section 7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.moving import MovingInterpolate
from scorda.observations.observations import Observations
from scorda.observations.operators import Operator
from scorda.observations.over_time import OverTime
from scorda.observations.problem import Problem
from scorda.systems.base import System, forecast

__all__ = ["OverTime", "newest", "remembered_space", "remembering"]


@dataclass(frozen=True, eq=False)
class _OfCopies(Operator):
    """Observation of some of the copies that a state remembers.

    Arguments:
        operator: Operator of one state, or of several.
        copies: Which copies, in the order of time; 0 is the newest. None: the newest alone.
        space: Space of one copy.
    """

    operator: Operator
    copies: tuple[int, ...] | None
    space: StateSpace

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        states = _copies(x, self.space)
        return self.operator(states[:, 0] if self.copies is None else states[:, list(self.copies)])

    def check(self, space: StateSpace) -> None:
        self.operator.check(self.space)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return self.operator.coordinates(self.space)


class _Remembering(System):
    """A system whose state remembers those before it.

    Arguments:
        system: The system.
        lag: Number of steps that are remembered.
    """

    def __init__(self, system: Any, lag: int) -> None:
        self.system, self.lag = system, lag
        self.space = remembered_space(system.space, lag)
        self.name = f"{getattr(system, 'name', type(system).__name__)}, {lag} steps remembered"
        self.stochastic = getattr(system, "stochastic", True)

    def prior(
        self, members: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble *state"]:
        return self.repeated(self.system.prior(members, generator))

    def repeated(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return states that remember only themselves: nothing observes what was before step 0."""
        copies = x[:, None].expand(len(x), self.lag + 1, *x.shape[1:])
        return copies.reshape(len(x), *self.space.shape)

    def step(
        self, x: Float[Tensor, "..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        return self._moved(x, generator, 0, None)

    def at(self, step: int, members: Sequence[int] | None = None) -> System:
        return _AtStep(self, step, members)

    def _moved(
        self, x: Tensor, generator: Any, step: int, members: Sequence[int] | None
    ) -> Tensor:
        copies = _copies(x, self.system.space)
        new = forecast(self.system, copies[:, 0], generator, step, members)
        return torch.cat((new[:, None], copies[:, :-1]), 1).reshape(x.shape)


class _AtStep(System):
    """Such a system that makes one step, of which its model may ask."""

    def __init__(self, system: _Remembering, number: int, members: Sequence[int] | None) -> None:
        self.system, self.number, self.members = system, number, members
        self.space, self.name, self.stochastic = system.space, system.name, system.stochastic

    def prior(self, members: int, generator: torch.Generator | None = None) -> Tensor:
        return self.system.prior(members, generator)

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.system._moved(x, generator, self.number, self.members)


def remembering(problem: Problem) -> Problem:
    """Return a problem for filters, whose states remember what is observed later.

    Rows of several steps (`Observations`) become observations of the last of them; `newest`
    returns the states of an analysis. The state grows by a copy for each step that the longest row
    reaches back. Positions and grid stay, so that localization works with operators that have
    positions, such as `OverTime` of `Select`.

    Arguments:
        problem: Any problem, with rows of several steps or without.

    Raises:
        ValueError: If the state is on several grids, a platform that moves is observed over
            time, or the system drops members whose model fails.
    """
    rows = [step for o in problem.instruments for step in o.steps if isinstance(step, tuple)]
    lag = max((row[-1] - row[0] for row in rows), default=0)
    if lag == 0:
        return problem
    if problem.space.parts is not None:
        raise ValueError("Got a state on several grids, which cannot be remembered: use SDA.")
    if getattr(problem.system, "drops", False):
        raise ValueError(
            "Got on_failure = 'drop' with rows of several steps: states that remember go on with "
            "all members, so stop or retry where the model fails."
        )
    system = _Remembering(problem.system, lag)
    parts = [part for one in problem.instruments for part in _of_copies(one, problem.space)]
    initial = problem.initial
    if isinstance(initial, Tensor):
        initial = system.repeated(initial)
    return Problem(system, parts, problem.steps, initial)


def newest(analysis: Analysis, problem: Problem) -> Analysis:
    """Return an analysis of the states themselves, of one of states that remember.

    Arguments:
        analysis: Analysis of `remembering` of a problem.
        problem: The problem.
    """
    if analysis.space == problem.space:
        return analysis
    flat = analysis.states.flatten(0, 1)
    states = _copies(flat, problem.space)[:, 0].unflatten(0, analysis.states.shape[:2])
    return replace(analysis, states=states, space=problem.space)


def _of_copies(instrument: Observations, space: StateSpace) -> list[Observations]:
    """Return the rows of an instrument as observations of copies, one for each kind of row."""
    kinds: dict[tuple[int, ...] | None, list[int]] = {}
    for k, step in enumerate(instrument.steps):
        back = tuple(step[-1] - s for s in step) if isinstance(step, tuple) else None
        kinds.setdefault(back, []).append(k)
    if isinstance(instrument.model.operator, MovingInterpolate):
        raise ValueError("Got observations of moving platforms, beside rows of several steps.")
    found = []
    for back, rows in kinds.items():
        operator = _OfCopies(instrument.model.operator, back, space)
        model = replace(instrument.model, operator=operator)
        ends = [s[-1] if isinstance(s, tuple) else s for s in (instrument.steps[k] for k in rows)]
        std = instrument.std
        if std is not None:
            std = torch.as_tensor(std).expand(instrument.values.shape)[rows]
        values = instrument.values[rows]
        found.append(replace(instrument, model=model, steps=ends, values=values, std=std))
    return found


def remembered_space(space: StateSpace, lag: int) -> StateSpace:
    """Return the space of states that remember: further variables on the same grid."""
    if lag == 0:
        return space
    names = [
        f"{n}_{back}_before" if back else n for back in range(lag + 1) for n in space.variables
    ]
    before = [n for _ in range(lag + 1) for n in space.variables]
    pairs = list(zip(names, before, strict=True))
    units = {new: space.units[n] for new, n in pairs if n in space.units}
    units |= {n: u for n, u in space.units.items() if n not in space.variables}
    return StateSpace(
        (len(names), *space.grid),
        space.dt,
        tuple(names),
        space.coordinates,
        space.period,
        units,
        calendar=space.calendar,
        mask=space.mask,
        points=space.points,
        transforms={new: space.transforms[n] for new, n in pairs if n in space.transforms},
        parameters=tuple(new for new, n in pairs if n in space.parameters),
    )


def _copies(x: Tensor, space: StateSpace) -> Float[Tensor, "ensemble copies ..."]:
    """Return the copies that states remember, the newest first."""
    return x.reshape(len(x), -1, *space.shape)
