"""A figure as a picture inside a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture_of"]

# A figure may be shown so much larger and smaller than its size in inches, at 96 pixels each.
LARGEST, SMALLEST = 1.3, 0.6


def picture_of(figure: Figure) -> dict[str, Any]:
    """Return a figure as SVG in base64, and the widths in pixels between which it is legible."""
    import matplotlib

    buffer = io.BytesIO()
    # Names of elements are drawn from the salt: the same page has the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "scorda"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=150)
    width = 96 * figure.get_size_inches()[0]
    # One small panel must not fill the page, and a wide figure scrolls on a phone.
    widths = {"width": round(width * LARGEST), "least": round(width * SMALLEST)}
    return {"svg": base64.b64encode(buffer.getvalue()).decode("ascii"), **widths}
