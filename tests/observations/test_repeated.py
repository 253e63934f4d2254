"""A report that is there twice counts once, however it is written and in whatever file."""

import numpy as np
import pandas
import pytest
import torch

from scorda.cli.common import read_observations
from scorda.core.space import StateSpace
from scorda.core.transforms import Circular
from scorda.observations.observations import Observations
from scorda.observations.repeated import without_repeated

START = "2019-03-15T00:00"
SPACE = StateSpace(
    (3, 4),
    1.0,
    ("t2m",),
    {"latitude": np.arange(50.0, 53.0), "longitude": np.arange(4.0)},
    units={"time": "hours", "t2m": "K", "latitude": "degrees_north", "longitude": "degrees_east"},
)


def table(rows=6, **columns):
    times = pandas.to_datetime(START) + pandas.to_timedelta(np.arange(rows), "h")
    frame = pandas.DataFrame({
        "time": times.strftime("%Y-%m-%dT%H:%M"), "latitude": 50.0 + np.arange(rows) % 3,
        "longitude": np.arange(rows) % 4, "value": np.round(280.0 + np.arange(rows) / 7, 3),
        "std": 0.3,
    })  # fmt: skip
    return frame.assign(**columns)


def zones(frame):
    """The same instants, as somebody else writes them."""
    aware = pandas.to_datetime(frame["time"]).dt.tz_localize("UTC")
    return frame.assign(time=[t.isoformat() for t in aware.dt.tz_convert("Asia/Tokyo")])


AGAIN = {
    "as it is": lambda f: f,
    "in another zone": zones,
    "with seconds": lambda f: f.assign(time=f["time"] + ":00.000Z"),
    "in degC": lambda f: f.assign(units="degC", value=(f["value"] - 273.15).round(3)),
    "in degF": lambda f: f.assign(
        units="degF", value=f["value"] * 1.8 - 459.67, std=f["std"] * 1.8
    ),
    "longitudes a turn on": lambda f: f.assign(longitude=f["longitude"] + 360.0),
}


@pytest.mark.parametrize("how", AGAIN)
def test_a_report_that_is_sent_twice_has_its_own_error(how):
    """Two independent reports would have a std of 0.3 / sqrt(2)."""
    first = table()
    both = pandas.concat([first, AGAIN[how](first)], ignore_index=True)
    once = Observations.from_table(first, SPACE, START)
    found = Observations.from_table(both, SPACE, START)
    torch.testing.assert_close(found.values, once.values, equal_nan=True, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.std, once.std, equal_nan=True, rtol=1e-12, atol=0)
    assert "6 repeated reports counted once" in found.summary()


def test_a_direction_a_turn_off_is_the_same_report():
    wind = StateSpace(
        (3, 4), 1.0, ("dir",), SPACE.coordinates, units=SPACE.units | {"dir": "degree"},
        transforms={"dir": Circular(360.0)},
    )  # fmt: skip
    first = table(value=[350.0, 10.0, 180.0, 90.0, 0.0, 359.0], std=10.0)
    both = pandas.concat([first, first.assign(value=first["value"] - 360.0)])
    found = Observations.from_table(both, wind, START)
    assert "6 repeated reports counted once" in found.summary()
    assert found.std[~found.values.isnan()].tolist() == [10.0] * 6


def test_reports_that_differ_are_averaged():
    first = table()
    other = first.assign(value=first["value"] + 1e-3)
    found = Observations.from_table(pandas.concat([first, other]), SPACE, START)
    assert "12 reports of one place and step averaged" in found.summary()


def test_files_that_overlap_have_their_reports_once(tmp_path):
    table(6).to_csv(tmp_path / "a.csv", index=False)
    zones(table(8)).to_csv(tmp_path / "b.csv", index=False)
    paths = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    first, second = read_observations(paths, SPACE, START)
    assert "6 reports are in a later file too and counted once" in first.summary()
    assert second.observed(6) and second.observed(7)
    assert not any(second.observed(k) for k in range(6))
    alone = Observations.from_table(table(8), SPACE, START)
    assert torch.equal(second.flat[6:].nan_to_num(), alone.flat[6:].nan_to_num())
    # A file that is given twice is one instrument.
    (only,) = read_observations([paths[0], paths[0]], SPACE, START)
    assert torch.equal(only.flat.nan_to_num(), first.flat.nan_to_num())


def test_other_instruments_are_left_alone():
    """Another error, another step or another place is another report."""
    given = [
        Observations.from_table(frame, SPACE, START)
        for frame in (table(), table(std=0.4), table(longitude=2.5), table(latitude=50.5))
    ]
    assert without_repeated(given, SPACE) == given


def test_means_over_periods_are_told_apart_from_single_values(tmp_path):
    frame = table(4)
    since = pandas.to_datetime(frame["time"]) + pandas.Timedelta(2, "h")
    mean = frame.assign(since=frame["time"], time=since.dt.strftime("%Y-%m-%dT%H:%M"))
    mean.to_csv(tmp_path / "mean.csv", index=False)
    mean.drop(columns="since").to_csv(tmp_path / "single.csv", index=False)
    paths = [str(tmp_path / name) for name in ("mean.csv", "single.csv", "mean.csv")]
    found = read_observations(paths, SPACE, START)
    assert [sum(map(o.observed, range(len(o)))) for o in found] == [4, 4]
    assert "4 reports are in a later file too" in found[0].summary()
