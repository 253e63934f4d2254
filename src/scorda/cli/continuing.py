"""A run that goes on from the end of a stored one: ``--continue yesterday.zarr``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scorda.cli.console import console
from scorda.cli.settings import UserError, flags_of, hyphenated, letters, strings_of, taken
from scorda.core.plugins import is_code

if TYPE_CHECKING:
    from scorda.cli.assimilate import Assimilate
    from scorda.store.ending import Ending

__all__ = ["check_continued", "continued", "ending_of"]

# What a run takes of the one that it goes on from. A store may come from somebody else: it names
# no files to read but a prior, and nothing that is run.
FIXED = ("system", "method", "seed", "dtype")
READING = ("tolerance", "std", "variable", "units", "missing", "nearest", "gross-error-check")


def continued(tokens: list[str], content: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return tokens and content of a file with the settings of the run that is continued.

    Raises:
        UserError: If they say otherwise what the two runs share, or the store names code that
            they do not name.
    """
    given = flags_of(tokens)
    path = given.get("continue", content.get("continue"))
    if not isinstance(path, str) or tokens[0] != "assimilate" or not Path(path).exists():
        return tokens, content
    found = _settings(path)
    for flag, text in strings_of(found).items():
        if is_code(text) and given.get(flag) != text:
            raise UserError(f"{path} names code, {text}: give --{flag} {text} if it is yours.")
    said = {key: content[key] for key in FIXED if key in content} | given
    for key in FIXED:
        before = found[key]["name"] if isinstance(found[key], Mapping) else found[key]
        now = said.get(key, before)
        if not isinstance(now, Mapping) and letters(str(now)) != letters(str(before)):
            raise UserError(f"Got --{key} {now}, but {path} is of {before}: leave it out.")
    for key, before in found["method"].items():
        # A flag without a value is a switch.
        if key in given and key != "name" and not _alike(now := given[key] or "True", before):
            console().print(f"{path} has --{key} {before}; from here on it is {now}.")
    return taken(tokens, {k: v for k, v in found.items() if k not in content} | content)


def _alike(now: str, before: Any) -> bool:
    """Say whether a text that is given is a setting as it was."""
    try:
        return float(now) == float(before)
    except (TypeError, ValueError):
        return letters(now) == letters(str(before))


def check_continued(given: Assimilate) -> None:
    """Refuse settings that a run which goes on from another has of that one."""
    from scorda.core.ownership import real_path

    if given.continued is None:
        return
    for name in ("initial", "start"):
        if getattr(given, name) is not None:
            raise UserError(f"Got --{name}, which is the end of {given.continued}: leave it out.")
    if real_path(given.out) == real_path(given.continued):
        raise UserError(f"Got --out {given.out}, which is the run to go on from: name another.")


def ending_of(given: Assimilate) -> Ending | None:
    """Return the end of the run to go on from, where there is one, and note its time."""
    from scorda.cli.workers import device_of
    from scorda.store.ending import Ending
    from scorda.store.posterior import open_posterior

    if given.continued is None:
        return None
    found = Ending.of(open_posterior(given.continued))
    if given.members not in (None, len(found.ensemble)):
        raise UserError(
            f"Got --members {given.members}, but {given.continued} has {len(found.ensemble)} "
            "members: leave it out."
        )
    given.start = cast(Any, found.time)
    return replace(found, ensemble=found.ensemble.to(device_of(given.device)))


def _settings(path: str) -> dict[str, Any]:
    """Return the settings of a stored run that one after it shares, as a file has them."""
    from scorda.store.posterior import open_posterior

    posterior = open_posterior(path)
    if posterior.smoother:
        raise UserError(
            f"{path} is of the smoother {posterior.method}, whose past changes with each "
            "observation: run it again with all of them, or go on with a filter."
        )
    found = hyphenated(posterior.configuration)
    if any(key not in found for key in FIXED):
        raise UserError(
            f"{path} does not say its system and method, as a run of `scorda assimilate` does: go "
            "on in Python, with store.run(..., after=Ending.of(...))."
        )
    return {key: found[key] for key in (*FIXED, *READING, "keep") if key in found}
