"""Records, truths and fields on points that have positions of their own."""

import numpy as np
import pytest
import torch
import xarray

import scorda as sc
from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.reading.fields import aligned, read_states
from scorda.reading.inspection import inspect
from scorda.reading.records import read_fields
from scorda.reading.stations import is_gridded

HOURS = np.arange(5) * np.timedelta64(1, "h") + np.datetime64("2020-01-01", "ns")


def _mesh(seed: int = 0, size: int = 20, **attributes: str) -> xarray.Dataset:
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(40, 60, size), rng.uniform(350, 370, size) % 360
    return xarray.Dataset(
        {"temp": (("time", "cell"), rng.normal(size=(5, size)), {"units": "K"})},
        {
            "time": HOURS,
            "lat": ("cell", latitude, {"standard_name": "latitude"}),
            "lon": ("cell", longitude, {"standard_name": "longitude"}),
        },
        attributes,
    )


def _curvilinear() -> xarray.Dataset:
    y, x = np.meshgrid(np.arange(4.0), np.arange(6.0), indexing="ij")
    values = np.random.default_rng(0).normal(size=(5, 4, 6))
    return xarray.Dataset(
        {
            "temp": (("time", "y", "x"), values),
            "nav_lat": (("y", "x"), 40 + y + 0.2 * x),
            "nav_lon": (("y", "x"), 10 + x - 0.1 * y),
        },
        {"time": HOURS},
    )


def _same(a: StateSpace, b: StateSpace) -> bool:
    return a == b and a == StateSpace.from_json(a.as_json())


def test_a_record_on_cells_has_their_positions(tmp_path):
    record = _mesh()
    record.to_netcdf(tmp_path / "mesh.nc")
    fields = read_fields(tmp_path / "mesh.nc")
    space = fields.space
    assert space.axes == ("cell",) and space.position_names == ("lat", "lon")
    assert (space.points["lat"] == record["lat"].values).all()
    # Longitudes across the seam are of one piece.
    assert (space.points["lon"] % 360 == record["lon"].values % 360).all()
    assert np.ptp(space.points["lon"]) < 20
    assert space.units["lat"] == "degrees_north" and space.sphere == (0, 1)
    assert (fields.states[0].numpy() == record["temp"].values).all()
    assert any("positions of points (unstructured)" in note for note in fields.notes)
    assert _same(space, read_fields(record).space)


def test_a_curvilinear_record_needs_no_attributes():
    fields = read_fields(_curvilinear())
    assert fields.space.axes == ("y", "x") and fields.space.shape == (4, 6)
    assert fields.space.position_names == ("nav_lat", "nav_lon")
    assert (fields.space.points["nav_lat"] == _curvilinear()["nav_lat"].values).all()
    turned = _curvilinear().transpose("x", "time", "y")
    assert np.array_equal(
        read_fields(turned).space.points["nav_lon"].T, _curvilinear()["nav_lon"].values
    )


