"""A state on several grids, from NetCDF to the trained prior, the store and its figures."""

import numpy as np
import pytest
import torch
import xarray

import scorda
from scorda import store
from scorda.cli import main
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.letkf import LETKF
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.reading.fields import aligned, read_states
from scorda.reading.inspection import inspect
from scorda.reading.records import read_fields
from scorda.report import html, maps
from scorda.store import scores
from scorda.systems.function import FunctionSystem

FLAGS = "--variable u --variable v --variable t"


def staggered(times=60, seed=0, axis=True):
    """A C-grid in hours, with a point of land among the temperatures."""
    draw = np.random.default_rng(seed)
    y, x = np.arange(3.0), np.arange(4.0)
    kind = {name: ({"axis": name[0].upper(), "units": "km"} if axis else {"units": "km"})
            for name in ("x", "y", "x_u", "y_v")}  # fmt: skip
    values = {
        name: draw.normal(0, size, (times, *shape))
        for name, size, shape in (("u", 5, (3, 5)), ("v", 5, (4, 4)), ("t", 1, (3, 4)))
    }
    values["t"][:, 1, 2] = np.nan
    dims = {"u": ("y", "x_u"), "v": ("y_v", "x"), "t": ("y", "x")}
    units = {"u": "m/s", "v": "m/s", "t": "K"}
    return xarray.Dataset(
        {n: (("time", *dims[n]), v, {"units": units[n]}) for n, v in values.items()},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(times) * np.timedelta64(1, "h"),
            "y": ("y", y, kind["y"]), "x": ("x", x, kind["x"]),
            "x_u": ("x_u", np.arange(5.0) - 0.5, kind["x_u"]),
            "y_v": ("y_v", np.arange(4.0) - 0.5, kind["y_v"]),
        },
    )  # fmt: skip


def test_a_record_on_several_grids_has_a_part_for_each():
    data = staggered()
    fields = read_fields(data, ("u", "v", "t"))
    space = fields.space
    assert list(space.parts) == ["u", "v", "t"] and space.position_names == ("y", "x")
    assert space.same_as == {"x_u": "x", "y_v": "y"}
    assert space.units["t"] == "K" and space.units["x_u"] == "km" and space.dt == 1.0
    assert fields.start.startswith("2020-01-01") and fields.missing == 0
    for name in ("u", "v", "t"):
        found = space.field(fields.states, name)[0].numpy()
        assert np.array_equal(found, data[name].values, equal_nan=True)
    assert not space.only("t").mask[1, 2] and space.only("u").mask is None
    # Without attributes the axes are of kinds of their own, and no name is parsed.
    plain = read_fields(staggered(axis=False), ("u", "t"))
    assert plain.space.position_names == ("y", "x_u", "x")
    assert read_fields(data, "t").space.parts is None
    assert read_fields(data.drop_vars("v"), ("u",)).space.variables == ("u",)
    with pytest.raises(ValueError, match="it needs 'w'"):
        read_fields(data, ("u", "w"))


def test_two_grids_of_latitudes_and_longitudes():
    draw = np.random.default_rng(0)

    def axes(lat, lon, rows, columns):
        return {
            lat: (lat, np.linspace(60, -60, rows), {"units": "degrees_north"}),
            lon: (lon, np.arange(columns) * 360 / columns, {"units": "degrees_east"}),
        }

    data = xarray.Dataset(
        {
            "air": (("time", "lat", "lon"), draw.normal(size=(30, 3, 8))),
            "sst": (("time", "lat_sea", "lon_sea"), draw.normal(size=(30, 5, 12))),
        },
        {"time": np.arange(30.0), **axes("lat", "lon", 3, 8),
         **axes("lat_sea", "lon_sea", 5, 12)},
    )  # fmt: skip
    fields = read_fields(data, ("sst", "air"))
    space = fields.space
    assert space.position_names == ("lat_sea", "lon_sea") and space.size == 84
    assert space.period == {"lon_sea": 360.0}
    # Falling latitudes are turned, in each grid.
    assert np.array_equal(space.field(fields.states, "sst")[0], data["sst"].values[:, ::-1])
    space.check_distances("LETKF")
    assert float(space.distance(space.positions(), space.positions()).max()) > 1e4


def test_truths_are_aligned_on_each_grid():
    data = staggered()
    fields = read_fields(data, ("u", "v", "t"))
    other = data.isel(x=slice(None, None, -1)).transpose("x_u", "y", "time", "y_v", "x")
    other["u"] = (other["u"] * 3.6).assign_attrs(units="km/h")
    states, notes = read_states(other, fields.space, 59, "2020-01-01")
    assert torch.allclose(states.nan_to_num(), fields.states[0].nan_to_num(), atol=1e-12)
    assert any("converted u" in note for note in notes)
    part, _ = aligned(data, fields.space, ["v"])
    assert part["v"].dims == ("time", "y_v", "x")
    with pytest.raises(ValueError, match="it needs 'v'"):
        read_states(data.drop_vars("v"), fields.space, 59, "2020-01-01")


def test_inspect_says_which_grids_there_are():
    found = dict(inspect(staggered()).facts)
    assert found["grids"] == "u; v; t"
    assert found["all grids"].endswith(FLAGS)
    assert "grids" not in dict(inspect(staggered()[["t"]]).facts)


