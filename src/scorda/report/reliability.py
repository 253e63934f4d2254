"""Figures of reliability: rank histograms, error against spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda import metrics
from scorda.core.shapes import Float, Tensor
from scorda.metrics.series import as_series, variance
from scorda.observations.analysis import Analysis
from scorda.report.base import MUTED, at_steps, colours_of, log_ticks, style, subplots
from scorda.store.scores import scale_of_units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["rank_histograms", "spread_skill"]


def rank_histograms(
    analyses: Mapping[str, Analysis],
    truth: Float[Tensor, "time ..."],
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
            part, y = at_steps(analysis, slice(first, None)), truth[first:].double()
            number = min(bins, len(part.states) + 1)
            generator = torch.Generator().manual_seed(0)
            histogram = metrics.rank_histogram(
                part.states.double(), y, part.weights, number, generator=generator
            )
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
    analyses: Mapping[str, Analysis],
    truth: Float[Tensor, "time ..."],
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
            spread, error = _binned(analysis, truth, first, bins)
            marks = {"color": colours[name], "markersize": 4, "linewidth": 1}
            panel.plot(spread, error, "o-", label=name, **marks)
            ends += [*spread[spread > 0], *error[error > 0]]
        low, high = 0.8 * min(ends), 1.25 * max(ends)
        panel.plot([low, high], [low, high], color=MUTED, linewidth=0.9, zorder=0)
        panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (panel.xaxis, panel.yaxis):
            log_ticks(axis)
        pooled = ""
        if any(scale_of_units(a.space, truth) is not None for a in analyses.values()):
            pooled = "\n(in standard deviations of the truth)"
        panel.set(xlabel=f"spread{pooled}", ylabel="RMSE at that spread")
        panel.text(0.97, 0.04, "overconfident above the line", transform=panel.transAxes,
                   ha="right", fontsize=8.5, color=MUTED)  # fmt: skip
        panel.legend(loc="upper left", handlelength=1.2)
    return figure


def _binned(
    analysis: Analysis, truth: Tensor, first: int, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the roots of the mean variance and mean squared error, in bins of the variance."""
    part = at_steps(analysis, slice(first, None))
    scale = scale_of_units(part.space, truth[first:])
    unit = 1.0 if scale is None else scale
    states, true = part.states.double() / unit, truth[first:].double() / unit
    x, y, w = as_series(states, true, part.weights)
    # The error of a mean of N members exceeds the variance by 1/N of it; the spread gets it too.
    spread = (1 + w.square().sum(0)) * variance(x, w)
    pairs = torch.stack([spread, ((w * x).sum(0) - y).square()])[:, ~y.isnan()]
    parts = pairs[:, pairs[0].argsort()].tensor_split(min(bins, pairs.shape[1]), 1)
    binned = torch.stack([part.mean(1).sqrt() for part in parts]).numpy()
    return binned[:, 0], binned[:, 1]
