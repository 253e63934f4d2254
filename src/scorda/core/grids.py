"""Checks of the grid of a state space."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

__all__ = [
    "check_geometry",
    "check_layout",
    "check_marked",
    "check_period",
    "checked_mask",
    "checked_points",
]


def checked_mask(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray | None:
    """Return a mask as truth values; None where it leaves nothing out."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != grid or not mask.any():
        raise ValueError(
            f"Got a mask of {mask.dtype}, shape {mask.shape}, with {int(mask.sum())} points: give "
            f"truth values of the shape {grid} of the grid, with one true at least."
        )
    return None if mask.all() else mask


def check_layout(
    shape: tuple[int, ...], variables: tuple[str, ...], coordinates: Mapping[str, np.ndarray]
) -> None:
    """Check that the shape is that of the coordinates, after an axis of variables if any."""
    sizes = tuple(len(c) for c in coordinates.values())
    channels, grid = (shape[0], shape[1:]) if len(shape) == len(sizes) + 1 else (1, shape)
    if sizes != grid or len(variables) != channels:
        raise ValueError(
            f"A state of shape {shape} does not fit {len(variables)} variables {variables[:9]} on "
            f"coordinates of sizes {sizes}: the shape must be the sizes of the coordinates, after "
            "one leading axis of variables if there is more than one."
        )


def check_marked(
    variables: tuple[str, ...], transforms: Collection[str], parameters: Collection[str]
) -> None:
    """Check that transforms and parameters are of variables."""
    for what, names in (("transform", transforms), ("parameter", parameters)):
        if unknown := [name for name in names if name not in variables]:
            raise ValueError(
                f"Got the {what} of {unknown[0]!r}: the variables are {list(variables)}."
            )


def check_geometry(coordinates: Mapping[str, np.ndarray]) -> None:
    """Check that positions along axes increase."""
    for name, values in coordinates.items():
        if len(values) > 1 and not (np.diff(values) > 0).all():
            raise ValueError(
                f"Coordinate {name!r} is not increasing: sort it (and the states) first."
            )


def checked_points(
    points: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return positions in double precision, one for each point of the grid."""
    grid = tuple(map(len, coordinates.values()))
    checked = {name: np.asarray(x, dtype=float) for name, x in points.items()}
    if not checked or not grid:
        raise ValueError(
            f"Got points {list(points)} for a grid of shape {grid}: `points` needs a name, "
            "and a space with coordinates."
        )
    for axis, (name, along) in enumerate(coordinates.items()):
        if name in checked and checked[name].shape == grid:
            other = [1] * len(grid)
            other[axis] = -1
            if not (checked[name] == along.reshape(other)).all():
                raise ValueError(
                    f"Got points of the name {name!r}, an axis with other positions: give them "
                    "another name."
                )
    for name, x in checked.items():
        if x.shape != grid or not np.isfinite(x).all():
            raise ValueError(
                f"Got points {name!r} of shape {x.shape}, {int((~np.isfinite(x)).sum())} of them "
                f"not finite: give a finite position for each point of the grid {grid}."
            )
    if max(grid) > 1 and all(np.ptp(x) == 0 for x in checked.values()):
        raise ValueError(
            "Got points that are all at one position: give each point of the grid its own."
        )
    return checked


def check_period(period: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check that a period is longer than what the positions span."""
    unknown = set(period) - set(ranges)
    if unknown:
        raise ValueError(
            f"Got a period for {sorted(unknown)}: the coordinates are {list(ranges)}."
        )
    for name, length in period.items():
        extent = ranges[name][1] - ranges[name][0]
        if not length > extent:
            raise ValueError(
                f"Got the period {length} for {name!r}, whose positions span {extent}: the "
                "period must be longer."
            )
