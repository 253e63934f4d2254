"""Figures of reliability: rank histograms, error against spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda import metrics
from scorda.metrics.series import as_series, variance
from scorda.report.base import (
    MUTED,
    Source,
    Truth,
    colours_of,
    log_ticks,
    members_of,
    style,
    subplots,
)
from scorda.store.members import Members, blocks
from scorda.store.sums import as_members, scales

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["rank_histograms", "spread_skill"]

# Error against spread is drawn of so many values, evenly taken from all.
DRAWN = 2**22


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
        columns = min(len(analyses), 4)
        rows = math.ceil(len(analyses) / columns)
        figure, panels = subplots(
            rows, columns, 2.4 * columns + 0.4, 2.1 * rows + 0.3, sharey=True
        )
        for panel, (name, analysis) in zip(panels.flat, analyses.items(), strict=False):
            members = members_of(analysis)
            number = min(bins, members.shape[0] + 1)
            histogram = _ranks(members, as_members(truth, members.space), first, number)
            expected = float(histogram.counts.sum()) / number
            band = histogram.low / expected, histogram.high / expected
            panel.axhspan(*band, color="#d9d9d9", linewidth=0)
            panel.axhline(1, color=MUTED, linewidth=0.8)
            centres = (np.arange(number) + 0.5) / number
            heights = histogram.counts.numpy() / expected
            panel.bar(centres, heights, 0.86 / number, color=colours[name], alpha=0.9)
            panel.set(title=name, xlim=(0, 1), xlabel="rank of the truth")
            panel.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        for panel in panels[:, 0]:
            panel.set_ylabel("frequency / expected")
        for panel in panels.flat[len(analyses) :]:
            panel.set_visible(False)
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
    with style():
        figure, panels = subplots(1, 1, 3.9, 3.6)
        panel, ends = panels[0, 0], []
        for name, analysis in analyses.items():
            members = members_of(analysis)
            spread, error = _binned(members, as_members(truth, members.space), first, bins)
            marks = {"color": colours[name], "markersize": 4, "linewidth": 1}
            panel.plot(spread, error, "o-", label=name, **marks)
            ends += [*spread[spread > 0], *error[error > 0]]
        low, high = 0.8 * min(ends), 1.25 * max(ends)
        panel.plot([low, high], [low, high], color=MUTED, linewidth=0.9, zorder=0)
        panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (panel.xaxis, panel.yaxis):
            log_ticks(axis)
        pooled = ""
        spaces = [members_of(analysis).space for analysis in analyses.values()]
        if any(space.several_units for space in spaces):
            pooled = "\n(in standard deviations of the truth)"
        panel.set(xlabel=f"spread{pooled}", ylabel="RMSE at that spread")
        panel.text(0.97, 0.04, "overconfident above the line", transform=panel.transAxes,
                   ha="right", fontsize=8.5, color=MUTED)  # fmt: skip
        panel.legend(loc="upper left", handlelength=1.2)
    return figure


def _ranks(members: Members, truth: Members, first: int, bins: int) -> metrics.RankHistogram:
    """Count the ranks of the truth among the members, block by block."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(bins, dtype=torch.long)
    for block in blocks(members, first):
        (y,) = truth.flat(block.name, block.steps, block.rows)
        if y.isnan().all():
            # As many draws as where there is a truth: blocks of another size have the same.
            torch.rand(y.shape, generator=generator, dtype=torch.float64)
            continue
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
        x, y, w = as_series(block.states / unit, y / unit, block.weights)
        # The error of a mean of N members exceeds the variance by 1/N; the spread gets it too.
        spread = (1 + w.square().sum(0)) * variance(x, w)
        pairs = torch.stack([spread, ((w * x).sum(0) - y).square()])
        found.append(pairs[:, ~y.isnan()][:, ::every].clone())
    pairs = torch.cat(found, 1)
    parts = pairs[:, pairs[0].argsort()].tensor_split(min(bins, pairs.shape[1]), 1)
    binned = torch.stack([part.mean(1).sqrt() for part in parts]).numpy()
    return binned[:, 0], binned[:, 1]
