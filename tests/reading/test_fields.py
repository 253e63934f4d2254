"""Fields are aligned with a space by their labels: any order, direction, convention and unit."""

import numpy as np
import pytest
import torch
import xarray

from scorda.core.space import StateSpace
from scorda.reading.fields import aligned, read_states

LAT, LON = np.arange(45.0, 51.0), np.arange(-5.0, 4.0)
START = "2019-03-15T00:00"
SPACE = StateSpace(
    (6, 9),
    1.0,
    ("t2m",),
    {"latitude": LAT, "longitude": LON},
    units={"t2m": "K", "time": "hours", "latitude": "degrees_north", "longitude": "degrees_east"},
)
VALUES = np.random.default_rng(0).normal(280.0, 3.0, (13, 6, 9))


def truth(values=VALUES, name="t2m", unit="K"):
    times = np.datetime64(START, "ns") + np.arange(len(values)) * np.timedelta64(1, "h")
    return xarray.Dataset(
        {name: (("time", "latitude", "longitude"), values, {"units": unit})},
        {
            "time": times,
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
        },
    )


def before(dataset, days=2):
    """The same record with other days before it."""
    early = dataset.isel(time=slice(0, 1)).squeeze("time", drop=True)
    times = dataset["time"].values[0] - np.arange(days, 0, -1) * np.timedelta64(24, "h")
    return xarray.concat([early.expand_dims(time=times) * 0 + 1, dataset], "time")


# Each is the same truth written by somebody else.
SAME = {
    "as it is": lambda d: d,
    "falling latitude": lambda d: d.isel(latitude=slice(None, None, -1)),
    "other order of axes": lambda d: d.transpose("longitude", "time", "latitude"),
    "earlier days before": before,
    "in degC": lambda d: (d - 273.15).assign(t2m=lambda e: e.t2m.assign_attrs(units="degC")),
    "longitudes from 0": lambda d: d.assign_coords(longitude=(d.longitude % 360)).sortby(
        "longitude"
    ),
    "longitudes a turn off": lambda d: d.assign_coords(longitude=d.longitude + 360),
    "names lat, lon and attributes": lambda d: d.rename(latitude="lat", longitude="lon"),
    "names lat, lon alone": lambda d: d.rename(latitude="lat", longitude="lon").assign_coords(
        lat=LAT, lon=LON
    ),
    "valid_time and a single level": lambda d: d.rename(time="valid_time").expand_dims(
        pressure_level=[850.0]
    ),
    "positions in radians": lambda d: d.assign_coords(
        latitude=("latitude", np.deg2rad(LAT), {"units": "radian", "standard_name": "latitude"}),
        longitude=("longitude", np.deg2rad(LON), {"units": "rad"}),
    ),
    "points of several labels": lambda d: d.stack(place=("latitude", "longitude")),
    "an empty unit": lambda d: d.assign(t2m=d.t2m.assign_attrs(units=" ")),
    "one member": lambda d: d.expand_dims(number=[3], axis=1),
    "a larger domain": lambda d: d.pad(longitude=(0, 2), constant_values=0.0).assign_coords(
        longitude=np.arange(-5.0, 6.0)
    ),
    "packed integers": lambda d: d.round(2).assign(t2m=lambda e: e.t2m.assign_attrs(units="K")),
}


@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("stored", [False, True])
def test_the_same_states_come_of_each_way_to_write_them(tmp_path, how, stored):
    source, tolerance = SAME[how](truth()), 1e-9
    # A file cannot hold several labels of a point.
    if stored and how != "points of several labels":
        encoding = {}
        if how == "packed integers":
            encoding = {"t2m": {"dtype": "int32", "scale_factor": 0.01, "_FillValue": -(2**31)}}
        source.to_netcdf(tmp_path / "truth.nc", engine="h5netcdf", encoding=encoding)
        source = tmp_path / "truth.nc"
    if how == "packed integers":
        tolerance = 0.005 + 1e-9
    states, _ = read_states(source, SPACE, 12, START)
    np.testing.assert_allclose(states.numpy(), VALUES, rtol=0, atol=tolerance)
    part, _ = read_states(source, SPACE, 3, "2019-03-15T05:00")
    np.testing.assert_allclose(part.numpy(), VALUES[5:9], rtol=0, atol=tolerance)


