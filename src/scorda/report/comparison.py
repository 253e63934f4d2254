"""Figures of a benchmark of filters: scores of the methods, side by side or over a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from scorda.core.shapes import Float, Tensor
from scorda.report.base import BLUE, MUTED, TRUTH, Row, colours_of, log_ticks, style, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison", "means", "sweep"]

# Scores that are best at a value of their own, which a line marks.
IDEAL = {"spread_skill": 1.0, "coverage": 0.9, "w1/floor": 1.0}
MARKERS = "osD^vP*X"


def comparison(rows: Sequence[Row], scores: Sequence[str]) -> Figure:
    """Draw one panel per score with one line per entry: mean and two standard errors.

    An entry with a run that diverged has no point.

    Arguments:
        rows: Rows of a benchmark.
        scores: Names of the scores.
    """
    labels = [f"{row.label}*" if row.failures else row.label for row in rows]
    with style():
        figure, panels = subplots(1, len(scores), 2.2 * len(scores) + 2, 0.3 * len(rows) + 1.1)
        for panel, score in zip(panels.flat, scores, strict=True):
            for height, row in enumerate(rows):
                mean, error = _of(row, score)
                panel.errorbar(mean, height, xerr=2 * error, fmt="o", color=BLUE, capsize=2)
            _mark(panel, score, vertical=True)
            panel.set_yticks(range(len(rows)), [""] * len(rows))
            panel.set_ylim(len(rows) - 0.5, -0.5)
            panel.set_title(score)
        panels.flat[0].set_yticks(range(len(rows)), labels)
        if any(row.failures for row in rows):
            figure.supxlabel("* diverged with some seed", fontsize=9)
    return figure


def sweep(rows: Sequence[Row], scores: Sequence[str]) -> Figure:
    """Draw one panel per score over what is varied, one line per method, two standard errors.

    The line of a method has a gap where the method diverged.

    Arguments:
        rows: Rows whose labels are of the form ``name=value, method``.
        scores: Names of the scores.
    """
    parts = [row.label.split(", ", 1) for row in rows]
    name = parts[0][0].split("=")[0]
    values = [float(point.split("=")[1]) for point, _ in parts]
    colours = colours_of([method for _, method in parts])
    columns = min(2, len(scores))
    lines = math.ceil(len(scores) / columns)
    with style():
        figure, panels = subplots(lines, columns, 4.2 * columns, 3.1 * lines)
        for panel, score in zip(panels.flat, scores, strict=False):
            for marker, (method, colour) in zip(cycle(MARKERS), colours.items(), strict=False):
                points = sorted(
                    (value, *_of(row, score))
                    for row, value, (_, m) in zip(rows, values, parts, strict=True)
                    if m == method
                )
                x, mean, error = zip(*points, strict=True)
                marks = {"fmt": f"{marker}-", "color": colour, "label": method}
                panel.errorbar(x, mean, [2 * e for e in error], **marks)
            _mark(panel, score, vertical=False)
            if max(values) > 4 * min(values) > 0:
                panel.set_xscale("log")
                log_ticks(panel.xaxis)
            panel.set_xlabel(name)
            panel.set_title(score)
        for panel in panels.flat[len(scores) :]:
            panel.set_visible(False)
        # A character takes about 0.09 inches, the line before a label half an inch.
        wide = 0.5 + 0.09 * max(map(len, colours))
        figure.legend(
            *panels.flat[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=max(1, min(3, int(figure.get_figwidth() / wide))),
        )
    return figure


def means(
    truth: Float[Tensor, "time state"],
    found: Mapping[str, Float[Tensor, "time state"] | None],
    dt: float,
    every: int,
) -> Figure:
    """Draw the first component of the truth and of ensemble means, one panel per method.

    Arguments:
        truth: True states.
        found: Ensemble means at the same steps, by method; None where it diverged.
        dt: Length of a step.
        every: Steps between analyses, the last of which is at the end; marked by lines.
    """
    time = [dt * (step - len(truth) + 1) for step in range(len(truth))]
    first = truth[:, 0].cpu().numpy()
    with style():
        figure, panels = subplots(len(found), 1, 8, 1.3 * len(found) + 0.5)
        for panel, (method, mean) in zip(panels.flat, found.items(), strict=True):
            panel.vlines(time[::-every], first.min(), first.max(), color=MUTED, linewidth=0.4)
            panel.plot(time, first, color=TRUTH, linewidth=1)
            if mean is None:
                panel.set_title(f"{method}: diverged")
                continue
            panel.plot(time, mean[:, 0].cpu().numpy(), color=BLUE, linewidth=1)
            error = float((mean - truth).square().mean(1).sqrt().mean())
            panel.set_title(f"{method}: RMSE {error:.2f} over these steps")
        panels.flat[-1].set_xlabel("time before the end")
    return figure


def _of(row: Row, score: str) -> tuple[float, float]:
    """Return mean and standard error; NaN stands for a missing mean and 0 for a missing error."""
    error = row.error.get(score, math.nan)
    return row.mean.get(score, math.nan), 0.0 if math.isnan(error) else error


def _mark(panel: Axes, score: str, vertical: bool) -> None:
    if score in IDEAL or "variance" in score or "bias" in score:
        at = IDEAL.get(score, 0.0 if "bias" in score else 1.0)
        line = panel.axvline if vertical else panel.axhline
        line(at, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
