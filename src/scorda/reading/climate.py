"""Values that no measurement of their variable can be: codes for what is missing, other units.

The climate of a record is grown from the middle nine tenths of its values: a value belongs to it
that is no more than `LIMIT` of its standard deviations from the next one, or of its sign and no
more than `MULTIPLE` of it. So a heavy tail belongs to it, and a code far from all values does not.
"""

from __future__ import annotations

import numpy as np

from scorda.core.space import StateSpace

__all__ = ["LIMIT", "check_values", "suspicious"]

# Standard deviations from its next neighbour beyond which a value is none.
LIMIT = 10.0
# Multiple of its next neighbour up to which a value of the same sign is of a heavy tail.
MULTIPLE = 3.0


def suspicious(values: np.ndarray, limit: float = LIMIT) -> np.ndarray:
    """Return which values are farther than `limit` standard deviations from all of the climate.

    NaN is never suspicious. Values of which most are equal have no climate, and none is. The
    climate of fewer than 20 values begins with their middle half.
    """
    present = np.sort(values[np.isfinite(values)], axis=None)
    if present.size < 4:
        return np.isinf(values)
    tail = 0.05 if present.size >= 20 else 0.25
    first, last = int(tail * present.size), int((1 - tail) * present.size)
    low, high = present[:-1], present[1:]
    tail_above, tail_below = (
        (low > 0) & (high <= MULTIPLE * low),
        (high < 0) & (low >= MULTIPLE * high),
    )
    gaps = np.where(tail_above | tail_below, 0.0, high - low)
    while True:
        std = present[first : last + 1].std()
        if std == 0.0:
            return np.isinf(values)
        wide = np.flatnonzero(gaps > limit * std)
        below, above = wide[wide < first], wide[wide >= last]
        wider = int(below[-1]) + 1 if below.size else 0, int(above[0]) if above.size else -1
        if wider[1] < 0:
            wider = wider[0], present.size - 1
        if wider == (first, last):
            return (values < present[first]) | (values > present[last])
        first, last = wider


def check_values(states: np.ndarray, space: StateSpace, name: str) -> None:
    """Refuse a record that has values far outside the climate of their variable.

    Arguments:
        states: ``(series, time, *state)``; NaN is allowed.
        space: Space of the states.
        name: Name of the record, for the error.

    Raises:
        ValueError: If there are such values; it names them.
    """
    for variable in space.variables:
        values = space.field(states, variable)
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
