"""An emulator from the command line: trained, assimilated with, resumed, and what is refused."""

import numpy as np
import pytest
import torch
import xarray
from torch.testing import assert_close

import scorda
from scorda.cli import main

TRAIN = "train --system lorenz63 --transition --quick --width 8 --blocks 1 --threads 1"
SYSTEM = "--system emulator --system.file next.safetensors"
RUN = (
    f"assimilate --observations sim/observations.csv {SYSTEM} --method enkf --members 6 "
    "--steps 8 --seed 3 --threads 1 --out run.zarr"
)


@pytest.mark.slow
def test_an_emulator_is_trained_assimilated_with_and_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(f"{TRAIN} --out next.safetensors".split()) == 0
    assert main("simulate --system lorenz63 --steps 8 --every 4 --out sim".split()) == 0
    assert main(RUN.split()) == 0
    system = scorda.systems.load_system("emulator", file="next.safetensors")
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    torch.set_default_dtype(torch.float32)
    expected = scorda.EnKF().assimilate(scorda.Problem(system, observations, 8), 6, 3)
    assert torch.equal(scorda.open_posterior("run.zarr").analysis.states, expected.states)
    assert main(f"{RUN} --resume".split()) == 0
    assert main("forecast run.zarr --steps 2 --out forecast.zarr".split()) == 0


@pytest.mark.slow
def test_a_transition_is_no_prior_of_trajectories(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(f"{TRAIN} --out next.safetensors".split()) == 0
    assert main("simulate --system lorenz63 --steps 8 --every 4 --out sim".split()) == 0
    run = "assimilate --observations sim/observations.csv --method sda --members 2 --steps 8"
    assert main(f"{run} --prior next.safetensors --out run.zarr".split()) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "was trained on transitions" in said and "--system emulator" in said


def test_an_emulator_without_its_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("simulate --system emulator --steps 2 --out sim".split()) != 0
    assert "name its file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_an_emulator_of_a_record_keeps_the_time_of_day_in_a_forecast(
    tmp_path, monkeypatch, capsys
):
    """A forecast from the end of a run has the bits of the longer run, cycle and all."""
    monkeypatch.chdir(tmp_path)
    times = np.datetime64("2020-01-01T00", "ns") + np.arange(80) * np.timedelta64(6, "h")
    noise = np.random.default_rng(0).standard_normal((80, 5))
    values = 10.0 * (np.arange(80) % 4)[:, None] + noise
    latitude = ("latitude", 50.0 + np.arange(5), {"units": "degrees_north"})
    record = xarray.Dataset(
        {"t": (("time", "latitude"), values, {"units": "K"})},
        {"time": times, "latitude": latitude},
    )
    record.to_netcdf("record.nc", engine="h5netcdf")
    train = "train --data record.nc --transition --training-steps 2 --threads 1"
    assert main(f"{train} --out next.safetensors".split()) == 0
    system = SYSTEM + " --system.start 2020-01-20T12:00"
    simulate = "--steps 4 --every 2 --start 2020-01-20T12:00 --std 1"
    assert main(f"simulate {SYSTEM} {simulate} --out sim".split()) != 0
    assert "say when step 0 is" in " ".join(capsys.readouterr().err.split())
    assert main(f"simulate {system} {simulate} --out sim".split()) == 0
    run = (
        f"assimilate --observations sim/observations.csv {system} --start 2020-01-20T12:00 "
        "--method enkf --members 6 --seed 3 --threads 1"
    )
    for other in (f"{run} --steps 5", f"simulate {system} {simulate}"):
        other = other.replace("--start 2020-01-20T12", "--start 2020-01-20T18")
        assert main(f"{other} --out other".split()) != 0
        assert "give both the same start" in " ".join(capsys.readouterr().err.split())
    assert main(f"{run} --steps 5 --out run.zarr".split()) == 0
    assert main(f"{run} --steps 7 --out longer.zarr".split()) == 0
    assert main("forecast run.zarr --steps 2 --out forecast.zarr".split()) == 0
    # A run that goes on begins at another time of day, which is that of the step.
    rows = "time,variable,latitude,value,std\n2020-01-22T00:00,t,50,0,1\n"
    (tmp_path / "later.csv").write_text(rows)
    later = "assimilate --continue run.zarr --observations later.csv --steps 2 --threads 1"
    assert main(f"{later} --out later.zarr".split()) == 0
    short, long = (
        scorda.open_posterior(path).analysis.states for path in ("forecast.zarr", "longer.zarr")
    )
    assert torch.equal(short, long[:, 5:])
    # From 18 o'clock on to 00 and 06.
    means = short.mean((0, 2))
    assert_close(means, torch.tensor([30.0, 0.0, 10.0]).to(means), rtol=0, atol=4)
