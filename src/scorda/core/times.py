"""Times: datetimes and model times, and the steps that they belong to.

Model time is counted from step 0 in the unit of ``space.dt``. Datetimes need the datetime of step
0 and a unit of time in the space; a unit of months counts from a day of the month to the same
share of another.
"""

from __future__ import annotations

import math

import numpy as np

from scorda.core.calendars import (
    Start,
    cftimes,
    from_months,
    instants,
    is_gregorian,
    iso,
    parse_start,
    total_months,
)
from scorda.core.columns import distinct, is_text, numbers
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace

__all__ = [
    "ALIASES",
    "SECONDS",
    "dates_after",
    "match_times",
    "phases",
    "phases_of",
    "same_times",
    "time_axis",
    "time_unit",
    "unit_ratio",
    "waves_of_year",
]

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
# Units of a calendar, which are no fixed number of seconds.
MONTHS = {"months": 1, "years": 12}
ALIASES = {"s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "hr": "hours"}
ALIASES |= {"d": "days", "mon": "months", "yr": "years"}
ALIASES |= {name[:-1]: name for name in (*SECONDS, *MONTHS)}
ALIASES |= {name: name for name in (*SECONDS, *MONTHS)}

# A model time of so many steps is a datetime in another form, or a mistake.
MOST_STEPS = 10_000_000
# A time is far from all others at this multiple of their median distance from the median time, and
# not below so many steps.
FAR_DISTANCES, FAR_STEPS = 200, 1000


def match_times(
    times: np.ndarray,
    space: StateSpace,
    start: Start | None = None,
    tolerance: float | None = None,
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest step of each time, and why it cannot be used ("" if it can).

    Arguments:
        times: Model times since step 0, durations since step 0 (timedelta64), or datetimes.
        space: Space, with the length `dt` of a step and, for datetimes, its unit and calendar.
        start: Datetime of step 0.
        tolerance: Largest distance from the step, in the unit of `dt` (default: half of `dt`).
        steps: Last step (default: no limit).

    Raises:
        ValueError: If datetimes come without `start` or without a unit of time.
    """
    tolerance = 0.5 * space.dt if tolerance is None else tolerance
    if not tolerance >= 0:
        raise ValueError(f"Got tolerance = {tolerance}: give a time, at least 0.")
    code: np.ndarray | slice = slice(None)
    if is_text(times):
        code, times = distinct(times)
    elapsed, reason = _elapsed(times, space, start)
    known = np.isfinite(elapsed)
    where = np.where(known, elapsed / space.dt, -1.0)
    step = np.floor(where + 0.5)
    # The slack keeps times that are apart by the tolerance in decimals, but not in binary.
    off = known & (np.abs(where - step) * space.dt > tolerance + 1e-9 * space.dt)
    reason[off] = f"time further than {tolerance:g} from a step"
    reason[_far(where, known)] = "time far from all others"
    reason[known & (step > MOST_STEPS)] = "time of more than ten million steps"
    reason[known & (step < 0)] = "time before step 0"
    if steps is not None:
        reason[known & (step > steps)] = f"time after step {steps}"
    return np.where(np.abs(step) < 2.0**62, step, -1.0).astype(np.int64)[code], reason[code]


def same_times(times: np.ndarray, calendar: str) -> np.ndarray:
    """Return times of a column so that equal ones are equal, in whatever zone they are written."""
    if times.dtype.kind in "fium":
        return times
    elapsed, _, dates = _numbers_and_dates(times, calendar)
    return np.where(np.isnat(dates), elapsed, dates.astype(np.int64).astype(float))


def time_unit(space: StateSpace) -> str:
    """Return the unit of the space's time step: seconds, minutes, hours, days, months or years.

    Raises:
        ValueError: If the space has no such unit.
    """
    given = space.units.get("time", "")
    if given.lower() not in ALIASES:
        raise ValueError(
            f"Got datetimes for a space whose unit of time is {given or 'not given'!r}: give the "
            f'StateSpace units={{"time": ...}}, one of {[*SECONDS, *MONTHS]}, or times as numbers '
            "since step 0."
        )
    return ALIASES[given.lower()]


def unit_ratio(unit: str, space: StateSpace) -> float:
    """Return how many of the space's units of time a unit is; 1 where it is not known."""
    units = [ALIASES.get(u.strip().lower(), "") for u in (unit, space.units.get("time", ""))]
    seconds = [SECONDS.get(u) for u in units]
    return 1.0 if seconds[0] is None or seconds[1] is None else seconds[0] / seconds[1]


def dates_after(start: Start, elapsed: np.ndarray, space: StateSpace) -> np.ndarray:
    """Return the datetimes that lie some time, in the unit of ``space.dt``, after `start`.

    They are ``M8[us]``, or objects of cftime in a calendar that NumPy does not have.
    """
    first, unit = parse_start(start, space.calendar), time_unit(space)
    if unit in MONTHS:
        found = from_months(
            total_months(np.array([first]), space.calendar) + elapsed * MONTHS[unit],
            space.calendar,
        )
    else:
        found = first + np.round(elapsed * SECONDS[unit] * 1e6).astype("m8[us]")
    if is_gregorian(space.calendar):
        return np.datetime64(0, "us") + found
    return cftimes(found, space.calendar)


def time_axis(
    space: StateSpace, states: int, start: Start | None
) -> tuple[np.ndarray, dict[str, str]]:
    """Return the times of so many states as CF numbers, and their attributes.

    Where step 0 has a datetime they are whole microseconds, seconds or days since then, so that
    a datetime that is read back is that of the step, without rounding.
    """
    elapsed = space.dt * np.arange(states)
    attributes = {"axis": "T", "long_name": "time since step 0"}
    if isinstance(start, float):
        # Whole steps, so that the times are those of one run.
        elapsed, start = space.dt * (np.arange(states) + round(start / space.dt, 6)), None
        attributes["long_name"] = "time"
    if start is None:
        if "time" in space.units:
            attributes["units"] = space.units["time"]
        return elapsed, attributes
    first = parse_start(start, space.calendar)
    dates = instants(dates_after(start, elapsed, space), space.calendar)
    since = (dates - first).astype(np.int64)
    unit, size = next(
        (unit, size)
        for unit, size in (
            ("days", 86400_000_000),
            ("hours", 3600_000_000),
            ("seconds", 1_000_000),
            ("microseconds", 1),
        )
        if not (since % size).any()
    )
    attributes |= {
        "standard_name": "time",
        "long_name": "time",
        "units": f"{unit} since {iso(first, space.calendar).replace('T', ' ')}",
        "calendar": space.calendar,
    }
    return since // size, attributes


def phases(space: StateSpace) -> int:
    """Return the steps per day, or per year where they are months.

    It is 1 where a day or a year is no whole number of steps, or where time has no unit.
    """
    if "time" not in space.units:
        return 1
    unit = time_unit(space)
    steps = (
        12 / (space.dt * MONTHS[unit]) if unit in MONTHS else 86400 / (space.dt * SECONDS[unit])
    )
    return max(round(steps), 1) if abs(steps - round(steps)) < 1e-6 * steps else 1


def phases_of(start: Start, states: int, space: StateSpace) -> Int[Tensor, "states"]:
    """Return the phase of each of so many states from a datetime on: its step of the day or year.

    Raises:
        ValueError: If `start` is no datetime, or lies between two steps of a day.
    """
    import torch

    steps, first = phases(space), parse_start(start, space.calendar)
    if time_unit(space) in MONTHS:
        month = float(total_months(np.array([first]), space.calendar)[0]) % 12.0
        return (torch.arange(states) + int(month / (12.0 / steps))) % steps
    phase = (first.astype(np.int64) % 86400_000_000) / 1e6 / (86400.0 / steps)
    if abs(phase - round(phase)) > 1e-6:
        raise ValueError(
            f"Got start = {start!r} between two of the {steps} steps of a day: start on a step."
        )
    return (torch.arange(states) + round(phase)) % steps


def waves_of_year(
    start: Start, states: int, space: StateSpace, harmonics: int
) -> Float[Tensor, "states waves"]:
    r"""Return :math:`\cos 2 \pi k \tau` and :math:`\sin 2 \pi k \tau` for k = 1, 2, ... in turn.

    :math:`\tau` is the share of the year that has passed, in months of the calendar, at each of so
    many states from a datetime on.
    """
    import torch

    dates = dates_after(start, space.dt * np.arange(float(states)), space)
    months = total_months(instants(dates, space.calendar), space.calendar)
    angle = 2 * math.pi * torch.from_numpy(months % 12.0 / 12.0)
    order = angle[:, None] * torch.arange(1.0, harmonics + 1, dtype=torch.float64)
    return torch.stack((order.cos(), order.sin()), 2).flatten(1)


def _elapsed(
    times: np.ndarray, space: StateSpace, start: Start | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the time since step 0 in the unit of `space.dt`, and why it is not known."""
    if times.dtype.kind == "m":
        microseconds = times.astype("m8[us]") / np.timedelta64(1, "us")
        unknown = np.where(np.isnan(microseconds), "missing time", "").astype(object)
        return microseconds / _microseconds(space), unknown
    elapsed, text, dates = _numbers_and_dates(times, space.calendar)
    reason = np.full(len(elapsed), "", dtype=object)
    reason[~np.isfinite(elapsed)] = "missing time"
    if not text.any():
        return elapsed - (start if isinstance(start, float) else 0.0), reason
    found = ~np.isnat(dates)
    reason[found] = ""
    # A number beside datetimes is no model time.
    for i in np.flatnonzero(~found & (text | (np.isfinite(elapsed) & found.any()))):
        # A column of numbers that lacks some has them as real ones.
        given = times[i] if times.dtype.kind != "f" else f"{times[i]:.15g}"
        reason[i] = f"time {str(given).strip()!r} is no ISO 8601 datetime"
    if not found.any():
        return elapsed, reason
    if start is None or isinstance(start, float):
        raise ValueError(
            f"Got datetimes, such as {iso(dates[found][0], space.calendar)}, without `start`: "
            "give it (--start in the shell), the datetime of step 0."
        )
    first, unit = parse_start(start, space.calendar), time_unit(space)
    if unit in MONTHS:
        months = total_months(dates, space.calendar) - total_months(
            np.array([first]), space.calendar
        )
        since = months / MONTHS[unit]
    else:
        since = (dates - first) / np.timedelta64(1, "us") / _microseconds(space)
    return np.where(found, since, math.nan), reason


def _microseconds(space: StateSpace) -> float:
    unit = time_unit(space)
    if unit in MONTHS:
        raise ValueError(
            f"Got durations for a space whose steps are {unit}, which differ in length: give "
            "datetimes."
        )
    return SECONDS[unit] * 1e6


def _numbers_and_dates(
    times: np.ndarray, calendar: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times as numbers, which are meant as datetimes instead, and the instants of these."""
    if times.dtype == object and is_gregorian(calendar):
        # Where no time is a number, to look for numbers first would take most of the time.
        dates = instants(times)
        text, elapsed = ~np.isnat(dates), np.full(len(times), math.nan)
        elapsed[~text], text[~text] = numbers(times[~text])
        if not np.isfinite(elapsed).any():
            return elapsed, text, dates
    elapsed, text = (
        (np.full(len(times), math.nan), ~np.isnat(times))
        if times.dtype.kind == "M"
        else numbers(times)
    )
    compact = _compact(elapsed, text)
    dates = np.full(len(times), np.timedelta64("NaT", "us"))
    given = np.array([f"{v:.0f}" for v in elapsed[compact]], dtype=object)
    dates[compact] = instants(given, calendar)
    dates[text & ~compact] = instants(times[text & ~compact], calendar)
    return elapsed, text | compact, dates


def _compact(elapsed: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return which numbers are dates like 20190321: all are, or all beside datetimes."""
    whole = np.isfinite(elapsed) & (elapsed % 1 == 0) & (elapsed >= 1e7) & (elapsed < 3e7)
    if not whole.any() or not (whole | text | np.isnan(elapsed)).all():
        return np.zeros(len(elapsed), dtype=bool)
    month, day = elapsed // 100 % 100, elapsed % 100
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    return whole if valid[whole].all() else np.zeros(len(elapsed), dtype=bool)


def _far(where: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which of the known times are far from all others."""
    distinct = np.unique(where[known])
    if len(distinct) < 3:
        return np.zeros(len(where), dtype=bool)
    middle = np.median(distinct)
    usual = np.median(np.abs(distinct - middle))
    return known & (np.abs(where - middle) > max(FAR_DISTANCES * usual, FAR_STEPS))