def test_axes_with_latitudes_under_other_names_are_a_grid():
    record = _curvilinear().drop_vars(["nav_lat", "nav_lon"])
    places = {"lat": ("y", [3.0, 2.0, 1.0, 0.0]), "lon": ("x", np.arange(6.0))}
    space = read_fields(record.assign_coords(places)).space
    assert space.points is None and space.axes == ("lat", "lon")
    assert space.coordinates["lat"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_levels_are_an_axis_beside_the_points():
    record = _mesh()
    level = xarray.DataArray([850.0, 500.0], dims="level", name="level")
    record = record.assign(temp=record["temp"] * level.assign_coords(level=level))
    space = read_fields(record).space
    assert space.axes == ("cell", "level") and space.position_names == ("level", "lat", "lon")
    assert space.points["level"].tolist() == [[500.0, 850.0]] * 20
    data, _ = aligned(record.isel(cell=slice(None, None, -1)), space)
    expected = record["temp"].transpose("time", "cell", "level").values[..., ::-1]
    assert np.array_equal(data["temp"].values, expected)


@pytest.mark.parametrize("record", [_mesh(), _curvilinear()], ids=["cells", "curvilinear"])
def test_truths_are_matched_by_position_in_any_order(record):
    space = read_fields(record).space
    expected, _ = read_states(record, space, 4, HOURS[0])
    flat = record
    if "y" in record.dims:
        flat = record.stack(cell=("y", "x")).reset_index("cell", drop=True)
        flat = flat.set_coords(["nav_lat", "nav_lon"])
    order = np.random.default_rng(1).permutation(flat.sizes["cell"])
    shuffled = flat.isel(cell=order)
    lon = "lon" if "lon" in flat.coords else "nav_lon"
    # A metre off, and in another convention of longitudes.
    moved = (shuffled[lon] + 180) % 360 - 180 + 1e-5
    states, _ = read_states(shuffled.assign_coords({lon: moved}), space, 4, HOURS[0])
    assert torch.equal(states, expected)


def test_truths_at_other_points_are_refused():
    space = read_fields(_mesh()).space
    with pytest.raises(ValueError, match=r"it needs all points of the space, and .* space alone"):
        read_states(_mesh(seed=1), space, 4, HOURS[0])
    with pytest.raises(ValueError, match="it needs all points"):
        read_states(_mesh().isel(cell=slice(1, None)), space, 4, HOURS[0])
    with pytest.raises(ValueError, match="without a position of each point"):
        read_states(_mesh().drop_vars(["lat", "lon"]), space, 4, HOURS[0])
    grid = StateSpace((20,), coordinates={"cell": np.arange(20)}, variables=("temp",))
    with pytest.raises(ValueError, match="interpolate it to these"):
        read_states(_mesh(), grid, 4)


def test_fields_of_observations_may_lack_points():
    space = read_fields(_mesh()).space
    part = _mesh().isel(cell=[7, 3])
    seen = Observations.from_array(part, space, 0.1, start=HOURS[0])
    assert seen.values.shape == (5, 2)
    assert np.allclose(seen.values, _mesh()["temp"].values[:, [3, 7]])
    with pytest.raises(ValueError, match="each must be a point"):
        Observations.from_array(_mesh(seed=1), space, 0.1, start=HOURS[0])


def test_a_table_observes_points_and_between_them():
    space = read_fields(_mesh()).space
    lat, lon = (space.points[n] for n in ("lat", "lon"))
    table = {
        "time": [0.0, 0.0, 0.0, 0.0, 0.0],
        "latitude": [lat[3], lat[:3].mean(), 10.0, 95.0, np.nan],
        "lon": [lon[3] + 360, lon[:3].mean(), 0.0, 0.0, 0.0],
        "value": [1.0, 2.0, 3.0, 4.0, 5.0],
        "std": [0.1] * 5,
    }
    seen = Observations.from_table(table, space)
    assert [row for row, _ in seen.unused] == [3, 4, 5]
    assert seen.unused[0].reason == "position outside the domain"
    place = space.positions()[3].tolist()
    assert any(torch.allclose(p, torch.tensor(place)) for p in seen.model.operator.points)
    exact = Observations.from_table({n: c[:1] for n, c in table.items()}, space)
    assert exact.model.operator == sc.Select([3])


def test_stations_are_rows_for_observations_and_points_for_training():
    stations = _mesh(featureType="timeSeries").rename(cell="station")
    assert not is_gridded(stations)
    said = inspect(stations)
    assert said.kind == "table" and "scorda train" in dict(said.facts)["as a record"]
    assert read_fields(stations).space.axes == ("station",)
    space = read_fields(_mesh()).space
    rows = Observations.from_table(stations, space, std=0.1, start=HOURS[0])
    assert rows.values.shape == (5, 20) and isinstance(rows.model.operator, sc.Select)
    said = inspect(_mesh())
    assert said.kind == "fields" and "of each point of cell" in dict(said.facts)["lat"]


def test_positions_that_are_missing_or_not_clear_are_refused():
    record = _mesh()
    latitude = record["lat"].values.copy()
    latitude[4] = np.nan
    with pytest.raises(ValueError, match="lacks lat of 1 points"):
        read_fields(record.assign_coords(lat=("cell", latitude, record["lat"].attrs)))
    twice = record.assign_coords(lat_b=("cell", latitude, {"standard_name": "latitude"}))
    with pytest.raises(ValueError, match="several coordinates of latitude"):
        read_fields(twice)
    twice["temp"].encoding["coordinates"] = "lat lon"
    assert read_fields(twice).space.position_names == ("lat", "lon")


def test_rows_take_the_nearest_point_where_that_is_asked_for():
    space = read_fields(_mesh()).space
    lat, lon = (space.points[n] for n in ("lat", "lon"))
    table = {
        "time": [0.0, 0.0, 0.0],
        "lat": [lat[3] + 0.1, -50.0, np.nan],
        "lon": [lon[3], lon[3], 0.0],
        "value": [1.0, 2.0, 3.0],
        "std": [0.1] * 3,
    }
    seen = Observations.from_table(table, space, nearest=20.0)
    assert seen.model.operator == sc.Select([3])
    assert [reason for _, reason in seen.unused] == [
        "position far from all points",
        "missing position",
    ]
    with pytest.raises(ValueError, match="nearest = 0"):
        Observations.from_table(table, space, nearest=0.0)
