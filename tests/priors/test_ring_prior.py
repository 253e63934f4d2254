"""A prior of trajectories on a ring: which spaces have one, and what it learns from."""

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.levels import ring_levels
from scorda.diffusion.samplers import Multistep
from scorda.diffusion.training import Training
from scorda.methods.sda import SDA
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.priors.emulator import Emulator
from scorda.priors.from_states import train
from scorda.priors.from_system import train_on_system
from scorda.priors.recipe import Recipe, architecture_for, training_for
from scorda.priors.trajectory import load
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63, Lorenz96

SYSTEM = Lorenz96(dim=8, spinup=1.0)
GRID = {"y": np.arange(2.0), "x": np.arange(3.0)}
RECIPE = Recipe(series=6, length=17, architecture="ring-conv", width=4, blocks=1)


def ring(n=12, **options):
    places = {"longitude": np.arange(n) * 360.0 / n}
    return StateSpace((n,), coordinates=places, **({"period": {"longitude": 360.0}} | options))


def learned(**options):
    chosen = training_for(RECIPE) | {"training_steps": 2, "batch": 4, "every": 1}
    return train_on_system(SYSTEM, RECIPE, Training(**chosen), **options)


def test_rings_of_equal_steps_have_a_network_of_their_own():
    assert architecture_for(SYSTEM.space) == architecture_for(ring()) == "ring-conv"
    waves = StateSpace((2, 12), 1.0, ("u", "v"), ring().coordinates, {"longitude": 360.0})
    assert architecture_for(waves) == "ring-conv"
    uneven = {"longitude": np.array([0.0, 90.0, 200.0])}
    others = [
        Lorenz63().space,
        KolmogorovFlow(size=8, resolution=16).space,
        ring(period={}),
        ring(period={"longitude": 400.0}),
        ring(mask=np.arange(12) != 3),
        StateSpace((3,), coordinates=uneven, period={"longitude": 360.0}),
    ]
    for space in others:
        assert architecture_for(space) == "temporal-conv"


@pytest.mark.parametrize(
    ("states", "space", "why"),
    [
        ((40, 3), StateSpace((3,)), "its variables share no axis"),
        ((40, 12), ring(period={}), "its axis longitude has no period"),
        ((40, 2), ring(2), r"fewer than 3 points \(2\)"),
        (
            (40, 2, 3),
            StateSpace((2, 3), coordinates=GRID),
            "axes are y, x",
        ),
        ((40, 12), ring(period={"longitude": 400.0}), "do not divide the period"),
        ((40, 12), ring(mask=np.arange(12) != 3), "a mask"),
    ],
)
def test_other_states_are_refused(states, space, why):
    record = rng.normal(states[0], states[1:], rng.seeded(0))
    with pytest.raises(ValueError, match=f"needs one periodic axis of equal steps, and .*{why}"):
        train(record, space, "ring-conv", training_steps=1, progress=False)


def test_a_file_gives_the_prior_back_and_sda_takes_it(tmp_path):
    prior = learned()
    assert prior.architecture["grid"] == [8] and prior.per_entry and prior.half_width == 12
    assert prior.provenance["training"]["segment"] == 17
    prior.save(tmp_path / "prior.safetensors")
    back = load(tmp_path / "prior.safetensors")
    z, noise = rng.normal(2, (9, 8), rng.seeded(0)), torch.tensor(0.5)
    found, expected = (p.denoiser(9).denoise(z, noise) for p in (back, prior))
    assert torch.equal(found, expected)
    model = ObservationModel(Select([0, 4]), std=1.0)
    _, problem = twin_experiment(SYSTEM, model, 8, 4, rng.seeded(1))
    states = SDA(back).assimilate(problem, 3, generator=0).states
    assert states.shape == (3, 9, 8) and states.isfinite().all()


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    whole = learned()
    learned(checkpoint=tmp_path / "c", slice_seconds=0.0)
    resumed = learned(checkpoint=tmp_path / "c")
    for name, p in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], p)


def test_levels_of_dense_and_sparse_networks():
    """The density of the observed points differs between segments, and variables share it."""
    noise = torch.full((4000,), 10.0)
    levels = ring_levels(noise, (33, 2, 40), 1.0, rng.seeded(0))
    assert levels.shape == (4000, 33, 2, 40) and (levels <= 10.0).all() and (levels > 0).all()
    seen = (levels < 9.0).any(1)
    share = seen.any(1).double().mean(1)
    assert (share < 0.2).double().mean() > 0.1 and (share > 0.8).double().mean() > 0.1
    # Regular networks of a half and a quarter of the points are there.
    for stride in (2, 4):
        regular = torch.arange(40) % stride == 0
        assert (seen.any(1) == regular).all(1).any()
    nothing = ring_levels(noise[:9], (33, 40), 0.0, rng.seeded(0))
    assert torch.equal(nothing, noise[:9, None, None].expand(9, 33, 40))


def test_steps_are_read_off_windows_of_a_network_that_takes_five_states():
    prior = learned()
    x = SYSTEM.prior(3, rng.seeded(0)).float()
    found = Emulator(prior, Multistep(3, 0)).step(x, rng.seeded(1))
    assert found.shape == x.shape and bool(found.isfinite().all())
    with pytest.raises(ValueError, match="read off windows of several states"):
        Emulator(prior).next(x)
