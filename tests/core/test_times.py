"""Times of any calendar belong to the right step and come back as the same datetimes."""

import cftime
import numpy as np
import pytest

from scorda.core.calendars import parse_start
from scorda.core.space import StateSpace
from scorda.core.times import dates_after, match_times, phases, phases_of, time_axis

HOURS = StateSpace((1,), 1.0, units={"time": "hours"})
DAYS = StateSpace((1,), 1.0, units={"time": "days"})
MONTHS = StateSpace((1,), 1.0, units={"time": "months"})


def in_calendar(calendar, unit="days"):
    return StateSpace((1,), 1.0, units={"time": unit}, calendar=calendar)


@pytest.mark.parametrize("kind", [str, int, float, "text of numbers"])
def test_days_without_separators_are_dates(kind):
    days = ["20180720", "20180721", "20180729"]
    values = np.array(days if kind in (str, "text of numbers") else [kind(d) for d in days])
    times = values.astype(object) if values.dtype.kind == "U" else values
    step, why = match_times(times, DAYS, "2018-07-20")
    assert step.tolist() == [0, 1, 9] and why.tolist() == [""] * 3
    with pytest.raises(ValueError, match=r"2018-07-20.*without `start`"):
        match_times(times, DAYS)
    mixed = np.array([*days[:2], "2018-07-29"], dtype=object)
    assert match_times(mixed, DAYS, "20180720")[0].tolist() == [0, 1, 9]


def test_a_number_that_is_no_date_is_model_time():
    step, why = match_times(np.array([0.0, 20190231, 5.0]), DAYS)
    assert (step[[0, 2]].tolist() == [0, 5] and "far" in why[1]) or "million" in why[1]


def test_durations_are_counted_from_step_0():
    times = np.array([0, 90, -30], dtype="m8[m]")
    step, why = match_times(np.append(times, np.timedelta64("NaT")), HOURS)
    assert step[:2].tolist() == [0, 2]
    assert why.tolist() == ["", "", "", "missing time"]
    with pytest.raises(ValueError, match="which differ in length"):
        match_times(times, MONTHS, "2019-01-01")


def test_a_time_far_from_all_others_is_refused():
    times = np.array(
        ["2019-03-01", "2019-03-02", "2019-03-04", "1900-01-01", "2109-03-03"], object
    )
    _step, why = match_times(times, DAYS, "1900-01-01")
    assert why.tolist() == [""] * 3 + ["time far from all others"] * 2
    # A year of hours with a gap of months is no mistake.
    gap = np.concatenate([np.arange(1000.0), [8000.0]])
    assert (match_times(gap, HOURS)[1] == "").all()


def test_times_that_are_not_there_are_counted():
    times = np.array(["2019-03-01", "NaT"], dtype="M8[us]")
    assert match_times(times, DAYS, "2019-03-01")[1].tolist() == ["", "missing time"]


@pytest.mark.parametrize(
    ("calendar", "start", "date", "days"),
    [
        ("noleap", "2019-02-28", "2020-03-01", 366),
        ("360_day", "2019-02-28", "2019-02-30", 2),
        ("all_leap", "2019-02-28", "2019-03-01", 2),
        ("julian", "1582-10-04", "1582-10-15", 11),
        ("standard", "0850-01-01", "0850-12-31", 364),
        ("proleptic_gregorian", "2450-02-28", "2450-03-01", 1),
    ],
)
def test_steps_follow_the_calendar(calendar, start, date, days):
    """The expected days are counted by hand: a calendar has a leap day or it has none."""
    space = in_calendar(calendar)
    objects = np.array([cftime.datetime(*map(int, date.split("-")), calendar=calendar)])
    for times in (np.array([date], dtype=object), objects):
        step, why = match_times(times, space, start)
        assert step.tolist() == [days] and why.tolist() == [""]


def test_a_date_that_the_calendar_does_not_have_is_refused():
    _step, why = match_times(
        np.array(["2020-02-29"], dtype=object), in_calendar("noleap"), "2020-02-28"
    )
    assert why[0] == "time '2020-02-29' is no ISO 8601 datetime"
    with pytest.raises(ValueError, match="of the calendar noleap"):
        parse_start("2020-02-29", "noleap")


@pytest.mark.parametrize("calendar", ["proleptic_gregorian", "360_day", "noleap"])
def test_months_are_steps(calendar):
    space = in_calendar(calendar, "months")
    times = np.array(["2019-01-01", "2019-02-01", "2019-12-10", "2020-03-02"], dtype=object)
    step, _why = match_times(times, space, "2019-01-01")
    assert step.tolist() == [0, 1, 11, 14]
    dates = dates_after("2019-01-01", np.array([0.0, 1.0, 13.0]), space)
    assert [str(d)[:10] for d in dates] == ["2019-01-01", "2019-02-01", "2020-02-01"]
    assert phases(space) == 12
    assert phases_of("2019-11-16", 4, space).tolist() == [10, 11, 0, 1]


def test_the_axis_of_time_is_exact():
    """Ten minutes are a sixth of an hour, which no binary number is."""
    import xarray

    space = StateSpace((1,), 1 / 6, units={"time": "hours"})
    values, attributes = time_axis(space, 1000, "2019-03-01T00:50")
    assert attributes["units"] == "seconds since 2019-03-01 00:50:00" and values.dtype.kind == "i"
    decoded = xarray.decode_cf(xarray.Dataset(coords={"time": ("time", values, attributes)}))
    expected = np.datetime64("2019-03-01T00:50") + np.arange(1000) * np.timedelta64(10, "m")
    assert (decoded["time"].values == expected).all()


@pytest.mark.parametrize("calendar", ["360_day", "noleap"])
def test_the_axis_of_time_keeps_the_calendar(calendar):
    import xarray

    values, attributes = time_axis(in_calendar(calendar), 60, "2020-02-01")
    decoded = xarray.decode_cf(xarray.Dataset(coords={"time": ("time", values, attributes)}))
    assert decoded["time"].dt.calendar == calendar
    last = {"360_day": "2020-03-30", "noleap": "2020-04-01"}[calendar]
    assert str(decoded["time"].values[-1])[:10] == last


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        (["2019-03-01", "20190302", ""], [0, 1, None]),
        (["20190301", "20190302", "20190228"], [0, 1, -1]),
        ([" 2019-03-01T00:00", "2019/3/1", "2019", "now"], [0, None, None, None]),
        (["2019-03-01T00:00", "2019-03-0100", "2019-03-01T00:00-18:00"], [0, None, 1]),
    ],
)
def test_text_is_a_date_in_forms_of_iso_8601_alone(text, dates):
    space = StateSpace((2,), 1.0, units={"time": "days"})
    step, reason = match_times(np.array(text, dtype=object), space, start="2019-02-20")
    assert [
        int(s) - 9 if why == "" else None for s, why in zip(step, reason, strict=True)
    ] == dates


def test_numbers_beside_datetimes_are_no_dates():
    """One model time makes a compact date a model time too, as in a column of numbers."""
    space = StateSpace((2,), 1.0, units={"time": "days"})
    given = np.array(["20190301", "5.0", "7"], dtype=object)
    step, reason = match_times(given, space, start="2019-02-20")
    assert step[1:].tolist() == [5, 7] and (reason[1:] == "").all() and reason[0] != ""
