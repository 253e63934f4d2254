"""Systems by name: built-in, announced by another package, or your own as ``module:object``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scorda.core.plugins import announced, imported
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

    A built-in system gets the options as arguments. Any other is the object that a package
    announces in the entry-point group ``scorda.systems``, or that ``"module:object"`` names: a
    `System`, or a callable that returns one for the options.

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


def _found(name: str) -> Any:
    if ":" in name:
        return imported(name)
    if name in BUILT_IN:
        return BUILT_IN[name]
    others = announced("scorda.systems")
    if name in others:
        return others[name].load()
    raise ValueError(
        f"Unknown system {name!r}: give one of {sorted([*BUILT_IN, *others])}, or your own as "
        "'module:object'."
    )
