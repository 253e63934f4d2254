"""Figure of a benchmark: quality against network evaluations and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scorda.report.base import MUTED, Row, colours_of, log_ticks, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["tradeoff"]

COSTS = {"evaluations": "network evaluations per member", "sampling_seconds": "seconds"}


def tradeoff(rows: Sequence[Row]) -> Figure:
    """Draw W1 over its sampling floor against network evaluations per member, and against seconds.

    There is one row of panels per kind of observations (the label's part before the first comma)
    and one line per method (the second part without its numbers). A value of 1 is as good as
    exact draws.

    Arguments:
        rows: Rows of a benchmark whose scores have "w1", "evaluations" and "sampling_seconds",
            all of as many members.
    """
    parts = [row.label.split(", ", 1) for row in rows]
    kinds = list(dict.fromkeys(kind for kind, _ in parts))
    methods = [rest.split(",")[0].rstrip("0123456789 ") for _, rest in parts]
    colours = colours_of(methods)
    with style():
        figure, panels = subplots(len(kinds), 2, 7.6, 2.7 * len(kinds), sharey=False)
        for line, kind in zip(panels, kinds, strict=True):
            for panel, (of, label) in zip(line, COSTS.items(), strict=True):
                for method, colour in colours.items():
                    points = sorted(
                        (row.mean[of], row.mean["w1"])
                        for row, (k, _), m in zip(rows, parts, methods, strict=True)
                        if (k, m) == (kind, method)
                    )
                    if points:
                        panel.plot(*zip(*points, strict=True), "o-", color=colour, label=method)
                panel.axhline(1, color=MUTED, linewidth=0.8, linestyle="--")
                panel.set_xscale("log")
                log_ticks(panel.xaxis)
                panel.set_xlabel(label)
            line[0].set_ylabel("W1 / floor")
            line[0].set_title(f"{kind}: {rows[0].members} members, {rows[0].seeds} cases")
        panels.flat[0].legend()
    return figure
