"""Records keep what their labels say: time, series, longitudes, calendars, streams, codes."""

import re

import numpy as np
import pandas
import pytest
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from scorda.core.space import StateSpace
from scorda.observations import tables
from scorda.observations.observations import Observations
from scorda.reading import blocks, fields, inspection, records
from scorda.reading.gridded import unwrapped
from scorda.reading.records import read_fields
from scorda.reading.static import on_grid

HOURS = np.datetime64("2019-03-01", "ns") + np.arange(60) * np.timedelta64(1, "h")


def record(times=HOURS, lat=(45.0, 46.0, 47.0), lon=(0.0, 1.0, 2.0, 3.0), names=("t2m",), seed=0):
    values = np.random.default_rng(seed).normal(280, 2, (len(times), len(lat), len(lon)))
    return xarray.Dataset(
        {
            n: (("time", "latitude", "longitude"), values + i, {"units": "K"})
            for i, n in enumerate(names)
        },
        {
            "time": times,
            "latitude": ("latitude", np.asarray(lat), {"units": "degrees_north"}),
            "longitude": ("longitude", np.asarray(lon), {"units": "degrees_east"}),
        },
    )


def test_layouts_of_the_era5_service_are_the_same_record():
    plain = read_fields(record())
    new = (
        record()
        .rename(time="valid_time")
        .assign_coords(number=0, expver=("valid_time", np.array(["0001"] * 60)))
    )
    final = np.arange(60) < 40
    streams = record().expand_dims(expver=[1, 5], axis=1)
    streams["t2m"] = streams.t2m.where(
        ((streams.expver == 1) & xarray.DataArray(final, dims="time"))
        | ((streams.expver == 5) & xarray.DataArray(~final, dims="time"))
    )
    level = record().expand_dims(pressure_level=[850.0], axis=1)
    falling = record().isel(latitude=slice(None, None, -1)).transpose("longitude", ...)
    for other in (new, streams, level, falling):
        found = read_fields(other)
        assert found.space == plain.space and found.start == plain.start
        assert (found.states == plain.states).all()


def test_bounds_flags_and_other_shapes_are_left_out_and_named():
    data = record().assign(
        time_bnds=(("time", "bnds"), np.zeros((60, 2))),
        flag=("time", np.array(["ok"] * 60)),
        orography=(("latitude", "longitude"), np.zeros((3, 4))),
        index=("time", np.zeros(60)),
    )
    data.time.attrs["bounds"] = "time_bnds"
    found = read_fields(data)
    assert found.space.variables == ("t2m",)
    (note,) = [n for n in found.notes if n.startswith("left out")]
    assert "flag, index, orography" in note


@pytest.mark.parametrize("name", ["ens", "series", "member", "number", "trajectory", "run"])
def test_independent_series_are_no_space(name):
    """The axis `run` has no name that is known, so that the user names it."""
    data = record().expand_dims({name: [0, 1]}, axis=1)
    data = data + 0.1 * data[name]
    found = read_fields(data, series_axis="run" if name == "run" else None)
    assert found.states.shape == (2, 60, 3, 4) and found.space.axes == ("latitude", "longitude")
    assert np.allclose(found.states[1] - found.states[0], 0.1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([330, 345, 0, 15, 30], [-30, -15, 0, 15, 30]),
        ([0, 15, 30, -180, -165, -150], [0, 15, 30, -180, -165, -150]),
        ([170, 175, 180, -175, -170], [170, 175, 180, 185, 190]),
        ([0, 90, 180, 270], [0, 90, 180, 270]),
        ([10], [10]),
    ],
)
def test_a_strip_of_longitudes_is_in_one_piece(given, expected):
    assert unwrapped(np.array(given, float)).tolist() == expected


