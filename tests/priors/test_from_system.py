"""A prior of fields learned from a simulated flow."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.training import Training
from scorda.priors.from_system import resampled, train_on_system
from scorda.priors.recipe import Recipe, training_for
from scorda.priors.trajectory import load
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63

FLOW = KolmogorovFlow(size=8, resolution=12, viscosity=0.05, wavenumber=2, spinup=0.4)
RECIPE = Recipe(series=6, length=6, architecture="unet", width=4, blocks=1, half_width=1)


def learned(system=FLOW, recipe=RECIPE, rate=2e-3, **options):
    chosen = training_for(recipe) | {"training_steps": 4, "batch": 4, "every": 2, "rate": rate}
    return train_on_system(system, recipe, Training(**chosen), **options)


def test_a_flow_gives_a_prior_that_its_file_gives_back(tmp_path):
    prior = learned()
    assert prior.architecture["grid"] == [8, 8] and prior.half_width == 1
    # The force stands before its network, and the law is that of the data, not white.
    assert_close(prior.network.context, FLOW.context.to(prior.network.context))
    assert prior.network.law.spectrum.std() > 0.1
    # A segment is a window.
    assert prior.provenance["training"]["segment"] == 3
    prior.save(tmp_path / "prior.safetensors")
    back = load(tmp_path / "prior.safetensors")
    z, noise = torch.randn(2, 6, 2, 8, 8, generator=rng.seeded(0)), torch.tensor(0.5)
    found, expected = (p.denoiser(6).denoise(z, noise) for p in (back, prior))
    assert torch.equal(found, expected)
    assert back.provenance["recipe"]["levels"] == 2 and back.sampler == prior.sampler


def test_given_trajectories_stand_for_simulated_ones():
    states = FLOW.trajectory(FLOW.prior(6, rng.seeded(5)), 5)
    prior = learned(states=states)
    assert_close(prior.standardisation.std.flatten(), states.std((0, 1, 3, 4)))
    with pytest.raises(ValueError, match="its last axes must be"):
        learned(states=states[..., :4])


def test_a_slice_says_how_far_it_came(tmp_path):
    options = {"checkpoint": tmp_path / "c", "slice_seconds": 0.0}
    assert learned(**options).provenance["history"][-1]["step"] == 2
    assert learned(**options).provenance["history"][-1]["step"] == 4


def test_training_starts_from_the_weights_of_a_prior():
    """They are validated first, and stay where a training that can only spoil them is over."""
    first = learned()
    still = learned(initial=first, rate=1e-30)
    assert [e["step"] for e in still.provenance["history"]] == [0, 2, 4]
    for ours, theirs in zip(still.network.parameters(), first.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    spoilt = learned(initial=first, rate=1e4)
    for ours, theirs in zip(spoilt.network.parameters(), first.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="another network"):
        learned(recipe=replace(RECIPE, width=6), initial=first)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="two periodic axes"):
        learned(Lorenz63())
    with pytest.raises(ValueError, match="one of temporal-conv, window-mlp, unet"):
        Recipe(architecture="transformer")
    with pytest.raises(ValueError, match="temporal-conv has no levels"):
        Recipe(levels=2)
    assert (Recipe().width, Recipe().blocks, Recipe().half_width) == (96, 5, None)
    assert training_for(Recipe()) == {"segment": 65}
    assert training_for(Recipe(length=64)) == {"segment": 64}
    assert training_for(Recipe(architecture="window-mlp")) == {"segment": 9}


@pytest.mark.parametrize("grid", [(6, 10), (20, 18), (12, 12)])
def test_resampling_keeps_low_wave_numbers(grid):
    """A field of waves that both grids resolve, at the points of each; a higher one goes."""

    def field(rows, columns, high):
        y, x = (torch.arange(n) * 2 * torch.pi / n for n in (rows, columns))
        y = y[:, None]
        return 1 + (2 * y - x).sin() + (y + 2 * x + 1).cos() + high * (5 * x + 4 * y).cos()

    expected = field(*grid, float(min(grid) > 10))
    assert_close(resampled(field(12, 12, 1.0)[None], grid)[0], expected, rtol=1e-9, atol=1e-9)
