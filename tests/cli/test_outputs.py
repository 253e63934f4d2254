"""What commands do with what is there already, and with names that cannot be written."""

from pathlib import Path

import numpy as np
import pytest

import scorda
from scorda.cli import main
from scorda.core import rng

ASSIMILATE = "assimilate --observations sim/observations.csv --system lorenz96 --system.dim 8"
TRAIN = "train --system lorenz63 --quick --width 4 --blocks 0 --segment 9 --threads 1"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "simulate lorenz96 --system.dim 8 --steps 4 --every 2 --out sim"
    assert main(command.split()) == 0
    return tmp_path


def failed(capsys, command):
    """The one sentence that a command ends with after a mistake of the caller."""
    capsys.readouterr()
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("scorda: ")
    return error


@pytest.mark.slow
def test_a_complete_run_is_resumed_with_its_own_settings_alone(simulated, capsys):
    run = f"{ASSIMILATE} --members 6 --threads 1"
    assert main(f"{run} --method letkf --localization 2 --block 2".split()) == 0
    settings = Path("run.zarr.toml").read_bytes()
    # The option of the method; a unit of work is another thing.
    assert scorda.open_posterior("run.zarr").configuration["method"]["block"] == 2
    assert main(f"{run} --method letkf --localization 2 --block 2 --resume".split()) == 0
    for other in ("--method enkf", "--method letkf --localization 2 --block 2 --seed 3"):
        assert "differs in" in failed(capsys, f"{run} {other} --resume")
    assert Path("run.zarr.toml").read_bytes() == settings
    assert "at least 1" in failed(capsys, f"{run} --unit 0 --out b.zarr")


def test_nothing_is_replaced_unasked(simulated, capsys):
    twin = "simulate lorenz63 --steps 4 --every 2 --out sim"
    before = Path("sim/observations.csv").read_bytes()
    assert "already there" in failed(capsys, twin)
    assert Path("sim/observations.csv").read_bytes() == before
    assert main(f"{twin} --overwrite".split()) == 0
    Path("thesis.zarr").mkdir()
    Path("thesis.zarr/thesis.tex").write_text("years")
    Path("file.zarr").write_text("mine")
    for name in ("thesis", "file"):
        series = f"simulate lorenz63 --series 2 --length 3 --overwrite --out {name}.zarr"
        assert "no store" in failed(capsys, series)
    assert Path("thesis.zarr/thesis.tex").exists() and Path("file.zarr").read_text() == "mine"


@pytest.mark.slow
def test_a_trained_prior_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN.split(), "--out", "deep/p.safetensors"]) == 0
    written = Path("deep/p.safetensors").stat().st_mtime_ns
    assert main([*TRAIN.split(), "--out", "deep/p.safetensors", "--resume"]) == 0
    assert "is complete" in capsys.readouterr().out
    assert "already there" in failed(capsys, f"{TRAIN} --out deep/p.safetensors")
    said = failed(capsys, f"{TRAIN} --seed 3 --resume --out deep/p.safetensors")
    assert "differs in seed" in said
    assert Path("deep/p.safetensors").stat().st_mtime_ns == written
    assert main([*TRAIN.split(), "--out", "deep/p.safetensors", "--overwrite"]) == 0
    assert Path("deep/p.safetensors").stat().st_mtime_ns > written
    Path("folder.safetensors").mkdir()
    assert "folder" in failed(capsys, f"{TRAIN} --out folder.safetensors")
    assert "deep/p.safetensors" in failed(
        capsys, f"{TRAIN} --out deep/p.safetensors/p.safetensors"
    )


def test_a_prior_of_fields_is_trained_from_a_file(tmp_path, monkeypatch, capsys):
    """Not square, and with axes that are not in the order of the alphabet."""
    monkeypatch.chdir(tmp_path)
    space = scorda.StateSpace((4, 3), 0.25, ("t",), {"y": np.arange(4.0), "x": np.arange(3.0)})
    states = rng.normal(60, space.shape, rng.seeded(0))
    fields = scorda.Analysis(states[None], space).to_xarray().isel(ensemble=0, drop=True)
    assert fields["t"].dims == ("time", "y", "x")
    fields.to_netcdf("t.nc", engine="h5netcdf")
    command = "train --data t.nc --quick --width 4 --corrected 2 --segment 5 --threads 1"
    assert main(command.split()) == 0
    prior = scorda.load("prior.safetensors")
    assert prior.space.axes == ("y", "x") and prior.space.shape == (4, 3)
    assert prior.provenance["training"]["segment"] == 5


@pytest.mark.slow
def test_what_cannot_be_is_one_sentence(simulated, capsys):
    Path("file").write_text("")
    assert "--stride 0" in failed(capsys, "simulate lorenz96 --stride 0 --out s")
    assert "file" in failed(capsys, "simulate lorenz96 --steps 2 --every 2 --out file/s")
    run = f"{ASSIMILATE} --members 6 --threads 1"
    assert "gpuu" in failed(capsys, f"{run} --device gpuu")
    assert "Unknown option: --radius" in failed(capsys, f"{run} --method.radius 1")
    flow = "simulate kolmogorov --system.size 16 --system.resolution 32.5 --out s"
    assert "resolution" in failed(capsys, flow)
    assert "forcing" in failed(capsys, "simulate kolmogorov --system.forcing nan --out s")
    assert "cannot be read as a NetCDF" in failed(capsys, f"{run} --truth sim/observations.csv")
    said = failed(capsys, f"{run} --method masf --prior local-gausian")
    assert "did you mean 'local-gaussian'" in said
    assert main(f"{run} --method enkf --truth sim/truth.nc".split()) == 0
    assert "leave some" in failed(capsys, "report run.zarr --spinup 100")
    assert main("simulate lorenz63 --series 2 --length 3 --out set.zarr".split()) == 0
    assert "no posterior" in failed(capsys, "report set.zarr")
