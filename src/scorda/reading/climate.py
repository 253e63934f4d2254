"""Values that no measurement of their variable can be: codes for what is missing, other units.

The climate of a variable is its mean and standard deviation. That of a record is grown from the
middle nine tenths of its values: those within `LIMIT` standard deviations are taken in, until no
more come, so that a heavy tail belongs to it and a code far away does not.
"""

from __future__ import annotations

import numpy as np

from scorda.core.space import StateSpace

__all__ = ["LIMIT", "check_values", "suspicious"]

# Standard deviations from the mean beyond which a value is none.
LIMIT = 10.0


def suspicious(values: np.ndarray, limit: float = LIMIT) -> np.ndarray:
    """Return which values are farther from the climate of all of them than `limit` of its std.

    NaN is never suspicious. Values of which most are equal have no climate, and none is.
    """
    present = values[np.isfinite(values)]
    if present.size < 20:
        return np.isinf(values)
    low, high = np.quantile(present, [0.05, 0.95])
    mean = std = 0.0
    for _ in range(100):
        inside = (present >= low) & (present <= high)
        mean, std = float(present[inside].mean()), float(present[inside].std())
        if std == 0.0:
            return np.isinf(values)
        wider = min(low, mean - limit * std), max(high, mean + limit * std)
        if wider == (low, high) or inside.all():
            break
        low, high = wider
    return (values < low) | (values > high)


def check_values(states: np.ndarray, space: StateSpace, name: str) -> None:
    """Refuse a record that has values far outside the climate of their variable.

    Arguments:
        states: ``(series, time, *state)``; NaN is allowed.
        space: Space of the states.
        name: Name of the record, for the error.

    Raises:
        ValueError: If there are such values; it names them.
    """
    for i, variable in enumerate(space.variables):
        values = states[:, :, i] if space.has_channels else states
        far = suspicious(values)
        if not far.any():
            continue
        found, counts = np.unique(values[far], return_counts=True)
        told = ", ".join(
            f"{value:g} ({count} times)"
            for value, count in sorted(zip(found, counts, strict=True), key=lambda p: -p[1])[:3]
        )
        first = int(np.argwhere(far)[0][1])
        raise ValueError(
            f"{name} has {int(far.sum())} values of {variable} that are far from all others, "
            f"{told}, the first in field {first + 1}: declare them as missing (_FillValue, or "
            "--missing in the shell), or correct them."
        )
