"""Figures that a notebook shows as the last line of a cell."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


class ShownFigure(Figure):
    """A figure without a window that a notebook shows, without any magic.

    Where matplotlib's own integration is switched on, it shows the figure instead, once.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
