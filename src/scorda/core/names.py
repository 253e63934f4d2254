"""Names of variables and axes, which become names of arrays, folders and columns.

A store has an array or a folder for each of them beside its own, and a table of observations a
column for each position beside its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import numpy as np

__all__ = [
    "COLUMNS",
    "OWN",
    "check_names",
    "usual_indices",
    "usual_variable",
    "usual_variables",
]

# Arrays, groups and files of a store.
OWN = frozenset({"ensemble", "time", "weight", "observations", "truth", "withheld", "zarr.json"})
# Columns of its tables, and what else stands beside positions: axes of states and of series.
COLUMNS = frozenset(
    {
        "step", "value", "std", "instrument", "variable", "component", "predicted", "observation",
        "series", "states", "entry",
    }
)  # fmt: skip
# Bytes of a name: file systems take 255, and temporary names are longer.
LONGEST = 200


def check_names(variables: Iterable[str], axes: Iterable[str]) -> None:
    """Check that names of variables, and of axes and positions, can be those of a store.

    Raises:
        ValueError: If one cannot, or is there twice; the sentence says why.
    """
    variables, axes = list(variables), list(axes)
    for kind, names in (("variable", variables), ("axis", axes)):
        for name in names:
            if reason := _reason(name, kind):
                raise ValueError(f"Got the {kind} {name!r}, whose name {reason}: rename it.")
    for name in variables:
        if name in axes or variables.count(name) > 1:
            other = "an axis or position" if name in axes else "another variable"
            raise ValueError(f"Got the variable {name!r} and {other} of that name: rename one.")


def usual_variables(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the variables of a state without coordinates: each entry of a flat one is one."""
    if len(shape) == 1:
        return tuple(f"x{i}" for i in range(shape[0]))
    return (usual_variable(_usual_axes(len(shape))),)


def usual_variable(axes: Iterable[str]) -> str:
    """Name the only variable of a state, but not as one of its axes."""
    return "field" if "x" in axes else "x"


def _usual_axes(number: int) -> tuple[str, ...]:
    """Name so many axes; of more than there are names `check_layout` says that they do not fit."""
    return ("site",) if number == 1 else ("z", "y", "x")[max(3 - number, 0) :]


def usual_indices(shape: tuple[int, ...], variables: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Take the index along each axis as coordinate; a flat state of variables has none."""
    if shape == (len(variables),):
        return {}
    sizes = shape[1:] if len(variables) > 1 else shape
    indices = {}
    for name, size in zip(_usual_axes(len(sizes)), sizes, strict=False):
        while name in variables:
            name += "_index"
        indices[name] = np.arange(size, dtype=float)
    return indices


def _reason(name: str, kind: str) -> str:
    """Return why a name cannot be one; "" if it can."""
    if not isinstance(name, str):
        return "is no text"
    if not name.strip():
        return "is empty"
    if set(name) == {"."} or name.startswith("__"):
        return "has another meaning in a store"
    if "/" in name or "\\" in name:
        return "has a slash, which parts folders"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "has a control character"
    if len(name.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if name in OWN:
        return "is one that a store has for itself"
    if kind == "axis" and name in COLUMNS:
        return "is one that a table of observations, or of series, has for itself"
    return ""
