"""The layout of a posterior on disk: arrays, chunks and attributes.

Chunks follow what is written at once, so that a unit of work owns whole chunks: a filter writes
blocks of steps for all members, a smoother blocks of members for all steps. Each chunk ends with
its own checksum (the codec ``crc32c``), and is written even where it is empty, so that a missing
or damaged chunk is never read as if it were whole. Where an array would have more than 200 files,
all chunks of a unit are one file, a shard, so that a shard has one writer, who writes it whole.

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
from scorda.observations.analysis import Analysis
from scorda.store.headers import space_to_json

__all__ = [
    "Plan",
    "array",
    "attributes_of",
    "chunks_of",
    "closed",
    "conventions",
    "create_array",
    "create_states",
    "new_store",
    "plan_members",
    "plan_steps",
    "write_array",
    "write_coordinates",
    "write_region",
    "write_text",
]

# Bounds of one chunk in bytes, before compression, and the number of units that a run aims at.
SMALLEST_CHUNK, LARGEST_CHUNK, UNITS = 2**20, 2**23, 20
# Bound of one unit of steps in bytes, in double precision.
LARGEST_UNIT = 2**29
# Files of chunks of an array at most, as long as units are not larger than that and nobody asks
# for smaller ones; one more is of its metadata.
FILES = 199


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
    """Plan blocks of steps of 1 to 8 MB per variable, about 20 of them, or of the size given.

    There are at most 199 of them, of more than 8 MB where the states of all steps take more than
    1.6 GB, as long as one has at most half a gigabyte: a run holds a block in memory. A block has
    one step at least.
    """
    per_step = members * _variable_size(space) * 8
    wanted = min(max(per_step * (steps + 1) // UNITS, SMALLEST_CHUNK), LARGEST_CHUNK)
    few = min(-(-(steps + 1) // FILES), LARGEST_UNIT // per_step)
    usual = max(wanted // per_step, few, 1)
    return Plan("time", min(size or usual, steps + 1), steps + 1)


def plan_members(members: int, size: int | None = None, together: int = 1) -> Plan:
    """Plan blocks of members, 64 in each unless a size is given, up to whole groups of some."""
    size = -(-(size or 64) // together) * together
    return Plan("ensemble", min(size, members), members)


def conventions() -> dict[str, Any]:
    """Return attributes of a store that say which conventions it follows."""
    return Analysis(torch.zeros(1, 1, 1), StateSpace((1,))).to_xarray().attrs


def create_states(
    group: zarr.Group,
    space: StateSpace,
    variables: Iterable[str],
    leading: Mapping[str, int],
    dtype: np.dtype,
    plan: Plan,
    places: str = "",
) -> None:
    """Make the empty arrays of members, with their CF attributes.

    Arguments:
        group: Group to make them in.
        space: Space of the states.
        variables: Those to make.
        leading: Lengths of the axes before those of the states, by name.
        dtype: Type of the numbers.
        plan: Units of work, which own whole chunks.
        places: Coordinates that are no axes, beside those of the points of the space.
    """
    for name in variables:
        piece = space.piece_of(name)
        full, dims = (*leading.values(), *piece.grid), (*leading, *piece.axes)
        attributes = attributes_of(space, name, places)
        create_array(group, name, full, dtype, plan, dims, attributes)


def attributes_of(space: StateSpace, name: str, places: str = "") -> dict[str, str]:
    """Return the unit of a variable, and the coordinates it has without their being axes."""
    units = {"units": space.units[name]} if name in space.units else {}
    points = [n for n in space.position_names if n not in space.axes] if space.points else []
    found = " ".join([*points, *([places] if places else [])])
    return units | ({"coordinates": found} if found else {})


def write_coordinates(
    group: zarr.Group,
    space: StateSpace,
    members: tuple[str, int],
    times: tuple[str, np.ndarray, Mapping[str, Any]],
) -> None:
    """Write the coordinates of arrays of states: members, times, and positions.

    Arguments:
        group: Group of the arrays.
        space: Space of the states.
        members: Name of the axis of members and their number; none of 0.
        times: Name of the times, their values, and attributes; a single number is no axis.
    """
    sample = Analysis(torch.zeros(1, 1, *space.shape), space).to_xarray().drop_vars("time")
    (axis, number), (name, values, attrs) = members, times
    numbering = sample.coords["ensemble"].attrs
    if number:
        write_array(group, axis, np.arange(number), [axis], numbering)
    write_array(group, name, values, [name] * values.ndim, attrs)
    for key, coordinate in sample.drop_vars("ensemble").coords.items():
        dims = list(map(str, coordinate.dims))
        write_array(group, str(key), np.asarray(coordinate.values), dims, coordinate.attrs)


def new_store(path: Path, space: StateSpace, attributes: Mapping[str, Any]) -> zarr.Group:
    """Make a store without arrays with the marks of Scorda and of an incomplete store."""
    # `complete` comes first and has the same length throughout: the last thing that changes.
    marked = {"complete": 0, "source": SOURCE, **attributes, "space": space_to_json(space)}
    return zarr.create_group(path, zarr_format=3, attributes=marked)


def write_region(
    stored: zarr.Array, region: tuple[slice, ...], values: np.ndarray | float
) -> list[str]:
    """Write whole chunks of an array, and return the names of their files in the store.

    A shard that is there already is removed before, since zarr would read it and change it.
    """
    names = chunks_of(stored, region)
    if stored.shards is not None:
        for name in names:
            (Path(stored.store.root) / name).unlink(missing_ok=True)  # type: ignore[attr-defined]
    stored[region] = values
    return names


def chunks_of(stored: zarr.Array, region: tuple[slice, ...]) -> list[str]:
    """Return the files in the store that hold a region of an array; later axes may be left out."""
    cuts = [*region, *[slice(None)] * (stored.ndim - len(region))]
    ranges = []
    for cut, length, chunk in zip(cuts, stored.shape, stored.shards or stored.chunks, strict=True):
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
    made = group.create_array(
        name,
        data=values,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=dims,
        attributes=dict(attrs),
    )
    if len(chunks_of(made, ())) > FILES:
        plan = Plan(dims[0], -(-len(values) // FILES), len(values))
        fill = made.fill_value
        create_array(group, name, values.shape, values.dtype, plan, dims, attrs, fill, True)
        stored = array(group, name)
        for first, last in map(plan.bounds, range(plan.units)):
            write_region(stored, (slice(first, last),), values[first:last])


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    plan: Plan,
    dims: Iterable[Hashable],
    attrs: Mapping[Any, Any],
    fill: Any = np.nan,
    overwrite: bool = False,
) -> None:
    """Make an empty array of which each unit of a plan owns whole files.

    Arguments:
        group: Group to make it in.
        name: Its name.
        shape: Its shape.
        dtype: Type of the numbers.
        plan: The units; its axis is one of `dims`.
        dims: Names of the axes.
        attrs: Attributes.
        fill: Value of what is not written.
        overwrite: Replace one of that name.
    """
    names = list(map(str, dims))
    chunks = _chunks(shape, dtype.itemsize, plan, names)
    files = math.prod(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))
    own = [plan.size if axis == plan.axis else n for axis, n in zip(names, shape, strict=True)]
    shard = tuple(-(-n // chunk) * chunk for n, chunk in zip(own, chunks, strict=True))
    group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shard if files > FILES else None,
        dtype=dtype,
        fill_value=fill,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=names,
        attributes=dict(attrs),
        overwrite=overwrite,
    )


def _chunks(shape: tuple[int, ...], itemsize: int, plan: Plan, dims: list[str]) -> tuple[int, ...]:
    """Return chunks of at most 8 MB inside one unit, which is cut along its members first.

    The axis of the units is cut into equal parts, so that no chunk lies in two units. Where the
    units are of members, these are cut after the steps.
    """
    along = dims.index(plan.axis)
    block = [max(n, 1) for n in shape]
    block[along] = plan.size
    order = sorted(range(len(block)), key=lambda axis: (axis > 1, axis == along))
    for axis in order:
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
