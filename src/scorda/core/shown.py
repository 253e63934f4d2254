"""Summaries of objects as HTML, which a notebook shows in place of their `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

__all__ = ["as_html"]

CELL = 'style="text-align:left;vertical-align:top;padding:1px 12px 1px 0"'


def as_html(
    title: str, facts: Mapping[str, object], inside: Mapping[str, str] | None = None
) -> str:
    """Return a heading, a table of facts, and summaries that can be folded out.

    Names and values may come from data, so they are escaped.

    Arguments:
        title: Heading, such as the name of the class.
        facts: Name and value of each row; rows without a value are left out.
        inside: Name and summary, as this function returns it, of what the object holds.
    """
    rows = "".join(
        f"<tr><th {CELL}>{escape(name)}</th><td {CELL}>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    folded = "".join(
        f"<details><summary>{escape(name)}</summary>"
        f'<div style="margin-left:1.5em">{html}</div></details>'
        for name, html in (inside or {}).items()
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table>{folded}</div>"
