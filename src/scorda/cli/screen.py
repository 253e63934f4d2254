"""The console that all commands print on."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from scorda.cli.escapes import escaped

__all__ = ["Screen"]


class Screen(Console):
    """A console that shows control characters in texts, and in cells and titles of tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)
