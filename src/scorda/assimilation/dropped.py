"""Ensembles that go on without some members, because their model has failed.

A member that was dropped is NaN in all entries from then on. Methods see the others alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace

__all__ = ["Roster", "normalised", "present"]


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
