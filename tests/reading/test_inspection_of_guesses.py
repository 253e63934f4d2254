"""What is guessed of a file is said, and what is wrong with it in a sentence that names it."""

import numpy as np
import pytest
import xarray

from scorda.reading.inspection import inspect
from scorda.reading.records import read_fields

TIMES = np.datetime64("2019-03-01", "ns") + np.arange(6) * np.timedelta64(1, "h")
VALUES = np.random.default_rng(0).normal(size=(6, 4, 5))


def test_axes_without_positions_are_said():
    data = xarray.Dataset({"t": (("time", "y", "x"), VALUES)}, {"time": TIMES, "x": np.arange(5)})
    assert "counted the positions of y from 0, since there are none" in read_fields(data).notes


def test_series_that_nobody_named_are_said():
    data = xarray.Dataset({"t": (("number", "time", "x"), VALUES.swapaxes(0, 1))}, {"time": TIMES})
    assert "took 'number' for an axis of independent series" in read_fields(data).notes


def test_a_circle_that_ends_where_it_begins_is_named(tmp_path):
    """The column at 360 degrees is that at 0, as programs for maps like it."""
    axes = {"time": TIMES, "lat": np.arange(4.0), "lon": np.linspace(0.0, 360.0, 5)}
    path = tmp_path / "a.nc"
    xarray.Dataset({"t": (("time", "lat", "lon"), VALUES)}, axes).to_netcdf(path)
    for read in (inspect, read_fields):
        with pytest.raises(
            ValueError, match=r"^\S*a\.nc has a position of 'lon' twice: leave one"
        ):
            read(path)


def test_units_of_the_other_columns_are_said():
    table = xarray.Dataset({
        "time": ("row", TIMES), "value": ("row", np.arange(6.0), {"units": "K"}),
        "std": ("row", np.full(6, 300.0), {"units": "mK"}),
    })  # fmt: skip
    assert dict(inspect(table).facts)["std"] == "300 to 300 mK"
