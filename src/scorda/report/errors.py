"""Figure of the errors of instruments and forecasts, as a run estimates them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scorda.assimilation.innovations import Consistency
from scorda.report.base import BLUE, MUTED, OBSERVED, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["errors"]


def errors(found: Sequence[Consistency]) -> Figure:
    """Draw estimated errors of observations, and of the forecast beside the spread of the members.

    All are in standard deviations of the stated error; bars are two standard errors.

    Arguments:
        found: What `scorda.assimilation.desroziers` returned.
    """
    heights = range(len(found))
    with style():
        figure, panels = subplots(1, 2, 7.2, 0.4 * len(found) + 1.3)
        left, right = panels[0]
        widths = [2 * one.standard_error for one in found]
        ratios = [one.error for one in found]
        left.errorbar(ratios, heights, xerr=widths, fmt="o", color=OBSERVED, capsize=2)
        left.axvline(1, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
        left.set_title("Error of observation / stated")
        left.set_yticks(heights, [one.name for one in found])
        right.plot([one.background for one in found], heights, "o", color=BLUE, label="estimated")
        right.plot([one.spread for one in found], heights, "|", color=BLUE, ms=12, label="members")
        right.set_title("Error of the forecast")
        right.set_yticks(heights, [""] * len(found))
        for panel in (left, right):
            panel.set_ylim(len(found) - 0.5, -0.5)
            panel.set_xlim(left=0)
        figure.legend(loc="outside lower right", ncols=2)
    return figure
