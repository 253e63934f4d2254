"""Figures of fields: maps at one step, and one-dimensional fields over time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.report.base import (
    INK,
    Columns,
    Source,
    Truth,
    columns_of,
    label_time,
    moments,
    style,
    subplots,
    times_of,
    with_unit,
)
from scorda.report.partial import Partial, drawn_of, states_of
from scorda.store.members import Members, blocks
from scorda.store.sums import as_members

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fields", "hovmoller", "is_map"]

STATE, ERROR, LAND = "cividis", "Purples", "#c4c4c4"
# Points of a field over time: of more, only every n-th step is drawn.
DRAWN = 2**21


def fields(
    analysis: Source,
    step: int,
    truth: Truth | None = None,
    observations: Observations | Sequence[Observations] | Columns | None = None,
    variable: str | None = None,
    members: int = 2,
) -> Figure:
    """Draw a two-dimensional field at one step: truth, observations, mean, spread and members.

    The points of an unstructured grid are drawn as dots of their own.

    Arguments:
        analysis: The posterior, of a space with two coordinates.
        step: Which step; negative ones count from the end.
        truth: True states, ``(time, *state)``, at the steps that the store keeps.
        observations: What was observed, or the columns of a stored group ``observations``.
        variable: Which variable (default: the first).
        members: How many members to show.

    Raises:
        ValueError: If the space does not have two coordinates.
    """
    source = drawn_of(analysis)
    whole, step = source.space, range(states_of(analysis))[step]
    name = whole.variables[0] if variable is None else variable
    space = whole.only(name)
    if not is_map(space):
        raise ValueError(
            f"Got a space with the coordinates {list(space.position_names)}: fields need two; use "
            "`trajectories` or `hovmoller`."
        )
    place = source.steps.index(step) if isinstance(source, Partial) else step
    cut = slice(place, place + 1)
    if isinstance(source, Partial):
        mean, spread = (values[0] for values in source.moments(name, cut))
        shown = source.first_left(name, place, members)
    else:
        mean, spread, shown = _snapshot(source, step, name, members)
    panels: dict[str, Tensor | Columns] = {}
    if truth is not None:
        panels["Truth"] = as_members(truth, whole).read(name, cut)[0, 0]
    table = columns_of(observations, whole)
    if table is not None:
        panels["Observations"] = _seen(table, step, name, whole)
    panels |= {"Mean": mean, "Spread": spread}
    panels |= {f"Member {i}": state for i, state in shown.items()}
    drawn = torch.stack([v for v in panels.values() if isinstance(v, Tensor) and v is not spread])
    low, high = map(float, drawn[drawn.isfinite()].aminmax())
    with style():
        figure, axes = _canvas(list(panels), space)
        places = figure.axes
        for title, panel in axes.items():
            values = panels[title]
            if not isinstance(values, Tensor):
                _dots(panel, values, space, vmin=low, vmax=high, cmap=STATE)
            elif values is not spread:
                image = _mesh(panel, values, space, vmin=low, vmax=high, cmap=STATE)
            else:
                own = _mesh(panel, values, space, vmin=0, cmap=ERROR)
                bar = figure.colorbar(own, ax=panel, shrink=0.8, aspect=22)
                bar.set_label(with_unit(whole, name, "spread"))
            _shade_land(panel, space)
        bar = figure.colorbar(image, ax=places, shrink=0.7, aspect=30)
        bar.set_label(with_unit(whole, name))
    return figure


def hovmoller(
    analysis: Source,
    truth: Truth | None = None,
    time: np.ndarray | None = None,
    variable: str | None = None,
) -> Figure:
    """Draw a one-dimensional field over time: truth, mean, error of the mean, and spread.

    Arguments:
        analysis: The posterior, of a space with one coordinate.
        truth: True states, ``(time, *state)``, at the steps that the store keeps.
        time: Times on the axis.
        variable: Which variable (default: the first).

    Raises:
        ValueError: If the space does not have one coordinate.
    """
    source = drawn_of(analysis)
    name = source.space.variables[0] if variable is None else variable
    space = source.space.only(name)
    if len(space.axes) != 1:
        raise ValueError(
            f"Got a space with the coordinates {list(space.axes)}: this figure needs one."
        )
    sites = np.asarray((space.coordinates or {})[space.axes[0]])
    every = math.ceil(source.shape[1] * len(sites) / DRAWN)
    axis = times_of(analysis, source.shape[1], time)[::every]
    if isinstance(source, Partial):
        mean, spread = source.moments(name, slice(None, None, every))
    else:
        mean, spread = _over_time(source, name, every)
    fields, errors = {"Mean": mean}, {"Spread": spread}
    if truth is not None:
        true = _over_time(as_members(truth, source.space), name, every)[0]
        fields = {"Truth": true} | fields
        errors = {"|Mean − truth|": (mean - true).abs()} | errors
    shown = next(iter(fields.values()))
    low, high = map(float, shown[shown.isfinite()].aminmax())
    # A few large errors must not wash out the rest.
    samples = [v.flatten()[:: max(1, v.numel() // 10**6)] for v in errors.values()]
    top = max(float(v.nanquantile(0.99)) for v in samples)
    words = with_unit(source.space, name), with_unit(source.space, name, "error, spread")
    state, error = (words[0], low, high, STATE), (words[1], 0, top, ERROR)
    panels, drawn = fields | errors, {}
    with style():
        figure, axes = subplots(1, len(panels), 2.1 * len(panels) + 0.8, 3.6, sharey=True)
        for panel, (title, values) in zip(axes[0], panels.items(), strict=True):
            label, vmin, vmax, cmap = error if title in errors else state
            drawn[label] = panel.pcolormesh(
                sites, axis, values, rasterized=True, vmin=vmin, vmax=vmax, cmap=cmap
            )
            panel.set(title=title, facecolor=LAND, xlabel=with_unit(space, space.axes[0]))
        label_time(axes[0, 0].yaxis, axis, space)
        for label, image in drawn.items():
            bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=26, pad=0.02)
            bar.set_label(label)
    return figure


def _snapshot(
    members: Members, step: int, name: str, shown: int
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Return mean, spread and the first members, by number, of a variable at a step."""
    grid = members.space.piece_of(name).grid
    parts: list[list[Tensor]] = [[], [], []]
    for block in blocks(members, step, step + 1, [name]):
        found = *moments(block.states, block.weights), block.states[:shown, 0]
        for part, values in zip(parts, found, strict=True):
            part.append(values)
    mean, spread, states = (torch.cat(part, -1) for part in parts)
    if (circle := members.space.circular.get(name)) is not None:
        mean, states = circle.within(mean), circle.within(states)
    first = dict(zip(block.numbers, states.view(-1, *grid), strict=False))
    return mean.view(grid), spread.view(grid), first