@pytest.mark.parametrize("labels", ["units", "name and range", "standard_name", "degree"])
def test_global_longitudes_are_periodic(labels):
    data = record(lon=np.arange(0.0, 360.0, 30.0))
    if labels != "units":
        attributes = {"name and range": {}, "standard_name": {"standard_name": "longitude"}}
        attrs = attributes.get(labels, {"units": "degree"})
        data = data.assign_coords(longitude=("longitude", data.longitude.values, attrs))
    found = read_fields(data)
    assert found.space.period == {"longitude": 360.0}
    assert found.space.units["longitude"] == "degrees_east"
    assert read_fields(record()).space.period == {}
    # As after relabelling without sorting.
    rolled = data.assign_coords(
        longitude=("longitude", (data.longitude.values + 180) % 360 - 180, data.longitude.attrs)
    )
    again = read_fields(rolled)
    assert again.space.period == {"longitude": 360.0}
    assert again.space.coordinates["longitude"][0] == -180
    np.testing.assert_array_equal(again.states[0, ..., 6], found.states[0, ..., 0])


@pytest.mark.parametrize("kind", ["MS", "mid-month", "cftime"])
def test_months_are_regular(kind):
    if kind == "cftime":
        times = xarray.date_range(
            "1990-01-01", periods=48, freq="MS", calendar="noleap", use_cftime=True
        )
    else:
        times = pandas.date_range("1990-01-01", periods=48, freq="MS")
        if kind == "mid-month":
            times = times + (times.shift(1) - times) / 2
    found = read_fields(record(times=np.asarray(times)))
    assert found.space.units["time"] == "months" and found.space.dt == 1.0
    assert found.states.shape[1] == 48
    assert found.space.calendar == ("noleap" if kind == "cftime" else "proleptic_gregorian")


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "all_leap"])
def test_days_of_any_calendar_are_regular(calendar):
    times = xarray.date_range(
        "2020-02-20", periods=30, freq="D", calendar=calendar, use_cftime=True
    )
    found = read_fields(record(times=np.asarray(times)), until="2020-03-01")
    assert found.space.dt == 24.0 and found.space.calendar == calendar
    days = {"noleap": 10, "360_day": 12, "julian": 11, "all_leap": 11}
    assert len(found) == days[calendar]


def test_a_mesh_in_radians_is_one_in_degrees():
    """As the models on icosahedra write it; a radian is 57 degrees."""
    lat, lon = np.array([45.0, 46.0, 46.5, 47.0]), np.array([-2.0, 0.0, 1.0, 3.0])
    values = np.random.default_rng(0).normal(size=(30, 4))
    data = xarray.Dataset(
        {"t": (("time", "cell"), values, {"coordinates": "clat clon"})},
        {
            "time": np.datetime64("2019-03-01", "ns") + np.arange(30) * np.timedelta64(1, "h"),
            "clat": ("cell", np.deg2rad(lat), {"units": "radian", "standard_name": "latitude"}),
            "clon": ("cell", np.deg2rad(lon), {"units": "radian", "standard_name": "longitude"}),
        },
    )
    space = read_fields(data).space
    np.testing.assert_allclose(space.points["clat"], lat, atol=1e-9)
    np.testing.assert_allclose(space.points["clon"], lon, atol=1e-9)
    assert space.units["clat"] == "degrees_north"
    assert "converted clat from radians to degrees" in read_fields(data).notes


def test_dates_as_numbers_and_durations_are_times():
    """20190331 and 20190401 are a day apart, not seventy."""
    days = np.array(["2019-03-30", "2019-03-31", "2019-04-01"], dtype="M8[D]")
    values = np.random.default_rng(0).normal(size=(3, 5))

    def read(times, **attributes):
        axes = {"time": ("time", times, attributes)}
        return read_fields(xarray.Dataset({"t": (("time", "x"), values)}, axes))

    written = [float(str(d).replace("-", "")) for d in days]
    for found in (read(np.array(written)), read(np.array(written, dtype=int))):
        assert (found.space.dt, found.start) == (24.0, "2019-03-30T00:00:00")
        assert found.states.shape[1] == 3
        assert "took numbers such as 20190321 for dates" in found.notes
    half = np.array([20190330.0, 20190330.5, 20190331.0])
    found = read(half, units="day as %Y%m%d.%f")
    assert (found.space.dt, found.start) == (12.0, "2019-03-30T00:00:00")
    # What is no date stays model time.
    assert read(np.array([20190350.0, 20190351.0, 20190352.0])).start is None
    assert read(np.array([20190301.0, 20190302.0, 20190303.0]), units="s").start is None
    assert read(np.arange(3) * np.timedelta64(3600 * 10**9, "ns")).space.dt == 1.0


