"""What a unit of work writes of its states, and what the next unit starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from scorda.assimilation.cycle import Cycle
from scorda.core.calendars import Start
from scorda.core.files import read_tensors
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.core.times import time_axis
from scorda.store import groups, layout
from scorda.store.computing import Part

__all__ = ["Output", "Whole", "create_weights"]


class Output(ABC):
    """The states of a run on disk."""

    @abstractmethod
    def make(self, root: zarr.Group, dtype: np.dtype, weighted: bool) -> None:
        """Make the arrays without values, and their coordinates."""

    @abstractmethod
    def write(
        self, root: zarr.Group, first: int, states: Tensor, weights: Tensor | None
    ) -> list[str]:
        """Write the states of a unit that begins at `first`; return the names of their files."""

    @abstractmethod
    def write_weights(self, root: zarr.Group, weights: np.ndarray, first: int) -> list[str]:
        """Write weights ``(ensemble, steps)`` of a unit that had none; return their files."""

    @abstractmethod
    def carried(self, part: Part, end: bool) -> dict[str, Tensor] | None:
        """Return what the next unit needs beside the store; `end`: there is none."""

    @abstractmethod
    def before(self, root: zarr.Group, step: int, marker: dict[str, Any], carried: Path) -> Cycle:
        """Return the last step of a finished unit, to go on from.

        Arguments:
            root: The store.
            step: The step.
            marker: What the unit reported.
            carried: File of what it carried.
        """


@dataclass(frozen=True)
class Whole(Output):
    """All members of all variables at every step.

    Arguments:
        space: Space of the states.
        members: Number of members.
        states: Number of states.
        plan: Units of work.
        start: Datetime of step 0, where the times are to be datetimes.
    """

    space: StateSpace
    members: int
    states: int
    plan: layout.Plan
    start: Start | None

    def make(self, root: zarr.Group, dtype: np.dtype, weighted: bool) -> None:
        space, leading = self.space, {"ensemble": self.members, "time": self.states}
        layout.create_states(root, space, space.variables, leading, dtype, self.plan)
        times = time_axis(space, self.states, self.start)
        layout.write_coordinates(root, space, ("ensemble", self.members), ("time", *times))
        if weighted:
            create_weights(root, leading, self.members, self.plan)

    def write(
        self, root: zarr.Group, first: int, states: Tensor, weights: Tensor | None
    ) -> list[str]:
        values = self.space.masked(states).detach().cpu().numpy()
        # A run that was stopped in a block of steps has fewer than the block.
        along = 1 if self.plan.axis == "time" else 0
        cut = slice(first, first + values.shape[along])
        region = (slice(None), cut) if along else (cut,)
        names = []
        for name in self.space.variables:
            stored = layout.array(root, name)
            names += layout.write_region(stored, region, self.space.field(values, name))
        if weights is not None:
            if "weight" not in root:
                leading = {"ensemble": self.members, "time": self.states}
                create_weights(root, leading, self.members, self.plan)
            made = weights.detach().cpu().numpy()
            names += ["weight/zarr.json"]
            names += layout.write_region(layout.array(root, "weight"), region, made)
        return names

    def write_weights(self, root: zarr.Group, weights: np.ndarray, first: int) -> list[str]:
        region = (slice(None), slice(first, first + weights.shape[1]))
        return layout.write_region(layout.array(root, "weight"), region, weights)

    def carried(self, part: Part, end: bool) -> dict[str, Tensor] | None:
        return part.carried

    def before(self, root: zarr.Group, step: int, marker: dict[str, Any], carried: Path) -> Cycle:
        weights = None
        if marker["weighted"]:
            weights = torch.from_numpy(np.asarray(layout.array(root, "weight")[:, step]))
        more = read_tensors(carried)[0] if marker["carried"] else None
        return Cycle(step, groups.read_states(root, self.space, step), weights, carried=more)


def create_weights(
    group: zarr.Group, axes: Mapping[str, int], members: int, plan: layout.Plan
) -> None:
    """Make the array of weights on axes of given lengths, in a run of so many members."""
    attrs = {"long_name": "weight of the member", "units": "1"}
    shape, kind = tuple(axes.values()), np.dtype("float64")
    layout.create_array(group, "weight", shape, kind, plan, tuple(axes), attrs, 1 / members)
