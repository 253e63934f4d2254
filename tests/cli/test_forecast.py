"""`scorda forecast` and `scorda verify`: a run moved on, and scored by what came later."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import xarray
import zarr

import scorda
from scorda.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run up to step 6, and the observations and the truth of twelve steps."""
    folder = tmp_path_factory.mktemp("forecast")
    words = "simulate --system lorenz96 --system.noise-std 0.1 --steps 12 --every 2 --std 0.5"
    assert main(f"{words} --out {folder}/sim".split()) == 0
    both = pandas.read_csv(folder / "sim" / "observations.csv")
    both[both.time < 0.301].to_csv(folder / "past.csv", index=False)
    both[both.time < 0.201].to_csv(folder / "early.csv", index=False)
    both[both.time > 0.301].to_csv(folder / "later.csv", index=False)
    words = "assimilate --system lorenz96 --system.noise-std 0.1 --threads 1 --members 12"
    past = f"--method etkf --observations {folder}/past.csv --out {folder}/run.zarr"
    assert main(f"{words} {past}".split()) == 0
    return folder


@pytest.fixture(autouse=True)
def here(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def failed(capsys, command):
    """The one sentence that a command ends with after a mistake of the caller."""
    capsys.readouterr()
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("scorda: ")
    return error


def bytes_of(path):
    files = (p for p in Path(path).rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}


def test_a_forecast_is_a_store_that_xarray_opens_and_that_later_data_score(run, capsys):
    command = f"forecast {run}/run.zarr --steps 6 --threads 1"
    assert main(f"{command} --netcdf forecast.nc".split()) == 0
    opened = xarray.open_zarr("forecast.zarr")
    assert dict(opened.sizes) == {"ensemble": 12, "time": 7, "site": 40}
    np.testing.assert_allclose(opened["time"], 0.05 * np.arange(6, 13))
    xarray.testing.assert_equal(xarray.open_dataset("forecast.nc", engine="h5netcdf"), opened)
    before = scorda.open_posterior(f"{run}/run.zarr").analysis.states[:, -1]
    found = scorda.open_posterior("forecast.zarr")
    assert torch.equal(found.analysis.states[:, 0], before)
    # Again is the same bytes, by its settings too; another name is not replaced unasked.
    made = bytes_of("forecast.zarr")
    assert main("forecast --config forecast.zarr.toml --overwrite".split()) == 0
    assert bytes_of("forecast.zarr") == made
    assert main(f"{command} --resume".split()) == 0
    assert "--overwrite" in failed(capsys, command)

    later = f"verify forecast.zarr --observations {run}/later.csv --truth {run}/sim/truth.nc"
    assert main(later.split()) == 0
    said = capsys.readouterr().out
    assert "RMSE" in said and "verification.png" in said
    rows = pandas.read_csv("verification.csv")
    assert set(rows.against) == {"observations", "truth"}
    assert list(rows[rows.against == "observations"].step) == [2, 4, 6]
    assert list(rows[rows.against == "truth"].step) == list(range(7))
    assert Path("verification.png").read_bytes().startswith(b"\x89PNG")
    assert "--overwrite" in failed(capsys, later)
    assert main(f"{later} --overwrite".split()) == 0
    assert main("report forecast.zarr --out page.html".split()) == 0
    page = Path("page.html").read_text()
    assert "A forecast, without observations" in page and "0 observations" not in page


def test_a_trained_prior_moves_its_window_on(capsys):
    words = "simulate --system lorenz63 --steps 24 --every 4 --observe x --out sim"
    assert main(words.split()) == 0
    past = "assimilate --method sda --prior lorenz63 --observations sim/observations.csv"
    assert main(f"{past} --steps 16 --members 3 --threads 1".split()) == 0
    command = "forecast run.zarr --steps 8 --threads 1"
    assert main(command.split()) == 0
    before, found = (scorda.open_posterior(f"{n}.zarr") for n in ("run", "forecast"))
    assert torch.equal(found.analysis.states[:, 0], before.analysis.states[:, -1])
    np.testing.assert_allclose(found.times, 0.025 * np.arange(16, 25))
    # A member goes on as the system would take it there, by what the prior has learnt of it.
    system = scorda.systems.Lorenz63()
    expected = system.trajectory(before.analysis.states[:, -1], 8)
    assert (found.analysis.states - expected).abs().mean() < 1.0
    other = f"{command} --unit 2 --out other.zarr"
    assert main(other.split()) == 0
    again = scorda.open_posterior("other.zarr").analysis.states
    assert torch.equal(again, found.analysis.states)
    assert main("verify forecast.zarr --truth sim/truth.nc".split()) == 0
    assert set(pandas.read_csv("verification.csv").variable) == {"x", "y", "z"}
    # The end of a smoother is a start for its system too; a run does not go on from it.
    assert main(f"{command} --system lorenz63 --out model.zarr".split()) == 0
    error = failed(capsys, "assimilate --continue run.zarr --observations sim/observations.csv")
    assert "run.zarr is of the smoother SDA" in error


def test_statistics_alone_are_stored_where_they_are_asked_for(run):
    command = f"forecast {run}/run.zarr --steps 3 --threads 1 --keep mean,std --out small.zarr"
    assert main(command.split()) == 0
    assert set(xarray.open_zarr("small.zarr").data_vars) == {"x_mean", "x_std"}


def test_mistakes_are_told_in_one_sentence(run, capsys):
    assert "Give --steps" in failed(capsys, f"forecast {run}/run.zarr")
    assert "at least 1" in failed(capsys, f"forecast {run}/run.zarr --steps 0")
    assert "There is no file" in failed(capsys, "forecast absent.zarr --steps 2")
    same = f"forecast {run}/run.zarr --steps 2 --out {run}/run.zarr --overwrite"
    assert "which is the run to go on from" in failed(capsys, same)
    other = f"forecast {run}/run.zarr --steps 2 --system lorenz63"
    assert "is of lorenz96" in failed(capsys, other)
    assert not Path("forecast.zarr").exists()
    assert main(f"forecast {run}/run.zarr --steps 3 --threads 1".split()) == 0
    assert "Give --observations" in failed(capsys, "verify forecast.zarr")
    assert "no file" in failed(capsys, "verify forecast.zarr --observations absent.csv")
    early = failed(capsys, f"verify forecast.zarr --observations {run}/early.csv")
    assert "times from 0.3 to step 3" in early and "time before step 0" in early
    name = f"verify forecast.zarr --observations {run}/later.csv --out scores.txt"
    assert "must end in .csv or .nc" in failed(capsys, name)
    Path("mine.png").write_bytes(b"mine")
    mine = f"verify forecast.zarr --observations {run}/later.csv --out mine.csv"
    assert "mine.png" in failed(capsys, mine)
    assert Path("mine.png").read_bytes() == b"mine" and not Path("mine.csv").exists()


def test_a_store_that_names_code_runs_none_of_it(run, capsys):
    assert main(f"forecast {run}/run.zarr --steps 3 --threads 1 --out one.zarr".split()) == 0
    Path("one.zarr.json").unlink()
    root = zarr.open_group("one.zarr", mode="r+")
    root.attrs["configuration"] = json.dumps({"system": {"name": "evil:system"}})
    zarr.consolidate_metadata("one.zarr")
    assert "names code, evil:system" in failed(capsys, "forecast one.zarr --steps 2")