@pytest.mark.parametrize("unit", ["Hours Since 2019-03-01", "HOURS SINCE 2019-03-01 00:00:00"])
@pytest.mark.parametrize("stored", [False, True])
def test_units_of_times_may_have_capitals(tmp_path, unit, stored):
    axes = {"time": ("time", np.arange(5.0), {"units": unit}), "x": [1.0, 2.0]}
    data = xarray.Dataset({"t": (("time", "x"), np.arange(10.0).reshape(5, 2))}, axes)
    if stored:
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        data = tmp_path / "a.nc"
    found = read_fields(data)
    assert (found.space.dt, found.start) == (1.0, "2019-03-01T00:00:00")
    assert found.space.coordinates["x"].tolist() == [1.0, 2.0]
    assert found.states[0].tolist() == np.arange(10.0).reshape(5, 2).tolist()


@pytest.mark.parametrize("units, calendar", [("years since 1900-01-01", "standard"),
                                              ("days since 1900-01-01", "none")])  # fmt: skip
def test_times_that_cannot_be_decoded_are_named(units, calendar):
    axes = {"time": ("time", np.arange(3.0), {"units": units, "calendar": calendar})}
    data = xarray.Dataset({"t": (("time", "x"), np.zeros((3, 5)))}, axes)
    with pytest.raises(ValueError, match=r"times that cannot be decoded .* give them units such"):
        read_fields(data)


def test_repeated_and_swapped_times_are_named():
    twice = record().isel(time=[*range(20), 19, *range(20, 60)])
    with pytest.raises(ValueError, match=r"2019-03-01T19.* twice \(fields 20 and 21\)"):
        read_fields(twice)
    with pytest.raises(ValueError, match=r"2019-03-01T00.* after 2019-03-01T09"):
        read_fields(record().isel(time=[*range(5, 10), *range(5), *range(10, 60)]))


def test_times_that_are_text_or_fewer_than_two_are_refused():
    text = record().assign_coords(time=[f"day {k}" for k in range(60)])
    with pytest.raises(ValueError, match="a time day 0, which is text"):
        read_fields(text)
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"{count} times: a record needs at least 2"):
            read_fields(record().isel(time=slice(count)))


@pytest.mark.parametrize("code", [-9999.0, -999.9, 1e20, 99999.9])
def test_codes_for_missing_values_are_named(code):
    data = record()
    data["t2m"] = data.t2m.where(np.random.default_rng(1).random(data.t2m.shape) > 0.01, code)
    with pytest.raises(ValueError, match=re.escape(f"far from all others, {code:g} ")):
        read_fields(data)


def test_heavy_tails_are_no_codes():
    """Rain: zero in half of the cases, and log-normal over three orders of magnitude."""
    rng = np.random.default_rng(2)
    data = record()
    rain = np.exp(1.5 * rng.normal(size=data.t2m.shape)) * (rng.random(data.t2m.shape) > 0.5)
    assert read_fields(data.assign(t2m=(data.t2m.dims, rain))).states.max() > 30


def test_the_parts_of_a_record_are_put_together(tmp_path):
    for i in range(3):
        part = record().isel(time=slice(20 * i, 20 * i + 20))
        part.to_netcdf(tmp_path / f"{i}.nc", engine="h5netcdf")
    for source in (tmp_path / "*.nc", [tmp_path / f"{i}.nc" for i in (2, 0, 1)]):
        assert (read_fields(source).states == read_fields(record()).states).all()


PARTS = {
    "another unit": (
        lambda d: (d - 273.15).assign(t2m=lambda e: e.t2m.assign_attrs(units="degC")),
        r"1\.nc has 't2m' in degC, and \S*0\.nc in K: convert one",
    ),
    "a unit that is none": (
        lambda d: d.assign(t2m=d.t2m.assign_attrs(units="?")),
        r"1\.nc has 't2m' in \?",
    ),
    "some times again": (lambda d: d, "whose times follow each other"),
    "another calendar": (
        lambda d: d.convert_calendar("noleap", use_cftime=True),
        r"cannot be put together .* give parts of the same variables",
    ),
}


