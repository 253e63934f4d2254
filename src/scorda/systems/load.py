"""Systems are found by name: the built-in ones, and a user's own as ``"module:object"``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from scorda.systems.base import System
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63, Lorenz96

__all__ = ["BUILT_IN", "load_system"]

BUILT_IN: dict[str, Callable[..., System]] = {
    "kolmogorov": KolmogorovFlow,
    "kolmogorov-sda": KolmogorovFlow.sda,
    "lorenz63": Lorenz63,
    "lorenz96": Lorenz96,
}


def load_system(name: str, **options: Any) -> System:
    """Return the system of that name.

    A built-in name gets the options as arguments. ``"module:object"`` is imported, the current
    directory before Python's path; the object is a `System`, or a callable that returns one for
    the options.

    Raises:
        ValueError: If there is no such system, or an option does not fit it.
    """
    if ":" in name:
        found = _imported(name)
        if isinstance(found, System):
            if options:
                raise ValueError(
                    f"Got options {sorted(options)} for {name!r}, which is a finished system: "
                    "name a function that makes one."
                )
            return found
    elif name in BUILT_IN:
        found = BUILT_IN[name]
    else:
        raise ValueError(
            f"Unknown system {name!r}: give one of {sorted(BUILT_IN)}, or your own as "
            "'module:object'."
        )
    if not callable(found):
        raise ValueError(
            f"{name!r} is a {type(found).__name__}: it must be a System or return one."
        )
    try:
        system = found(**options)
    except TypeError as error:
        raise ValueError(f"Could not make {name!r} from {options}: {error}.") from error
    if not isinstance(system, System):
        raise ValueError(
            f"{name!r} returned a {type(system).__name__}: it must return a System, "
            "such as a FunctionSystem."
        )
    return system


def _imported(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    # As `python -m` does; it stays, for the modules that a model imports later.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Could not import {error.name!r} for {name!r}: start in the directory of the module, "
            "or install it."
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(
            f"The module {module_name!r} has no {attribute!r}: name a System or a function that "
            "returns one."
        ) from error
