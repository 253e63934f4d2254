"""Units of values: recognised by pint as the CF conventions write them, and converted."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

__all__ = ["conversion", "converted", "convertible", "same_unit"]

# Spellings of degrees Celsius that the CF conventions do not have, without space and underscore.
CELSIUS = {"c", "degc", "degreec", "degreesc", "celsius", "degreecelsius", "degreescelsius", "°c"}
FAHRENHEIT = {"f", "degf", "degreef", "degreesf", "fahrenheit", "°f"}
KELVIN = {"k", "kelvin", "kelvins", "degk", "degreek", "degreeskelvin", "degreekelvin"}


def conversion(given: str, wanted: str) -> tuple[float, float]:
    """Return ``(factor, offset)``, so that ``factor * value + offset`` is in the wanted unit.

    Raises:
        ValueError: If a unit is unknown, or the two measure different things.
    """
    if given.strip() == wanted.strip():
        return 1.0, 0.0
    return _conversion(given, wanted)


def converted(values: np.ndarray, given: str, wanted: str) -> np.ndarray:
    """Return values in another unit, the same array where the units are equal.

    Raises:
        ValueError: If a unit is unknown, or the two measure different things.
    """
    factor, offset = conversion(given, wanted)
    return values if (factor, offset) == (1.0, 0.0) else values * factor + offset


def same_unit(given: str, wanted: str) -> bool:
    """Say whether two names are those of the same unit, such as K and kelvin."""
    return given == wanted or (
        convertible(given, wanted) and conversion(given, wanted) == (1.0, 0.0)
    )


def convertible(given: str, wanted: str) -> bool:
    """Say whether values can be converted from a unit to another one."""
    try:
        conversion(given, wanted)
    except ValueError:
        return False
    return True


@cache
def _conversion(given: str, wanted: str) -> tuple[float, float]:
    registry, (a, b) = _registry(), (_spelled(given), _spelled(wanted))
    try:
        zero, one = registry.Quantity(np.array([0.0, 1.0]), a).to(b).magnitude
    # The parser of pint raises exceptions of many classes for text that is no unit.
    except Exception as error:
        raise ValueError(
            f"Got the unit {given!r} where {wanted!r} is expected, and one cannot be converted "
            "to the other: correct the unit, or convert the values."
        ) from error
    if float(one - zero) == 1.0 and float(zero) == 0.0:
        return 1.0, 0.0
    return float(one - zero), float(zero)


@cache
def _registry() -> Any:
    import cf_xarray.units

    return cf_xarray.units.units


def _spelled(unit: str) -> str:
    """Return a unit in a spelling that pint knows."""
    if unit.strip() in ("mb", "mbar"):
        return "hPa"
    plain = unit.strip().lower().replace(" ", "").replace("_", "").removeprefix("deg.")
    for names, spelling in ((CELSIUS, "degC"), (FAHRENHEIT, "degF"), (KELVIN, "K")):
        if plain in names and not (plain in {"c", "f"} and unit.strip() != unit.strip().upper()):
            return spelling
    return unit.strip() or "1"
