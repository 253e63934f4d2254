"""The members of a posterior, in memory or on disk, read block by block.

A block holds all members of one variable at some steps and at some points of its grid, so that
whoever goes through them takes no more memory for a large posterior than for a small one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis, left
from scorda.reading.opening import readable
from scorda.store.damage import telling

if TYPE_CHECKING:
    import xarray

__all__ = ["Block", "InMemory", "Members", "Stored", "blocks"]

# Numbers of a block: those of a chunk of 8 MB, 16 MB in double precision. Scores make some copies.
LARGEST = 2**21


class Members(ABC):
    """Members ``(ensemble, time, *state)`` that are read in parts.

    Arguments:
        space: Space of the states.
        dropped: First step without each member that was dropped, by its number.
    """

    space: StateSpace
    dropped: Mapping[int, int]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return the numbers of members and of times."""

    @abstractmethod
    def read(
        self, name: str, steps: slice, rows: slice = slice(None)
    ) -> Float[Tensor, "ensemble steps ..."]:
        """Return members of a variable at some steps, of some rows of the first axis of its grid.

        They are NaN outside of the mask of the space.
        """

    @abstractmethod
    def weights(self, steps: slice) -> Float[Tensor, "ensemble steps"] | None:
        """Return the weights of the members at some steps, or None where all are equal."""

    @abstractmethod
    def chunk(self, name: str) -> int:
        """Return how many steps of a variable are best read at once."""

    def left(self, steps: slice) -> Bool[Tensor, "ensemble steps"]:
        """Return which members are left at some steps."""
        members, times = self.shape
        return left(members, range(*steps.indices(times)), self.dropped)

    def flat(
        self, name: str, steps: slice, rows: slice
    ) -> Float[Tensor, "ensemble steps entries"]:
        """Return what `read` does in double precision, each field flattened."""
        states = self.read(name, steps, rows).double()
        return states.reshape(*states.shape[:2], -1)

    def states(self, steps: slice) -> Float[Tensor, "ensemble steps *state"]:
        """Return the states of all variables at some steps."""
        fields = {name: self.read(name, steps).numpy() for name in self.space.variables}
        return torch.from_numpy(self.space.joined(fields))


@dataclass(frozen=True)
class InMemory(Members):
    """The members of an analysis."""

    analysis: Analysis

    @property
    def space(self) -> StateSpace:  # type: ignore[override]
        return self.analysis.space

    @property
    def dropped(self) -> Mapping[int, int]:  # type: ignore[override]
        return self.analysis.dropped

    @property
    def shape(self) -> tuple[int, int]:
        return self.analysis.states.shape[0], self.analysis.states.shape[1]

    def read(self, name: str, steps: slice, rows: slice = slice(None)) -> Tensor:
        values = self.space.field(self.analysis.states[:, steps], name)
        return values[:, :, rows] if values.ndim > 2 else values

    def weights(self, steps: slice) -> Tensor | None:
        return None if self.analysis.weights is None else self.analysis.weights[:, steps]

    def chunk(self, name: str) -> int:
        return 1


@dataclass(frozen=True)
class Stored(Members):
    """The members in an open store, or its truth, which is a single one.

    Arguments:
        dataset: What the store holds, with dims ``(ensemble, time, ...)`` or ``(time, ...)``.
        space: Space of the states.
        path: The store, for sentences on what is damaged.
        dropped: First step without each member that was dropped, by its number.
    """

    dataset: xarray.Dataset
    space: StateSpace
    path: Path
    dropped: Mapping[int, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        sizes = self.dataset.sizes
        return sizes.get("ensemble", 1), sizes["time"]

    def read(self, name: str, steps: slice, rows: slice = slice(None)) -> Tensor:
        stored = self.dataset[name]
        cut = {"time": steps}
        if axes := self.space.piece_of(name).axes:
            cut[axes[0]] = rows
        with telling(self.path), readable(self.path, "a posterior"):
            values = torch.from_numpy(stored.isel(cut).values)
        return values if "ensemble" in stored.dims else values[None]

    def weights(self, steps: slice) -> Tensor | None:
        if "weight" not in self.dataset:
            return None
        with telling(self.path), readable(self.path, "a posterior"):
            found = torch.from_numpy(self.dataset["weight"].isel(time=steps).values)
        if not self.dropped:
            return found
        # A run that was stopped has not written equal weights, so that all have the same.
        found = torch.where(self.left(steps), found, 0.0)
        return found / found.sum(0)

    def chunk(self, name: str) -> int:
        stored = self.dataset[name]
        return int(stored.encoding["chunks"][stored.dims.index("time")])


class Block(NamedTuple):
    """The members that are left of a variable at some steps and at some points of its grid.

    Arguments:
        name: The variable.
        steps: The steps.
        rows: The rows of the first axis of its grid.
        entries: The entries of the flattened field.
        states: ``(left, steps, entries)``, in double precision; a circular variable is on the
            turns nearest to its mean direction.
        weights: ``(left, steps)``, or None where all are equal.
        numbers: Numbers of these members.
    """

    name: str
    steps: slice
    rows: slice
    entries: slice
    states: Tensor
    weights: Tensor | None
    numbers: Sequence[int]


def blocks(
    members: Members, first: int = 0, last: int | None = None, names: Sequence[str] | None = None
) -> Iterator[Block]:
    """Yield the members in blocks of at most 2^21 numbers, or of one row of one step.

    A block ends where a member is dropped: all its members are there at all its steps.

    Arguments:
        members: The members.
        first: First step.
        last: The one after the last (default: all).
        names: Variables (default: all), one after the other.
    """
    number, times = members.shape
    last = times if last is None else last
    for name in members.space.variables if names is None else names:
        grid = members.space.piece_of(name).grid
        size = math.prod(grid) * number
        together = max(LARGEST // size, 1)
        if together > (chunk := members.chunk(name)):
            together -= together % chunk
        rows, width = grid[0] if grid else 1, math.prod(grid[1:])
        deep = rows if size <= LARGEST else max(LARGEST // (number * width), 1)
        # Where a chunk begins before the first step, so does the first block.
        begins = range(first - first % together, last, together)
        cuts = sorted({*begins, first, last, *members.dropped.values()})
        for low, high in pairwise(step for step in cuts if first <= step <= last):
            steps = slice(low, high)
            there = members.left(steps)[:, 0]
            weights = members.weights(steps)
            weights = None if weights is None else weights[there]
            for top in range(0, rows, deep):
                cut = slice(top, min(top + deep, rows))
                states = members.flat(name, steps, cut)
                states = states if there.all() else states[there]
                if (circle := members.space.circular.get(name)) is not None:
                    states = circle.unrolled(states, weights)
                entries = slice(cut.start * width, cut.stop * width)
                numbers = there.nonzero()[:, 0].tolist()
                yield Block(name, steps, cut, entries, states, weights, numbers)
