"""The record of a run: all that decides its numbers, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from scorda.core.calendars import Start, iso, parse_start
from scorda.store.code import UNKNOWN

__all__ = ["check_same", "plain", "settings_of", "start_of"]


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is read back from JSON."""
    return json.loads(json.dumps(record))


def settings_of(made: Any) -> dict[str, Any]:
    """Return the settings of a method or of its parts, as far as they are plain."""
    kept: dict[str, Any] = {}
    for field in fields(made) if is_dataclass(made) else ():
        value = getattr(made, field.name)
        if not field.init:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            kept[field.name] = {"name": type(value).__name__, **settings_of(value)}
        elif value is None or isinstance(value, str | int | float):
            kept[field.name] = value
        elif isinstance(value, tuple) and all(isinstance(v, str | int | float) for v in value):
            kept[field.name] = list(value)
    return kept


def start_of(start: Start | None, calendar: str) -> str | float | None:
    """Return the time of step 0 as JSON has it."""
    if start is None or isinstance(start, float):
        return start
    return iso(parse_start(start, calendar), calendar)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], trust_code: bool) -> None:
    """Check that a run is continued with all that it was begun with.

    Arguments:
        before: Record of the run to resume.
        now: Record of this one.
        trust_code: Leave out the code of the user.

    Raises:
        ValueError: If they differ, and in what; or if code of the user is not known.
    """
    if changed := list(_differences(before, now, trust_code)):
        raise ValueError(
            f"The run to resume differs in {', '.join(changed)}: give what it was begun with, or "
            "use --overwrite."
        )
    code = now.get("code") or {}
    if not trust_code and (unknown := [name for name in code if code[name] == UNKNOWN]):
        raise ValueError(
            f"The code of {', '.join(unknown)} has no file, so that nothing tells whether it is "
            "that of the run to resume: if it is, use --trust-code."
        )


def _differences(
    before: Any, now: Any, trust_code: bool, prefix: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the names of what differs."""
    if trust_code and prefix == ("code",):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), trust_code, (*prefix, key))
    elif before != now:
        kind, *names = prefix
        yield {
            "sha256": f"the {'.'.join(names)}",
            "code": f"the code of {'.'.join(names)} (or use --trust-code)",
            "scorda": f"the version of Scorda ({before}, now {now})",
        }.get(kind, ".".join(prefix))
