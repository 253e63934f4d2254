"""Priors of records with bounds: draws and posteriors are inside, with the law of the record."""

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.operators import Select
from scorda.systems import Log, Logit

BOUNDS = {"cover": Logit(0.0, 1.0), "rain": Log()}
SPACE = StateSpace((2, 3), 1.0, ("cover", "rain"), {"x": np.arange(3)}, transforms=BOUNDS)
# Standard deviations of logit and log.
SPREADS = torch.tensor([1.5, 0.8])


def record(times=300):
    """Autoregressive in the coordinates without bounds, with a memory of 0.7."""
    noise = rng.normal(times, (2, 3), rng.seeded(0))
    z = [noise[0]]
    for e in noise[1:]:
        z.append(0.7 * z[-1] + np.sqrt(1 - 0.49) * e)
    return SPACE.bounded(torch.stack(z) * SPREADS[:, None])


def assert_inside(states):
    for name, bounds in BOUNDS.items():
        values = SPACE.field(states, name)
        assert ((values > bounds.lower) & (values < bounds.upper)).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [False, True])
def test_a_prior_of_a_bounded_record_stays_inside_with_its_law(gaps):
    """Medians within 0.3 of the record's in z (its own error is 0.2), spreads within a quarter."""
    states = record()
    if gaps:
        states[40:60, 1, 2] = torch.nan
    prior = sc.train(states, SPACE, training_steps=20, seed=1, progress=False)
    draws = prior.sample(200, 6, rng.seeded(2))
    assert_inside(draws)
    z = SPACE.unbounded(draws)
    assert (z.median(0).values.abs() < 0.3 * 2.5 * SPREADS[:, None]).all()
    ratio = z.std((0, 1)) / SPREADS[:, None]
    assert ((ratio > 0.75) & (ratio < 1.25)).all(), ratio
    model = sc.ObservationModel(Select([0, 3]), std=0.1)
    seen = sc.Observations(model, [2], torch.tensor([[1.05, 0.02]]))
    found = sc.SDA(prior).assimilate(sc.Problem(prior, seen, 5), 50, 3).states
    assert_inside(found)
    assert float(found[:, 2, 0, 0].mean()) > 0.85 and float(found[:, 2, 1, 0].mean()) < 0.3


def test_a_record_beyond_its_bounds_is_refused():
    states = record()
    states[7, 0, 0] = 1.5
    with pytest.raises(ValueError, match="1 values of cover in the record beyond"):
        sc.train(states, SPACE, progress=False)
    with pytest.raises(ValueError, match="1 values of cover in trajectories beyond"):
        sc.train(states, SPACE, architecture="temporal-conv", progress=False)