REFUSED = {
    "elsewhere": (lambda d: d.assign_coords(longitude=d.longitude + 100), "longitude 95 to 103"),
    "half of the domain": (lambda d: d.isel(latitude=slice(0, 3)), "latitude 45 to 47"),
    "half a spacing off": (lambda d: d.assign_coords(latitude=d.latitude + 0.5), "latitude 45.5"),
    "another variable": (lambda d: d.rename(t2m="skt"), "it needs 't2m'"),
    "a unit of something else": (
        lambda d: d.assign(t2m=d.t2m.assign_attrs(units="m s-1")),
        "the unit 'm s-1' where 'K' is expected",
    ),
    "a unit that is none": (
        lambda d: d.assign(t2m=d.t2m.assign_attrs(units="__import__('os')")),
        "where 'K' is expected",
    ),
    "an hour missing": (lambda d: d.drop_isel(time=4), "none is of step 4"),
    "the day before": (
        lambda d: d.assign_coords(time=d.time - np.timedelta64(1, "D")),
        "none is of step 0",
    ),
    "a time twice": (
        lambda d: xarray.concat([d, d.isel(time=[3]) + 5.0], "time"),
        "2019-03-15T03:00:00.000000000 of step 3 twice",
    ),
    "complex numbers": (lambda d: d.astype(complex), "has 't2m' as complex128 on the axes"),
    "a level too many": (lambda d: d.expand_dims(level=[850.0, 500.0]), "the axis 'level'"),
    "two members": (lambda d: d.expand_dims(number=[0, 1]), "2 series or members: select one"),
    "no values": (lambda d: d.where(d.time != d.time[2]), "not finite"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_not_the_truth_of_the_run_is_refused(how):
    change, says = REFUSED[how]
    with pytest.raises(ValueError) as caught:
        read_states(change(truth()), SPACE, 12, START)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_states_without_datetimes_are_matched_by_model_time():
    space = StateSpace((3,), 0.25, ("x", "y", "z"))
    values = torch.arange(15.0).reshape(5, 3)
    columns = {n: ("time", values[:, i].numpy()) for i, n in enumerate(space.variables)}
    times = {"time": 0.25 * np.arange(5)}
    states, _ = read_states(xarray.Dataset(columns, times), space, 4)
    assert torch.equal(states, values.double())
    late = xarray.Dataset(columns, {"time": 0.25 * np.arange(5) + 0.25})
    with pytest.raises(ValueError, match="none is of step 0"):
        read_states(late, space, 4)
    # Without any times the order is the only label there is.
    assert torch.equal(read_states(xarray.Dataset(columns), space, 4)[0], values.double())


@pytest.mark.parametrize("hours", [1, 24])
@pytest.mark.parametrize("unit", ["hours", "h", None])
def test_model_times_are_in_their_own_unit(hours, unit):
    """Two steps of a day are 48 hours, written with their unit or as durations, and not 2."""
    times = hours * np.arange(3.0)
    axis = times * np.timedelta64(3600 * 10**9, "ns") if unit is None else times
    space = StateSpace((2,), 1.0, ("t",), {"x": np.arange(2.0)}, units={"time": "days"})
    values = (("time", "x"), np.arange(6.0).reshape(3, 2))
    labels = {"time": ("time", axis, {"units": unit} if unit else {}), "x": [0.0, 1.0]}
    data = xarray.Dataset({"t": values}, labels)
    if hours == 1:
        with pytest.raises(ValueError, match="none is of step 1"):
            read_states(data, space, 2)
        return
    states, notes = read_states(data, space, 2)
    assert states[2].tolist() == [4.0, 5.0] and "converted times from" in " ".join(notes)


def test_fields_may_lack_positions_where_that_is_asked_for():
    part = truth().isel(latitude=slice(2, 4))
    data, notes = aligned(part, SPACE, partly=True)
    found = data["t2m"].values
    np.testing.assert_allclose(found[:, 2:4], VALUES[:, 2:4])
    assert np.isnan(found[:, [0, 1, 4, 5]]).all()
    assert "without 4 of 6 positions of latitude" in notes
    finer = truth().interp(latitude=np.arange(45.0, 50.1, 0.5))
    with pytest.raises(ValueError, match="each must be a position"):
        aligned(finer, SPACE, partly=True)


def test_values_of_a_truth_that_are_none_are_said():
    """Scores against them mean nothing, and nobody else would say so."""
    _, notes = read_states(truth(np.where(LAT[:, None] == 46, -9999.0, VALUES)), SPACE, 12, START)
    assert notes[-1] == "117 values of t2m are far from all others, such as -9999"


@pytest.mark.parametrize("name", ["depth", "height"])
def test_a_level_of_another_kind_is_no_level_of_the_space(name):
    space = StateSpace(
        (2,), 1.0, ("t",), {"level": np.array([500.0, 850.0])}, units={"level": "hPa"}
    )
    data = xarray.Dataset(
        {"t": (("time", name), np.zeros((2, 2)))}, {"time": [0.0, 1.0], name: [500.0, 850.0]}
    )
    with pytest.raises(ValueError, match="it needs one for 'level' of the space"):
        read_states(data, space, 1)
    read_states(data.rename({name: "plev"}), space, 1)


def test_levels_are_converted():
    levels = np.array([500.0, 850.0])
    space = StateSpace((2,), 1.0, ("t",), {"level": levels}, units={"level": "hPa", "t": "K"})
    data = xarray.Dataset(
        {"t": (("time", "plev"), np.arange(4.0).reshape(2, 2), {"units": "K"})},
        {"time": [0.0, 1.0], "plev": ("plev", 100 * levels[::-1], {"units": "Pa"})},
    )
    states, _ = read_states(data, space, 1)
    assert states.tolist() == [[1.0, 0.0], [3.0, 2.0]]