@pytest.mark.parametrize("how", PARTS)
def test_parts_that_do_not_fit_are_named(tmp_path, how):
    """Without their units, 280 K and 7 degC would be one record."""
    change, says = PARTS[how]
    begin = 25 if how == "some times again" else 30
    record().isel(time=slice(0, 30)).to_netcdf(tmp_path / "0.nc", engine="h5netcdf")
    later = change(record().isel(time=slice(begin, 60)))
    later.to_netcdf(tmp_path / "1.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=says):
        read_fields(tmp_path / "*.nc")


def test_parts_may_spell_their_unit_otherwise(tmp_path):
    record().isel(time=slice(0, 30)).to_netcdf(tmp_path / "0.nc", engine="h5netcdf")
    later = record().isel(time=slice(30, 60))
    later = later.assign(t2m=later.t2m.assign_attrs(units="kelvin"))
    later.to_netcdf(tmp_path / "1.nc", engine="h5netcdf")
    found = read_fields(tmp_path / "*.nc")
    assert (found.states == read_fields(record()).states).all()
    assert found.space.units["t2m"] == "K"


class Counted(BackendArray):
    """An array on disk, of which it counts what is read."""

    def __init__(self, values):
        self.shape, self.dtype = values.shape, values.dtype
        self.values, self.read = values, []

    def __getitem__(self, key):
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self.part)

    def part(self, key):
        part = self.values[key]
        self.read.append(part.size)
        return part


def lazily(values):
    """Return a data set of hourly fields that are read when they are looked at."""
    counted = Counted(values)
    array = indexing.LazilyIndexedArray(counted)
    times = np.datetime64("2020-01-01", "ns") + np.arange(len(values)) * np.timedelta64(1, "h")
    axes = {"time": times, "y": np.arange(4.0), "x": np.arange(5.0)}
    variable = xarray.Variable(("time", "y", "x"), array)
    return xarray.Dataset({"t": variable}, axes), counted


def test_a_window_reads_the_window_and_a_long_file_is_read_in_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(280, 2, (1000, 4, 5)).astype(np.float32)
    data, counted = lazily(values)
    window = read_fields(data, "t", since="2020-01-05", until="2020-01-08")
    assert sum(counted.read) == 96 * 20
    np.testing.assert_array_equal(window.states[0], values[96:192])
    monkeypatch.setattr(records, "NUMBERS", 2000)
    monkeypatch.setattr(inspection, "NUMBERS", 2000)
    data, counted = lazily(values)
    whole = read_fields(data, "t")
    assert max(counted.read) == 2000 and sum(counted.read) == values.size
    np.testing.assert_array_equal(whole.states[0], values)
    data, counted = lazily(values)
    assert f"{values.min():.6g} to {values.max():.6g}" in str(inspection.inspect(data))
    assert max(counted.read) == 2000 and sum(counted.read) == values.size


def test_a_long_file_is_inspected_as_one_block_is(monkeypatch):
    """Gaps, land and codes are counted and placed alike."""
    values = np.random.default_rng(0).normal(280, 2, (300, 4, 5))
    values[:, 0, 0], values[7, 2, 2] = np.nan, np.nan
    values[[40, 250], 1, 1] = -9999.0
    whole = str(inspection.inspect(lazily(values)[0]))
    assert "2 values of t are far from all others, such as -9999 in field 41, field 251" in whole
    assert "-9999 to" in whole and "missing at times" in whole and "1 of 20 points" in whole
    monkeypatch.setattr(inspection, "NUMBERS", 800)
    assert str(inspection.inspect(lazily(values)[0])) == whole


