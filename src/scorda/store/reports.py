"""What units of work report, as columns: of one unit in its marker, of all in the record.

A column has one entry per cycle of a filter, or per unit of any other method. Columns of numbers
are arrays, so that a hundred thousand cycles are eight bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from scorda.store.damage import seals_by_unit
from scorda.store.seals import Seals

__all__ = [
    "columns_of",
    "dropped",
    "gathered",
    "joined_names",
    "naming",
    "restored",
    "scalars",
    "seals_of",
]


def scalars(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a report that JSON can hold: numbers, text, and series of numbers."""
    kept: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, torch.Tensor) and value.ndim < 2:
            value = value.tolist()
        series = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        if series or isinstance(value, str | int | float):
            kept[key] = value
    return kept


def columns_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of a marker that holds reports: their number, and their columns."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    columns = {name: [entry.get(name) for entry in entries] for name in names}
    return {"count": len(entries), "columns": columns}


def gathered(markers: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the columns of all units joined, and the markers without theirs."""
    pieces: dict[str, list[Any]] = {}
    parts: list[dict[str, Any]] = []
    for marker in markers:
        columns, count = marker.pop("columns", {}), marker.get("count", 0)
        for name in {**pieces, **columns}:
            # Where a unit does not report what others do, its entries are empty.
            column = pieces.setdefault(name, [[None] * part.get("count", 0) for part in parts])
            column.append(_packed(columns.get(name, [None] * count)))
        parts.append(marker)
    return {name: _joined(column) for name, column in pieces.items()}, parts


def restored(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the markers that `gathered` made a record of."""
    report, first = manifest["report"], 0
    if manifest["single"]:
        report = {name: [value] for name, value in report.items()}
    for part in manifest["parts"]:
        last = first + part.get("count", 0)
        columns = {name: column[first:last] for name, column in report.items()}
        whole = {n: c for n, c in columns.items() if any(value is not None for value in c)}
        yield {**part, "columns": whole}
        first = last


def naming(steps: Mapping[int, int], reasons: Mapping[int, str]) -> dict[str, Any]:
    """Return the part of a marker that names the members that have been dropped.

    Arguments:
        steps: First step without each member, by its number.
        reasons: Reasons of those that this process has dropped.
    """
    return {
        "dropped": {
            str(member): {"step": step, "reason": reasons.get(member, f"step {step - 1}")}
            for member, step in steps.items()
        }
    }


def dropped(content: Mapping[str, Any]) -> dict[int, int]:
    """Return the first step without each member that a marker or a record names."""
    return {int(member): int(told["step"]) for member, told in content.get("dropped", {}).items()}


def joined_names(markers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of a record that names the members that have been dropped, if there are any.

    The first unit that names a member counts: all later ones are without it too.
    """
    found: dict[str, Any] = {}
    for marker in markers:
        found = {**marker.get("dropped", {}), **found}
    return {"dropped": found} if found else {}


def seals_of(manifest: Mapping[str, Any]) -> Seals:
    """Return the seals of all files of a complete store."""
    return {name: entry for name, (entry, _) in seals_by_unit(manifest).items()}


def _packed(values: list[Any]) -> Any:
    """Return a column as an array, where all its entries are of one type of number."""
    kinds = {type(value) for value in values}
    return np.array(values) if kinds in ({float}, {int}) else values


def _joined(pieces: list[Any]) -> Any:
    pieces = [piece for piece in pieces if len(piece)]
    kinds = {piece.dtype for piece in pieces if isinstance(piece, np.ndarray)}
    if len(kinds) == 1 and all(isinstance(piece, np.ndarray) for piece in pieces):
        return np.concatenate(pieces)
    return [value for piece in pieces for value in _listed(piece)]


def _listed(piece: Any) -> list[Any]:
    return piece.tolist() if isinstance(piece, np.ndarray) else piece
