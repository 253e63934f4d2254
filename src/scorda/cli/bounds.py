"""Bounds and circular variables from the shell: ``--bounded rh=0,1 --circular wind=360``."""

from __future__ import annotations

from collections.abc import Sequence

from scorda.cli.settings import UserError
from scorda.core.transforms import Circular, Log, Logit, Transform

__all__ = ["bounds_of", "circles_of"]


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


def circles_of(given: Sequence[str]) -> dict[str, Transform]:
    """Return the transforms of circular variables that are given as text.

    A text is ``direction=360``, with the period, or ``phase=-180,180``, with both ends of a turn.

    Raises:
        UserError: If one does not fit.
    """
    found: dict[str, Transform] = {}
    for text in given:
        name, _, ends = (part.strip() for part in text.partition("="))
        first, comma, last = (part.strip() for part in ends.partition(","))
        if name in found:
            raise UserError(f"Got --circular {text}: {name} is there twice.")
        if not name or not first or (comma and not last):
            raise UserError(f"Got --circular {text}: give direction=360, or phase=-180,180.")
        try:
            found[name] = (
                Circular(float(last) - float(first), float(first))
                if comma
                else Circular(float(first))
            )
        except ValueError as error:
            why = str(error) if str(error).startswith("Got ") else "Give numbers."
            raise UserError(f"--circular {text} does not fit. {why}") from error
    return found
