"""Laws of observations from the shell: a flag, a column, what is stored, resumed and shown."""

import numpy as np
import pandas
import pytest
import torch
import xarray

import scorda as sc
from scorda.cli import main
from scorda.core import rng
from scorda.observations import Laplace, StudentT
from scorda.store import open_posterior
from scorda.systems.lorenz import Lorenz63

SIMULATE = "simulate --steps 24 --every 4 --observe x --std 0.5 --out sim "
RUN = "assimilate --system lorenz63 --observations sim/observations.csv --members 8 "


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_simulation_writes_the_law_and_a_run_reads_it(folder, capsys):
    assert main((SIMULATE + "--law student:3").split()) == 0
    table = pandas.read_csv("sim/observations.csv")
    assert set(table["law"]) == {"student:3"}
    assert 'law = "student:3"' in (folder / "sim/simulate.toml").read_text()
    assert main((RUN + "--out a.zarr").split()) == 0
    assert "law student:3" in capsys.readouterr().out
    stored = open_posterior("a.zarr").observations
    assert set(stored["law"].values) == {"student:3"}
    seen = sc.Observations.from_table("sim/observations.csv", Lorenz63().space)
    assert seen.model.law == StudentT(3.0)
    torch.set_default_dtype(torch.float32)
    mine = sc.Observations.from_table("sim/observations.csv", Lorenz63().space)
    expected = sc.EnKF().assimilate(sc.Problem(Lorenz63(), mine, 24), 8, rng.seeded(0))
    assert np.array_equal(xarray.open_zarr("a.zarr")["x"][:, -1], expected.states[:, -1, 0])


@pytest.mark.slow
def test_a_flag_is_as_good_as_a_column(folder):
    """Of all variables, and of one; the store has the same numbers."""
    assert main((SIMULATE + "--law laplace").split()) == 0
    assert main((RUN + "--out a.zarr").split()) == 0
    pandas.read_csv("sim/observations.csv").drop(columns="law").to_csv("plain.csv", index=False)
    plain = RUN.replace("sim/observations.csv", "plain.csv")
    for flag, name in (("--law laplace", "b.zarr"), ("--law x=laplace", "c.zarr")):
        assert main((plain + f"{flag} --out {name}").split()) == 0
        assert xarray.open_zarr(name).identical(xarray.open_zarr("a.zarr").assign_attrs(
            xarray.open_zarr(name).attrs))  # fmt: skip
    assert main((plain + "--out gaussian.zarr").split()) == 0
    other = xarray.open_zarr("gaussian.zarr")["x"]
    assert not np.array_equal(other, xarray.open_zarr("a.zarr")["x"])


@pytest.mark.slow
def test_fields_have_the_law_of_the_flag(folder, capsys):
    """Counts need no --std; the report does not draw them on the axis of the state."""
    values = np.full((25, 3), np.nan)
    values[::6, 2] = [3, 0, 5, 2, 1]
    space = Lorenz63().space
    data = {name: ("time", values[:, i]) for i, name in enumerate(space.variables)}
    xarray.Dataset(data, {"time": 0.025 * np.arange(25)}).to_netcdf("fields.nc")
    run = "assimilate --system lorenz63 --observations fields.nc --variable z --members 30 "
    assert main((run + "--law poisson --method particle-filter --out a.zarr").split()) == 0
    assert set(open_posterior("a.zarr").observations["law"].values) == {"poisson"}
    assert open_posterior("a.zarr").observations["std"].isnull().all()
    assert main("report a.zarr --out report.html".split()) == 0
    assert "poisson" in (folder / "report.html").read_text()
    assert main((run + "--law poisson --method etkf --out b.zarr").split()) != 0
    assert "ETKF needs errors of observation that are Gaussian, or of" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_another_law_is_not_resumed(folder, capsys):
    assert main(SIMULATE.split()) == 0
    assert main((RUN + "--law student:4 --out a.zarr").split()) == 0
    assert main((RUN + "--law student:5 --out a.zarr --resume").split()) != 0
    assert "differs in configuration.law" in capsys.readouterr().err
    before = {p: p.read_bytes() for p in (folder / "a.zarr").rglob("*") if p.is_file()}
    chunk = next(p for p in before if "x/c/" in str(p))
    chunk.unlink()
    assert main((RUN + "--law student:4 --out a.zarr --resume").split()) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    assert (folder / "b.zarr/x/c").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--law t4", "Got the law 't4'"),
        ("--law w=laplace", "Got the law 'w=laplace': the variables are x, y, z"),
        ("--law student:0", "StudentT with df = 0.0: give a positive number"),
        ("--law poisson", "Got the observed value"),
        (
            "--law laplace --withhold 0.3 --keep mean",
            "than the Gaussian (laplace), for which there are no scores in a store without all",
        ),
        (
            "--law laplace --method etkf --method.gross-error-check 5",
            "gross_error_check with errors",
        ),
    ],
)
def test_a_wrong_law_ends_with_a_sentence(folder, flags, words, capsys):
    assert main(SIMULATE.split()) == 0
    assert main((RUN + flags + " --out a.zarr").split()) != 0
    assert words in " ".join(capsys.readouterr().err.split())


def test_one_analysis_takes_a_law(folder):
    """From a flag and from a column, as the library does it."""
    x = np.random.default_rng(1).normal(size=(30, 4))
    xarray.Dataset({"q": (("number", "site"), x)}).to_netcdf("ensemble.nc")
    pandas.DataFrame(x[:, :2].T).to_csv("predicted.csv", index=False)
    table = pandas.DataFrame({"value": [0.3, 6.0], "std": 0.5})
    table.to_csv("plain.csv", index=False)
    table.assign(law="laplace").to_csv("column.csv", index=False)
    run = "analyse --ensemble ensemble.nc --predicted predicted.csv --method etkf "
    assert main((run + "--observations plain.csv --law laplace --out a.nc").split()) == 0
    assert main((run + "--observations column.csv --out b.nc").split()) == 0
    torch.set_default_dtype(torch.float64)
    expected = sc.analyse(sc.ETKF(), x, x[:, :2], [0.3, 6.0], 0.5, law=Laplace())
    for name in ("a.nc", "b.nc"):
        assert np.array_equal(xarray.open_dataset(name)["q"], expected.states[:, 0])
