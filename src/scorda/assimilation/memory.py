"""Whether a method fits into memory: an estimate of what it holds at once, before it starts."""

from __future__ import annotations

import importlib

import torch

from scorda.assimilation.base import REQUIREMENTS, Assimilator
from scorda.core.memory import available, in_words
from scorda.core.near import Near
from scorda.core.plugins import declared
from scorda.core.tapers import GaspariCohn
from scorda.observations.problem import Problem

__all__ = ["check_memory", "pairs_near"]

# Pairs of a point and an observation of which nobody asks how many are near.
FEW = 2**22
# Points at which the observations near them are counted.
SAMPLE = 256


def check_memory(method: Assimilator, problem: Problem, members: int) -> None:
    """Check before a run that what a method holds at once fits into memory.

    Raises:
        ValueError: If not; the sentence says how much it would take and how much there is, and
            names a method that can, with what that takes.
    """
    free = available()
    needed = method.memory(problem, members)
    if free is None or needed <= free:
        return
    others = sorted(
        (("positions" not in kind.needs, other.memory(problem, members), kind.__name__))
        for kind, other in _others(method, problem)
    )
    can = [(size, name) for _, size, name in others if size <= free]
    advice = "fewer members" if members > 1 else "a smaller state"
    if can:
        advice = f"{can[0][1]}, which needs about {in_words(can[0][0])}, or {advice}"
    raise ValueError(
        f"{method.name} needs about {in_words(needed)} of memory for "
        f"{members} member{'s' * (members > 1)} of {problem.space.size} numbers, "
        f"and {in_words(free)} are free: take {advice}."
    )


def pairs_near(problem: Problem, taper: GaspariCohn, points: int | None = None) -> int:
    """Return about how many pairs of a grid point and an observation are within reach.

    All instruments count, as if they observed at once.

    Arguments:
        problem: The problem.
        taper: Taper by distance.
        points: Number of points; None: those of the grid.
    """
    space = problem.space
    models = [instrument.model for instrument in problem.instruments]
    if not models:
        return 0
    where = space.places(torch.cat([model.operator.coordinates(space) for model in models]))
    positions = space.places(space.positions())
    points = len(positions) if points is None else points
    if points * len(where) <= FEW or taper.reach == float("inf"):
        return points * len(where)
    some = positions[:: max(1, len(positions) // SAMPLE)].numpy(force=True)
    found = Near(some, space).count(Near(where.numpy(force=True), space), taper.reach)
    return int(found / len(some) * points)


def _others(method: Assimilator, problem: Problem) -> list[tuple[type[Assimilator], Assimilator]]:
    """Return an example of each other method for this problem, filter or smoother likewise."""
    found = []
    # By name, because the methods stand on a higher floor.
    for module, node, _ in declared("scorda.methods", "exact"):
        kind = getattr(importlib.import_module(module), node.name)
        same = kind.smoother == method.smoother and kind is not type(method)
        if same and all(REQUIREMENTS[n][0](problem) for n in (*kind.needs, kind.errors)):
            try:
                found.append((kind, kind.example(problem)))
            except (TypeError, ValueError):
                continue
    return found
