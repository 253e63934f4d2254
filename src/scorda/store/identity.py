"""The identity of a run: a hash of all that decides its numbers, and of the code of its user.

Two runs whose records are equal have the same bits on the same machine with the same number of
threads. The parts have hashes of their own, so that a refusal says what differs. Of the code of a
user the file of each module is hashed whose classes and functions are reached from the arguments,
with what it imports from its own folder (see `scorda.store.code`).
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from scorda.core.version import __version__
from scorda.store.code import code_of

__all__ = ["identity"]

# What has a version of its own, or none that a run depends on.
KNOWN = {"scorda", "torch", "numpy", "builtins", *sys.stdlib_module_names} - {"__main__"}


def identity(**parts: Any) -> dict[str, Any]:
    """Return hashes of the parts of a run, the version of Scorda, and the code of the user.

    The code is a hash for each module that is neither Scorda's nor Python's; "unknown" where a
    module has no file, as what is typed into a notebook.
    """
    modules: set[str] = set()
    hashes = {name: _digest(part, modules) for name, part in parts.items() if part is not None}
    return {"scorda": __version__, "code": code_of(modules), "sha256": hashes}


def _digest(value: Any, modules: set[str]) -> str:
    digest = hashlib.sha256()
    for part in _walked(value, modules, set()):
        digest.update(part if isinstance(part, bytes) else f"{part}\0".encode())
    return digest.hexdigest()


def _walked(value: Any, modules: set[str], above: set[int]) -> Iterator[str | bytes]:
    """Yield what tells a value from others, and note the modules of its classes and functions."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, torch.Tensor | np.ndarray):
        yield from _array(value)
    elif isinstance(value, Path | slice | range | np.dtype | torch.dtype | torch.device):
        yield repr(value)
    elif isinstance(value, ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, type | BuiltinFunctionType | np.ufunc):
        yield f"name {_name(value, modules)}"
    elif id(value) in above:
        yield "above"
    else:
        above = above | {id(value)}
        kind = type(value)
        yield f"object {_name(kind, modules)}"
        for key, inner in _contents(value, modules):
            yield f"key {key}"
            yield from _walked(inner, modules, above)
        yield "end"


def _contents(value: Any, modules: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of what is neither a number nor an array."""
    if isinstance(value, Mapping):
        yield from ((repr(key), inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(number), inner) for number, inner in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("", inner) for inner in sorted(value, key=repr))
    elif isinstance(value, torch.nn.Module):
        yield "state", dict(value.state_dict())
    elif isinstance(value, functools.partial):
        yield "partial", [value.func, value.args, value.keywords]
    elif isinstance(value, MethodType):
        yield "method", [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        yield _name(value, modules), [value.__code__.co_code.hex(), value.__defaults__, cells]
    elif is_dataclass(value):
        yield from ((f.name, getattr(value, f.name)) for f in fields(value) if _decides(f))
    else:
        cached = {n for n in dir(type(value)) if _is_cached(type(value), n)}
        kept = getattr(value, "__dict__", {})
        yield from ((key, kept[key]) for key in sorted(kept) if key not in cached)


def _decides(field: Field[Any]) -> bool:
    return field.init and bool(field.metadata.get("decides", True))


def _array(value: torch.Tensor | np.ndarray) -> Iterator[str | bytes]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "OT":
        yield f"list {value.tolist()!r}"
        return
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        yield f"torch {value.dtype} {tuple(value.shape)}"
        flat = value.contiguous().view(-1)
        yield flat.view(torch.uint8).numpy().tobytes() if value.numel() else b""
    else:
        yield f"numpy {value.dtype} {value.shape}"
        yield value.tobytes()


def _content(cell: CellType) -> Any:
    """Return what a function has of the one around it; nothing where that is not made yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _name(value: Any, modules: set[str]) -> str:
    module = str(getattr(value, "__module__", None) or "builtins")
    if module.partition(".")[0] not in KNOWN:
        modules.add(module)
    return f"{module}.{getattr(value, '__qualname__', '')}"
