"""``scorda compare`` and ``scorda tune``: from files to a table, a page, and settings."""

import csv
import math
import tomllib

import pytest

import scorda as sc
from scorda.cli import main
from scorda.cli.built import built, grid_of, methods_of, tried
from scorda.cli.settings import UserError
from scorda.core.tapers import GaspariCohn

pytestmark = pytest.mark.slow
FLAGS = ["--system", "lorenz63", "--observations", "twin/observations.csv", "--threads", "1"]
FLAGS += ["--members", "8"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "simulate --system lorenz63 --steps 40 --every 4 --std 1 --out twin --threads 1"
    assert main(words.split()) == 0
    return tmp_path


def test_compare_makes_one_table_and_one_page(folder, capsys):
    words = ["--method", "etkf, enkf inflation=1.2", "--grid", "rotation=true,false"]
    words += ["--truth", "twin/truth.nc", "--seeds", "2"]
    assert main(["compare", *FLAGS, *words]) == 0
    said = capsys.readouterr().out
    labels = ["etkf, rotation=True", "etkf, rotation=False", "enkf inflation=1.2"]
    assert all(label in said for label in labels) and "rmse" in said
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["entry"] for row in rows if row["score"] == "rmse"] == labels
    page = (folder / "comparison.html").read_text()
    assert all(label in page for label in labels) and "svg" in page
    # Again over what it wrote, without the truth: observations are kept back.
    assert main(["compare", *FLAGS, "--seeds", "1"]) == 0
    assert "observation_crps" in (folder / "comparison.csv").read_text()


def test_tune_writes_settings_that_assimilate_runs(folder, capsys):
    words = ["--method", "etkf", "--rotation", "--grid", "inflation=1,1.1,1e30", "--seeds", "1"]
    assert main(["tune", *FLAGS, *words]) == 0
    said = capsys.readouterr().out
    assert "best" in said and "diverged: ETKF, inflation=1e+30" in said
    settings = tomllib.loads((folder / "tuned.toml").read_text())["method"]
    assert settings["rotation"] and settings["inflation"] in (1.0, 1.1)
    assert (folder / "tuned.png").read_bytes().startswith(b"\x89PNG")
    assert main(["assimilate", "--config", "tuned.toml", "--out", "best.zarr"]) == 0
    analysis = sc.open_posterior(folder / "best.zarr").analysis
    assert analysis.method == "ETKF" and len(analysis.states) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", *FLAGS, "--method", "enkf, nothing"], "Unknown method"),
        (["compare", *FLAGS, "--method", "enkf,enkf"], "twice"),
        (["compare", *FLAGS, "--grid", "radius=1"], "none of the methods"),
        (["compare", *FLAGS, "--grid", "inflation"], "inflation=1.02"),
        (["compare", *FLAGS, "--seeds", "0"], "at least 1"),
        (["tune", *FLAGS], "Give --grid"),
        (["tune", *FLAGS, "--grid", "inflatoin=1"], "did you mean 'inflation'"),
        (["tune", *FLAGS, "--grid", "inflation=a"], "Unknown value of --inflation"),
        (["tune", *FLAGS, "--grid", "inflation=1", "--score", "rmse"], "choose one of"),
        (["tune", *FLAGS, "--grid", "inflation=1", "--out", "a.txt"], "end in .toml"),
    ],
)
def test_mistakes_end_with_one_sentence(folder, capsys, words, said):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


def test_texts_name_methods_with_their_settings():
    found = methods_of("etkf, letkf localization=4 inflation=1.1")
    assert found["etkf"] == sc.ETKF()
    localized = sc.LETKF(1.1, localization=GaspariCohn(4.0))
    assert found["letkf localization=4 inflation=1.1"] == localized
    assert built("etkf", {"rotation": "true"}) == sc.ETKF(rotation=True)
    grid = grid_of(["inflation=1, 1.5", "localization.radius=2,3", "rotation=true"])
    values = tried(localized, grid)
    assert values == {
        "inflation": [1.0, 1.5],
        "localization": [GaspariCohn(2.0), GaspariCohn(3.0)],
    }
    with pytest.raises(UserError, match="twice"):
        grid_of(["inflation=1", "inflation=2"])
    assert math.isinf(built("etkf", {"gross-error-check": "inf"}).gross_error_check)
