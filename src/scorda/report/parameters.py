"""The figure of parameters: their distributions over time, against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.report.base import (
    BLUE,
    MUTED,
    TRUTH,
    Source,
    Truth,
    label_time,
    members_of,
    style,
    subplots,
    times_of,
    with_unit,
)
from scorda.store.members import Members, blocks
from scorda.store.sums import as_members

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["parameters"]

# Bins of a histogram, and times at which there is one at most.
BINS, COLUMNS = 40, 300


def parameters(
    analysis: Source, truth: Truth | None = None, time: np.ndarray | None = None
) -> Figure:
    """Draw histograms of each parameter: over time, and at the first and the last step.

    Over time a darker shade means more members. The truth is dashed.

    Arguments:
        analysis: The posterior, whose space has parameters; a store has all its members.
        truth: True states, ``(time, *state)``.
        time: Times of all steps, for the axis (default: those of the posterior).

    Raises:
        ValueError: If the space has no parameters.
    """
    members = members_of(analysis)
    space, states = members.space, members.shape[1]
    if not space.parameters:
        raise ValueError(
            f"Got a posterior of {list(space.variables)}, of which none is a parameter: "
            "`WithParameters` makes systems that have some."
        )
    shown = np.unique(np.linspace(0, states - 1, min(states, COLUMNS)).round().astype(int))
    times = times_of(analysis, states, time)[shown]
    known = None if truth is None else as_members(truth, space)
    with style():
        figure, panels = subplots(len(space.parameters), 2, 6.4, 1.9 * len(space.parameters) + 0.5)
        # The histograms of single steps need less room.
        panels[0, 0].get_gridspec().set_width_ratios([3, 1])
        for (over, ends), name in zip(panels, space.parameters, strict=True):
            values, weights = _values(members, name)
            true = None if known is None else _values(known, name)[0][0]
            low, high = np.nanmin(values), np.nanmax(values)
            if true is not None:
                low, high = min(low, np.nanmin(true)), max(high, np.nanmax(true))
            edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low, low + 1])
            counts = [_histogram(values[:, k], weights[:, k], edges) for k in shown]
            over.pcolormesh(
                _around(times), edges, np.array(counts).T, cmap="Blues", rasterized=True
            )
            for k, colour, label in ((shown[-1], BLUE, "last"), (0, MUTED, "first")):
                ends.stairs(
                    _histogram(values[:, k], weights[:, k], edges), edges, color=colour,
                    orientation="horizontal", fill=k > 0, alpha=0.7, label=label,
                )  # fmt: skip
            if true is not None:
                dashed = {"color": TRUTH, "linewidth": 1.1, "linestyle": (0, (4, 1.5))}
                over.plot(times, true[shown], label="truth", **dashed)
                ends.axhline(true[-1], **dashed)
            over.set_ylabel(with_unit(space, name))
            for panel in (over, ends):
                panel.set_ylim(edges[0], edges[-1])
            ends.set(xticks=[], yticklabels=[])
        panels[0, 1].set_title("first and last step", fontsize=8.5)
        label_time(panels[-1, 0].xaxis, times, space)
        if known is not None:
            panels[0, 0].legend(loc="upper right", fontsize=8.5)
    return figure


def _values(members: Members, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values and weights ``(ensemble, time)``, NaN and 0 of members that are gone."""
    number, states = members.shape
    values, weights = np.full((number, states), np.nan), np.zeros((number, states))
    for block in blocks(members, names=[name]):
        at = np.ix_(np.array(block.numbers), np.arange(states)[block.steps])
        values[at] = block.states[..., 0].numpy()
        weights[at] = 1.0 if block.weights is None else block.weights.numpy()
    return values, weights


def _histogram(values: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of the weight in each bin."""
    there = ~np.isnan(values)
    found, _ = np.histogram(values[there], edges, weights=weights[there])
    return found / max(found.sum(), 1e-300)


def _around(times: np.ndarray) -> np.ndarray:
    """Return the edges of columns about times."""
    if len(times) < 2:
        return np.array([times[0], times[0] + _unit(times)])
    middle = times[:-1] + (times[1:] - times[:-1]) / 2
    return np.concatenate([times[:1], middle, times[-1:]])


def _unit(times: np.ndarray) -> np.timedelta64 | int:
    """Return a length of one."""
    return np.timedelta64(1, "s") if times.dtype.kind == "M" else 1
