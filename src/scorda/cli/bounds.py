"""Bounds of variables from the shell: ``--bounded humidity=0,1``."""

from __future__ import annotations

from collections.abc import Sequence

from scorda.cli.settings import UserError
from scorda.core.transforms import Log, Logit, Transform

__all__ = ["bounds_of"]


def bounds_of(given: Sequence[str]) -> dict[str, Transform]:
    """Return the transforms of variables whose bounds are given as text.

    A text is ``humidity=0,1``, with two bounds, or ``rain=0,``, with a lower one alone.

    Raises:
        UserError: If one does not fit.
    """
    found: dict[str, Transform] = {}
    for text in given:
        name, _, bounds = (part.strip() for part in text.partition("="))
        lower, comma, upper = (part.strip() for part in bounds.partition(","))
        if name in found:
            raise UserError(f"Got --bounded {text}: {name} is there twice.")
        if not name or not comma or not lower:
            raise UserError(f"Got --bounded {text}: give humidity=0,1, or rain=0, without upper.")
        try:
            found[name] = Logit(float(lower), float(upper)) if upper else Log(float(lower))
        except ValueError as error:
            why = str(error) if str(error).startswith("Got ") else "Give numbers."
            raise UserError(f"--bounded {text} does not fit. {why}") from error
    return found
