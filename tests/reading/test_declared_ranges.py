"""What lies outside the range that a variable declares is missing, in whatever numbers it does."""

import numpy as np
import pytest
import xarray

from scorda.reading.opening import open_data
from scorda.reading.records import read_fields

VALUES = np.random.default_rng(0).uniform(2.0, 30.0, (40, 3, 4)).round(1)
LAND = -1.5


def record(**attributes):
    values = VALUES.copy()
    values[:, 1] = LAND
    axes = {"time": np.datetime64("2019-03-01", "ns") + np.arange(40) * np.timedelta64(1, "D")}
    data = {"sst": (("time", "y", "x"), values, {"units": "degC", **attributes})}
    return xarray.Dataset(data, axes)


RANGES = {
    "a range": {"valid_range": np.array([0.0, 40.0])},
    "a minimum": {"valid_min": 0.0},
    "a minimum and a maximum": {"valid_min": np.float32(0.0), "valid_max": np.float32(40.0)},
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("given", RANGES)
def test_a_flag_outside_of_the_range_is_land(tmp_path, given, stored):
    """-1.5 degC is no outlier: the range alone says that it is none of the values."""
    source = record(**RANGES[given])
    if stored:
        source.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        source = tmp_path / "a.nc"
    found = read_fields(source)
    assert found.space.mask is not None
    assert found.space.mask.tolist() == [[True] * 4, [False] * 4, [True] * 4]
    np.testing.assert_allclose(found.states[0, :, [0, 2]].numpy(), VALUES[:, [0, 2]])
    assert any("(valid_range) for missing" in note for note in found.notes)


@pytest.mark.parametrize("scale", [0.1, -0.1])
def test_a_range_of_packed_numbers_is_one_of_these(tmp_path, scale):
    packed = {"dtype": "int16", "scale_factor": scale, "add_offset": 10.0, "_FillValue": -32768}
    # 0 to 40 degC are these integers, in this order where the scale is negative.
    bounds = np.sort(np.round((np.array([0.0, 40.0]) - 10.0) / scale)).astype(np.int16)
    source = record(valid_range=bounds)
    source.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"sst": packed})
    once = open_data(tmp_path / "a.nc")
    for data in (once, open_data(once)):
        assert np.isnan(data["sst"].values[:, 1]).all()
        np.testing.assert_allclose(data["sst"].values[:, [0, 2]], VALUES[:, [0, 2]], atol=1e-9)


@pytest.mark.parametrize("text", ["0, 40", [0.0, 1.0, 2.0], [40.0, 0.0]])
def test_a_range_that_is_none_is_left_alone(text):
    assert read_fields(record(valid_range=text)).missing == 0


def test_the_range_is_said_as_it_is_declared():
    notes = read_fields(record(valid_range=np.array([0.0, 40.0]))).notes
    assert notes[0] == "took values of sst outside 0 to 40 (valid_range) for missing"
