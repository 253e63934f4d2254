"""Files of the Met Office: several variables, levels, calendars (skipped without the package)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from torch.testing import assert_close

import scorda as sc
from scorda.diffusion.training import Training
from scorda.priors.from_fields import train_on_fields
from scorda.reading.records import read_fields

sample = pytest.importorskip("iris_sample_data", reason="pip install iris-sample-data")
FOLDER = Path(sample.path)
FEW = Training(training_steps=2, batch=4, segment=5, rate=1e-3, validation=0.2, every=2)


def test_a_record_of_240_years_in_a_calendar_of_360_days():
    path = FOLDER / "E1_north_america.nc"
    fields = read_fields(path)
    space = fields.space
    assert len(fields) == 240 and space.shape == (37, 49) and not fields.missing
    # Every step of a year has 360 days, from 1860 to 2099.
    assert space.calendar == "360_day" and space.dt == 360 * 24 and not space.period
    assert fields.start == "1860-06-01T00:00:00"
    with xarray.open_dataset(path) as data:
        given = torch.from_numpy(data["air_temperature"].values)
        assert_close(fields.states[0], given, rtol=0, atol=0)
    # 30 February is a date of this calendar.
    late = read_fields(path, since="2000-02-30", until="2050-12-30")
    assert len(late) == 51 and late.start == "2000-06-01T00:00:00"
    text = str(sc.inspect(path))
    assert "360_day" in text and "240 times" in text and "air_temperature" in text


@pytest.mark.slow
def test_a_prior_of_a_record_in_a_calendar_of_360_days_has_its_spread():
    """Years are independent enough: the standard error of the spread of 40 fields is 11 %."""
    fields = read_fields(FOLDER / "E1_north_america.nc", since="1960-01-01", until="1999-12-30")
    prior = train_on_fields(fields, modes=20, corrected=2, width=8, settings=FEW)
    assert prior.space.calendar == "360_day" and prior.diurnal_mean is None
    law = prior.network.spectrum
    inside = float(law[:-1].sum() + law[-1] * (fields.space.size - 20)) / fields.space.size
    found = prior.provenance
    # The law has the variance of the record, times its factors.
    assert inside == pytest.approx(found["inflation"] * found["factor"], rel=1e-3)
    drawn = prior.sample(4, 1, torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()


def test_profiles_have_two_variables_forty_levels_and_no_times():
    path = FOLDER / "atlantic_profiles.nc"
    text = str(sc.inspect(path))
    assert "40 positions, m (level)" in text and "salinity" in text and "K" in text
    assert "33 of 1920 points are never there" in text
    assert "there are no times" in text
    with pytest.raises(ValueError, match="it needs a time with coordinates"):
        read_fields(path)


@pytest.mark.slow
def test_a_record_of_two_variables_in_depth_has_a_spread_for_each_level(tmp_path):
    """Red noise of another size at each level, on the profiles of the file."""
    with xarray.open_dataset(FOLDER / "atlantic_profiles.nc") as data:
        profiles = data.drop_vars("time").isel(depth=[0, 13, 26, 39]).load()
    size = xarray.DataArray([1.0, 0.5, 0.25, 0.125], dims="depth")
    times = np.datetime64("1984-01-01", "ns") + np.arange(24) * np.timedelta64(5, "D")
    random = np.random.default_rng(0)
    made = {}
    for name, unit in (("theta", 1.0), ("salinity", 0.1)):
        noise = xarray.DataArray(random.standard_normal(24), {"time": times}, dims="time")
        made[name] = (profiles[name] + unit * size * noise).transpose("time", ...)
        made[name].attrs = profiles[name].attrs
    xarray.Dataset(made).to_netcdf(tmp_path / "ocean.nc", engine="h5netcdf")
    fields = read_fields(tmp_path / "ocean.nc")
    assert set(fields.space.variables) == {"salinity", "theta"}
    assert fields.space.shape == (2, 4, 6, 8) and fields.space.units["theta"] == "K"
    land = profiles["theta"].isnull().values | profiles["salinity"].isnull().values
    longitude = np.argsort((profiles["lon"].values + 180) % 360)
    there = torch.from_numpy(~land[..., longitude])
    assert 0 < (~there).sum() < 33
    assert (torch.as_tensor(fields.space.mask) == there).all()
    prior = train_on_fields(fields, modes=6, corrected=2, width=8, settings=FEW)
    std = prior.standardisation.std[:, :, 0, 0]
    theta = fields.space.variables.index("theta")
    assert_close(std[theta] / std[theta, 0], torch.from_numpy(size.values), rtol=1e-4, atol=0)
    drawn = prior.sample(2, 1, torch.Generator().manual_seed(0))
    assert (drawn[:, :, theta].isfinite() == there).all()
