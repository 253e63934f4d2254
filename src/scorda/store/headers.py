"""What the attributes and the arrays of a store may say, checked before any array is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from scorda.core.headers import check_fields, parsed
from scorda.core.space import StateSpace
from scorda.store.keep import LAST, Kept, array_name

__all__ = [
    "check_kept",
    "check_posterior",
    "check_record",
    "check_states",
    "check_table",
    "shape_of",
    "space_from_json",
    "space_to_json",
]

POSTERIOR: dict[str, Any] = {
    "complete": int,
    "method": str,
    "conditioned_on": Literal["all data", "past data only"],
    "settings": str,
    "members": int,
    "seed": int,
    "system": str,
    "configuration": str,
    "keep": str,
    "first_step": int,
    "space": str,
}
SERIES: dict[str, Any] = {"complete": int, "kind": str, "record": str, "space": str}
RECORD: dict[str, Any] = {
    "configuration": dict[str, Any],
    "series": int,
    "length": int,
    "seed": int,
    "dtype": Literal["float32", "float64"],
}
ARRAY: dict[str, Any] = {
    "node_type": Literal["array"],
    "shape": list[int],
    "data_type": Any,
    "chunk_grid": dict[str, Any],
}
CHUNKS: dict[str, Any] = {"chunk_shape": list[int]}
# A chunk is no longer along an axis than the array, or than this; a shard of whole chunks is less
# than a chunk longer.
CHUNK = 64


def store_attributes(path: Path) -> dict[str, Any]:
    """Read the attributes of a store; there are none where there is no store.

    Raises:
        ValueError: If its metadata are damaged.
    """
    metadata = path / "zarr.json"
    if not metadata.is_file():
        return {}
    try:
        return dict(json.loads(metadata.read_bytes()).get("attributes", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{metadata} is damaged ({error}): the command that made the store does it again with "
            "--resume."
        ) from error


def space_to_json(space: StateSpace) -> str:
    """Return all settings of a space as JSON."""
    return json.dumps(space.as_json())


def space_from_json(text: str, path: Path) -> StateSpace:
    """Return the space that `space_to_json` wrote.

    Raises:
        ValueError: If the text is none; the sentence names the file.
    """
    content = parsed(text, f"space of {path}")
    try:
        return StateSpace.from_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_posterior(path: Path, attributes: Mapping[str, Any]) -> None:
    """Check the attributes of a posterior.

    Raises:
        ValueError: If one is missing, of another type or out of range.
    """
    check_fields(
        attributes,
        POSTERIOR,
        f"{path}",
        ("settings", "configuration", "seed", "keep", "first_step"),
        others=True,
    )
    for name in ("settings", "configuration"):
        found = parsed(attributes.get(name, "{}"), f"{name} of {path}")
        check_fields(found, {}, f"{name} of {path}", others=True)


def check_record(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Check the attributes of a store of series, and return the record of its simulation.

    Raises:
        ValueError: As in `check_posterior`.
    """
    check_fields(attributes, SERIES, f"{path}", others=True)
    record: dict[str, Any] = parsed(attributes["record"], f"record of {path}")
    check_fields(record, RECORD, f"record of {path}", others=True)
    return record


def check_states(path: Path, space: StateSpace, leading: tuple[int, ...], group: str = "") -> None:
    """Check that the arrays of the variables are of the shape of states.

    Arguments:
        path: The store.
        space: Space of its states.
        leading: Lengths of the axes before those of the states.
        group: Group of the arrays.

    Raises:
        ValueError: If one is missing, or of another shape.
    """
    for name in space.variables:
        _check_shape(path / group / name, (*leading, *space.piece_of(name).grid))
    if (path / group / "weight").is_dir():
        _check_shape(path / group / "weight", leading)


def check_kept(path: Path, space: StateSpace, kept: Kept, members: int) -> None:
    """Check that the arrays of what a store keeps are of the shapes that it says.

    Arguments:
        path: The store.
        space: Space of its states.
        kept: What it says that it keeps.
        members: Number of members of the run.

    Raises:
        ValueError: If one is missing, or of another shape.
    """
    steps, grids = len(kept.steps), {n: space.piece_of(n).grid for n in kept.variables}
    _check_shape(path / "time", (steps,))
    for name, grid in grids.items():
        for statistic in kept.statistics:
            _check_shape(path / array_name(name, statistic), (steps, *grid))
        if kept.members:
            _check_shape(path / name, (kept.members, steps, *grid))
    if kept.members and (path / "weight").is_dir():
        _check_shape(path / "weight", (kept.members, steps))
    if (path / "scores").is_dir():
        for name in ("states", "observations"):
            if (path / "scores" / name).is_dir():
                found = shape_of(path / "scores" / name)
                _check_shape(path / "scores" / name, (*found[:2], kept.states))
    check_states(path, space, (members,), LAST)


def check_table(path: Path, members: int) -> None:
    """Check that the columns of a table are of one length.

    Raises:
        ValueError: If one is not.
    """
    rows = shape_of(path / "value")[:1]
    for column in sorted(p for p in path.iterdir() if p.is_dir()):
        _check_shape(column, (members, *rows) if column.name == "predicted" else rows)


def shape_of(folder: Path) -> tuple[int, ...]:
    """Return the shape of an array by its metadata.

    Raises:
        ValueError: If there is no such array, or its metadata are of other types.
    """
    metadata = folder / "zarr.json"
    if not metadata.is_file():
        raise ValueError(f"There is no array {folder}: make the store anew with --overwrite.")
    content = parsed(metadata.read_bytes(), f"{metadata}")
    check_fields(content, ARRAY, f"{metadata}", others=True)
    chunks = content["chunk_grid"].get("configuration")
    check_fields(chunks, CHUNKS, f"chunk_grid.configuration of {metadata}", others=True)
    shape, pieces = tuple(content["shape"]), chunks["chunk_shape"]
    fits = [0 < n <= max(2 * length, CHUNK) for n, length in zip(pieces, shape, strict=False)]
    if len(pieces) != len(shape) or not all(fits):
        raise ValueError(
            f"{metadata} has chunks of {pieces} for the shape {shape}: make the store anew with "
            "--overwrite."
        )
    return shape


def _check_shape(folder: Path, wanted: tuple[int, ...]) -> None:
    if (found := shape_of(folder)) != wanted:
        raise ValueError(
            f"{folder} has the shape {found}, where {wanted} belongs: make the store anew with "
            "--overwrite."
        )
