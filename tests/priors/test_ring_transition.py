"""A transition of states on one ring: its network, what it learns, and how it is stored."""

import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.priors.emulator import Emulator, load_emulator
from scorda.priors.from_system import STEP_SAMPLER, train_on_system
from scorda.priors.recipe import Recipe, training_for
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz96

SYSTEM = Lorenz96(dim=8, noise_std=0.4, spinup=1.0)
RECIPE = Recipe(series=6, length=17, architecture="ring-conv", width=4, blocks=1)
SITES = 8


def learned(**options):
    chosen = training_for(RECIPE, transition=True)
    chosen |= {"training_steps": 2, "batch": 4, "every": 1}
    return train_on_system(SYSTEM, RECIPE, Training(**chosen), transition=True, **options)


def circulant(*rows):
    """Matrix that adds neighbours of a ring with some weights, (shift, weight)."""
    return sum(weight * torch.eye(SITES).roll(shift, 1) for shift, weight in rows)


def linear_ring():
    """A wave that moves along a ring; errors of neighbours are correlated."""
    transition = circulant((0, 0.5), (1, 0.4), (-1, -0.1))
    noise = circulant((0, 0.1), (1, 0.03), (-1, 0.03))
    cov = torch.eye(SITES)
    for _ in range(200):
        cov = transition @ cov @ transition.T + noise
    place = {"x": torch.arange(float(SITES)).numpy()}
    space = StateSpace((SITES,), 1.0, ("u",), place, {"x": float(SITES)})
    return LinearGaussian(transition, noise, torch.zeros(SITES), cov, space)


@pytest.mark.slow
def test_a_ring_has_its_network_with_the_differences_of_the_data():
    states = SYSTEM.trajectory(SYSTEM.prior(5, rng.seeded(0)), 20, rng.seeded(1))
    prior = sc.train(states, SYSTEM.space, training_steps=1, progress=False, transition=True)
    made = prior.architecture
    assert made["name"] == "step-ring" and made["grid"] == [8] and prior.sampler == STEP_SAMPLER
    z = (states - states.mean()) / states.std()
    expected = (z[:, 1:] - z[:, :-1]).square().mean().sqrt()
    assert made["differences"] == pytest.approx([float(expected)], rel=1e-6)


def test_variables_of_a_ring_have_differences_of_their_own():
    fast, slow = rng.normal(6, (30, 2, 5), rng.seeded(0)).unbind(2)
    states = torch.stack((fast, 3 * slow.cumsum(1)), 2)
    place = {"x": torch.arange(5.0).numpy()}
    space = StateSpace((2, 5), 1.0, ("a", "b"), place, {"x": 5.0})
    prior = sc.train(
        states, space, training_steps=1, progress=False, transition=True, width=4, blocks=0
    )
    z = (states - states.mean((0, 1, 3), True)) / states.std((0, 1, 3), keepdim=True)
    expected = (z[:, 1:] - z[:, :-1]).square().mean((0, 1, 3)).sqrt()
    # `std` divides by one less than the number of values, of which there are 900.
    assert prior.architecture["differences"] == pytest.approx(expected.tolist(), rel=2e-3)
    x = Emulator(prior).step(states[:3, 0].float(), 0)
    assert x.shape == (3, 2, 5) and bool(x.isfinite().all())


def test_it_is_stored_and_read_again(tmp_path):
    prior, path = learned(), tmp_path / "next.safetensors"
    prior.save(path)
    x = load_emulator(path).prior(3, rng.seeded(0))
    assert x.shape == (3, 8)
    assert torch.equal(load_emulator(path).step(x, 3), Emulator(prior).step(x, 3))


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    whole = learned()
    learned(checkpoint=tmp_path / "c", slice_seconds=0.0)
    resumed = learned(checkpoint=tmp_path / "c")
    for name, p in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], p)


@pytest.mark.slow
def test_a_linear_gaussian_step_is_learned():
    """In 400 steps on 4000 pairs, a few seconds: mean and covariance of the exact law."""
    system = linear_ring()
    torch.set_default_dtype(torch.float32)
    states = system.trajectory(system.prior(200, rng.seeded(0)), 20, rng.seeded(1)).float()
    settings = Training(**training_for(RECIPE, True) | {"training_steps": 400, "every": 100})
    prior = sc.train(
        states, system.space, training=settings, progress=False, transition=True, width=24,
        blocks=1,
    )  # fmt: skip
    emulator, draws = Emulator(prior), 2000
    x = system.prior(20, rng.seeded(3)).float()
    found = emulator.step(x.repeat(draws, 1), rng.seeded(0)).view(draws, 20, SITES).double()
    noise = system.noise_cov.double()
    error = found.mean(0) - x.double() @ system.transition.double().T
    # Of 2000 draws the mean has a sampling error of 0.02 standard deviations of the error.
    assert error.square().mean().sqrt() < 0.1 * noise[0, 0].sqrt()
    rest = (found - found.mean(0)).flatten(0, 1)
    cov = rest.T @ rest / (20 * (draws - 1))
    around = torch.stack([row.roll(-i) for i, row in enumerate(cov)]).mean(0)
    # The 13 evaluations of the sampler make 0.006 of 0.1 with the exact law.
    assert_close(around, noise[0], rtol=0, atol=0.015)
