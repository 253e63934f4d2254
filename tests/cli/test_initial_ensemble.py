"""`scorda assimilate --initial`: the members at step 0 come from a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

import scorda
from scorda.cli import main
from scorda.core import rng
from scorda.core.fingerprint import fingerprint

pytestmark = pytest.mark.slow
RUN = "assimilate --observations sim/observations.csv --system lorenz63 --threads 1 --initial"


@pytest.fixture
def members(tmp_path, monkeypatch):
    """Twelve members of Lorenz-63 in the file ``initial.nc``, beside a short simulation."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate --steps 24 --every 4 --observe x --std 0.5 --out sim".split()) == 0
    states = scorda.systems.Lorenz63().prior(12, rng.seeded(8))
    fields = {name: ("number", states[:, i].numpy()) for i, name in enumerate("xyz")}
    xarray.Dataset(dict(sorted(fields.items(), reverse=True))).to_netcdf(
        "initial.nc", engine="h5netcdf"
    )
    return states


def failed(capsys, command):
    """The one sentence that a command ends with after a mistake of the caller."""
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("scorda: ")
    return error


def from_python(initial, members=12):
    system = scorda.systems.Lorenz63()
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    problem = scorda.Problem(system, observations, 24, initial)
    return scorda.EnKF().assimilate(problem, members, rng.seeded(0)).states


def test_the_run_is_that_of_the_same_tensor_in_python(members, capsys):
    """The number of members is that of the file, and the file is recorded with its hash."""
    assert main(f"{RUN} initial.nc --out a.zarr".split()) == 0
    assert "initial: 12 members" in capsys.readouterr().out
    posterior = scorda.open_posterior("a.zarr")
    assert torch.equal(posterior.analysis.states, from_python(members.float()))
    made = posterior.configuration
    assert made["members"] == 12 and made["initial"] == "initial.nc"
    assert made["sha256"]["initial.nc"] == fingerprint(Path("initial.nc"))
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    metadata = [(Path(name) / "zarr.json").read_bytes() for name in ("a.zarr", "b.zarr")]
    assert metadata[0] == metadata[1]


def test_another_number_of_members_is_refused_and_quick_takes_the_first(members, capsys):
    before = sorted(Path().rglob("*"))
    said = failed(capsys, f"{RUN} initial.nc --members 9")
    assert "Asked for 9 members with an initial ensemble of 12" in said
    assert sorted(Path().rglob("*")) == before
    assert main(f"{RUN} initial.nc --members 12".split()) == 0
    with xarray.open_dataset("initial.nc") as data:
        xarray.concat([data, data + 1.0], "number").to_netcdf("more.nc", engine="h5netcdf")
    assert main(f"{RUN} more.nc --quick --out q.zarr".split()) == 0
    made = scorda.open_posterior("q.zarr").analysis.states
    assert torch.equal(made[:12, 0], members.float()) and len(made) == 16


@pytest.mark.parametrize("form", ["netcdf", "store"])
def test_a_posterior_is_an_initial_ensemble_at_its_start(members, capsys, form):
    assert main(f"{RUN} initial.nc --out a.zarr --netcdf a.nc".split()) == 0
    source = "a.nc" if form == "netcdf" else "a.zarr"
    assert main(f"{RUN} {source} --out b.zarr".split()) == 0
    first, second = (scorda.open_posterior(f"{name}.zarr").analysis for name in "ab")
    assert torch.equal(first.states, second.states)
    configuration = scorda.open_posterior("b.zarr").configuration
    assert configuration["sha256"][source] == fingerprint(Path(source))
    with xarray.open_dataset("a.nc") as data:
        data.isel(time=slice(3, None)).to_netcdf("late.nc", engine="h5netcdf")
        data.isel(time=-1).to_netcdf("last.nc", engine="h5netcdf")
        last = np.stack([data[n].values[:, -1] for n in "xyz"], 1)
    assert "step 0" in failed(capsys, f"{RUN} late.nc --out c.zarr")
    capsys.readouterr()
    assert main(f"{RUN} last.nc --out c.zarr".split()) == 0
    assert "took its only time" in capsys.readouterr().out
    assert torch.equal(
        scorda.open_posterior("c.zarr").analysis.states, from_python(torch.from_numpy(last))
    )


def test_a_run_is_not_resumed_with_another_initial_ensemble(members, capsys):
    """The markers of a run that was killed say which file it began with."""
    assert main(f"{RUN} initial.nc --out a.zarr".split()) == 0
    assert main(f"{RUN} initial.nc --out a.zarr --resume".split()) == 0
    with xarray.open_dataset("initial.nc") as data:
        (data + 1.0).to_netcdf("changed.nc", engine="h5netcdf")
    Path("changed.nc").replace("initial.nc")
    said = failed(capsys, f"{RUN} initial.nc --out a.zarr --resume")
    assert "differs in configuration.sha256.initial.nc" in said
    assert json.loads(Path("a.zarr.json").read_text())["units"] >= 1


def test_what_does_not_fit_ends_with_one_sentence(members, capsys):
    with xarray.open_dataset("initial.nc") as data:
        data.drop_vars("z").to_netcdf("two.nc", engine="h5netcdf")
        data.rename(number="time").to_netcdf("times.nc", engine="h5netcdf")
        data.expand_dims(lat=[1.0, 2.0]).to_netcdf("grid.nc", engine="h5netcdf")
    assert "it needs 'z'" in failed(capsys, f"{RUN} two.nc")
    assert "needs one of the members" in failed(capsys, f"{RUN} times.nc")
    assert "has the axis 'lat'" in failed(capsys, f"{RUN} grid.nc")
    assert "no file or store nothing.nc" in failed(capsys, f"{RUN} nothing.nc")
    prior = "assimilate --observations sim/observations.csv --prior lorenz63 --method sda"
    assert "draws the first state itself" in failed(capsys, f"{prior} --initial initial.nc")
