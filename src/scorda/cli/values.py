"""Values of flags and of files of settings, checked as they were written, before they are used."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from scorda.cli.console import reached
from scorda.cli.settings import UserError

__all__ = ["check_values"]

WHOLE = re.compile(r"[+-]?(\d+(_\d+)*|0[xXoObB][0-9a-fA-F_]+)")
# Counts that have more digits are a mistake, and Python refuses to read very many.
MOST_DIGITS = 18


def check_values(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """Check each value of a command; cyclopts calls this between reading and converting them.

    Raises:
        UserError: If a count is no whole number or below zero, a number is NaN, a text is empty,
            or an output has no folder.
    """
    for argument in arguments:
        kinds = set(_kinds(argument.hint))
        name = argument.name
        if name == "--resume":
            reached().resumable = True
        # Settings of a method, in a group of their own, may be negative; counts of a command not.
        own = bool(argument.keys) and [g.name for g in argument.parameter.group] == ["Parameters"]
        for token in argument.tokens:
            value = token.value
            # A flag alone, and an empty list of a file of settings, have no text to check.
            if not isinstance(value, str) or token.implicit_value in (True, False, []):
                continue
            _check(name, value, kinds)
            if own and kinds <= {int, type(None)} and value.lstrip().startswith("-"):
                raise UserError(f"Got {name} {value}: it must not be negative.")
            if name in ("--out", "--netcdf"):
                _check_folder(name, value, commands)


def _check(name: str, value: str, kinds: set[Any]) -> None:
    """Check one value by the types that its setting may have."""
    if value.strip() == "" or "\0" in value:
        raise UserError(f"Got {name} {value!r}: give a value, or leave it out.")
    if int in kinds and not kinds & {float, str}:
        digits = len(re.sub(r"\D", "", value))
        if re.fullmatch(r"[+-]?[\d.eE_+-]+", value) and not WHOLE.fullmatch(value):
            raise UserError(f"Got {name} {value}: give a whole number.")
        if digits > MOST_DIGITS:
            raise UserError(f"Got {name} with {digits} digits: give a smaller number.")
    if float in kinds:
        try:
            number = float(value)
        except ValueError:
            return
        if math.isnan(number):
            raise UserError(f"Got {name} {value}: give a number.")


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield the types that values of a type hint have in the end."""
    inner = [part for part in get_args(hint) if part is not ...]
    if not inner or get_origin(hint) is None:
        yield hint
    else:
        for part in inner:
            yield from _kinds(part)


def _check_folder(name: str, value: str, commands: tuple[str, ...]) -> None:
    """Check that a file can be made there, or that its folders can."""
    folder = Path(value).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # These make no folders.
    plain = name == "--netcdf" or commands in (("analyse",), ("report",))
    if plain and not Path(value).parent.is_dir():
        raise UserError(f"Got {name} {value}: make its folder first, {Path(value).parent}.")
    if not folder.is_dir():
        raise UserError(f"Got {name} {value}: {folder} is no folder.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"Got {name} {value}: nothing may be written to {folder}.")
