"""`scorda assimilate --continue`: a run goes on from the end of a stored one."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import zarr

import scorda
from scorda.cli import main

pytestmark = pytest.mark.slow
RUN = "assimilate --system lorenz96 --system.noise-std 0.1 --threads 1 --seed 3 --members 12"
NEXT = "assimilate --threads 1 --continue"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Observations of twelve steps, and those of the first and of the second half."""
    monkeypatch.chdir(tmp_path)
    words = "simulate --system lorenz96 --system.noise-std 0.1 --steps 12 --every 2 --std 0.5"
    assert main(f"{words} --out sim".split()) == 0
    both = pandas.read_csv("sim/observations.csv")
    cut = 6 * 0.05 + 0.001
    for name, rows in (
        ("both", both),
        ("one", both[both.time < cut]),
        ("two", both[both.time > cut]),
    ):
        rows.to_csv(f"{name}.csv", index=False)
    return both


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


@pytest.mark.parametrize("method", ["etkf --inflation 1.05", "particle-filter"])
def test_the_second_day_has_the_numbers_of_one_run_over_both(method, tables):
    assert main(f"{RUN} --method {method} --observations both.csv --out both.zarr".split()) == 0
    assert main(f"{RUN} --method {method} --observations one.csv --out one.zarr".split()) == 0
    assert main(f"{NEXT} one.zarr --observations two.csv --out two.zarr".split()) == 0
    both, two = (scorda.open_posterior(f"{n}.zarr") for n in ("both", "two"))
    assert torch.equal(two.analysis.states, both.analysis.states[:, 6:])
    if both.analysis.weights is not None:
        assert torch.equal(two.analysis.weights, both.analysis.weights[:, 6:])
    np.testing.assert_array_equal(two.times, both.times[6:])
    # The settings beside it make it again, and --resume finds nothing to do.
    assert main("assimilate --config two.zarr.toml --out again.zarr".split()) == 0
    assert bytes_of("two.zarr") == bytes_of("again.zarr")
    assert main(f"{NEXT} one.zarr --observations two.csv --out two.zarr --resume".split()) == 0


def test_mistakes_are_told_in_one_sentence(tables, capsys):
    assert main(f"{RUN} --method etkf --observations one.csv --out one.zarr".split()) == 0
    go_on = f"{NEXT} one.zarr --observations two.csv --out two.zarr"
    assert "Got --seed 4, but one.zarr is of 3" in failed(capsys, f"{go_on} --seed 4")
    assert "Got --method enkf, but" in failed(capsys, f"{go_on} --method enkf")
    assert "Got --system lorenz63, but" in failed(capsys, f"{go_on} --system lorenz63")
    assert "Got --start" in failed(capsys, f"{go_on} --start 2020-01-01")
    assert "12 members" in failed(capsys, f"{go_on} --members 7")
    again = f"{NEXT} one.zarr --observations two.csv --out one.zarr --overwrite"
    assert "which is the run to go on from" in failed(capsys, again)
    absent = f"{NEXT} absent.zarr --observations two.csv"
    assert "There is no file or store absent.zarr" in failed(capsys, absent)
    assert "has analysed" in failed(capsys, go_on.replace("two.csv", "both.csv"))
    chunk = next(f for f in Path("one.zarr/x/c").rglob("*") if f.is_file())
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    assert f"{chunk} (unit" in failed(capsys, go_on)
    assert f"{chunk} (unit" in failed(capsys, "forecast one.zarr --steps 2 --out two.zarr")
    assert not Path("two.zarr").exists()


def test_a_store_that_names_code_runs_none_of_it(tables, capsys):
    assert main(f"{RUN} --method etkf --observations one.csv --out one.zarr".split()) == 0
    Path("one.zarr.json").unlink()
    root = zarr.open_group("one.zarr", mode="r+")
    made = json.loads(root.attrs["configuration"])
    for changed in (
        made | {"system": {"name": "evil:system"}},
        made | {"method": {"name": "evil:Method"}},
        made | {"method": {"name": "etkf", "prior": {"name": "evil:prior"}}},
    ):
        root.attrs["configuration"] = json.dumps(changed)
        zarr.consolidate_metadata("one.zarr")
        error = failed(capsys, f"{NEXT} one.zarr --observations two.csv --out two.zarr")
        assert "one.zarr names code, evil:" in error
    root.attrs["configuration"] = json.dumps({})
    zarr.consolidate_metadata("one.zarr")
    error = failed(capsys, f"{NEXT} one.zarr --observations two.csv --out two.zarr")
    assert "does not say its system and method" in error


def test_another_setting_of_the_method_is_told(tables, capsys):
    assert main(f"{RUN} --method etkf --inflation 1.05 --observations one.csv".split()) == 0
    capsys.readouterr()
    goes_on = f"{NEXT} run.zarr --observations two.csv --out next.zarr"
    assert main(f"{goes_on} --inflation 1.050".split()) == 0
    assert "from here on" not in capsys.readouterr().out
    assert main(f"{goes_on} --inflation 1.2 --overwrite".split()) == 0
    assert "run.zarr has --inflation 1.05; from here on it is 1.2." in capsys.readouterr().out
    assert main(f"{goes_on} --rotation --overwrite".split()) == 0
    assert "run.zarr has --rotation False; from here on it is True." in capsys.readouterr().out
