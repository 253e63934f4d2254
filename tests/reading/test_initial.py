"""Initial ensembles are aligned with a space by their labels, as every other input is."""

import numpy as np
import pytest
import torch
import xarray
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.reading.ensembles import read_initial, read_predicted

LAT, LON = np.arange(45.0, 49.0), np.arange(-5.0, 0.0)
START = "2019-03-15T00:00"
UNITS = {"time": "hours", "latitude": "degrees_north", "longitude": "degrees_east"}
SPACE = StateSpace(
    (4, 5),
    1.0,
    ("t2m",),
    {"latitude": LAT, "longitude": LON},
    units={"t2m": "K", **UNITS},
)
VALUES = np.random.default_rng(0).normal(280.0, 3.0, (6, 4, 5))


def members(values=VALUES, axis="number"):
    return xarray.Dataset(
        {"t2m": ((axis, "latitude", "longitude"), values, {"units": "K"})},
        {
            axis: np.arange(len(values)),
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
        },
    )


def at_times(dataset, times, place):
    """The same members at one of several times, and others at the others."""
    parts = [dataset if k == place else dataset + 100.0 * (k + 1) for k in range(len(times))]
    return (
        xarray.concat(parts, "time")
        .assign_coords(time=times)
        .assign(t2m=lambda d: d.t2m.assign_attrs(units="K"))
    )


HOURS = np.datetime64(START, "ns") + np.arange(-1, 2) * np.timedelta64(1, "h")
NOLEAP = xarray.date_range(
    "2019-03-14T23:00", periods=3, freq="h", calendar="noleap", use_cftime=True
)

# Each is the same ensemble written by somebody else.
SAME = {
    "as it is": lambda d: d,
    "falling latitude": lambda d: d.isel(latitude=slice(None, None, -1)),
    "members last": lambda d: d.transpose("longitude", "latitude", "number"),
    "in degC": lambda d: (d - 273.15).assign(t2m=lambda e: e.t2m.assign_attrs(units="degC")),
    "longitudes from 0": lambda d: d.assign_coords(longitude=d.longitude % 360),
    "members named realization": lambda d: d.rename(number="realization"),
    "members named ensemble": lambda d: d.rename(number="ensemble"),
    "members named member, last": lambda d: d.rename(number="member").transpose(..., "member"),
    "members by their standard name": lambda d: d.rename(number="k").assign_coords(
        k=("k", np.arange(6), {"standard_name": "realization"})
    ),
    "several hours": lambda d: at_times(d, HOURS, 1),
    "several hours without leap years": lambda d: at_times(d, NOLEAP, 1),
    "one hour": lambda d: at_times(d, HOURS[1:2], 0),
    "one hour as a label alone": lambda d: d.assign_coords(valid_time=HOURS[1]),
    "several model times": lambda d: at_times(d, [0.0, 1.0], 0),
    "one entry of a level": lambda d: d.expand_dims(pressure_level=[850.0]),
}


@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("stored", ["", "initial.nc", "initial.zarr"])
def test_the_same_members_come_of_each_way_to_write_them(tmp_path, how, stored):
    source = SAME[how](members())
    if stored.endswith(".nc"):
        source.to_netcdf(tmp_path / stored, engine="h5netcdf")
    elif stored:
        source.to_zarr(tmp_path / stored)
    states, notes = read_initial(tmp_path / stored if stored else source, SPACE, START)
    # Sums with 273.15 are rounded once.
    assert_close(states, torch.from_numpy(VALUES), rtol=1e-14, atol=0)
    assert any("degC" in note for note in notes) == (how == "in degC")


