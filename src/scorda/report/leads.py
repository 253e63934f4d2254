"""Figure of a verified forecast: its scores by lead time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scorda.core.space import StateSpace
from scorda.report.base import BLUE, MUTED, OBSERVED, style, subplots, with_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["lead_times"]

# What is drawn, as what, and how.
LINES = (
    ("rmse", "RMSE", OBSERVED, "-"),
    ("expected", "expected RMSE", BLUE, "--"),
    ("spread", "spread", BLUE, "-"),
    ("crps", "CRPS", MUTED, "-"),
)
# Of a law that is not Gaussian.
LOG = ("log", "minus log density", OBSERVED, "-")


def lead_times(rows: Sequence[Mapping[str, Any]], space: StateSpace) -> Figure:
    """Draw RMSE, spread and CRPS over lead time, a panel for each instrument and variable.

    Of a law other than the Gaussian it is minus the log density.

    Where the RMSE is about the expected one, the spread of the members tells their error.

    Arguments:
        rows: What `scorda.verify` returns.
        space: Space of the states.
    """
    curves = list(dict.fromkeys((row["against"], row["variable"]) for row in rows))
    wide = min(len(curves), 3)
    high = -(-len(curves) // wide)
    with style():
        figure, panels = subplots(high, wide, 1.2 + 3.4 * wide, 2.8 * high)
        for panel, (against, name) in zip(panels.flat, curves, strict=False):
            own = [r for r in rows if (r["against"], r["variable"]) == (against, name)]
            of_law = all(math.isnan(row["rmse"]) for row in own)
            for score, label, colour, line in (LOG,) if of_law else LINES:
                lead = [row["lead"] for row in own]
                values = [row[score] for row in own]
                mark = "o" if len(own) == 1 else ""
                panel.plot(lead, values, line, marker=mark, color=colour, label=label)
            panel.set_title(f"{name} against {against}" if name else f"against {against}")
            words = with_unit(space, name) if name in space.units else "score"
            panel.set_ylabel(LOG[1] if of_law else words)
            if not of_law:
                panel.set_ylim(bottom=0)
            unit = space.units.get("time", "")
            panel.set_xlabel(f"lead time ({unit})" if unit else "lead time")
        for panel in panels.flat[len(curves) :]:
            panel.set_visible(False)
        panels.flat[0].legend()
    return figure
