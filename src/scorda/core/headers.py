"""Headers of files are JSON whose fields have types and ranges, checked before they are used.

A header may come from anybody. So each of its fields is compared with an annotation, as Python
writes them: ``int``, ``float | None``, ``list[str]``, ``dict[str, list[float]]``. Whole numbers
are no truth values, and numbers are finite. How large a number may be is in `RANGES`, by the name
of its field: no header makes a program ask for more memory than its file or its data need.
"""

from __future__ import annotations

import inspect
import json
import math
import types
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["RANGES", "check_arguments", "check_fields", "parsed"]

# Smallest and largest number of a field of this name, or of the numbers in it.
RANGES: dict[str, tuple[float, float]] = {
    "alpha": (0, 1e30),
    "batch": (1, 10**6),
    "block": (1, 10**6),
    "blocks": (0, 256),
    "channels": (1, 2**28),
    "chunk_shape": (1, 2**40),
    "clock": (0, 12),
    "complete": (0, 1),
    "context": (0, 1024),
    "corrected": (1, 2**20),
    "corrections": (0, 10**4),
    "cycles": (0, 2**40),
    "depth": (0, 256),
    "differences": (0, 1e30),
    "dilation": (1, 64),
    "dt": (1e-30, 1e30),
    "first_step": (0, 2**40),
    "grid": (1, 2**14),
    "handover": (0, 1e30),
    "iterations": (1, 10**5),
    "k": (0, 1024),
    "length": (1, 2**40),
    "levels": (1, 12),
    "limit": (1e-30, 1e30),
    "mask": (0, 2**28),
    "max_noise": (1e-30, 1e30),
    "members": (1, 2**28),
    "min_noise": (1e-30, 1e30),
    "modes": (1, 2**20),
    "noise_levels": (2, 10**5),
    "patch": (1, 64),
    "period": (0, 1e300),
    "radius": (0, 1e300),
    "seed": (-(2**63), 2**64),
    "series": (1, 2**40),
    "shape": (1, 2**28),
    "size": (1, 2**28),
    "step": (0, 2**40),
    "times": (1e-6, 1e9),
    "training_steps": (0, 10**9),
    "validation_interval": (1, 10**9),
    "width": (1, 2**14),
}
# Whole numbers of other fields.
MOST = 10**6
# Letters of a value that a sentence shows, and of a text that names something.
SHOWN, LONGEST = 40, 100


def parsed(text: str | bytes, what: str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: If it is none, or is nested too deeply; the sentence begins with `what`.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{what} is not readable as JSON ({error}): get the file anew, or make it again."
        ) from error


def check_fields(
    content: Any,
    fields: Mapping[str, Any],
    what: str,
    optional: Collection[str] = (),
    others: bool = False,
) -> None:
    """Check that a header has the fields that it should, of their types and in their ranges.

    Arguments:
        content: The header, or a part of it.
        fields: Annotation of each field.
        what: Subject of the sentence, such as the name of the file and the part of its header.
        optional: Fields that may be absent.
        others: Whether there may be other fields.

    Raises:
        ValueError: If not; the sentence names the field.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{what} is {_short(content)}, where an object with the fields {list(fields)} "
            "belongs: get the file anew, or make it again."
        )
    missing = [name for name in fields if name not in content and name not in optional]
    unknown = [] if others else [name for name in content if name not in fields]
    for words, names in (("lacks", missing), ("has unknown fields,", unknown)):
        if names:
            raise ValueError(
                f"{what} {words} {_cut(', '.join(map(str, names)))}: another version of Scorda "
                "may have made it; get the file anew, or make it again."
            )
    for name, annotation in fields.items():
        if name in content and (fault := _fault(content[name], annotation, name)):
            raise ValueError(
                f"{what} has {name} = {_short(content[name])}, where {fault} belongs: get the "
                "file anew, or make it again."
            )


def check_arguments(
    content: Any, made: Any, what: str, classes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check that a part of a header is a name and the arguments of a class or function.

    Arguments:
        content: The part.
        made: The class or function.
        what: As in `check_fields`.
        classes: What arguments may be made of, by name, where they are not plain.

    Raises:
        ValueError: If not; the sentence names the argument.
    """
    of = made.__init__ if inspect.isclass(made) else made
    hints = get_type_hints(of)
    parameters = [p for p in inspect.signature(made).parameters.values()]
    usual = [p.name for p in parameters if p.default is not inspect.Parameter.empty]
    fields = {p.name: hints.get(p.name, Any) for p in parameters}
    check_fields(content, {"name": str, **fields}, what, [*usual, "name"])
    for name, value in content.items():
        if isinstance(value, str) and len(value) > LONGEST:
            raise ValueError(f"{what} has {name} = {_short(value)}, which is no name of anything.")
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            if value["name"] in classes:
                check_arguments(value, classes[value["name"]], f"{what}.{name}", classes)


def _fault(value: Any, annotation: Any, name: str) -> str:
    """Return what belongs into a field in the place of a value; "" where the value does."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        faults = [_fault(value, part, name) for part in inner]
        return "" if "" in faults else " or ".join(dict.fromkeys(faults))
    if origin is Literal:
        return "" if value in inner else " or ".join(map(repr, inner))
    if annotation in (int, float):
        return _number(value, annotation, name)
    if annotation in (bool, str, types.NoneType, None):
        wanted = {bool: "true or false", str: "text"}.get(annotation, "null")
        return "" if isinstance(value, annotation or types.NoneType) else wanted
    if origin in (list, tuple, Sequence):
        return _several(value, inner, origin is tuple and inner[-1] is not Ellipsis, name)
    if annotation is dict or origin in (dict, Mapping):
        if not isinstance(value, dict):
            return "an object"
        faults = [_fault(v, inner[1], name) for v in value.values()] if inner else []
        return next(filter(None, faults), "")
    # A setting made of settings, which `check_arguments` looks into.
    return "" if annotation is Any or isinstance(value, dict) else "an object"


def _several(value: Any, inner: Sequence[Any], fixed: bool, name: str) -> str:
    if not isinstance(value, list | tuple):
        return "a list"
    if fixed and len(value) != len(inner):
        return f"a list of {len(inner)}"
    kinds = inner if fixed else [inner[0]] * len(value)
    faults = [_fault(v, kind, name) for v, kind in zip(value, kinds, strict=True)]
    return next((f"a list, each {fault}," for fault in faults if fault), "")


def _number(value: Any, kind: type, name: str) -> str:
    words = "a whole number" if kind is int else "a finite number"
    low, high = RANGES.get(name, (-MOST, MOST) if kind is int else (-1e300, 1e300))
    numbers = int if kind is int else int | float
    if isinstance(value, bool) or not isinstance(value, numbers):
        return words
    return "" if low <= value <= high and math.isfinite(value) else f"{words} {low:g} to {high:g}"


def _short(value: Any) -> str:
    """Return a value as a sentence shows it."""
    if isinstance(value, Mapping | list | tuple) and len(value) > SHOWN:
        return f"{len(value)} entries"
    try:
        return _cut(repr(value))
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too long to show"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
