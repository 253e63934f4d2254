"""Systems by name: built-in, announced by another package, or your own as ``module:object``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from scorda.core.plugins import announced, is_code, named_by_user
from scorda.systems.base import System
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63, Lorenz96

__all__ = ["BUILT_IN", "check_known", "load_system"]


def _emulator(file: str = "", start: str | None = None) -> System:
    """Return the emulator of a file of `scorda train --transition`."""
    if not file:
        raise ValueError(
            "The system 'emulator' is one that was trained: name its file, as "
            "--system.file next.safetensors."
        )
    # By name, because priors stand on a higher floor.
    made: System = importlib.import_module("scorda.priors.emulator").load_emulator(file, start)
    return made


BUILT_IN: dict[str, Callable[..., System]] = {
    "emulator": _emulator,
    "kolmogorov": KolmogorovFlow,
    "kolmogorov-sda": KolmogorovFlow.sda,
    "lorenz63": Lorenz63,
    "lorenz96": Lorenz96,
}


def load_system(name: str, **options: Any) -> System:
    """Return the system of that name.

    A built-in system gets the options as arguments. Any other is the object that a package
    announces in the entry-point group ``scorda.systems``, or that ``"module:object"`` names: a
    `System`, a class of it, or a function of the options that is annotated to return one.
    Only the user names such an object, never a data file.

    Raises:
        ValueError: If there is no such system, or an option does not fit it.
    """
    found = _found(name)
    if isinstance(found, System):
        if options:
            raise ValueError(
                f"Got options {sorted(options)} for {name!r}, which is a finished system: "
                "name a function that makes one."
            )
        return found
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


def check_known(name: str) -> None:
    """Check that a name is that of a system, or of code; nothing is imported.

    Raises:
        ValueError: If there is no such system.
    """
    others = announced("scorda.systems")
    if not is_code(name) and name not in BUILT_IN and name not in others:
        raise ValueError(
            f"Unknown system {name!r}: give one of {sorted([*BUILT_IN, *others])}, or your own as "
            "'module:object'."
        )


def _found(name: str) -> Any:
    check_known(name)
    if is_code(name):
        return named_by_user(name, System)
    if name in BUILT_IN:
        return BUILT_IN[name]
    return announced("scorda.systems")[name].load()
