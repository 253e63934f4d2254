"""Units of errors and positions in tables: each column may have its own."""

import numpy as np
import pandas
import pytest
import torch
import xarray

from scorda.core.space import StateSpace
from scorda.observations.observations import Observations

SPACE = StateSpace(
    (2, 3, 4),
    1.0,
    ("t",),
    {
        "level": np.array([500.0, 850.0]),
        "latitude": np.arange(50.0, 53.0),
        "longitude": np.arange(4.0),
    },
    units={
        "time": "hours", "t": "K", "level": "hPa", "latitude": "degrees_north",
        "longitude": "degrees_east",
    },
)  # fmt: skip
ROWS = 6
COLUMNS = {
    "time": np.arange(ROWS) * 1.0,
    "level": np.where(np.arange(ROWS) % 2, 500.0, 850.0),
    "latitude": 50.0 + np.arange(ROWS) % 3,
    "longitude": np.arange(ROWS) % 4 * 1.0,
    "value": 280.0 + np.arange(ROWS),
    "std": np.full(ROWS, 0.3),
}


def expected():
    return Observations.from_table(COLUMNS, SPACE)


def data(units, **columns):
    return xarray.Dataset({
        name: ("row", np.asarray(values, float), {"units": units[name]} if name in units else {})
        for name, values in (COLUMNS | columns).items()
    })  # fmt: skip


LEVELS, RADIANS = COLUMNS["level"], {n: np.deg2rad(COLUMNS[n]) for n in ("latitude", "longitude")}
SAME = {
    "std in mK": data({"std": "mK"}, std=np.full(ROWS, 300.0)),
    "std in degF": data({"value": "K", "std": "degF"}, std=np.full(ROWS, 0.54)),
    "value in degC, std in K": data(
        {"value": "degC", "std": "K"}, value=COLUMNS["value"] - 273.15
    ),
    "levels in Pa": data({"level": "Pa"}, level=100 * LEVELS),
    "levels in mbar": data({"level": "mbar"}),
    "positions in radians": data({"latitude": "radian", "longitude": "rad"}, **RADIANS),
    "positions without a dimension": data({"latitude": "1", "longitude": "degrees"}),
    "columns of units": COLUMNS
    | {"std": 1000 * COLUMNS["std"], "std_units": np.array(["mK"] * ROWS)}
    | {"level": LEVELS * np.where(np.arange(ROWS) < 3, 100, 1)}
    | {"level_units": np.array(["Pa"] * 3 + [""] * 3, dtype=object)},
}


@pytest.mark.parametrize("how", SAME)
def test_each_column_is_converted_from_its_own_unit(how):
    found = Observations.from_table(SAME[how], SPACE)
    torch.testing.assert_close(found.values, expected().values, equal_nan=True, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.std, expected().std, equal_nan=True, rtol=1e-9, atol=0)
    if "std" in how and "mK" in how:
        assert "6 std of t converted from mK to K" in found.summary()


def test_stations_have_their_levels_in_their_own_unit():
    """A profile in Pa on a state in hPa."""
    profile = xarray.Dataset(
        {"t": (("time", "z"), np.arange(4.0).reshape(2, 2) + 280.0, {"units": "K"})},
        {
            "time": [0.0, 1.0],
            "plev": ("z", [85000.0, 50000.0], {"units": "Pa", "standard_name": "air_pressure"}),
            "lat": 51.0,
            "lon": 2.0,
        },
        attrs={"featureType": "profile"},
    )
    found = Observations.from_table(profile, SPACE, std=0.3)
    assert found.values.tolist() == [[281.0, 280.0], [283.0, 282.0]]


@pytest.mark.parametrize(
    "table, says",
    [
        (data({"std": "m s-1"}), "Row 1, std of 't': Got the unit 'm s-1' where 'K'"),
        (data({"std": "%"}), "Row 1, std of 't': Got the unit '%' where 'K'"),
        (data({"level": "m"}), "Row 1, position 'level': Got the unit 'm' where 'hPa'"),
        (
            {"depth" if n == "level" else n: c for n, c in COLUMNS.items()},
            "it needs a position .level and latitude and longitude, or point",
        ),
    ],
)
def test_a_unit_or_a_level_of_something_else_is_refused(table, says):
    with pytest.raises(ValueError, match=says):
        Observations.from_table(table, SPACE)


def test_a_unit_may_be_in_a_column_named_unit():
    """Without it the values would be 273 K off, far inside the bounds of no climate."""
    frame = pandas.DataFrame(COLUMNS).assign(value=COLUMNS["value"] - 273.15, Unit="degC")
    found = Observations.from_table(frame, SPACE)
    torch.testing.assert_close(found.values, expected().values, equal_nan=True, rtol=1e-12, atol=0)


def test_dates_without_a_time_are_dates():
    space = StateSpace((2,), 1.0, ("t",), {"x": np.arange(2.0)}, units={"time": "days"})
    dates = pandas.date_range("2019-03-15", periods=2).date
    found = Observations.from_table(
        {"time": np.array(dates), "x": [0.0, 1.0], "value": [1.0, 2.0], "std": [1.0, 1.0]},
        space,
        "2019-03-15",
    )
    assert found.steps == (0, 1)


FIELDS = np.random.default_rng(0).normal(size=(4, 2, 3, 4))


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor(FIELDS, requires_grad=True),
        torch.tensor(FIELDS).bfloat16(),
        FIELDS.tolist(),
        xarray.DataArray(FIELDS),
        xarray.DataArray(
            FIELDS,
            {"time": np.arange(4.0)} | dict(SPACE.coordinates),
            ("time", "level", "latitude", "longitude"),
        ),
    ],
)
def test_fields_may_be_arrays_of_any_kind(given):
    found = Observations.from_array(given, SPACE, 0.3)
    tolerance = 1e-2 if getattr(given, "dtype", None) == torch.bfloat16 else 1e-9
    torch.testing.assert_close(
        found.values.double(), torch.tensor(FIELDS).flatten(1), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("std", [np.array([0.3]), [0.3], None, "0.3", 0.0, 1j])
def test_an_error_of_fields_is_one_number(std, unchecked):
    with pytest.raises(ValueError, match="it must be positive and finite, one number"):
        Observations.from_array(FIELDS, SPACE, std)


def test_complex_fields_are_refused():
    with pytest.raises(TypeError, match="the fields of type complex128"):
        Observations.from_array(FIELDS + 0j, SPACE, 0.3)


def test_an_error_has_the_unit_of_its_value_where_the_state_has_none():
    space = StateSpace((2,), 1.0, ("t",), {"x": np.arange(2.0)})
    table = xarray.Dataset({
        "time": ("row", [0.0, 1.0]), "x": ("row", [0.0, 1.0]),
        "value": ("row", [1.0, 2.0], {"units": "K"}),
        "std": ("row", [300.0, 300.0], {"units": "mK"}),
    })  # fmt: skip
    found = Observations.from_table(table, space)
    assert found.std[~found.values.isnan()].tolist() == pytest.approx([0.3, 0.3])
