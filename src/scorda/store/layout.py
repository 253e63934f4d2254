"""The layout of a posterior on disk: arrays, chunks and attributes.

Chunks follow what is written at once, so that a unit of work owns whole chunks: a filter writes
blocks of steps for all members, a smoother blocks of members for all steps. Each chunk ends with
its own checksum (the codec ``crc32c``), and is written even where it is empty, so that a missing
or damaged chunk is never read as if it were whole.

The stores are written with zarr, not with ``xarray.Dataset.to_zarr(region=...)``, for two reasons.
xarray makes the empty arrays of a large store (``compute=False``) with dask only, which nothing
else here needs. And in a region it refuses a variable that the store has not yet, such as the
weights of a filter whose first analysis comes in a later unit. xarray opens the stores all the
same.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from scorda.core.files import atomic
from scorda.core.ownership import SOURCE
from scorda.core.space import StateSpace
from scorda.core.times import Start, time_axis
from scorda.observations.analysis import Analysis
from scorda.store.posterior import space_to_json

__all__ = [
    "Plan",
    "array",
    "chunks_of",
    "closed",
    "create",
    "create_weights",
    "new_store",
    "plan_members",
    "plan_steps",
    "write_array",
    "write_text",
    "write_weights",
]

# Bounds of one chunk in bytes, before compression, and the number of units that a run aims at.
SMALLEST_CHUNK, LARGEST_CHUNK, UNITS = 2**20, 2**23, 20


@dataclass(frozen=True)
class Plan:
    """The cut of a store of given size into units of work.

    Arguments:
        axis: "time" (blocks of steps), "ensemble" (blocks of members) or "series".
        size: Steps, members or series per unit.
        total: All of them.
    """

    axis: str
    size: int
    total: int

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.total // self.size)

    def bounds(self, unit: int) -> tuple[int, int]:
        """Return the first index of a unit and the one after its last."""
        return unit * self.size, min((unit + 1) * self.size, self.total)


def plan_steps(space: StateSpace, members: int, steps: int, size: int | None = None) -> Plan:
    """Plan blocks of steps of 1 to 8 MB per variable, about 20 of them, or of the size given."""
    per_step = members * _variable_size(space) * 8
    wanted = min(max(per_step * (steps + 1) // UNITS, SMALLEST_CHUNK), LARGEST_CHUNK)
    return Plan("time", min(size or max(wanted // per_step, 1), steps + 1), steps + 1)


def plan_members(members: int, size: int | None = None) -> Plan:
    """Plan blocks of members, 64 in each unless a size is given."""
    return Plan("ensemble", min(size or 64, members), members)


def create(
    path: Path,
    space: StateSpace,
    shape: tuple[int, int],
    dtype: np.dtype,
    plan: Plan,
    attributes: Mapping[str, Any],
    start: Start | None = None,
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
    root = new_store(path, space, {**sample.attrs, **attributes})
    # What is a coordinate without being an axis is named by the variables that have it.
    points = " ".join(name for name in space.position_names if name not in space.axes)
    places = {"coordinates": points} if space.points and points else {}
    for name, variable in sample.data_vars.items():
        full = (*shape, *variable.shape[2:])
        _create_array(root, str(name), full, dtype, plan, variable.dims, variable.attrs | places)
    times, attributes = time_axis(space, shape[1], start)
    made = {
        "ensemble": (np.arange(shape[0]), sample["ensemble"].attrs),
        "time": (times, attributes),
    }
    for name, coordinate in sample.coords.items():
        values, attrs = made.get(str(name), (np.asarray(coordinate.values), coordinate.attrs))
        write_array(root, str(name), values, list(map(str, coordinate.dims)), attrs)


def new_store(path: Path, space: StateSpace, attributes: Mapping[str, Any]) -> zarr.Group:
    """Make a store without arrays with the marks of Scorda and of an incomplete store."""
    # `complete` comes first and has the same length throughout: the last thing that changes.
    marked = {"complete": 0, "source": SOURCE, **attributes, "space": space_to_json(space)}
    return zarr.create_group(path, zarr_format=3, attributes=marked)


def create_weights(root: zarr.Group, members: int, plan: Plan) -> None:
    """Make the array of weights."""
    attrs = {"long_name": "weight of the member", "units": "1"}
    shape, kind, equal = (members, plan.total), np.dtype("float64"), 1 / members
    _create_array(root, "weight", shape, kind, plan, ("ensemble", "time"), attrs, equal)


def write_weights(root: zarr.Group, weights: np.ndarray, first: int, last: int) -> list[str]:
    """Write weights ``(ensemble, steps)`` of some steps; return their files."""
    stored, region = array(root, "weight"), (slice(None), slice(first, last))
    stored[region] = weights
    return chunks_of(stored, region)


def chunks_of(stored: zarr.Array, region: tuple[slice, ...]) -> list[str]:
    """Return the files in the store that hold a region of an array; later axes may be left out."""
    cuts = [*region, *[slice(None)] * (stored.ndim - len(region))]
    ranges = []
    for cut, length, chunk in zip(cuts, stored.shape, stored.chunks, strict=True):
        first, last, _ = cut.indices(length)
        ranges.append(range(first // chunk, -(-last // chunk)))
    return ["/".join(map(str, (stored.path, "c", *place))) for place in itertools.product(*ranges)]


def closed(path: Path) -> str:
    """Consolidate the metadata, so that xarray opens the store at once.

    Returns:
        The metadata of the root that mark the store as complete.
    """
    with warnings.catch_warnings():
        # It warns that other languages may not read consolidated metadata, which they can ignore.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)
    content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    content["attributes"]["complete"] = 1
    return json.dumps(content, indent=1) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file of text, which is there in full or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def array(group: zarr.Group, name: str) -> zarr.Array:
    """Return the array of that name in a group."""
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def write_array(
    group: zarr.Group, name: str, values: np.ndarray, dims: list[str], attrs: Mapping
) -> None:
    """Make an array and write it at once."""
    group.create_array(
        name,
        data=values,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=dims,
        attributes=dict(attrs),
    )


def _create_array(
    root: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    plan: Plan,
    dims: Iterable[Hashable],
    attrs: Mapping[Any, Any],
    fill: float = np.nan,
) -> None:
    root.create_array(
        name,
        shape=shape,
        chunks=_chunks(shape, dtype.itemsize, plan),
        dtype=dtype,
        fill_value=fill,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=list(map(str, dims)),
        attributes=dict(attrs),
    )


def _chunks(shape: tuple[int, ...], itemsize: int, plan: Plan) -> tuple[int, ...]:
    """Return chunks of at most 8 MB inside one unit, which is cut along the other axis first.

    The axis of the units is cut into equal parts, so that no chunk lies in two units.
    """
    along = 1 if plan.axis == "time" else 0
    block = [max(n, 1) for n in shape]
    block[along] = plan.size
    for axis in (1 - along, along, *range(2, len(block))):
        size = math.prod(block) * itemsize
        if size <= LARGEST_CHUNK:
            break
        length = max(1, block[axis] * LARGEST_CHUNK // size)
        while axis == along and plan.size % length:
            length -= 1
        block[axis] = length
    return tuple(block)


def _variable_size(space: StateSpace) -> int:
    """Return the number of values of the largest variable at one step."""
    lengths = (space.entries(name) for name in space.variables)
    return max(entries.stop - entries.start for entries in lengths)
