"""Figures of fields: maps at one step, and one-dimensional fields over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.observations.observations import Observations
from scorda.observations.problem import Analysis
from scorda.report.base import (
    INK,
    Columns,
    axis_label,
    channel_of,
    columns_of,
    label_time,
    style,
    subplots,
    times_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fields", "hovmoller"]


def fields(
    analysis: Analysis,
    step: int,
    truth: Float[Tensor, "time ..."] | None = None,
    observations: Sequence[Observations] | Columns | None = None,
    variable: str | None = None,
    members: int = 2,
) -> Figure:
    """A two-dimensional field at one step: truth, observations, mean, spread and members.

    Arguments:
        analysis: The posterior, of a space with two coordinates.
        step: Which step.
        truth: True states, ``(time, *state)``.
        observations: What was observed, or the columns of a stored group ``observations``.
        variable: Which variable (default: the first).
        members: How many members to show.

    Raises:
        ValueError: If the space does not have two coordinates.
    """
    space = analysis.space
    if len(space.axes) != 2:
        raise ValueError(
            f"Got a space with the coordinates {list(space.axes)}: fields need two; use "
            "`trajectories` or `hovmoller`."
        )
    channel = 0 if variable is None else space.variable(variable)
    states = channel_of(analysis.states[:, step], channel, space).double()
    weights = None if analysis.weights is None else analysis.weights[:, step].double()
    w = torch.full((len(states),), 1 / len(states)).double() if weights is None else weights
    mean = torch.einsum("e,eyx->yx", w, states)
    spread = torch.einsum("e,eyx->yx", w, (states - mean).square()).sqrt()
    panels: list[tuple[str, Tensor | None]] = []
    if truth is not None:
        panels.append(("Truth", channel_of(truth[step], channel, space)))
    table = columns_of(observations, space)
    if table is not None:
        panels.append(("Observations", None))
    panels += [("Mean", mean), ("Spread", spread)]
    panels += [(f"Member {i}", states[i]) for i in range(min(members, len(states)))]
    shown = torch.stack([p for title, p in panels if p is not None and title != "Spread"])
    low, high = float(shown.min()), float(shown.max())
    vertical, horizontal = (np.asarray((space.coordinates or {})[name]) for name in space.axes)
    aspect = np.ptp(vertical) / max(np.ptp(horizontal), 1e-12)
    unit = space.units.get(space.variables[channel], "")
    with style():
        columns = min(3, len(panels))
        at = [title for title, _ in panels].index("Spread")
        if at % columns == columns - 1:
            # Its own colour bar has no room beside the common one.
            panels[at - 1 : at + 1] = reversed(panels[at - 1 : at + 1])
        rows = math.ceil(len(panels) / columns)
        height = rows * (2.4 * min(max(aspect, 0.4), 1.6) + 0.55)
        figure, axes = subplots(rows, columns, 2.7 * columns + 0.9, height, sharey=True)
        colours: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": "cividis"}
        image = None
        for panel, (title, values) in zip(axes.flat, panels, strict=False):
            panel.set_title(title)
            panel.set_aspect("equal")
            if values is None:
                assert table is not None
                here = np.asarray(table["step"]) == step
                if space.has_channels and "component" in table:
                    # Those known to be of another variable are at the same places.
                    of = np.asarray(table["component"]) // math.prod(space.grid)
                    here &= (of == channel) | (of < 0)
                panel.scatter(
                    np.asarray(table[space.axes[1]])[here],
                    np.asarray(table[space.axes[0]])[here],
                    c=np.asarray(table["value"])[here],
                    s=26,
                    edgecolors=INK,
                    linewidths=0.4,
                    **colours,
                )
                panel.set_facecolor("#f3f3f3")
                panel.set_xlim(*_extent(horizontal))
                panel.set_ylim(*_extent(vertical))
            elif title == "Spread":
                drawn = panel.pcolormesh(
                    horizontal, vertical, values, cmap="Purples", vmin=0, rasterized=True
                )
                figure.colorbar(drawn, ax=panel, shrink=0.8, aspect=22)
            else:
                image = panel.pcolormesh(horizontal, vertical, values, rasterized=True, **colours)
        for panel in list(axes.flat)[len(panels) :]:
            panel.set_visible(False)
        for panel in axes[-1]:
            panel.set_xlabel(axis_label(space, space.axes[1]))
        for panel in axes[:, 0]:
            panel.set_ylabel(axis_label(space, space.axes[0]))
        assert image is not None
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30)
        bar.set_label(f"{space.variables[channel]}{f' ({unit})' if unit else ''}")
    return figure


def hovmoller(
    analysis: Analysis,
    truth: Float[Tensor, "time ..."] | None = None,
    time: np.ndarray | None = None,
    variable: str | None = None,
) -> Figure:
    """A one-dimensional field over time: truth, mean, and error of the mean beside the spread.

    Arguments:
        analysis: The posterior, of a space with one coordinate.
        truth: True states, ``(time, *state)``.
        time: Times on the axis.
        variable: Which variable (default: the first).

    Raises:
        ValueError: If the space does not have one coordinate.
    """
    space = analysis.space
    if len(space.axes) != 1:
        raise ValueError(
            f"Got a space with the coordinates {list(space.axes)}: this figure needs one."
        )
    channel = 0 if variable is None else space.variable(variable)
    axis, sites = times_of(analysis, time), np.asarray((space.coordinates or {})[space.axes[0]])
    mean = channel_of(analysis.mean, channel, space)
    states = channel_of(analysis.states, channel, space)
    w = analysis.weights
    if w is None:
        spread = states.std(0) if len(states) > 1 else torch.zeros_like(mean)
    else:
        spread = torch.einsum("et,etx->tx", w.to(states), (states - mean).square()).sqrt()
    panels = [("Mean", mean), ("Spread", spread)]
    if truth is not None:
        true = channel_of(truth, channel, space)
        panels = [("Truth", true), ("Mean", mean), ("|Mean − truth|", (mean - true).abs())]
        panels.append(("Spread", spread))
    low, high = float(panels[0][1].min()), float(panels[0][1].max())
    # A few large errors must not wash out the rest.
    errors = [values.flatten() for title, values in panels if title[0] in "|S"]
    top = max(float(v[:: max(1, len(v) // 10**6)].quantile(0.99)) for v in errors)
    with style():
        figure, axes = subplots(1, len(panels), 2.1 * len(panels) + 0.8, 3.6, sharey=True)
        drawn: dict[str, Any] = {}
        for panel, (title, values) in zip(axes[0], panels, strict=True):
            error = title[0] in "|S"
            limits = {"vmin": 0, "vmax": top} if error else {"vmin": low, "vmax": high}
            colours = "Purples" if error else "cividis"
            drawn["error" if error else "state"] = panel.pcolormesh(
                sites, axis, values, cmap=colours, rasterized=True, **limits
            )
            panel.set_title(title)
            panel.set_xlabel(axis_label(space, space.axes[0]))
        label_time(axes[0, 0].yaxis, axis, space)
        for kind, image in drawn.items():
            bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=26, pad=0.02)
            bar.set_label(space.variables[channel] if kind == "state" else "error, spread")
    return figure


def _extent(positions: np.ndarray) -> tuple[float, float]:
    """Outer edges of the cells around positions."""
    if len(positions) == 1:
        return positions[0] - 0.5, positions[0] + 0.5
    first, last = positions[1] - positions[0], positions[-1] - positions[-2]
    return positions[0] - first / 2, positions[-1] + last / 2
