"""The layout of a posterior on disk: arrays, chunks, attributes, groups.

Chunks follow what is written at once, so that a unit of work owns whole chunks: a filter writes
blocks of steps for all members, a smoother blocks of members for all steps.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from scorda.core import times
from scorda.core.files import atomic
from scorda.core.space import StateSpace
from scorda.observations.problem import Analysis
from scorda.store.posterior import space_to_json

__all__ = [
    "Plan",
    "array",
    "complete",
    "create",
    "plan_members",
    "plan_steps",
    "write_array",
    "write_json",
    "write_weights",
]

# Bounds of one chunk in bytes, before compression, and the number of units that a run aims at.
SMALLEST_CHUNK, LARGEST_CHUNK, UNITS = 2**20, 2**23, 20


@dataclass(frozen=True)
class Plan:
    """How a posterior of given size is cut into units of work.

    Arguments:
        axis: "time" (blocks of steps) or "ensemble" (blocks of members).
        size: Steps or members per unit.
        total: Steps or members in all.
    """

    axis: str
    size: int
    total: int

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.total // self.size)

    def bounds(self, unit: int) -> tuple[int, int]:
        """First index of a unit and the one after its last."""
        return unit * self.size, min((unit + 1) * self.size, self.total)


def plan_steps(space: StateSpace, members: int, steps: int, size: int | None = None) -> Plan:
    """Blocks of steps of 1 to 8 MB per variable, about 20 of them, or of the size given."""
    per_step = members * _variable_size(space) * 8
    wanted = min(max(per_step * (steps + 1) // UNITS, SMALLEST_CHUNK), LARGEST_CHUNK)
    return Plan("time", min(size or max(wanted // per_step, 1), steps + 1), steps + 1)


def plan_members(members: int, size: int | None = None) -> Plan:
    """Blocks of members, 64 unless a size is given."""
    return Plan("ensemble", min(size or 64, members), members)


def create(
    path: Path,
    space: StateSpace,
    shape: tuple[int, int],
    dtype: np.dtype,
    plan: Plan,
    attributes: Mapping[str, Any],
    start: times.Start | None = None,
) -> None:
    """Make the empty arrays of a posterior, with their coordinates and CF attributes.

    Arguments:
        path: Directory to make.
        space: Space of the states.
        shape: Members and times.
        dtype: Type of the numbers.
        plan: Units of work, which own whole chunks.
        attributes: Attributes of the root; ``complete`` is set to 0.
        start: Datetime of step 0, where the times are to be datetimes.
    """
    sample = Analysis(torch.zeros(1, 1, *space.shape), space).to_xarray()
    root = zarr.open_group(path, mode="w", zarr_format=3)
    # `complete` comes first and has the same length throughout: the last thing that changes.
    root.attrs.update({"complete": 0, **sample.attrs, **attributes, "space": space_to_json(space)})
    for name, variable in sample.data_vars.items():
        full = (*shape, *variable.shape[2:])
        root.create_array(
            str(name),
            shape=full,
            chunks=_chunks(full, dtype.itemsize, plan),
            dtype=dtype,
            fill_value=np.nan,
            dimension_names=[str(d) for d in variable.dims],
            attributes=_attributes(variable.attrs),
        )
    for name, coordinate in sample.coords.items():
        values, attrs = np.asarray(coordinate.values), dict(coordinate.attrs)
        if name == "ensemble":
            values = np.arange(shape[0])
        if name == "time":
            values = space.dt * np.arange(shape[1])
            if start is not None:
                since = np.datetime_as_string(times.parse_start(start), unit="s")
                attrs = {
                    "standard_name": "time",
                    "units": f"{times.time_unit(space)} since {since}",
                }
        write_array(root, str(name), values, [str(name)], attrs)


def write_weights(root: zarr.Group, weights: np.ndarray, first: int, plan: Plan) -> None:
    """Write weights ``(ensemble, steps)`` from a step on; those never written are equal."""
    if "weight" not in root:
        shape = (len(weights), plan.total)
        root.create_array(
            "weight",
            shape=shape,
            chunks=_chunks(shape, 8, plan),
            dtype="float64",
            fill_value=1 / len(weights),
            dimension_names=["ensemble", "time"],
            attributes={"long_name": "weight of the member", "units": "1"},
        )
    array(root, "weight")[:, first : first + weights.shape[1]] = weights


def complete(path: Path) -> None:
    """Consolidate the metadata, so that xarray opens the store at once, and mark it complete."""
    with warnings.catch_warnings():
        # That other languages may not read consolidated metadata: they do not need it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)
    metadata = path / "zarr.json"
    content = json.loads(metadata.read_text(encoding="utf-8"))
    content["attributes"]["complete"] = 1
    write_json(metadata, content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is there in full or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def array(group: zarr.Group, name: str) -> zarr.Array:
    """Array of that name in a group."""
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def write_array(
    group: zarr.Group, name: str, values: np.ndarray, dims: list[str], attrs: Mapping
) -> None:
    """Make a small array and write it at once."""
    made = group.create_array(
        name,
        shape=values.shape,
        chunks=_bounded(values.shape, values.dtype.itemsize),
        dtype=values.dtype,
        dimension_names=dims,
        attributes=_attributes(attrs),
    )
    made[...] = values


def _attributes(attrs: Mapping) -> dict[str, Any]:
    return {str(key): value for key, value in attrs.items()}


def _chunks(shape: tuple[int, ...], itemsize: int, plan: Plan) -> tuple[int, ...]:
    """Chunks of at most 8 MB inside one unit; larger units are cut along the other axis first."""
    along = 1 if plan.axis == "time" else 0
    block = list(shape)
    block[along] = plan.size
    return _bounded(tuple(block), itemsize, (1 - along, along), along)


def _bounded(
    shape: tuple[int, ...], itemsize: int, first: tuple[int, ...] = (), divide: int | None = None
) -> tuple[int, ...]:
    """Cut a block along its axes, `first` before the others, until it has at most 8 MB.

    The axis `divide` is cut into equal parts, so that no chunk lies in two units.
    """
    block = [max(n, 1) for n in shape]
    for axis in (*first, *(axis for axis in range(len(block)) if axis not in first)):
        size = math.prod(block) * itemsize
        if size <= LARGEST_CHUNK:
            break
        length = max(1, block[axis] * LARGEST_CHUNK // size)
        while axis == divide and block[axis] % length:
            length -= 1
        block[axis] = length
    return tuple(block)


def _variable_size(space: StateSpace) -> int:
    return space.size // (len(space.variables) if space.has_channels else 1)
