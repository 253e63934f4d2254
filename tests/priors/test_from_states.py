"""One call trains what the layers below train, on the same trajectories."""

import numpy as np
import pytest
import torch
import xarray

import scorda as sc
from scorda.core import rng
from scorda.diffusion.training import Training
from scorda.priors.from_fields import train_on_fields
from scorda.priors.from_system import train_on_system
from scorda.priors.recipe import Recipe
from scorda.reading.records import read_fields
from scorda.systems.lorenz import Lorenz63

pytestmark = pytest.mark.slow
FEW = Training(training_steps=4, batch=4, segment=8, every=2)


@pytest.fixture(autouse=True)
def _few_radii(monkeypatch):
    monkeypatch.setattr("scorda.priors.held_back.RADII", (0.25, 0.5))


def trajectories(series=20, length=12):
    system = Lorenz63(spinup=0.5)
    return system, system.trajectory(system.prior(series, 0), length - 1, rng.seeded(1))


def same(one, other):
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_trajectories_make_the_prior_that_their_system_makes():
    system, states = trajectories()
    recipe = Recipe(20, 12, "temporal-conv", width=8, blocks=1)
    expected = train_on_system(system, recipe, FEW, states=states)
    sizes = {"width": 8, "blocks": 1, "progress": False}
    found = sc.train(states.numpy(), system.space, training=FEW, **sizes)
    assert same(found, expected) and found.sampler == expected.sampler
    torch.manual_seed(7)
    one, two, other = (
        sc.train(states, system.space, training_steps=3, seed=seed, **sizes) for seed in (5, 5, 6)
    )
    assert same(one, two) and not same(one, other)
    _, problem = sc.twin_experiment(system, sc.ObservationModel(sc.Select([0]), std=1.0), 8, 4, 0)
    drawn = sc.SDA(found).assimilate(problem, 2, 0).states
    assert drawn.shape == (2, 9, 3) and drawn.isfinite().all()


def test_a_single_record_is_cut_into_trajectories():
    system, states = trajectories(1, 405)
    said = []
    prior = sc.train(
        states[0],
        system.space,
        training_steps=2,
        width=8,
        blocks=1,
        progress=lambda *done: said.append(done),
    )
    assert prior.provenance["recipe"]["series"] == 20
    assert prior.provenance["recipe"]["length"] == 20
    assert said == [(1, 2), (2, 2)]


def dataset(hours=96):
    draws = np.random.default_rng(0).normal(size=(hours, 4, 5)).cumsum(0)
    times = np.datetime64("2020-01-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    places = {"y": np.arange(4.0), "x": np.arange(5.0)}
    return xarray.Dataset({"t": (("time", "y", "x"), draws)}, {"time": times, **places})


def test_a_dataset_of_fields_makes_the_prior_of_the_shell():
    record = dataset()
    settings = Training(training_steps=4, batch=4, segment=8, validation=0.2, every=2, rate=1e-3)
    expected = train_on_fields(read_fields(record), 6, 3, 8, 1, settings)
    sizes = {"modes": 6, "corrected": 3, "width": 8, "blocks": 1}
    found = sc.train(record, training=settings, progress=False, **sizes)
    assert same(found, expected)
    assert found.diurnal_mean is not None


def test_what_cannot_be_learned_is_told():
    system, states = trajectories(4, 6)
    for given, how, words in (
        ((states,), {}, "without a space"),
        ((states[:0], system.space), {}, "give some states"),
        ((dataset(), system.space), {}, "has its own"),
        ((states, system.space), {"architecture": "transformer"}, "one of modes"),
        ((states, system.space), {"modes": 3}, "no size 'modes'"),
        ((states[..., :2], system.space), {}, "Got fields of shape|last axes"),
    ):
        with pytest.raises(ValueError, match=words):
            sc.train(*given, training_steps=2, progress=False, **how)
