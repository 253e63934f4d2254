"""Inflation from the shell and from TOML: a number, a name with a number, a name with settings."""

import pytest
import torch

from scorda.cli import main
from scorda.store import open_posterior

RUN = "assimilate --observations sim/observations.csv --system lorenz63 --members 8"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A folder with a short simulation of Lorenz-63 in it."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate --steps 8 --every 4 --std 0.5 --out sim".split()) == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("--inflation 1.02", 1.02),
        ("--method.inflation 1.02", 1.02),
        ("--inflation rtps:0.9", {"name": "RTPS", "relaxation": 0.9}),
        ("--method.inflation=rtps:0.9", {"name": "RTPS", "relaxation": 0.9}),
        ("--inflation rtpp --inflation.relaxation 0.5", {"name": "RTPP", "relaxation": 0.5}),
        (
            "--method.inflation multiplicative:1.1 --method.inflation.stage forecast",
            {"name": "Multiplicative", "factor": 1.1, "stage": "forecast"},
        ),
        ("--inflation additive:0.1", {"name": "Additive", "std": 0.1, "stage": "analysis"}),
        (
            "--inflation additive --inflation.std 0.1 0.2 0.3",
            {"name": "Additive", "std": [0.1, 0.2, 0.3], "stage": "analysis"},
        ),
        (
            "--inflation adaptive --inflation.law gaussian --inflation.damping 0.8",
            {"name": "Adaptive", "law": "gaussian", "start": 1.0}
            | {"std": 0.6, "least_std": 0.6, "damping": 0.8},
        ),
    ],
)
def test_an_inflation_is_named_in_the_shell_and_found_in_the_store(simulated, flags, kept):
    """The settings file of the run gives the same run again."""
    assert main(f"{RUN} --method etkf --out a.zarr {flags}".split()) == 0
    first = open_posterior("a.zarr")
    assert first.configuration["method"]["inflation"] == kept
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    again = open_posterior("b.zarr")
    assert again.configuration["method"] == first.configuration["method"]
    assert torch.equal(again.analysis.states, first.analysis.states)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("--localization 2", {"name": "GaspariCohn", "radius": 2.0}),
        ("--method.localization.radius 2", {"name": "GaspariCohn", "radius": 2.0}),
        (
            "--localization correlation-threshold:2",
            {"name": "CorrelationThreshold", "deviations": 2.0},
        ),
        (
            "--localization sampling-error --localization.taper 2",
            {"name": "SamplingError", "taper": {"name": "GaspariCohn", "radius": 2.0}},
        ),
    ],
)
def test_a_localization_is_named_in_the_shell(tmp_path, monkeypatch, flags, kept):
    """A number is the radius of Gaspari-Cohn, as it was when there was no other."""
    monkeypatch.chdir(tmp_path)
    made = "simulate --system lorenz96 --system.dim 8 --steps 8 --every 4 --out sim"
    assert main(made.split()) == 0
    run = RUN.replace("lorenz63", "lorenz96 --system.dim 8")
    assert main(f"{run} --method letkf --out a.zarr {flags}".split()) == 0
    assert open_posterior("a.zarr").configuration["method"]["localization"] == kept


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("inflation = 1.06", 1.06),
        ("inflation = 2", 2.0),
        ('inflation = "rtps:0.5"', {"name": "RTPS", "relaxation": 0.5}),
        ('inflation = {name = "rtps", relaxation = 0.5}', {"name": "RTPS", "relaxation": 0.5}),
    ],
)
def test_an_inflation_is_named_in_a_file(simulated, told, kept):
    """A filter whose formula has no inflation takes it too."""
    (simulated / "run.toml").write_text(f'[method]\nname = "closed-form-filter"\n{told}\n')
    assert main([*RUN.split(), "--config", "run.toml", "--out", "a.zarr"]) == 0
    assert open_posterior("a.zarr").configuration["method"]["inflation"] == kept


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--inflation rtsp:0.9", "did you mean 'rtps'"),
        ("--inflation rtps", "rtps needs --inflation.relaxation"),
        ("--inflation rtps:abc", "give a number behind rtps:, not 'abc'"),
        ("--localization correlation-taper:2", "correlation-taper takes no number"),
        ("--inflation rtpp:2", "between 0 and 1"),
        ("--inflation 0.9", "at least 1"),
        ("--inflation nan", "at least 1"),
        ("--inflation.relaxation 0.5", "Unknown option"),
        ("--localization taper", "Unknown value of --localization"),
        ("--method particle-filter --inflation rtps:0.5", "use `jitter`"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(simulated, capsys, flags, words):
    assert main(f"{RUN} {flags}".split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