def two_scale():
    """Lorenz-96 of two scales (Lorenz 1996): slow X(site), each with four fast Y(small)."""
    K, J, F, h, c, b = 6, 4, 10.0, 1.0, 10.0, 10.0
    slow = StateSpace((K,), 0.005, ("X",), {"site": np.arange(K)}, {"site": float(K)})
    # The fast ones lie around their slow one, in units of its spacing.
    near = np.arange(K * J) / J - 0.375
    fast = StateSpace((K * J,), 0.005, ("Y",), {"small": near}, {"small": float(K)})
    space = StateSpace.of_parts({"slow": slow, "fast": fast}, {"small": "site"})

    def tendency(x):
        X, Y = space.field(x, "X"), space.field(x, "Y")
        mean = h * c / b * Y.unflatten(-1, (K, J)).sum(-1)
        dX = X.roll(1, -1) * (X.roll(-1, -1) - X.roll(2, -1)) - X + F - mean
        dY = c * b * Y.roll(-1, -1) * (Y.roll(1, -1) - Y.roll(-2, -1)) - c * Y
        return space.joined({"X": dX, "Y": dY + h * c / b * X.repeat_interleave(J, -1)})

    def step(x):
        dt = space.dt
        k1 = tendency(x)
        k2 = tendency(x + dt / 2 * k1)
        k3 = tendency(x + dt / 2 * k2)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + tendency(x + dt * k3))

    def initial(members, seed):
        x = rng.normal(members, space.shape, rng.seeded(seed))
        x = space.constant(torch.tensor([3.0, 0.1])) * x
        for _ in range(400):
            x = step(x)
        return x

    return FunctionSystem(step, initial, space, library="torch")


def test_two_scale_lorenz_96_is_filtered_stored_scored_and_drawn(tmp_path):
    system = two_scale()
    space = system.space
    model = ObservationModel(Select.stations(space, variables=("X",)), std=0.5)
    truth, problem = twin_experiment(system, model, 120, 10, rng.seeded(0))
    method = LETKF(localization=GaspariCohn(1.5), inflation=1.02)
    posterior = store.run(method, problem, 20, tmp_path / "run.zarr", 1, truth=truth)
    data = posterior.to_xarray()
    assert data["X"].dims == ("ensemble", "time", "site")
    assert data["Y"].dims == ("ensemble", "time", "small")
    assert np.array_equal(data["small"], space.only("Y").coordinates["small"])
    whole = method.assimilate(problem, 20, rng.seeded(1))
    assert torch.equal(posterior.analysis.states, whole.states)
    assert torch.equal(posterior.truth, truth) and posterior.space == space
    # The fast variables are never observed, and follow the slow ones: better than no data.
    error = (posterior.analysis.mean - truth)[60:]
    for name, share in (("X", 0.3), ("Y", 0.9)):
        rmse = space.field(error, name).square().mean().sqrt()
        assert rmse < share * space.field(truth[60:], name).std(), name
    posterior.to_netcdf(tmp_path / "run.nc")
    back = xarray.open_dataset(tmp_path / "run.nc", engine="h5netcdf")
    assert np.array_equal(back["Y"], data["Y"])
    assert html.write_report({"LETKF": posterior}, tmp_path / "page.html").exists()
    table = posterior.observations
    assert set(table["variable"].values) == {"X"} and "site" in table
    with pytest.raises(ValueError, match="fields need two"):
        maps.fields(posterior.analysis, 3, variable="Y")


def test_a_staggered_record_trains_assimilates_and_is_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = staggered()
    data.to_netcdf("c.nc", engine="h5netcdf")
    train = f"train --data c.nc {FLAGS} --quick --width 4 --corrected 2 --segment 5 --threads 1"
    assert main(train.split()) == 0, capsys.readouterr().err
    prior = scorda.load("prior.safetensors")
    assert prior.space == read_fields("c.nc", ("u", "v", "t")).space
    rows = [
        "time,variable,y,x,value,std",
        "2020-01-01T02:00,u,1,0.2,3.0,0.5",
        "2020-01-01T03:00,t,0,1.0,0.5,0.2",
        "2020-01-01T03:00,v,0.3,2.0,-2.0,0.5",
        "2020-01-01T04:00,t,1,2,0.5,0.2",
    ]
    (tmp_path / "seen.csv").write_text("\n".join(rows) + "\n")
    run = (
        "assimilate --prior prior.safetensors --observations seen.csv --truth c.nc --steps 5 "
        "--start 2020-01-01 --members 6 --method sda --out run.zarr --threads 1"
    )
    assert main(run.split()) == 0, capsys.readouterr().err
    assert "1 position on land (row 4)" in " ".join(capsys.readouterr().out.split())
    posterior = store.open_posterior("run.zarr")
    assert posterior.to_xarray()["u"].dims == ("ensemble", "time", "y", "x_u")
    assert torch.equal(posterior.truth.isnan(), posterior.analysis.states[0].isnan())
    assert int(posterior.truth.isnan().sum()) == 6
    found = scores.scores(posterior)
    # Kelvin and m/s are not pooled, but in standard deviations.
    assert {"rmse[u]", "rmse[v]", "rmse[t]", "rmse[std]"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    figure = maps.fields(
        posterior.analysis, 3, posterior.truth, posterior.observations, variable="v"
    )
    assert figure.axes[0].get_title(loc="left") == "Truth"
    html.write_report({"SDA": posterior}, "page.html")
    again = Analysis(posterior.analysis.states, posterior.space).to_xarray(start="2020-01-01")
    states, _ = read_states(again.isel(ensemble=0), posterior.space, 5, "2020-01-01")
    assert torch.equal(states.nan_to_num(), posterior.analysis.states[0].nan_to_num())
