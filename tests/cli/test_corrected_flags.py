"""Weights and sweeps of SDA from the shell, from TOML, stored and told."""

import pytest
import torch

import scorda
from scorda.cli import main
from scorda.core import rng

COMMAND = (
    "assimilate --observations sim/observations.csv --system lorenz63 --prior lorenz63"
    " --method sda --members 20 --seed 3 --threads 1"
)
TWISTED = "--sampler twisted --sampler.noise-levels 8 --sampler.group 32"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("simulate --steps 16 --every 8 --observe x --std 0.5 --out sim".split()) == 0
    return tmp_path


@pytest.mark.slow
def test_flags_are_the_settings_of_the_library(simulated, capsys):
    assert main(f"{COMMAND} {TWISTED} --polish.sweeps 2 --polish.particles 8".split()) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Log evidence" in shown and "Sweeps replaced" in shown
    method = scorda.SDA(
        scorda.priors.load("lorenz63"),
        sampler=scorda.diffusion.Twisted(8, 32),
        polish=scorda.ConditionalSMC(2, 8),
    )
    system = scorda.systems.Lorenz63()
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    problem = scorda.Problem(system, observations, 16)
    expected = method.assimilate(problem, 20, rng.seeded(3))
    posterior = scorda.open_posterior("run.zarr")
    assert torch.equal(posterior.analysis.states, expected.states)
    # The settings that were written down make the same again.
    assert main("assimilate --config run.zarr.toml --out again.zarr".split()) == 0
    again = scorda.open_posterior("again.zarr")
    assert torch.equal(again.analysis.states, expected.states)
    assert main("report run.zarr --out report.html".split()) == 0
    page = (simulated / "report.html").read_text()
    assert "Log evidence" in page and "Sweeps replaced" in page


@pytest.mark.slow
def test_a_prior_alone_makes_no_steps(simulated, capsys):
    """Without --system there is nothing to sweep with: one sentence."""
    capsys.readouterr()
    command = COMMAND.replace("--system lorenz63 ", "")
    assert main(f"{command} --polish 2".split()) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "ConditionalSMC needs a system that makes steps and draws" in error
    )


@pytest.mark.slow
def test_a_number_of_sweeps_is_a_whole_one(simulated, capsys):
    """`--polish 2` and `--polish conditional-smc:2` are sweeps; parts of one are told at once."""
    short = f"{COMMAND} {TWISTED}"
    for sweeps in ("2", "conditional-smc:2"):
        assert main(f"{short} --overwrite --polish {sweeps} --polish.particles 8".split()) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "Sweeps replaced" in shown
    for sweeps in ("1.5", "nan", "conditional-smc:1.5"):
        assert main(f"{short} --polish {sweeps}".split()) == 2
        assert "give a whole number of sweeps" in capsys.readouterr().err


def test_a_prior_for_a_method_that_takes_none(capsys):
    """The default method is a filter: whoever names a prior alone is told what to add."""
    assert main("assimilate --observations seen.csv --prior lorenz63".split()) == 2
    assert "takes no --prior: name one that does, such as sda" in capsys.readouterr().err


@pytest.mark.slow
def test_members_and_constant_parameters_of_a_trained_prior_are_polished(simulated, capsys):
    """The flags are the library's settings; other parameters than the prior's are told."""
    rho = "--system lorenz63 --system.spinup 1 --parameter rho=uniform:20,35"
    sizes = "--series 16 --length 12 --width 8 --blocks 1 --training-steps 4 --batch 4 --segment 9"
    assert main(f"train {rho} {sizes} --out prior.safetensors".split()) == 0
    given = (
        "assimilate --observations sim/observations.csv --prior prior.safetensors --method sda"
        " --members 6 --seed 3 --threads 1 --polish 2 --polish.particles 16"
    )
    assert main(f"{given} {rho}".split()) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "and the parameters of" in shown
    system = scorda.WithParameters(
        scorda.systems.Lorenz63(spinup=1), {"rho": scorda.systems.Uniform(20, 35)}
    )
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    prior = scorda.priors.load("prior.safetensors")
    method = scorda.SDA(prior, polish=scorda.ConditionalSMC(2, 16))
    expected = method.assimilate(scorda.Problem(system, observations, 16), 6, rng.seeded(3))
    states = scorda.open_posterior("run.zarr").analysis.states
    assert torch.equal(states, expected.states)
    assert torch.equal(states[:, 0, 3], states[:, -1, 3])
    for other, named in (
        (rho.split(" --parameter")[0], "no parameters"),
        (rho.replace("rho=", "beta="), "the parameters beta"),
    ):
        assert main(f"{given} --overwrite {other}".split()) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{named}, the prior the parameters rho" in error
