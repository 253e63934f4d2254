"""Filters on observations of several steps, whose runs remember the states that are needed.

The cycle is that of states that remember (`scorda.observations.memory`). What a run yields are the
newest of them, and the others are carried from step to step, as is what the method carries itself:
so stores, resumed runs and reports know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from scorda.assimilation.cycle import Cycle
from scorda.assimilation.diagnostics import spread_of
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.memory import remembered_space, remembering
from scorda.observations.problem import Problem

if TYPE_CHECKING:
    from scorda.assimilation.filter import Filter

__all__ = ["forgetting", "reaches_back", "remembered"]

# Name of the states before, among what is carried.
MEMORY = "memory"


def reaches_back(problem: Problem) -> bool:
    """Say whether a row of the observations is of several steps."""
    return any(isinstance(step, tuple) for one in problem.instruments for step in one.steps)


def forgetting(start: Cycle | None, space: StateSpace) -> Cycle | None:
    """Return the start of a run that remembers nothing, without the states before it."""
    if start is None or MEMORY not in (start.carried or {}):
        return start
    return replace(start, carried=_carried(start, space, 1))


def remembered(
    method: Filter,
    problem: Problem,
    members: int,
    generator: rng.Seed,
    start: Cycle | None,
    first: int,
) -> Iterator[Cycle]:
    """Yield the steps of a run as `Filter.run` does, which remembers.

    Arguments:
        method: The filter.
        problem: What is assimilated, with rows of several steps.
        members: Number of members.
        generator: Source of randomness or its seed.
        start: Step to go on after, with the states before it; a run that goes on from one with
            fewer takes the oldest for those that lack, which no observation sees.
        first: Number of step 0 in the whole run.
    """
    whole, space = remembering(problem), problem.space
    copies = whole.space.size // space.size
    if start is not None:
        states = torch.cat((start.ensemble[:, None], _memory(start)), 1)
        joined = _lasting(states, copies).reshape(len(states), *whole.space.shape)
        start = replace(start, ensemble=joined, carried=_carried(start, space, copies))
    for cycle in method.run(whole, members, generator, start, first):
        yield _newest(cycle, space)


def _memory(start: Cycle) -> Tensor:
    """Return the states before the start, ``(ensemble, states, *state)``."""
    return (start.carried or {}).get(MEMORY, start.ensemble[:, None][:, :0])


def _carried(start: Cycle, space: StateSpace, copies: int) -> dict[str, Tensor] | None:
    """Return what the method itself carries, in the shape of states with so many copies."""
    before = _memory(start).shape[1] + 1
    shape, new = (remembered_space(space, n - 1).shape for n in (before, copies))
    found = {name: x for name, x in (start.carried or {}).items() if name != MEMORY}
    for name, x in found.items():
        lead = x.shape[: max(x.ndim - len(shape), 0)]
        if before != copies and (*lead, *shape) == tuple(x.shape):
            parts = x.reshape(lead.numel(), before, *space.shape)
            found[name] = _lasting(parts, copies).reshape(*lead, *new)
    return found or None


def _lasting(states: Tensor, copies: int) -> Tensor:
    """Return ``(ensemble, copies, *state)`` with the oldest state for those that lack."""
    states = states[:, :copies]
    more = states[:, -1:].expand(-1, copies - states.shape[1], *states.shape[2:])
    return torch.cat((states, more), 1)


def _newest(cycle: Cycle, space: StateSpace) -> Cycle:
    """Return a step with the newest state alone, which carries the others."""
    states = _parted(cycle.ensemble, space)
    carried = (cycle.carried or {}) | {MEMORY: states[:, 1:].contiguous()}
    now = replace(cycle, ensemble=states[:, 0].contiguous(), carried=carried)
    if cycle.forecast is None:
        return now
    members = space.unrolled(now.ensemble, cycle.weights)
    cycle.report["spread"] = float(spread_of(space, members, cycle.weights))
    return replace(now, forecast=_parted(cycle.forecast, space)[:, 0].contiguous())


def _parted(x: Tensor, space: StateSpace) -> Tensor:
    return x.reshape(len(x), -1, *space.shape)