def test_blocks_of_times_are_whole_chunks_of_the_file():
    data = xarray.Dataset({"t": (("time", "x"), np.zeros((100, 5)), {}, {"preferred_chunks": {}})})
    chunks = data["t"].encoding["preferred_chunks"]

    def ends(numbers, first=0):
        rows = list(blocks.time_blocks(data, numbers, first))
        assert rows[0].start == 0 and [r.start for r in rows[1:]] == [r.stop for r in rows[:-1]]
        return [r.stop for r in rows]

    assert ends(200) == [40, 80, 100]
    chunks["time"] = 24
    assert ends(300) == [48, 96, 100]
    # The window begins 10 times after the beginning of a chunk.
    assert ends(300, 34) == [14, 62, 100]
    # One chunk is read whole, unless it is far larger than a block.
    assert ends(30) == [24, 48, 72, 96, 100]
    assert ends(5)[:2] == [8, 16]


@pytest.mark.parametrize("change", ["units", "positions"])
def test_a_window_that_is_converted_or_completed_reads_the_window(monkeypatch, change):
    """Two blocks more at most: those of which it has a part."""
    values = np.random.default_rng(0).normal(7, 2, (1000, 4, 5)).astype(np.float32)
    for module in (blocks, fields, tables):
        monkeypatch.setattr(module, "NUMBERS", 200)
    data, counted = lazily(values)
    rows = 5 if change == "positions" else 4
    axes = {"y": np.arange(float(rows)), "x": np.arange(5.0)}
    units = {"time": "hours", "t": "K"}
    space = StateSpace((rows, 5), 1.0, ("t",), axes, {}, units)
    data["t"].attrs["units"] = "K" if change == "positions" else "degC"
    made = Observations.from_array(data, space, 1.0, "t", start="2020-01-05", steps=95)
    offset = 0.0 if change == "positions" else 273.15
    expected = (values[96:192].astype(float) + offset).reshape(96, 20)
    np.testing.assert_allclose(made.values.numpy(), expected, rtol=1e-6)
    assert sum(counted.read) <= 96 * 20 + 2 * 200 and max(counted.read) <= 200
    if change == "units":
        counted.read.clear()
        truth, _ = fields.read_states(data, space, 95, "2020-01-05")
        assert np.array_equal(truth.numpy().reshape(96, 20), expected)
        assert sum(counted.read) <= 96 * 20 + 2 * 200 and max(counted.read) <= 200


def test_static_fields_are_on_the_grid_of_the_space():
    """By their labels, whatever the order of their axes; none of them is a state or left out."""
    ground = np.arange(12.0).reshape(3, 4)
    data = record(lat=(47.0, 46.0, 45.0)).assign(height=(("latitude", "longitude"), ground))
    data = data.assign(mask=(("longitude", "latitude"), ground.T > 4))
    # As several files put together have it.
    data["repeated"] = data.height.expand_dims(time=data.time)
    found = read_fields(data, static=("height", "mask", "repeated"))
    assert found.space.variables == ("t2m",) and found.notes == ()
    for name in ("height", "repeated"):
        np.testing.assert_array_equal(found.static[name], ground[::-1])
    np.testing.assert_array_equal(found.static["mask"], ground[::-1] > 4)
    other = record(lon=(0.0, 1.0, 2.0, 9.0)).drop_vars("t2m").assign_coords(latitude=data.latitude)
    with pytest.raises(ValueError, match=r"static field h is of another grid.*all positions"):
        on_grid({"h": other.assign(h=(("latitude", "longitude"), ground)).h}, found.space)


def test_static_fields_are_read_like_the_record():
    """The time may have another name, and what stands for missing values is none of them."""
    ground = np.arange(12.0).reshape(3, 4)
    data = record().assign(height=(("latitude", "longitude"), ground))
    data["repeated"] = data.height.expand_dims(time=data.time)
    data["date"] = data.height.astype("M8[ns]")
    found = read_fields(data.rename(time="valid_time"), "t2m", static=("repeated",), missing=[5.0])
    expected = np.where(ground == 5, np.nan, ground)
    np.testing.assert_array_equal(found.static["repeated"], expected)
    with pytest.raises(ValueError, match=r"'date' as datetime64.*needs real numbers"):
        read_fields(data, "t2m", static=("date",))


def test_named_axes_close():
    found = read_fields(record(), periodic=("longitude",))
    assert found.space.period == {"longitude": 4.0}
    with pytest.raises(ValueError, match="not three or more in equal steps"):
        read_fields(record(lon=(0.0, 1.0, 3.0, 4.0)), periodic=("longitude",))
