"""One law of several variables: what one of them tells of another."""

import math

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.priors.from_fields import train_on_fields
from scorda.reading.records import Fields

FEW = Training(training_steps=4, batch=4, segment=4, rate=1e-3, validation=0.2, every=2)
SPACE = StateSpace((2,), 1.0, ("t", "q"), units={"t": "K", "q": "g/kg"})
MEAN, STD, CORRELATION, MEMORY = torch.tensor([280.0, 10.0]), torch.tensor([4.0, 0.5]), 0.8, 0.6


def record(times, seed=0):
    """A first-order autoregression of two variables at one place, of a known law."""
    draw = torch.Generator().manual_seed(seed)
    eps = torch.randn(times, 2, generator=draw, dtype=torch.float64)
    other = CORRELATION * eps[:, 0] + (1 - CORRELATION**2) ** 0.5 * eps[:, 1]
    eps = torch.stack((eps[:, 0], other), 1)
    z = eps.clone()
    for k in range(1, times):
        z[k] = MEMORY * z[k - 1] + (1 - MEMORY**2) ** 0.5 * eps[k]
    return Fields(MEAN + STD * z, SPACE)


@pytest.mark.slow
def test_the_variable_that_nobody_observes_has_its_posterior_in_closed_form():
    """5 standard errors of 400 members, 3 % for the sampler, and 5 % for a law of 4000 fields.

    The law has 4000 fields of a memory of 0.6, as good as 1900 draws: its standard deviations and
    correlation are off by 1.6 % at one standard error, and the posterior's by as much.
    """
    prior, members, error = train_on_fields(record(4000), settings=FEW), 400, 0.8
    assert prior.provenance["groups"] == [["t", "q"]]
    values = MEAN[0] + torch.tensor([[5.0], [3.0], [-2.0], [1.0]])
    data = sc.Observations(sc.ObservationModel(sc.Select([0]), std=error), range(4), values)
    run = sc.SDA(prior).assimilate(sc.Problem(prior, data, 3), members, rng.seeded(0))
    lag = (torch.arange(4.0)[:, None] - torch.arange(4.0)).abs()
    first = STD[0] ** 2 * MEMORY**lag
    cross = CORRELATION * STD[0] * STD[1] * MEMORY**lag
    gain = torch.linalg.solve(first + error**2 * torch.eye(4), cross).T
    mean = MEAN[1] + gain @ (values[:, 0] - MEAN[0])
    std = (STD[1] ** 2 - (gain * cross).sum(1)).sqrt()
    found = run.states[..., 1]
    assert ((found.mean(0) - mean).abs() / std).max() < 5 / members**0.5 + 0.08
    assert (found.std(0) / std - 1).abs().max() < 5 / (2 * members) ** 0.5 + 0.08


def test_a_variable_that_tells_nothing_is_left_alone():
    """What two variables share beside a third, which is independent of them."""
    draw = np.random.default_rng(3)
    first = draw.normal(size=(40, 6)).cumsum(1)
    states = np.stack((first, first + 0.3 * draw.normal(size=(40, 6)), draw.normal(size=(40, 6))))
    space = StateSpace((3, 6), 1.0, ("u", "v", "w"), {"x": np.arange(6.0)})
    fields = Fields(torch.from_numpy(states.transpose(1, 0, 2).copy()), space)
    found = train_on_fields(fields, corrected=2, width=8, settings=FEW)
    assert found.provenance["groups"] == [["u", "v"], ["w"]]
    modes, share = found.network.basis, torch.zeros(2)
    share = torch.stack((modes[:12].square().sum(0), modes[12:].square().sum(0)))
    # Each mode is of one group.
    assert share.min(0).values.max() < 1e-6 and math.isclose(float(share.sum()), modes.shape[1])


def test_a_training_on_variables_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    def stop(entry):
        if entry["step"] == 2:
            raise KeyboardInterrupt

    fields = record(80)
    whole = train_on_fields(fields, corrected=2, width=8, settings=FEW)
    with pytest.raises(KeyboardInterrupt):
        train_on_fields(fields, 300, 2, 8, 2, FEW, tmp_path / "c.pt", stop)
    again = train_on_fields(fields, 300, 2, 8, 2, FEW, tmp_path / "c.pt")
    whole.save(tmp_path / "whole.safetensors")
    again.save(tmp_path / "again.safetensors")
    both = [(tmp_path / f"{n}.safetensors").read_bytes() for n in ("whole", "again")]
    assert both[0] == both[1]
