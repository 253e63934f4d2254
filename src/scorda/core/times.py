"""Times of observations: datetimes and model times, and the steps that they belong to.

Model time is counted from step 0 in the unit of ``space.dt``. Datetimes are ISO 8601, in UTC
unless they say otherwise; they need the datetime of step 0 and a unit of time in the space.
"""

from __future__ import annotations

import datetime
import math
import re

import numpy as np

from scorda.core.columns import numbers
from scorda.core.space import StateSpace

__all__ = ["SECONDS", "Start", "add_time", "match_times", "parse_start", "time_unit"]

Start = str | datetime.datetime | np.datetime64

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
ALIASES = {"s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "hr": "hours"}
ALIASES |= {"d": "days"} | {name[:-1]: name for name in SECONDS} | {name: name for name in SECONDS}

# Beginning of an ISO 8601 date. Without it pandas also takes a year, "2019/3/1" and "today".
DATE = re.compile(r"\s*\d{4}-?\d\d-?\d\d(?!\d)")


def match_times(
    times: np.ndarray,
    space: StateSpace,
    start: Start | None = None,
    tolerance: float | None = None,
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest step of each time, and why it cannot be used ("" if it can).

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
    where = np.where(known, elapsed / space.dt, -1.0)
    step = np.floor(where + 0.5)
    # The slack keeps times that are apart by the tolerance in decimals, but not in binary.
    off = known & (np.abs(where - step) * space.dt > tolerance + 1e-9 * space.dt)
    reason[off] = f"time further than {tolerance:g} from a step"
    reason[known & (step < 0)] = "time before step 0"
    if steps is not None:
        reason[known & (step > steps)] = f"time after step {steps}"
    return step.astype(np.int64), reason


def _elapsed(
    times: np.ndarray, space: StateSpace, start: Start | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the time since step 0 in the unit of `space.dt`, and why it is not known."""
    elapsed, text = numbers(times)
    reason = np.where(np.isfinite(elapsed), "", "missing time").astype(object)
    if not text.any():
        return elapsed, reason
    dates = _datetimes(times)
    unknown = np.isnat(dates)
    reason[~unknown] = ""
    for i in np.flatnonzero(unknown & (text | ~np.isnan(elapsed))):
        reason[i] = f"time {str(times[i]).strip()!r} is no ISO 8601 datetime"
    if unknown.all():
        return np.full(len(times), math.nan), reason
    if start is None:
        raise ValueError(
            f"Got datetimes, such as {dates[~unknown][0]}, without `start`: give it (--start in "
            "the shell), the datetime of step 0."
        )
    microseconds = (dates - parse_start(start)) / np.timedelta64(1, "us")
    return microseconds / (SECONDS[time_unit(space)] * 1e6), reason


def time_unit(space: StateSpace) -> str:
    """Return the unit of the space's time step: seconds, minutes, hours or days.

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
    """Return the datetime of step 0, UTC, in microseconds.

    Raises:
        ValueError: If it is not a datetime.
    """
    parsed = _datetimes(np.array([start], dtype=object))[0]
    if np.isnat(parsed):
        raise ValueError(
            f"Got start = {start!r}: give an ISO 8601 datetime such as '2019-03-21T00:00'."
        )
    return parsed


def add_time(start: Start, elapsed: np.ndarray, space: StateSpace) -> np.ndarray:
    """Return the datetimes that lie some time, in the unit of ``space.dt``, after `start`."""
    micro = np.round(elapsed * SECONDS[time_unit(space)] * 1e6).astype("m8[us]")
    return parse_start(start) + micro


def _datetimes(values: np.ndarray) -> np.ndarray:
    """Return datetimes, UTC, in microseconds; NaT where an entry is no ISO 8601 datetime."""
    import pandas

    if values.dtype.kind == "M":
        return values.astype("M8[us]")
    text = [str(v) if isinstance(v, Start) and DATE.match(str(v)) else None for v in values]
    dates = pandas.Series(text, dtype=object)
    utc = pandas.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
    return utc.dt.tz_localize(None).to_numpy("M8[us]")
