"""Methods and systems made again of what a file says of them.

A file names none of the classes of its user: a method is one that Scorda or an installed package
announces, a part of it one that the setting admits, and a system a built-in one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from scorda.assimilation.filter import Filter
from scorda.core.plugins import announced, declared
from scorda.store.records import settings_of
from scorda.systems.base import System
from scorda.systems.load import BUILT_IN

__all__ = ["described", "rebuilt_filter", "rebuilt_system"]


def described(made: Any) -> dict[str, Any]:
    """Return the name and the plain settings of a method or a system."""
    return {"name": type(made).__name__, "settings": settings_of(made)}


def rebuilt_filter(content: Mapping[str, Any]) -> Filter | None:
    """Return the filter that `described` tells of, None where it is of the user's code."""
    for module, node, _ in declared("scorda.methods", "exact"):
        if node.name == content["name"]:
            kind = getattr(importlib.import_module(module), node.name)
            break
    else:
        entries = announced("scorda.methods").values()
        kinds = {entry.value.partition(":")[2]: entry for entry in entries}
        if content["name"] not in kinds:
            return None
        kind = kinds[content["name"]].load()
    made = _made(kind, content["settings"]) if inspect.isclass(kind) else None
    return made if isinstance(made, Filter) else None


def rebuilt_system(content: Mapping[str, Any]) -> System | None:
    """Return the system that `described` tells of, None where it is not built in."""
    for kind in BUILT_IN.values():
        if inspect.isclass(kind) and kind.__name__ == content["name"]:
            made: System | None = _made(kind, content["settings"])
            return made
    return None


def _made(kind: type, settings: Mapping[str, Any]) -> Any:
    """Return an instance of a class with settings, None where they make none."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind) if is_dataclass(kind) else ():
        if not field.init or field.name not in settings:
            continue
        value = settings[field.name]
        if isinstance(value, Mapping):
            part = next(
                (k for k in _admitted(hints[field.name]) if k.__name__ == value.get("name")), None
            )
            value = None if part is None else _made(part, value)
            if value is None:
                return None
        values[field.name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except (TypeError, ValueError):
        return None


def _admitted(hint: Any) -> Iterator[type]:
    """Yield the classes that a setting of this type may be made of."""
    for base in (hint, *get_args(hint)):
        if inspect.isclass(base) and base.__module__.partition(".")[0] == "scorda":
            waiting = [base]
            while waiting:
                kind = waiting.pop()
                waiting += kind.__subclasses__()
                yield kind