def _over_time(members: Members, name: str, every: int) -> tuple[Tensor, Tensor]:
    """Return mean and spread of a variable on an axis at every n-th step, ``(time, axis)``."""
    steps, number = range(0, members.shape[1], every), members.space.entries(name)
    mean, spread = torch.full((2, len(steps), number.stop - number.start), torch.nan)
    for block in blocks(members, names=[name]):
        low, high = -(-block.steps.start // every), -(-block.steps.stop // every)
        if low == high:
            continue
        states = block.states[:, low * every - block.steps.start :: every]
        weights = block.weights
        if weights is not None:
            weights = weights[:, low * every - block.steps.start :: every]
        middle, wide = moments(states, weights)
        if weights is None and len(states) > 1:
            wide = states.std(0)
        mean[low:high, block.entries], spread[low:high, block.entries] = middle, wide
    return mean, spread


def _seen(table: Columns, step: int, name: str, space: StateSpace) -> Columns:
    """Return the columns of the values that were observed of a variable at a step."""
    here = np.asarray(table["step"]) == step
    if len(space.variables) > 1 and "variable" in table:
        here &= np.asarray(table["variable"]) == name
    columns = {name: space.same_as.get(name, name) for name in space.piece_of(name).position_names}
    columns["value"] = "value"
    return {name: np.asarray(table[column])[here] for name, column in columns.items()}


def _canvas(titles: list[str], space: StateSpace) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure of empty maps in rows of three, and their axes by title."""
    columns = min(3, len(titles))
    at = titles.index("Spread")
    if at % columns == columns - 1:
        # Its own colour bar has no room beside the common one.
        titles[at - 1 : at + 1] = reversed(titles[at - 1 : at + 1])
    rows = math.ceil(len(titles) / columns)
    vertical, horizontal = map(np.ptp, _positions(space))
    aspect = min(max(vertical / max(horizontal, 1e-12), 0.4), 1.6)
    size = 2.7 * columns + 0.9, rows * (2.4 * aspect + 0.55)
    figure, axes = subplots(rows, columns, *size, sharey=True)
    for panel in axes.flat[len(titles) :]:
        panel.set_visible(False)
    below, beside = (with_unit(space, space.position_names[i]) for i in _columns(space)[::-1])
    # Once for all maps: a flat one has no room for a label of its own.
    figure.supxlabel(below, fontsize=10)
    figure.supylabel(beside, fontsize=10)
    panels = dict(zip(titles, axes.flat, strict=False))
    for title, panel in panels.items():
        panel.set_title(title)
        panel.set_aspect("equal")
    return figure, panels


def _mesh(panel: Axes, values: Tensor, space: StateSpace, **colours: Any) -> Any:
    vertical, horizontal = _positions(space)
    if len(space.axes) == 1:
        # As many dots as there are points fill the panel.
        size = max(1.0, 4e4 / values.numel())
        return panel.scatter(horizontal, vertical, size, values, rasterized=True, **colours)
    with warnings.catch_warnings():
        # Where longitudes jump, or grid lines turn, the edges of cells are rough.
        warnings.filterwarnings("ignore", "The input coordinates to pcolormesh", UserWarning)
        return panel.pcolormesh(horizontal, vertical, values, rasterized=True, **colours)


def _shade_land(panel: Axes, space: StateSpace) -> None:
    """Draw what is outside of the mask of the space in grey."""
    if space.mask is not None:
        from matplotlib.colors import ListedColormap

        outside = torch.from_numpy(np.where(space.mask, np.nan, 0.0))
        _mesh(panel, outside, space, cmap=ListedColormap([LAND]))


def _dots(panel: Axes, seen: Columns, space: StateSpace, **colours: Any) -> None:
    y, x = (space.position_names[i] for i in _columns(space))
    vertical, horizontal = _positions(space)
    edges: dict[str, Any] = {"s": 26, "edgecolors": INK, "linewidths": 0.4}
    panel.scatter(seen[x], seen[y], c=seen["value"], **edges, **colours)
    panel.set(facecolor="#f3f3f3", xlim=_extent(horizontal), ylim=_extent(vertical))


def is_map(space: StateSpace) -> bool:
    """Say whether a field has two coordinates: two axes, or two positions of each point."""
    return len(space.position_names) == 2 and len(space.axes) in (1, 2)


def _columns(space: StateSpace) -> tuple[int, int]:
    """Return which columns of positions are vertical and horizontal in a map."""
    return (0, 1) if space.points is None or space.sphere is None else space.sphere


def _positions(space: StateSpace) -> list[np.ndarray]:
    positions = list((space.points or space.coordinates or {}).values())
    return [np.asarray(positions[i]) for i in _columns(space)]


def _extent(positions: np.ndarray) -> tuple[float, float]:
    """Return the outer edges of the cells around positions along an axis, or those of points."""
    if positions.ndim > 1 or not (np.diff(positions) > 0).all():
        return float(positions.min()), float(positions.max())
    if len(positions) == 1:
        return positions[0] - 0.5, positions[0] + 0.5
    first, last = positions[1] - positions[0], positions[-1] - positions[-2]
    return positions[0] - first / 2, positions[-1] + last / 2
