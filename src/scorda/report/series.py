"""Figures over time: trajectories of components, error and spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.metrics.calibration import quantiles
from scorda.observations.observations import Observations
from scorda.report.base import (
    BLUE,
    OBSERVED,
    OTHERS,
    TOGETHER,
    TRUTH,
    Columns,
    Source,
    Truth,
    colours_of,
    columns_of,
    component_name,
    label_time,
    log_ticks,
    members_of,
    panel_for_each,
    style,
    subplots,
    times_of,
    with_unit,
)
from scorda.report.partial import Band, Partial, drawn_of, states_of
from scorda.store.members import Block, Members, blocks
from scorda.store.posterior import Posterior
from scorda.store.sums import as_members, rmse_and_spread, scales, state_sums

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["error_and_spread", "trajectories"]


def trajectories(
    analysis: Source,
    truth: Truth | None = None,
    observations: Observations | Sequence[Observations] | Columns | None = None,
    components: Sequence[int] | None = None,
    members: int = 6,
    time: np.ndarray | None = None,
    steps: tuple[int, int] | None = None,
) -> Figure:
    """Draw components over time: members, their central 90 %, truth and observations.

    Arguments:
        analysis: The posterior.
        truth: True states, ``(time, *state)``, at the steps that the store keeps.
        observations: What was observed, or the columns of a stored group ``observations``. Values
            that are one component of the state are drawn, with two standard deviations.
        components: Indices into the flattened state (default: three at most, spread evenly).
        members: How many members to draw as lines.
        time: Times of all steps, for the axis (default: dates where they are known, else times).
        steps: First step to show and the one after the last, counted among those that a store
            keeps (default: all).
    """
    from matplotlib.ticker import MaxNLocator

    source = drawn_of(analysis)
    first, last = steps or (0, source.shape[1])
    space, kept = source.space, range(first, last)
    if isinstance(source, Partial):
        kept = source.steps[first:last]
    if components is None:
        inside = space.inside.nonzero()[:, 0].tolist()
        # Parameters have a figure of their own.
        own = {space.entries(name).start for name in space.parameters}
        inside = [i for i in inside if i not in own] or inside
        if isinstance(source, Partial):
            names = [space.variables[i] for i in space.variable_of(np.array(inside))]
            inside = [i for i, n in zip(inside, names, strict=True) if n in source.kept.variables]
        shown = min(len(inside), 3)
        components = [inside[round(i * len(inside) / shown)] for i in range(shown)]
    times = times_of(analysis, source.shape[1], time)
    axis = times[first:last]
    table = columns_of(observations, space)
    with style():
        figure, rows = subplots(len(components), 1, 5.6, 1.35 * len(components) + 0.6)
        for row, component in zip(rows[:, 0], components, strict=True):
            states, band = _shown(source, component, first, last)
            _draw_members(row, axis, states, band, members)
            if truth is not None:
                parts = _parts(as_members(truth, space), component, first, last)
                values = torch.cat([part.states[0, :, 0] for part in parts])
                row.plot(axis, values, color=TRUTH, lw=1.1, ls=(0, (4, 1.5)), label="truth")
            if table is not None:
                where, std = np.asarray(table["step"]), np.asarray(table["std"])
                # A value without a std, as a count is, has another unit than the state.
                here = (np.asarray(table["component"]) == component) & ~np.isnan(std)
                here &= np.isin(where, kept)
                at = first + (where[here] - kept.start) // kept.step
                _draw_observations(row, times[at], np.asarray(table["value"])[here], std[here])
            name = space.variables[space.variable_of(np.array([component]))[0]]
            label = with_unit(space, name, component_name(space, component))
            row.set_ylabel(label, rotation=0, ha="right", va="center")
            row.yaxis.set_major_locator(MaxNLocator(4))
            row.margins(x=0.01)
        label_time(rows[-1, 0].xaxis, axis, space)
        _legend(figure, rows[:, 0], loc="outside upper left", ncols=5, fontsize=8.5)
    return figure


def error_and_spread(
    groups: Mapping[str, Mapping[str, Source]],
    truth: Truth,
    colours: Mapping[str, str] | None = None,
    time: np.ndarray | None = None,
) -> Figure:
    """Draw the error of the mean (solid) and the spread (dashed), one panel per group of methods.

    Groups of more than two methods have a panel for each method, where the errors of the others
    of its group are pale. Variables of different units are divided by the standard deviation of
    their truth.

    Arguments:
        groups: Title of a panel to its analyses by name, such as "Past data only".
        truth: True states, ``(time, *state)``; a store with a truth has what is needed of it.
        colours: Colour per name.
        time: Times on the axis.
    """
    colours = colours or colours_of([name for group in groups.values() for name in group])
    curves: dict[str, dict[str, _Curves]] = {}
    for title, analyses in groups.items():
        curves[title] = {name: _curves(one, truth, time) for name, one in analyses.items()}
    first = next(one for group in curves.values() for one in group.values())
    crowded = any(len(group) > TOGETHER for group in groups.values())
    with style():
        pooled = "\nin standard deviations of the truth" if first.pooled else ""
        if crowded:
            figure, panels = _panel_per_method(curves, colours)
            figure.supylabel(f"RMSE (solid, others pale), spread (dashed){pooled}", fontsize=10)
        else:
            figure, panels = _panel_per_group(curves, colours)
            panels[0].set_ylabel(f"RMSE (solid), spread (dashed){pooled}")
        for panel in panels:
            label_time(panel.xaxis, first.axis, first.space)
            panel.set_yscale("log")
            log_ticks(panel.yaxis)
            panel.margins(x=0.01)
            panel.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        if crowded:
            figure.supxlabel(panels[0].get_xlabel(), fontsize=10)
            for panel in panels:
                panel.set_xlabel("")
        else:
            # Below: curves fall and rise again, and leave no corner free.
            _legend(figure, panels, loc="outside lower center", ncols=6)
    return figure


@dataclass(frozen=True)
class _Curves:
    """Error and spread of an analysis over time."""

    space: StateSpace
    axis: np.ndarray
    error: np.ndarray
    spread: np.ndarray
    pooled: bool


def _curves(analysis: Source, truth: Truth, time: np.ndarray | None) -> _Curves:
    space = analysis.space
    if isinstance(analysis, Posterior) and analysis.sums is not None:
        sums, scale = analysis.sums, analysis.scales()
    else:
        true = as_members(truth, space)
        sums, scale = state_sums(members_of(analysis), true), scales(true)
    error, spread = (curve.numpy() for curve in rmse_and_spread(sums, scale))
    axis = times_of(analysis, states_of(analysis), time)
    return _Curves(space, axis, error, spread, scale is not None)


def _panel_per_group(
    curves: Mapping[str, Mapping[str, _Curves]], colours: Mapping[str, str]
) -> tuple[Figure, list[Axes]]:
    figure, panels = subplots(1, len(curves), 4.4 * len(curves) + 0.6, 3.1, sharey=True)
    for panel, (title, group) in zip(panels[0], curves.items(), strict=True):
        panel.set_title(title)
        for name, one in group.items():
            panel.plot(one.axis, one.error, color=colours[name], linewidth=1.3, label=name)
            _draw_spread(panel, one, colours[name])
    return figure, list(panels[0])


def _panel_per_method(
    curves: Mapping[str, Mapping[str, _Curves]], colours: Mapping[str, str]
) -> tuple[Figure, list[Axes]]:
    names = [name for group in curves.values() for name in group]
    figure, panels = panel_for_each(names, 2.75, 1.7)
    for group in curves.values():
        for name in group:
            panel, colour = panels[name], colours[name]
            for other, one in group.items():
                if other != name:
                    panel.plot(one.axis, one.error, color=OTHERS, linewidth=0.6, zorder=1)
            panel.plot(group[name].axis, group[name].error, color=colour, linewidth=1.2)
            _draw_spread(panel, group[name], colour)
    return figure, list(panels.values())


def _draw_spread(panel: Axes, one: _Curves, colour: str) -> None:
    panel.plot(one.axis, one.spread, color=colour, linewidth=1.1, linestyle=(0, (3, 1.5)))


def _shown(
    source: Members | Partial, component: int, first: int, last: int
) -> tuple[Tensor, Band]:
    """Return members of one component, and the band around them."""
    if isinstance(source, Partial):
        space = source.space
        name = space.variables[space.variable_of(np.array([component]))[0]]
        entry, cut = component - space.entries(name).start, slice(first, last)
        return source.lines(name, entry, cut), source.band(name, entry, cut)
    bands, states = [], torch.full((source.shape[0], last - first), torch.nan).double()
    for part in _parts(source, component, first, last):
        bands.append(torch.stack(quantiles(part.states, (0.05, 0.5, 0.95), part.weights))[..., 0])
        here = slice(part.steps.start - first, part.steps.stop - first)
        states[part.numbers, here] = part.states[..., 0]
    low, middle, high = torch.cat(bands, 1)
    return states, Band(low, middle, high, "90 %", "median")


def _parts(members: Members, component: int, first: int, last: int) -> Iterator[Block]:
    """Yield blocks of one component of the flattened state alone."""
    space = members.space
    name = space.variables[space.variable_of(np.array([component]))[0]]
    entry = component - space.entries(name).start
    for block in blocks(members, first, last, [name]):
        if block.entries.start <= entry < block.entries.stop:
            at = entry - block.entries.start
            yield block._replace(states=block.states[:, :, at : at + 1])


def _legend(figure: Figure, panels: Iterable[Any], **where: Any) -> None:
    """Add one legend of all panels, with each label once."""
    handles: dict[str, Any] = {}
    for panel in panels:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), handlelength=1.2, columnspacing=1.2, **where)


def _draw_members(row: Axes, axis: np.ndarray, states: Tensor, band: Band, members: int) -> None:
    """Draw the middle, the band and some members of one component."""
    low, high = band.low, band.high
    row.fill_between(axis, low, high, color=BLUE, alpha=0.2, linewidth=0, label=band.words)
    chosen = np.linspace(0, len(states) - 1, min(members, len(states))).round().astype(int)
    lines = row.plot(axis, states[chosen].T, color=BLUE, alpha=0.45, linewidth=0.6)
    for line in lines[:1]:
        line.set_label("members")
    row.plot(axis, band.middle, color=BLUE, linewidth=1.3, label=band.middle_words)


def _draw_observations(row: Axes, times: np.ndarray, values: np.ndarray, std: np.ndarray) -> None:
    if len(values):
        marks: dict[str, Any] = {"fmt": "o", "color": OBSERVED, "markersize": 3.5, "zorder": 5}
        row.errorbar(times, values, 2 * std, elinewidth=1, label="observed ± 2 std", **marks)
