"""Figures of reliability: rank histograms, error against spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda import metrics
from scorda.metrics.series import as_series, variance
from scorda.report.base import (
    MUTED,
    OTHERS,
    TOGETHER,
    Source,
    Truth,
    colours_of,
    log_ticks,
    members_of,
    panel_for_each,
    style,
    subplots,
)
from scorda.store.members import Members, blocks
from scorda.store.sums import as_members, scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["rank_histograms", "spread_skill"]

# Error against spread is drawn of so many values, evenly taken from all.
DRAWN = 2**22
# Bars above so many times the expected height are cut, with their height in numbers.
HIGHEST = 4


def rank_histograms(
    analyses: Mapping[str, Source],
    truth: Truth,
    first: int = 0,
    bins: int = 16,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the rank of the truth among the members, with the band of a reliable ensemble.

    Arguments:
        analyses: Analyses by name.
        truth: True states, ``(time, *state)``.
        first: First step that counts.
        bins: Number of bins, at most one more than the members.
        colours: Colour per name.
    """
    colours = colours or colours_of(list(analyses))
    with style():
        figure, panels = panel_for_each(list(analyses), 2.75, 1.7)
        for name, analysis in analyses.items():
            panel, members = panels[name], members_of(analysis)
            number = min(bins, members.shape[0] + 1)
            histogram = _ranks(members, as_members(truth, members.space), first, number)
            expected = float(histogram.counts.sum()) / number
            band = histogram.low / expected, histogram.high / expected
            panel.axhspan(*band, color="#d9d9d9", linewidth=0)
            panel.axhline(1, color=MUTED, linewidth=0.8)
            centres = (np.arange(number) + 0.5) / number
            heights = histogram.counts.numpy() / expected
            panel.bar(centres, heights, 0.86 / number, color=colours[name], alpha=0.9)
            for centre, height in zip(centres, heights, strict=True):
                if height > HIGHEST:
                    words: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8}
                    panel.text(centre, HIGHEST, f"{height:.1f}", rotation=90, color="w", **words)
            panel.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "½", "1"])
        # One bar far above the others would hide how these differ.
        top = panel.get_ylim()[1]
        panel.set_ylim(0, min(top, HIGHEST))
        figure.supxlabel("rank of the truth", fontsize=10)
        figure.supylabel("frequency / expected", fontsize=10)
    return figure


def spread_skill(
    analyses: Mapping[str, Source],
    truth: Truth,
    first: int = 0,
    bins: int = 8,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw error against spread in bins of equal size; a reliable ensemble lies on the line.

    Variables of different units are divided by the standard deviation of their truth.

    Arguments:
        analyses: Analyses by name.
        truth: True states, ``(time, *state)``.
        first: First step that counts.
        bins: Number of bins of the spread.
        colours: Colour per name.
    """
    colours = colours or colours_of(list(analyses))
    binned, spaces = {}, []
    for name, analysis in analyses.items():
        members = members_of(analysis)
        binned[name] = _binned(members, as_members(truth, members.space), first, bins)
        spaces.append(members.space)
    ends = np.concatenate([values for pair in binned.values() for values in pair])
    low, high = 0.8 * ends[ends > 0].min(), 1.25 * ends.max()
    with style():
        if len(analyses) > TOGETHER:
            figure, panels = panel_for_each(list(analyses), 2.75, 2.75)
        else:
            figure, axes = subplots(1, 1, 3.9, 3.6)
            panels = dict.fromkeys(analyses, axes[0, 0])
        for name, panel in panels.items():
            _draw_binned(panel, name, binned, colours)
        shown = list(dict.fromkeys(panels.values()))
        for panel in shown:
            panel.plot([low, high], [low, high], color=MUTED, linewidth=0.9, zorder=0)
            limits: dict[str, Any] = {"xlim": (low, high), "ylim": (low, high)}
            panel.set(xscale="log", yscale="log", aspect="equal", **limits)
            for axis in (panel.xaxis, panel.yaxis):
                log_ticks(axis)
        shown[0].text(0.97, 0.04, "overconfident above the line", transform=shown[0].transAxes,
                      ha="right", fontsize=8.5, color=MUTED)  # fmt: skip
        several = any(space.several_units for space in spaces)
        pooled = "\n(in standard deviations of the truth)" if several else ""
        if len(shown) > 1:
            figure.supxlabel(f"spread{pooled}", fontsize=10)
            figure.supylabel("RMSE at that spread", fontsize=10)
        else:
            shown[0].set(xlabel=f"spread{pooled}", ylabel="RMSE at that spread")
            # Below: names may be long, and the curves may be anywhere.
            figure.legend(loc="outside lower center", handlelength=1.2)
    return figure


def _draw_binned(
    panel: Axes,
    name: str,
    binned: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
) -> None:
    """Draw a method, over the others where it has the panel for itself."""
    if len(binned) > TOGETHER:
        for other, curve in binned.items():
            if other != name:
                panel.plot(*curve, color=OTHERS, linewidth=0.8, zorder=1)
    panel.plot(*binned[name], "o-", label=name, color=colours[name], markersize=4, linewidth=1)


def _ranks(members: Members, truth: Members, first: int, bins: int) -> metrics.RankHistogram:
    """Count the ranks of the truth among the members, block by block."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(bins, dtype=torch.long)
    for block in blocks(members, first):
        (y,) = truth.flat(block.name, block.steps, block.rows)
        if y.isnan().all():
            # As many draws as where there is a truth: blocks of another size have the same.
            torch.rand(y.shape, generator=generator, dtype=torch.float64)
            continue
        if (circle := members.space.circular.get(block.name)) is not None:
            # The ranks are counted from the antipode of the mean direction on.
            y = circle.near(y, circle.direction(block.states, block.weights))
        found = metrics.rank_histogram(block.states, y, block.weights, bins, generator=generator)
        counts += found.counts
    return metrics.RankHistogram.of(counts)


def _binned(
    members: Members, truth: Members, first: int, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the roots of the mean variance and mean squared error, in bins of the variance."""
    scale = scales(truth, first)
    every = math.ceil((members.shape[1] - first) * members.space.size / DRAWN)
    found = []
    names = None if scale is None else list(scale)
    for block in blocks(members, first, names=names):
        unit = 1.0 if scale is None else scale[block.name]
        (y,) = truth.flat(block.name, block.steps, block.rows)
        if y.isnan().all():
            continue
        if (circle := members.space.circular.get(block.name)) is not None:
            y = circle.near(y, circle.direction(block.states, block.weights))
        x, y, w = as_series(block.states / unit, y / unit, block.weights)
        # The error of a mean of N members exceeds the variance by 1/N; the spread gets it too.
        spread = (1 + w.square().sum(0)) * variance(x, w)
        pairs = torch.stack([spread, ((w * x).sum(0) - y).square()])
        found.append(pairs[:, ~y.isnan()][:, ::every].clone())
    pairs = torch.cat(found, 1)
    parts = pairs[:, pairs[0].argsort()].tensor_split(min(bins, pairs.shape[1]), 1)
    binned = torch.stack([part.mean(1).sqrt() for part in parts]).numpy()
    return binned[:, 0], binned[:, 1]
