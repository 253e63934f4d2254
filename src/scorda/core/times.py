"""Times of observations: datetimes and model times, and the steps that they belong to.

Model time is counted from step 0 in the unit of ``space.dt``. Datetimes are ISO 8601, in UTC
unless they say otherwise; they need the datetime of step 0 and a unit of time in the space.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from scorda.core.files import numbers
from scorda.core.space import StateSpace

__all__ = ["Start", "add_time", "match_times", "parse_start", "time_unit"]

Start = str | datetime.datetime | np.datetime64

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
ALIASES = {"s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "hr": "hours"}
ALIASES |= {"d": "days"} | {name[:-1]: name for name in SECONDS} | {name: name for name in SECONDS}


def match_times(
    times: np.ndarray,
    space: StateSpace,
    start: Start | None = None,
    tolerance: float | None = None,
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest step of each time, and why it cannot be used ("" if it can).

    Arguments:
        times: Model times since step 0, or datetimes.
        space: Space, with the length `dt` of a step and, for datetimes, its unit.
        start: Datetime of step 0.
        tolerance: Largest distance from the step, in the unit of `dt` (default: half of `dt`).
        steps: Last step (default: no limit).

    Raises:
        ValueError: If datetimes come without `start` or without a unit of time.
    """
    tolerance = 0.5 * space.dt if tolerance is None else tolerance
    if not tolerance >= 0:
        raise ValueError(f"Got tolerance = {tolerance}: give a time, at least 0.")
    elapsed, reason = _elapsed(times, space, start)
    known = np.isfinite(elapsed)
    where = elapsed / space.dt
    step = np.floor(np.where(known, where, 0.0) + 0.5)
    # The slack keeps times that are apart by the tolerance in decimals, but not in binary.
    off = known & (np.abs(where - step) * space.dt > tolerance + 1e-9 * space.dt)
    reason[off] = f"time further than {tolerance:g} from a step"
    reason[known & (step < 0)] = "time before step 0"
    if steps is not None:
        reason[known & (step > steps)] = f"time after step {steps}"
    return np.where(known, step, -1).astype(np.int64), reason


def _elapsed(
    times: np.ndarray, space: StateSpace, start: Start | None
) -> tuple[np.ndarray, np.ndarray]:
    """Time since step 0 in the unit of `space.dt` (NaN where unknown), and why it is unknown."""
    reason = np.full(len(times), "", dtype=object)
    dates = times if times.dtype.kind == "M" else None
    if dates is None:
        elapsed, text = numbers(times)
        if not text.any():
            reason[~np.isfinite(elapsed)] = "missing time"
            return elapsed, reason
        parsed = [_datetime(t) for t in times.tolist()]
        dates = np.array([np.datetime64("NaT") if t is None else t for t in parsed], "M8[us]")
    unknown = np.isnat(dates)
    for i in np.flatnonzero(unknown):
        given = str(times[i]).strip()
        missing = not given or given.lower() in {"nan", "nat", "none"}
        reason[i] = "missing time" if missing else f"time {given!r} is no ISO 8601 datetime"
    if start is None:
        if unknown.all():
            return np.full(len(times), math.nan), reason
        first = dates[~unknown][0]
        raise ValueError(
            f"Got datetimes, such as {first}, without `start`: give it (--start in the "
            "shell), the datetime of step 0."
        )
    unit = time_unit(space)
    since = dates.astype("M8[us]") - parse_start(start)
    elapsed = since.astype(np.int64) / (SECONDS[unit] * 1e6)
    return np.where(unknown, math.nan, elapsed), reason


def time_unit(space: StateSpace) -> str:
    """Unit of the space's time step: seconds, minutes, hours or days.

    Raises:
        ValueError: If the space has no such unit.
    """
    given = space.units.get("time", "")
    if given.lower() not in ALIASES:
        raise ValueError(
            f"Got datetimes for a space whose unit of time is {given or 'not given'!r}: give it "
            f'units={{"time": ...}}, one of {list(SECONDS)}.'
        )
    return ALIASES[given.lower()]


def parse_start(start: Start) -> np.datetime64:
    """Datetime of step 0, UTC, in microseconds.

    Raises:
        ValueError: If it is not a datetime.
    """
    parsed = _datetime(start)
    if parsed is None or np.isnat(parsed):
        raise ValueError(
            f"Got start = {start!r}: give an ISO 8601 datetime such as '2019-03-21T00:00'."
        )
    return parsed


def add_time(start: Start, elapsed: np.ndarray, space: StateSpace) -> np.ndarray:
    """Datetimes that lie some time, in the unit of ``space.dt``, after `start`."""
    micro = np.round(elapsed * SECONDS[time_unit(space)] * 1e6).astype("m8[us]")
    return parse_start(start) + micro


def _datetime(value: Any) -> np.datetime64 | None:
    """UTC datetime of an ISO 8601 string or a datetime object; None if it is neither."""
    if isinstance(value, np.datetime64):
        return value.astype("M8[us]")
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return np.datetime64(value, "us")
    return None
