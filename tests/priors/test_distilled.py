"""A prior of few evaluations is made of a trained one."""

from dataclasses import replace

import pytest
import torch

from scorda.cli import main
from scorda.core import rng
from scorda.diffusion.samplers import Ancestral
from scorda.diffusion.training import Training
from scorda.priors.distilled import FEW, distilled
from scorda.priors.from_system import train_on_system
from scorda.priors.recipe import Recipe, training_for
from scorda.priors.trajectory import load
from scorda.systems.lorenz import Lorenz63

SYSTEM = Lorenz63(spinup=1.0)
RECIPE = Recipe(series=8, length=30, width=8, blocks=1)
SETTINGS = Training(training_steps=6, batch=2, segment=20, rate=1e-3, every=2)


@pytest.fixture(scope="module")
def prior():
    chosen = training_for(RECIPE) | {"training_steps": 4, "batch": 4, "every": 2}
    return train_on_system(SYSTEM, RECIPE, Training(**chosen))


@pytest.fixture(scope="module")
def states():
    return SYSTEM.trajectory(SYSTEM.prior(8, rng.seeded(1)), 29)


def test_the_new_prior_has_few_evaluations_and_the_old_one_stays(prior, tmp_path):
    before = {name: p.clone() for name, p in prior.network.state_dict().items()}
    # A few series would be learned by heart.
    many = SYSTEM.trajectory(SYSTEM.prior(512, rng.seeded(2)), 29)
    longer = replace(SETTINGS, training_steps=30, batch=32, rate=3e-3, every=15, average=0.8)
    few = distilled(prior, many, longer)
    assert few.sampler == FEW and few.sampler.evaluations == 16
    assert all(torch.equal(before[n], p) for n, p in prior.network.state_dict().items())
    assert not torch.equal(few.network.last.weight, prior.network.last.weight)
    losses = [e["validation"] for e in few.provenance["history"]]
    assert len(losses) == 3 and min(losses[1:]) < losses[0]
    assert few.provenance["distilled"]["from"]["training"] == prior.provenance["training"]
    few.save(tmp_path / "few.safetensors")
    back = load(tmp_path / "few.safetensors")
    assert torch.equal(back.sample(2, 20, 0), few.sample(2, 20, 0))


def test_a_killed_run_resumes_to_the_same_weights(prior, states, tmp_path):
    whole = distilled(prior, states, SETTINGS)
    options = {"checkpoint": tmp_path / "c", "slice_seconds": 0.0}
    for step in (2, 4, 6):
        sliced = distilled(prior, states, SETTINGS, **options)
        assert sliced.provenance["history"][-1]["step"] == step
    # The weights may be those of the prior, where none are better; the losses are of all steps.
    assert sliced.provenance["history"] == whole.provenance["history"]
    for ours, theirs in zip(sliced.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_does_not_fit_is_refused(prior, states):
    with pytest.raises(ValueError, match="has no corrections"):
        distilled(prior, states, SETTINGS, Ancestral(8, corrections=1))
    with pytest.raises(ValueError, match="its last axes must be"):
        distilled(prior, states[..., :2], SETTINGS)
    with pytest.raises(ValueError, match="one noise level"):
        distilled(load("kolmogorov"), states, SETTINGS)


COMMAND = "train --system lorenz63 --quick --threads 1"


@pytest.mark.slow
def test_the_command_distils(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = "--width 4 --blocks 1 --out p.safetensors"
    assert main([*COMMAND.split(), *sizes.split()]) == 0
    rest = "--start-from p.safetensors --distil 12 --batch 2 --segment 20 --out q.safetensors"
    assert main([*COMMAND.split(), *rest.split()]) == 0
    assert load("q.safetensors").sampler.evaluations == 12
    assert "distil = 12" in (tmp_path / "q.toml").read_text()
    for wrong, said in (
        ("--distil 12", "without --start-from"),
        ("--distil 1 --start-from p.safetensors", "at least 2 steps"),
        ("--distil 12 --start-from p.safetensors --width 4", "Got --width"),
        ("--distil 12 --start-from lorenz96", "a prior of lorenz96"),
        ("--distil 12 --start-from kolmogorov", "one noise level"),
        ("--distil 12 --start-from p.safetensors --system.rho 30", "other settings"),
    ):
        given = [*COMMAND.split(), *wrong.split(), "--out", "wrong.safetensors"]
        assert main(given) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "wrong.safetensors").exists()
