"""Ensembles that go on without some members, because their model has failed.

A member that was dropped is NaN in all entries from then on. Methods see the others alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace

__all__ = ["Roster", "dropped", "equal_weights", "normalised", "present", "stretches"]


@dataclass(frozen=True)
class Roster:
    """The members of an ensemble that are left.

    Arguments:
        members: Number of members at the beginning.
        left: Their numbers, in order; None: all.
    """

    members: int
    left: tuple[int, ...] | None = None

    @property
    def dropped(self) -> list[int]:
        """The numbers of those that are not."""
        left = set(range(self.members) if self.left is None else self.left)
        return [number for number in range(self.members) if number not in left]

    def all(
        self, rows: Float[Tensor, "left ..."], absent: float = math.nan
    ) -> Float[Tensor, "ensemble ..."]:
        """Return rows for all members, those of absent ones with one value."""
        if self.left is None:
            return rows
        full = rows.new_full((self.members, *rows.shape[1:]), absent)
        full[list(self.left)] = rows
        return full

    def without(self, gone: Tensor) -> Roster:
        """Return the roster without some of those that are left, told by a boolean each."""
        numbers = range(self.members) if self.left is None else self.left
        kept = (number for number, out in zip(numbers, gone.tolist(), strict=True) if not out)
        return Roster(self.members, tuple(kept))


def present(space: StateSpace, ensemble: Float[Tensor, "ensemble ..."]) -> Tensor:
    """Return which members have not been dropped, a boolean for each."""
    inside = ensemble.flatten(1)[:, space.inside.to(ensemble.device)]
    return ~inside.isnan().all(1)


def normalised(weights: Float[Tensor, "ensemble"] | None, left: Tensor) -> Tensor | None:
    """Return the weights of those that are left, of sum 1; None, all equal, stays."""
    if weights is None:
        return None
    kept = weights[left]
    return kept / kept.sum() if kept.sum() > 0 else torch.full_like(kept, 1 / len(kept))


def dropped(states: Float[Tensor, "ensemble time ..."], first: int = 0) -> dict[int, int]:
    """Return the first step without each member that was dropped, by the number of the member.

    Arguments:
        states: States of a run that may drop members; it has stopped if another is NaN.
        first: Their first step.
    """
    absent = _absent(states)
    found = absent[:, -1].nonzero()[:, 0].tolist()
    return {number: first + int(absent[number].int().argmax()) for number in found}


def equal_weights(
    states: Float[Tensor, "ensemble time ..."], dtype: torch.dtype
) -> Float[Tensor, "ensemble time"]:
    """Return the weights of members that count alike: those that were dropped weigh 0."""
    left = (~_absent(states)).to(dtype)
    return left / left.sum(0)


def stretches(left: Bool[Tensor, "ensemble steps"]) -> Iterator[tuple[slice, Tensor]]:
    """Yield stretches of steps at which the same members are left, and which members these are."""
    changes = (left[:, 1:] != left[:, :-1]).any(0).nonzero()[:, 0] + 1
    for low, high in itertools.pairwise([0, *changes.tolist(), left.shape[1]]):
        yield slice(low, high), left[:, low]


def _absent(states: Tensor) -> Tensor:
    return states.flatten(2).isnan().all(2)
