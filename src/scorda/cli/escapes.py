"""Control characters of data and of errors: they are shown, and never reach a terminal."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["escaped", "escaped_warnings"]

# All but the ends of lines and tabs; and characters that turn the direction of writing around.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""Return a text in which an escape stands as ``\x1b``, and other control characters so."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def escaped_warnings() -> Iterator[None]:
    """Show the text of warnings so inside of the block: they may name what is in a file."""
    usual = warnings.formatwarning

    def formatted(*arguments: object, **more: object) -> str:
        return escaped(usual(*arguments, **more))  # type: ignore[arg-type]

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual
