"""Land and missing values of records and of truths."""

import numpy as np
import pytest
import torch
import xarray

from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.priors.from_fields import train_on_fields
from scorda.reading.fields import read_states
from scorda.reading.records import Fields, read_fields

FEW = Training(training_steps=4, batch=4, segment=8, rate=1e-3, validation=0.2, every=2)


def dataset(times=30, **variables):
    """Fields of 3 latitudes and 4 longitudes, an hour apart."""
    dims = ("time", "latitude", "longitude")
    rows = np.random.default_rng(0)
    data = variables or {"t": rows.normal(280, 2, (times, 3, 4))}
    return xarray.Dataset(
        {name: (dims, values, {"units": "K"}) for name, values in data.items()},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(times) * np.timedelta64(1, "h"),
            "latitude": ("latitude", np.arange(3.0), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(4.0), {"units": "degrees_east"}),
        },
    )


def test_what_is_never_there_is_land_and_what_comes_and_goes_is_missing():
    given = dataset()
    given["t"][:, 2, 3] = np.nan
    given["t"][4, 0, 0] = np.nan
    given = given.isel(time=[*range(10), *range(11, 30)])
    fields = read_fields(given)
    assert fields.space.mask.tolist() == [[True] * 4, [True] * 4, [True] * 3 + [False]]
    # One value, and the 11 points of a field.
    assert fields.missing == 12 and fields.states.shape == (1, 30, 3, 4)
    assert "1 of 12 points have no values (land)" in fields.notes
    assert "12 values are missing (3.64%)" in fields.notes
    assert read_fields(dataset()).space.mask is None and read_fields(dataset()).missing == 0


def test_a_declared_fill_value_is_land(tmp_path):
    given = dataset()
    given["t"][:, 0, 1] = np.nan
    given["t"].encoding = {"_FillValue": -999.0, "dtype": "f4"}
    given.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert (~read_fields(tmp_path / "a.nc").space.mask).sum() == 1


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_values_that_stand_for_missing_are_named(kind):
    given = dataset().astype(kind)
    given["t"][3, 1, 1] = -999.9
    given["t"][5, 1, 1] = 1e20
    given["t"][:, 0, 0] = -999.9
    with pytest.raises(ValueError, match="far from all others"):
        read_fields(given)
    fields = read_fields(given, missing=[-999.9, 1e20])
    assert fields.missing == 2 and not fields.space.mask[0, 0]
    assert float(given["t"][5, 1, 1]) == np.dtype(kind).type(1e20), "the source stays as it is"
    assert fields.states.numpy().dtype == kind


def test_land_of_one_variable_is_land_of_all():
    given = dataset(
        t=np.random.default_rng(0).normal(size=(30, 3, 4)),
        s=np.random.default_rng(1).normal(size=(30, 3, 4)),
    )
    given["s"][:, 0, 0] = np.nan
    given["t"][:, 1, 1] = np.nan
    fields = read_fields(given)
    assert (~fields.space.mask).sum() == 2
    assert "left out points that have values of some of the variables only" in fields.notes
    assert fields.states[0, :, :, 0, 0].isnan().all() and fields.missing == 0


def test_records_without_values_are_refused():
    given = dataset()
    given["t"][:] = np.nan
    with pytest.raises(ValueError, match="no values of t"):
        read_fields(given)
    given = dataset(t=np.ones((30, 3, 4)), s=np.ones((30, 3, 4)))
    given["t"][:, :2] = np.nan
    given["s"][:, 2:] = np.nan
    with pytest.raises(ValueError, match="no point with values of all"):
        read_fields(given)
    with pytest.raises(ValueError, match="1 values of the fields"):
        Fields(torch.tensor([[1.0], [np.inf], [np.nan]]), StateSpace((1,)))


def test_levels_that_are_all_land_have_a_law():
    """The floor of an ocean: a level without points, and one with fewer."""
    rows = np.random.default_rng(0).normal(size=(40, 3, 2, 3))
    rows[:, 2] = np.nan
    rows[:, 1, 0, 0] = np.nan
    given = xarray.Dataset(
        {"t": (("time", "depth", "latitude", "longitude"), rows)},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(40) * np.timedelta64(1, "h"),
            "depth": ("depth", [0.0, 10.0, 20.0], {"units": "m"}),
            "latitude": ("latitude", [0.0, 1.0], {"units": "degrees_north"}),
            "longitude": ("longitude", [0.0, 1.0, 2.0], {"units": "degrees_east"}),
        },
    )
    fields = read_fields(given)
    assert int(fields.space.mask.sum()) == 11
    prior = train_on_fields(fields, corrected=2, width=4, settings=FEW)
    drawn = prior.sample(2, 1, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[0, 0].isfinite(), torch.from_numpy(fields.space.mask))


def test_a_truth_may_be_absent_on_land():
    """Of the prior, of the truth, or of both; a value that is missing once is an error."""
    given = dataset()
    axes = {name: given[name].values for name in ("latitude", "longitude")}
    units = {"latitude": "degrees_north", "longitude": "degrees_east", "time": "hours", "t": "K"}
    mask = np.ones((3, 4), dtype=bool)
    mask[0, 0] = False
    whole = StateSpace((3, 4), 1.0, ("t",), axes, units=units)
    masked = StateSpace((3, 4), 1.0, ("t",), axes, units=units, mask=mask)
    assert read_states(given, masked, 5, "2020-01-01")[0][:, 0, 0].isnan().all()
    given["t"][:, 0, 0] = np.nan
    for space in (masked, whole):
        states, _ = read_states(given, space, 5, "2020-01-01")
        assert torch.equal(states.isnan(), ~torch.from_numpy(mask).expand(6, 3, 4))
    notes = read_states(given, whole, 5, "2020-01-01")[1]
    assert "1 of 12 values are never there (land)" in notes
    given["t"][2, 1, 1] = np.nan
    for space in (masked, whole):
        with pytest.raises(ValueError, match="1 values of states"):
            read_states(given, space, 5, "2020-01-01")
    given["t"][:] = np.nan
    with pytest.raises(ValueError, match="no value at steps 0 to 5"):
        read_states(given, whole, 5, "2020-01-01")
