"""State spaces as JSON, in headers of weights and attributes of stores, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from scorda.core.headers import check_fields
from scorda.core.transforms import described_transforms, made_transforms

if TYPE_CHECKING:
    from scorda.core.space import StateSpace

__all__ = ["arguments", "described", "parts_of"]

# Fields of a space of parts, and of one of one grid.
IN_PARTS: dict[str, Any] = {"parts": list[list[Any]], "same_as": dict[str, str]}
OF_ONE_GRID: dict[str, Any] = {
    "shape": list[int],
    "dt": float,
    "variables": list[str],
    "coordinates": dict[str, list[float]],
    "period": dict[str, float],
    "units": dict[str, str],
    "axes": list[str],
    "calendar": str,
    "mask": list[int] | None,
    "points": list[list[Any]] | None,
    "transforms": dict[str, list[Any]],
    "parameters": list[str],
}
OPTIONAL = ("axes", "calendar", "mask", "points", "transforms", "parameters")
AGAIN = "get the file anew, or make it again"


def described(space: StateSpace) -> dict[str, Any]:
    """Return all settings of a space as JSON has them; the mask as lengths of runs."""
    if space.parts is not None:
        # A header may sort its keys, and the order of the parts is that of the state.
        parts = [[name, described(part)] for name, part in space.parts.items()]
        return {"parts": parts, "same_as": dict(space.same_as)}
    content = {f.name: getattr(space, f.name) for f in fields(space)}
    for name in ("parts", "same_as", "transforms", "parameters"):
        del content[name]
    positions = {name: list(map(float, c)) for name, c in (space.coordinates or {}).items()}
    # A header may sort its keys, and the order of the coordinates is that of the axes.
    content |= {"coordinates": positions, "axes": list(space.axes)}
    if space.points is not None:
        content["points"] = [[name, x.tolist()] for name, x in space.points.items()]
    if space.transforms:
        content["transforms"] = described_transforms(space.transforms)
    if space.parameters:
        content["parameters"] = list(space.parameters)
    if space.mask is not None:
        flat = np.concatenate(([True], space.mask.flatten(), [not space.mask.flat[-1]]))
        content["mask"] = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    return content


def parts_of(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return names and descriptions of the parts of a space.

    Raises:
        ValueError: If there are none.
    """
    check_fields(content, IN_PARTS, "The space")
    for entry in content["parts"]:
        named = dict(zip(("name", "space", "more"), entry, strict=False))
        check_fields(named, {"name": str, "space": dict[str, Any]}, "A part of the space")
    return [(name, part) for name, part in content["parts"]]


def arguments(content: Any) -> dict[str, Any]:
    """Return the arguments of the space of one grid that JSON describes.

    Raises:
        ValueError: If a field is missing, of another type or too large.
    """
    check_fields(content, OF_ONE_GRID, "The space", OPTIONAL)
    made, coordinates = dict(content), content["coordinates"]
    axes = made.pop("axes", list(coordinates))
    if sorted(axes) != sorted(coordinates):
        raise ValueError(
            f"The space has axes = {str(axes)[:200]}, which are not those of its coordinates, "
            f"{list(coordinates)}: {AGAIN}."
        )
    made |= {name: tuple(made[name]) for name in ("shape", "variables")}
    made["transforms"] = made_transforms(made.get("transforms", {}))
    made["parameters"] = tuple(made.get("parameters", ()))
    made["coordinates"] = {n: np.asarray(coordinates[n], float) for n in axes}
    grid = [len(x) for x in made["coordinates"].values()]
    if made.get("points") is not None:
        try:
            made["points"] = {name: np.asarray(x, float) for name, x in made["points"]}
        except (TypeError, ValueError) as error:
            raise ValueError(f"The space has points that are no arrays: {AGAIN}.") from error
    if (runs := made.get("mask")) is not None:
        if sum(runs) != math.prod(grid):
            raise ValueError(
                f"The space has a mask of {sum(runs)} points for a grid of {grid}: {AGAIN}."
            )
        made["mask"] = np.repeat(np.arange(len(runs)) % 2 == 0, runs).reshape(grid)
    return made