WRONG = {
    "no members": (lambda d: d.isel(number=0), "needs one of the members"),
    "other latitudes": (lambda d: d.assign_coords(latitude=LAT + 1), "latitude 46 to 49"),
    "a unit of another kind": (
        lambda d: d.assign(t2m=d.t2m.assign_attrs(units="hPa")),
        "'t2m'.*hPa",
    ),
    "no such variable": (lambda d: d.rename(t2m="sst"), "needs 't2m'"),
    "a missing value": (lambda d: d.where(d.t2m != VALUES[2, 1, 1]), "1 values .* not finite"),
    "a member twice": (lambda d: d.assign_coords(number=[0, 1, 2, 3, 4, 4]), "'number' twice"),
    "other hours": (
        lambda d: at_times(d, HOURS + np.timedelta64(5, "D"), 0),
        "step 0 .2019-03-15",
    ),
    "one other hour": (lambda d: at_times(d, HOURS[:1], 0), "none is known to be that of step 0"),
    "other model times": (lambda d: at_times(d, [3.0, 4.0], 0), "times, 3.0 to 4.0"),
    "the first hour twice": (
        lambda d: at_times(d, HOURS[[1, 1, 2]], 0),
        "has the time of step 0 2 times",
    ),
    "times without labels": (lambda d: at_times(d, HOURS, 0).drop_vars("time"), "without labels"),
    "unequal weights": (
        lambda d: d.assign(weight=("number", [0.5, 0.1, 0.1, 0.1, 0.1, 0.1])),
        "unequal weight",
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_no_ensemble_at_the_start_is_refused(tmp_path, how):
    change, words = WRONG[how]
    path = tmp_path / "initial.nc"
    change(members()).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=words) as error:
        read_initial(path, SPACE, START)
    assert str(path) in str(error.value) and str(error.value).count(". ") == 0


def test_values_of_members_that_are_none_are_said():
    """Land, which is 0 in the states, is no such value."""
    code = members(np.where(LAT[:, None] == 46, -9999.0, VALUES))
    _, notes = read_initial(code, SPACE)
    assert notes == ("30 values of t2m are far from all others, such as -9999",)
    masked = StateSpace(
        (4, 5),
        1.0,
        ("t2m",),
        SPACE.coordinates,
        units=SPACE.units,
        mask=LON + 0 * LAT[:, None] < -1,
    )
    assert read_initial(members(), masked)[1] == ()


def test_predictions_may_be_a_data_set():
    values = VALUES[:, 0, :3]
    data = xarray.Dataset({"h": (("obs", "number"), values.T)}, {"number": np.arange(6)})
    found, unit = read_predicted(data, 6, 3, labels=np.arange(6))
    assert (found.tolist(), unit) == (values.tolist(), "")


def test_several_datetimes_need_the_start_and_a_single_one_is_said():
    with pytest.raises(ValueError, match="say when the run starts"):
        read_initial(at_times(members(), HOURS, 1), SPACE)
    _, notes = read_initial(at_times(members(), HOURS[:1], 0), SPACE)
    assert notes == ("took its only time, 2019-03-14T23:00:00, for step 0",)
    assert read_initial(at_times(members(), [7.0], 0), SPACE)[1] == (
        "took its only time, 7.0, for step 0",
    )


def test_one_member_is_an_ensemble_of_one():
    assert_close(read_initial(members(VALUES[:1]), SPACE)[0], torch.from_numpy(VALUES[:1]))


def test_land_may_be_missing_and_is_zero():
    mask = np.ones((4, 5), dtype=bool)
    mask[1, 2] = False
    space = StateSpace((4, 5), 1.0, ("t2m",), SPACE.coordinates, units=SPACE.units, mask=mask)
    values = np.where(mask, VALUES, np.nan)
    states, _ = read_initial(members(values), space)
    assert_close(states, torch.from_numpy(np.where(mask, VALUES, 0.0)))


def test_variables_and_parts_are_found_by_their_names():
    wind = StateSpace((2, 3), 1.0, ("u", "v"), {"x": np.arange(3.0)})
    cell = StateSpace((2,), 1.0, ("t",), {"y": np.arange(2.0)})
    data = {
        "t": (("y", "member"), np.arange(8.0).reshape(2, 4)),
        "v": (("member", "x"), np.arange(12.0).reshape(4, 3) + 20),
        "u": (("member", "x"), np.arange(12.0).reshape(4, 3) + 50),
    }
    x = {name: torch.from_numpy(v if d[0] == "member" else v.T) for name, (d, v) in data.items()}
    states, _ = read_initial(xarray.Dataset({n: data[n] for n in "vu"}), wind)
    assert_close(states, torch.stack([x["u"], x["v"]], 1))
    both = StateSpace.of_parts({"wind": wind, "cell": cell})
    assert_close(read_initial(xarray.Dataset(data), both)[0], both.joined(x))


def analysed(initial, system=None):
    system = system or sc.systems.Lorenz96(6)
    model = ObservationModel(Select([0, 3]), std=0.5)
    observations = Observations(model, [1, 2], torch.tensor([[1.0, 2.0], [0.5, 1.5]]))
    problem = Problem(system, observations, 3, initial)
    return problem, sc.EnKF(inflation=1.02).assimilate(problem, 8, rng.seeded(1)).states


def lorenz(states):
    """Members of Lorenz-96 from the last site to the first, members last."""
    names = {"member": np.arange(len(states)), "site": np.arange(states.shape[1])}
    array = xarray.DataArray(states.numpy(), names, ("member", "site"))
    return array.isel(site=slice(None, None, -1)).transpose("site", "member")


def test_a_problem_takes_a_labelled_ensemble_for_its_tensor():
    states = sc.systems.Lorenz96(6).prior(8, rng.seeded(0))
    labelled, expected = analysed(lorenz(states)), analysed(states)
    assert torch.equal(labelled[0].initial, states)
    assert torch.equal(labelled[1], expected[1])
    with pytest.raises(ValueError, match="5 positions"):
        analysed(lorenz(states).isel(site=slice(5)))
    with pytest.raises(ValueError, match="Asked for 8 members with an initial ensemble of 5"):
        analysed(lorenz(states[:5]))


def test_a_problem_takes_an_analysis_at_its_start():
    """The dataset of an analysis has several times, of which the first is that of step 0."""
    problem, states = analysed(None)
    analysis = sc.EnKF(inflation=1.02).assimilate(problem, 8, rng.seeded(1))
    assert torch.equal(analysed(analysis.to_xarray())[0].initial, states[:, 0])


def test_a_function_draws_of_a_labelled_sample_as_of_its_array():
    states = sc.systems.Lorenz96(6).prior(20, rng.seeded(0))
    space = sc.systems.Lorenz96(6).space

    def system(initial):
        return sc.systems.FunctionSystem(lambda x: x, initial, space)

    assert torch.equal(
        system(lorenz(states)).prior(8, rng.seeded(3)),
        system(states.numpy()).prior(8, rng.seeded(3)),
    )
    with pytest.raises(ValueError, match="needs one of the members"):
        system(lorenz(states).rename(member="time"))
