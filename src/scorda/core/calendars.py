"""Calendars: datetimes as instants, in any calendar of the CF conventions.

Datetimes are ISO 8601, basic or extended, in UTC unless they say otherwise, or objects of Python,
NumPy or cftime. An *instant* is the time since 1970-01-01 in the calendar, in microseconds
(``m8[us]``), NaT where there is none.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np

__all__ = [
    "Start",
    "cftimes",
    "from_months",
    "instants",
    "is_gregorian",
    "iso",
    "parse_start",
    "start_text",
    "total_months",
]

# A datetime as text or an object; also one of cftime, whose calendar then has to be the space's.
# A number is the model time of step 0, of a run that goes on after another.
Start = str | datetime.datetime | np.datetime64 | float | Any

# Beginning of an ISO 8601 date. Without it pandas also takes a year, "2019/3/1" and "today".
DATE = re.compile(r"\s*\d{4}-?\d\d-?\d\d(?!\d)")
PARTS = re.compile(
    r"\s*(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?)?Z?\s*"
)


def is_gregorian(calendar: str) -> bool:
    """Say whether NumPy's datetimes have that calendar: the Gregorian one in all years."""
    return calendar == "proleptic_gregorian"


def instants(values: np.ndarray, calendar: str = "proleptic_gregorian") -> np.ndarray:
    """Return instants of datetimes; NaT where an entry is none of that calendar."""
    if values.dtype.kind == "M":
        values = values.astype("M8[us]")
        return (
            values - np.datetime64(0, "us")
            if is_gregorian(calendar)
            else _of_calendar([None if np.isnat(v) else str(v) for v in values], calendar)
        )
    import pandas

    plain = pandas.api.types.infer_dtype(values, skipna=False) == "string"
    if is_gregorian(calendar) and (plain or not any(hasattr(v, "calendar") for v in values)):
        kinds = (str, datetime.date, np.datetime64)
        text = values if plain else [str(v) if isinstance(v, kinds) else "" for v in values]
        # A date has ten characters, and the next one decides whether it ends there.
        others = {begin for begin in {v[:11] for v in text} if not DATE.match(begin)}
        if others:
            text = [v if v[:11] not in others or DATE.match(v) else "" for v in text]
        dates = pandas.Series(text, dtype=object)
        utc = pandas.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
        return utc.dt.tz_localize(None).to_numpy("M8[us]") - np.datetime64(0, "us")
    return _of_calendar(list(values), calendar)


def parse_start(start: Start, calendar: str = "proleptic_gregorian") -> np.timedelta64:
    """Return the instant of the datetime of step 0.

    Raises:
        ValueError: If it is not a datetime of that calendar.
    """
    parsed = instants(np.array([start], dtype=object), calendar)[0]
    if np.isnat(parsed):
        of = "" if is_gregorian(calendar) else f" of the calendar {calendar}"
        raise ValueError(
            f"Got start = {start!r}: give an ISO 8601 datetime{of} such as '2019-03-21T00:00'."
        )
    return parsed


def start_text(start: Start, calendar: str = "proleptic_gregorian") -> str:
    """Return the time of step 0 as text: ISO 8601, or a model time."""
    if isinstance(start, float):
        return f"{start:g}"
    return iso(parse_start(start, calendar), calendar)


def iso(instant: np.timedelta64, calendar: str = "proleptic_gregorian") -> str:
    """Return an instant as ISO 8601 text, down to the second or, where it needs them, further."""
    if is_gregorian(calendar):
        text = str(np.datetime64(0, "us") + instant)
    else:
        text = cftimes(np.array([instant]), calendar)[0].isoformat()
    return text.removesuffix(".000000")


def _of_calendar(values: list[Any], calendar: str) -> np.ndarray:
    """Return instants of text and objects of cftime in a calendar that NumPy does not have."""
    import cftime
    import pandas

    # Few of many rows have a time of their own, and cftime is slow to make one.
    code, distinct = pandas.factorize(np.array(values, dtype=object), use_na_sentinel=False)
    dates, places = [], []
    for i, value in enumerate(distinct):
        date = _date(value, calendar)
        if date is not None:
            dates.append(date)
            places.append(i)
    out = np.full(len(distinct), np.timedelta64("NaT", "us"))
    if dates:
        count = cftime.date2num(dates, "microseconds since 1970-01-01", calendar=calendar)
        out[places] = np.asarray(count, dtype=np.int64).astype("m8[us]")
    return out[code]


def _date(value: Any, calendar: str) -> Any:
    """Return the date of cftime that a value stands for; None where it is none of the calendar."""
    import cftime

    if hasattr(value, "calendar"):
        return value if value.calendar == calendar or _modern(value, calendar) else None
    if isinstance(value, datetime.datetime | np.datetime64):
        value = str(value)
    found = PARTS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    *parts, fraction = found.groups()
    try:
        return cftime.datetime(
            *(int(part or 0) for part in parts),
            int((fraction or "0").ljust(6, "0")),
            calendar=calendar,
        )
    except ValueError:
        return None


def _modern(date: Any, calendar: str) -> bool:
    """Say whether a date of cftime is the same in another calendar, as it is since 1583."""
    reformed = ("standard", "gregorian", "proleptic_gregorian")
    return date.year > 1582 and date.calendar in reformed and calendar in reformed


def cftimes(found: np.ndarray, calendar: str) -> np.ndarray:
    """Return the dates of cftime of instants."""
    import cftime

    count = found.astype(np.int64)
    return np.atleast_1d(
        cftime.num2date(count, "microseconds since 1970-01-01", calendar=calendar)
    )


def total_months(found: np.ndarray, calendar: str) -> np.ndarray:
    """Return instants in months since the year 0; a part of a month is a share of its length."""
    out, known = np.full(len(found), math.nan), ~np.isnat(found)
    if is_gregorian(calendar):
        dates = np.datetime64(0, "us") + found[known]
        whole = dates.astype("M8[M]").astype(np.int64) + 1970 * 12
    else:
        dates = cftimes(found[known], calendar)
        whole = np.array([12 * date.year + date.month - 1 for date in dates], dtype=np.int64)
    first, after = _month_starts(whole, calendar), _month_starts(whole + 1, calendar)
    out[known] = whole + (found[known] - first) / (after - first)
    return out


def from_months(months: np.ndarray, calendar: str) -> np.ndarray:
    """Return the instants of times in months since the year 0, to the minute."""
    # The first day of a month is no rounding error before the end of the last.
    whole = np.floor(months + 1e-9).astype(np.int64)
    first, after = _month_starts(whole, calendar), _month_starts(whole + 1, calendar)
    minutes = np.maximum(months - whole, 0.0) * ((after - first) / np.timedelta64(1, "m"))
    return first + np.round(minutes).astype("m8[m]")


def _month_starts(months: np.ndarray, calendar: str) -> np.ndarray:
    """Return the instants at which months since the year 0 begin."""
    if is_gregorian(calendar):
        return (months - 1970 * 12).astype("M8[M]").astype("M8[us]") - np.datetime64(0, "us")
    text = [f"{m // 12:04d}-{m % 12 + 1:02d}-01" for m in months.tolist()]
    return _of_calendar(text, calendar)
