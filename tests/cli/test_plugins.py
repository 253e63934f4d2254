"""A method, a system and a prior of another package: by module:Class, and as it announces them."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import scorda
from scorda.cli import main
from scorda.testing import check_assimilator, check_declaration, check_filter, check_robust

METHOD = '''
"""The deterministic ensemble Kalman filter, as somebody else would write it."""

from dataclasses import dataclass

import torch

import scorda as sc


@dataclass(frozen=True)
class DEnKF(sc.Filter):
    r"""Deterministic ensemble Kalman filter.

    .. math:: \\bar x^a = \\bar x + K (y - \\overline{h(x)}), \\quad A^a = A - \\tfrac12 K Y

    Source: Sakov & Oke (2008), Tellus A 60, 361-371.

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1.
    """

    inflation: float = 1.0

    least_members = 2
    exact = "mean: linear-Gaussian, one analysis, N → ∞"
    cost = sc.assimilation.Cost(1)

    def __post_init__(self):
        if not 1 <= self.inflation < float("inf"):
            raise ValueError(f"Got inflation = {self.inflation}: give at least 1.")

    def analyse(self, forecast, y, model, generator=None):
        members = len(forecast)
        mean = forecast.mean(0, keepdim=True)
        A = (forecast - mean).flatten(1)
        predicted = model.operator(forecast).flatten(1)
        centre = predicted.mean(0)
        # White: in standard deviations of the observation error.
        white = model.whiten(torch.cat((predicted - centre, (y - centre)[None])))
        Y, d = white[:-1], white[-1]
        S = Y.mT @ Y + (members - 1) * torch.eye(len(y)).to(Y)
        K = torch.linalg.solve(S, Y.mT @ A)
        moved = self.inflation * (A - Y @ K / 2)
        analysis = mean + (d @ K + moved).reshape(forecast.shape)
        chi2 = (d.square() / (1 + Y.square().sum(0) / (members - 1))).mean()
        return analysis, {"innovation": d.square().mean().sqrt(), "chi2": chi2}


class Wide(sc.priors.Gaussian):
    """The Gaussian of the ensemble under another name."""


def ring(dim=8):
    return sc.systems.Lorenz96(dim=int(dim))
'''
ANNOUNCED = """
[scorda.methods]
their-denkf = tmpmodule:DEnKF

[scorda.systems]
ring = tmpmodule:ring

[scorda.priors]
wide = tmpmodule:Wide
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with the module in it, which is the current directory; the module is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("tmpmodule.py").write_text(METHOD)
    yield importlib.import_module("tmpmodule")
    del sys.modules["tmpmodule"]


@pytest.fixture
def installed(package):
    """The same with the metadata of an installed package, which announces all three."""
    folder = Path("tmpmodule-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tmpmodule\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ANNOUNCED)
    importlib.invalidate_caches()
    return package


def simulate(system):
    assert main(f"simulate {system} --steps 8 --every 4 --out sim".split()) == 0
    return f"assimilate --observations sim/observations.csv --system {system} --members 10"


@pytest.mark.slow
def test_a_method_of_another_module_runs_from_the_command_line(package, capsys):
    assert METHOD[: METHOD.index("class Wide")].count("\n") < 60
    command = simulate("lorenz63") + " --method {} --inflation 1.1 --seed 2 --out {}.zarr"
    assert main(command.format("tmpmodule:DEnKF", "theirs").split()) == 0
    assert main(command.format("denkf", "ours").split()) == 0
    theirs, ours = (scorda.open_posterior(f"{name}.zarr") for name in ("theirs", "ours"))
    # Single precision, and another order of operations.
    torch.testing.assert_close(theirs.analysis.states, ours.analysis.states, atol=1e-3, rtol=1e-3)
    assert theirs.configuration["method"] == {"name": "tmpmodule:DEnKF", "inflation": 1.1}
    # A file of settings that the user passes may name code, as a script may.
    again = "assimilate --config theirs.zarr.toml --out again.zarr"
    assert main(again.split()) == 0
    assert scorda.open_posterior("again.zarr").configuration == theirs.configuration
    capsys.readouterr()
    assert main(["methods", "tmpmodule:DEnKF"]) == 0
    described = capsys.readouterr().out
    assert "--inflation  (default 1.0)" in described and "A^a = A - 1/2 K Y" in described


def test_a_method_of_another_module_keeps_the_contracts(package):
    transition = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    system = scorda.systems.LinearGaussian(
        transition, 0.1 * torch.eye(2), torch.zeros(2), torch.eye(2)
    )
    model = scorda.ObservationModel(scorda.Select([0]), std=0.5)
    _, problem = scorda.twin_experiment(system, model, 6, 3, scorda.rng.seeded(0))
    method = package.DEnKF.example(problem)
    for check in (check_filter, check_robust, check_declaration):
        check(method)
    check_assimilator(method, problem)


@pytest.mark.slow
def test_what_a_package_announces_is_known_by_its_name(installed, capsys):
    command = simulate("ring")
    capsys.readouterr()
    assert main(["methods"]) == 0
    assert "their-denkf" in capsys.readouterr().out
    assert main(["methods", "--table"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = (row for row in rows if row[:1] == ["their-denkf"])
    assert row[1:] == ["simulator", "black", "box", "no", "no"]
    Path("run.toml").write_text('[method]\nname = "their-denkf"\ninflation = 1.2\n')
    assert main(f"{command} --config run.toml --out a.zarr".split()) == 0
    method = scorda.open_posterior("a.zarr").configuration["method"]
    assert method == {"name": "their-denkf", "inflation": 1.2}
    assert main(f"{command} --method masf --prior wide --out b.zarr".split()) == 0
    prior = scorda.open_posterior("b.zarr").configuration["method"]["prior"]
    assert prior["name"] == "Wide"


CODE = "import pathlib\npathlib.Path('imported').touch()\n" + METHOD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--members many", "Invalid value for --members: unable to convert"),
        ("--members 0", "Got --members 0"),
        ("--observations no.csv", "There is no file or store no.csv"),
        ("--truth no.nc", "There is no file or store no.nc"),
        ("--system lorenz64", "Unknown system"),
        ("--device tpu", "choose cpu or cuda"),
        ("--units t2m", "give a variable and its unit"),
        ("--gross-error-check never", "or off"),
        ("--dtype float16", "float32 or float64"),
        ("--withhold 2", "between 0 and 1"),
        ("--config far.toml", "There is no file far.toml"),
    ],
)
def test_code_is_imported_only_after_all_other_settings_are_valid(
    tmp_path, monkeypatch, capsys, wrong, words
):
    monkeypatch.chdir(tmp_path)
    Path("unseen.py").write_text(CODE)
    Path("o.csv").write_text("time,variable,value,std\n0.025,x,5,1\n")
    for code in ("--method unseen:DEnKF", "--method masf --prior unseen:Wide"):
        of_system = "" if wrong.startswith("--system") else "--system"
        for system in ("lorenz63", "unseen:ring") if of_system else ("",):
            command = f"{code} {of_system} {system}"
            words_of = f"assimilate --observations o.csv {command} {wrong}".split()
            assert main(words_of) == 2
            assert words in capsys.readouterr().err
            assert not Path("imported").exists(), words_of
