"""``--keep``: a short form, flags with dots, a table in the file of settings; else a sentence."""

import tomllib
from pathlib import Path

import pytest
import xarray

from scorda.cli import main
from scorda.store import open_posterior

RUN = (
    "assimilate --system lorenz63 --observations sim/observations.csv --truth sim/truth.nc "
    "--members 8 "
)


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A folder with a short simulation of Lorenz-63 in it."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate --steps 24 --every 4 --observe x --std 0.5 --out sim".split()) == 0
    return tmp_path


def test_flags_and_file_keep_the_same(simulated, capsys):
    flags = "--keep mean,q05 --keep.members 2 --keep.steps 4 --keep.variables x,z --out a.zarr"
    assert main((RUN + flags).split()) == 0
    dataset = xarray.open_zarr("a.zarr")
    assert set(dataset) == {"x", "z", "x_mean", "x_q05", "z_mean", "z_q05"}
    assert dataset.sizes == {"ensemble": 2, "time": 7}
    settings = tomllib.loads(Path("a.zarr.toml").read_text())
    assert settings["keep"] == {
        "statistics": ["mean", "q05"],
        "members": 2,
        "steps": 4,
        "variables": ["x", "z"],
    }
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    files = [p.relative_to("a.zarr") for p in Path("a.zarr").rglob("*") if p.is_file()]
    assert all(("a.zarr" / p).read_bytes() == ("b.zarr" / p).read_bytes() for p in files)


@pytest.mark.parametrize("line", ['keep = "mean,std"', 'keep = ["mean", "std"]'])
def test_statistics_alone_are_a_text_or_a_list_in_the_file(simulated, line):
    Path("keep.toml").write_text(line + "\n")
    assert main((RUN + "--config keep.toml --out a.zarr").split()) == 0
    assert open_posterior("a.zarr").kept.statistics == ("mean", "std")


def test_the_last_step_alone_is_kept(simulated, capsys):
    assert main((RUN + "--keep.steps last --out a.zarr").split()) == 0
    assert xarray.open_zarr("a.zarr").sizes == {"ensemble": 8, "time": 1}
    assert "RMSE" in capsys.readouterr().out
    assert main((RUN + "--initial a.zarr/last --out b.zarr").split()) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--keep median", "choose mean, std, or quantiles"),
        ("--keep.members 9", "give 8 at most"),
        ("--keep.members -1", "must not be negative"),
        ("--keep.members 0", "give one of them"),
        ("--keep.steps 0", "n for every n-th, or last"),
        ("--keep.steps some", "n for every n-th, or last"),
        ("--keep.variables w", "choose x, y, z"),
        ("--keep.statistic mean", "keep.statistics"),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(simulated, capsys, flags, said):
    capsys.readouterr()
    assert main((RUN + flags + " --out a.zarr").split()) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error
    assert not Path("a.zarr").exists() and not list(Path().glob(".*"))


def test_a_network_is_not_trained_on_a_part_of_the_members(simulated, capsys):
    assert main((RUN + "--keep mean --out a.zarr").split()) == 0
    capsys.readouterr()
    assert main("train --prior gaussian --data a.zarr --out p.safetensors".split()) == 2
    assert "keeps the mean of x, y, z" in capsys.readouterr().err
