"""Emulators of records of fields: a linear-Gaussian record has its law in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.samplers import Multistep
from scorda.diffusion.training import Training
from scorda.priors.emulator import Emulator, load_emulator
from scorda.priors.step_of_fields import linear_step, train_step_on_fields
from scorda.reading.records import Fields
from scorda.systems.linear import LinearGaussian
from scorda.testing import check_system

POINTS = 4
FEW = Training(training_steps=2, batch=16, segment=2, rate=1e-6, validation=0.2, every=1)


@pytest.fixture(autouse=True)
def _few_radii(monkeypatch):
    monkeypatch.setattr("scorda.priors.held_back.RADII", (1.0,))


def linear():
    """A rotation of four points that forgets, with correlated error, about a mean of 3."""
    Q, _ = torch.linalg.qr(rng.normal(POINTS, (POINTS,), rng.seeded(7)))
    advance = Q @ torch.diag(torch.tensor([0.95, 0.9, 0.7, 0.5])) @ Q.roll(1, 1).T
    root = torch.eye(POINTS) + 0.5 * torch.tril(torch.ones(POINTS, POINTS), -1)
    return LinearGaussian(advance, 0.1 * root @ root.T, torch.zeros(POINTS), torch.eye(POINTS))


def record(times=20_000, daily=False, space=None):
    system = linear()
    start = system.prior(1, rng.seeded(0))
    states = 3 + system.trajectory(start, 50 + times - 1, rng.seeded(1))[0, 50:]
    axes = {"x": np.arange(float(POINTS))}
    units = {"x": "m", "time": "hours"} if daily else {}
    space = space or StateSpace((POINTS,), 6.0 if daily else 1.0, ("t",), axes, units=units)
    if daily:
        # 00, 06, 12 and 18 o'clock.
        states = states + torch.tensor([0.0, 10.0, 20.0, 30.0]).repeat(times // 4)[:, None]
    return Fields(states, space, "2019-03-01T00:00" if daily else None)


def moments(x, leads):
    """Return mean and covariance of the deviation from the mean at some leads, from a state."""
    system, mean, cov, found = linear(), x - 3, torch.zeros(POINTS, POINTS), {}
    for lead in range(1, max(leads) + 1):
        mean = system.advance(mean)
        A = system.advance(torch.eye(POINTS)).T
        cov = A @ cov @ A.T + system.noise_cov
        found[lead] = mean + 3, cov
    return {lead: found[lead] for lead in leads}


@pytest.mark.slow
def test_forecasts_from_a_linear_gaussian_record_have_the_law_of_the_system():
    """Mean and covariance at leads 1, 2, 5; the record has errors of 0.007, 4000 draws 0.016."""
    emulator = Emulator(train_step_on_fields(record(), settings=FEW))
    x, members = torch.tensor([5.0, 2.0, 3.5, 1.0]), 4000
    forecast = emulator.trajectory(x.expand(members, -1), 5, rng.seeded(3))
    for lead, (mean, cov) in moments(x, (1, 2, 5)).items():
        states = forecast[:, lead]
        std = cov.diagonal().sqrt()
        assert ((states.mean(0) - mean).abs() / std).max() < 5 * (0.016 + 0.007)
        root = torch.linalg.cholesky(torch.linalg.inv(cov))
        found = root.T @ states.T.cov() @ root
        assert_close(found, torch.eye(POINTS), rtol=0, atol=5 * (2 / members) ** 0.5)


def test_a_linear_step_is_that_of_least_squares_with_the_error_that_it_has():
    """Diagonal and uncoupled coefficients; 20 000 pairs, 5 standard errors."""
    rates = torch.tensor([0.9, 0.5, -0.3])
    system = LinearGaussian(
        rates.diag(), torch.tensor([4.0, 1.0, 0.25]).diag(), torch.zeros(3), torch.eye(3)
    )
    states = system.trajectory(torch.zeros(1, 3), 20_000, rng.seeded(0))
    step = linear_step(states, 2)
    assert_close(step.advance.diagonal(), rates, rtol=0, atol=5 / 20_000**0.5)
    assert_close(
        step.spectrum, torch.tensor([4.0, 1.0, 0.25]), rtol=5 * (2 / 20_000) ** 0.5, atol=0
    )
    assert_close(step.turn.mT @ step.turn, torch.eye(3))


def test_few_pairs_leave_the_step_diagonal():
    """30 pairs of twenty independent coefficients: full steps fail in what is held back."""
    c = rng.normal(1, (31, 20), rng.seeded(0))
    step = linear_step(c, 5)
    assert step.rank == 0 and int((step.advance != 0).sum()) == 20


@pytest.mark.slow
def test_it_knows_the_time_of_day(tmp_path):
    """A cycle of 10 degrees every 6 hours passes from step to step; the file keeps it."""
    prior = train_step_on_fields(record(400, daily=True), settings=FEW)
    with pytest.raises(ValueError, match="say when step 0 is"):
        Emulator(prior)
    with pytest.raises(ValueError, match="between two of the 4 steps"):
        Emulator(prior, start="2019-03-01T03:00")
    prior.save(tmp_path / "next.safetensors")
    emulator = load_emulator(tmp_path / "next.safetensors", start="2019-05-01T12:00")
    check_system(emulator)
    for start, first in (("2019-05-07T12:00", 0), ("2019-05-01T18:00", 1), (6.0, 1)):
        emulator.check_start(start, first)
    with pytest.raises(ValueError, match="of which step 1 is 1 steps after 2019-05-01T12:00"):
        emulator.check_start("2019-05-01T12:00", 1)
    means = emulator.trajectory(emulator.prior(200, 0), 4, 1).mean((0, 2))
    # Of noon, the evening, midnight...; the record has a spread of about 0.7.
    expected = 3 + torch.tensor([20.0, 30.0, 0.0, 10.0, 20.0])
    assert_close(means, expected.to(means), rtol=0, atol=0.7)
    later = emulator.at(2).step(emulator.prior(200, 0) - 20, 1).mean()
    assert abs(float(later) - 13) < 0.7


@pytest.mark.slow
def test_what_is_outside_of_the_mask_stays_zero():
    axes = {"x": np.arange(float(POINTS))}
    space = StateSpace((POINTS,), 1.0, ("t",), axes, mask=np.array([True, False, True, True]))
    emulator = Emulator(train_step_on_fields(record(400, space=space), settings=FEW))
    states = emulator.trajectory(emulator.prior(5, 0), 3, 1)
    assert not states[..., 1].any() and states[..., [0, 2, 3]].all()


def test_segments_of_another_length_are_refused():
    with pytest.raises(ValueError, match="steps are learned from segments of 2"):
        train_step_on_fields(record(100), settings=replace(FEW, segment=3))


def test_train_takes_a_record_for_transitions_and_names_its_sampler():
    sizes = {"width": 8, "blocks": 1, "modes": 3, "corrected": 2}
    prior = sc.train(record(200), transition=True, training_steps=2, progress=False, **sizes)
    assert sizes.items() <= prior.architecture.items()
    assert prior.architecture["name"] == "step-modes" and isinstance(prior.sampler, Multistep)
    assert Emulator(prior)._sampler == prior.sampler
