"""Values that no measurement of their variable can be: codes for what is missing, other units.

The climate of a record is grown from the middle nine tenths of its values, without numbers that
many of them are, such as a code at all points of land. A value belongs to it that is no more than
`LIMIT` of its standard deviations from the next one, or, where its values spread over a multiple,
of their sign and no more than `MULTIPLE` of the next one. So a heavy tail belongs to it, and a
code far from all values does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from scorda.core.scratch import blocks
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.blocks import NUMBERS

__all__ = ["LIMIT", "check_values", "climate_of", "sampled", "suspicious"]

# Standard deviations from its next neighbour beyond which a value is none.
LIMIT = 10.0
# Multiple of its next neighbour up to which a value of the same sign is of a heavy tail.
MULTIPLE = 3.0
# Share of the values from which on a number is one that many are, and that others must have.
OFTEN, OTHERS = 0.01, 0.05
# Values beyond which a sample stands for all, and extremes of each part that it has on each side.
SAMPLE, EXTREMES = 2**18, 50
# Bounds of what is no infinity.
NO_CLIMATE = (-np.finfo(float).max, np.finfo(float).max)


def suspicious(values: np.ndarray, limit: float = LIMIT) -> np.ndarray:
    """Return which values are farther than `limit` standard deviations from all of the climate.

    NaN is never suspicious. Values of which most are equal have no climate, and none is. The
    climate of fewer than 20 values begins with their middle half.
    """
    low, high = climate_of(values, limit)
    return (values < low) | (values > high)


def climate_of(values: np.ndarray, limit: float = LIMIT) -> tuple[float, float]:
    """Return the lowest and the highest value that belong to the climate of values."""
    present = np.sort(values[np.isfinite(values)], axis=None)
    if present.size < 4:
        return NO_CLIMATE
    varied = _without_repeated(present)
    tail = 0.05 if varied.size >= 20 else 0.25
    ends = varied[[int(tail * varied.size), int((1 - tail) * varied.size)]]
    first, last = int((present < ends[0]).sum()), int((present <= ends[1]).sum()) - 1
    while True:
        std = present[first : last + 1].std()
        if std == 0.0:
            return NO_CLIMATE
        wide = np.flatnonzero(np.diff(present) > limit * std)
        low, high = present[wide], present[wide + 1]
        if _has_tail(float(present[first]), float(present[last])):
            positive, negative = (low > 0) & (high <= MULTIPLE * low), (high < 0)
            wide = wide[~(positive | (negative & (low >= MULTIPLE * high)))]
        below, above = wide[wide < first], wide[wide >= last]
        wider = int(below[-1]) + 1 if below.size else 0, int(above[0]) if above.size else -1
        if wider[1] < 0:
            wider = wider[0], present.size - 1
        if wider == (first, last):
            return float(present[first]), float(present[last])
        first, last = wider


def _has_tail(low: float, high: float) -> bool:
    """Say whether values spread over a multiple, as those of rain, but not temperatures in K."""
    return low * high <= 0.0 or max(abs(low), abs(high)) >= MULTIPLE * min(abs(low), abs(high))


def _without_repeated(ordered: np.ndarray) -> np.ndarray:
    """Leave out numbers that many values are, such as a code on land, if others are left."""
    new = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(new, ordered.size))
    others = ordered[np.repeat(counts <= max(OFTEN * ordered.size, 1), counts)]
    return others if others.size >= max(20, OTHERS * ordered.size) else ordered


def sampled(parts: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Return values that have the climate of all: all, or of many a sample and the extremes.

    Arguments:
        parts: The values, some at once.
        size: Number of all values.
    """
    stride, kept = -(-size // SAMPLE), []
    for part in parts:
        values = part.reshape(-1)
        kept.append(values[::stride].copy())
        values = values[np.isfinite(values)] if stride > 1 else values[:0]
        if values.size > 2 * EXTREMES:
            values = np.partition(values, (EXTREMES, values.size - EXTREMES))
            kept += [values[:EXTREMES].copy(), values[-EXTREMES:].copy()]
    return np.concatenate(kept) if kept else np.zeros(0)


def check_values(states: Float[Tensor, "..."], space: StateSpace, name: str) -> None:
    """Refuse a record that has values far outside the climate of their variable.

    Arguments:
        states: ``(series, time, *state)``; NaN is allowed.
        space: Space of the states.
        name: Name of the record, for the error.

    Raises:
        ValueError: If there are such values; it names them.
    """
    for variable in space.variables:

        def parts(variable: str = variable) -> Iterator[tuple[int, np.ndarray]]:
            for rows, block in blocks(states, NUMBERS):
                yield rows.start, space.field(block, variable).numpy()

        size = states.numel() * space.only(variable).size // space.size
        low, high = climate_of(sampled((values for _, values in parts()), size))
        kept, first = [], -1
        for start, values in parts():
            far = (values < low) | (values > high)
            if far.any():
                first = start + int(np.argwhere(far)[0][1]) if first < 0 else first
                kept.append(values[far])
        if not kept:
            continue
        found, counts = np.unique(np.concatenate(kept), return_counts=True)
        told = ", ".join(
            f"{value:g} ({count} times)"
            for value, count in sorted(zip(found, counts, strict=True), key=lambda p: -p[1])[:3]
        )
        raise ValueError(
            f"{name} has {int(counts.sum())} values of {variable} that are far from all others, "
            f"{told}, the first in field {first + 1}: declare them as missing (_FillValue, or "
            "--missing in the shell), or correct them."
        )
