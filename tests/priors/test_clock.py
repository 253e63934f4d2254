"""The time of the year as an input of the network of a record."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.times import waves_of_year
from scorda.diffusion import training
from scorda.diffusion.denoisers import precondition
from scorda.nn.spectral import AtTimes, ModeNetwork
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.reading.records import Fields

SPACE = StateSpace((1,), 1.0, ("a",), units={"time": "days"})
START = "2015-01-01"
# States of a segment.
STATES = 2


def network(clock):
    """A network of random weights, with a clock or without."""
    torch.manual_seed(0)
    made = ModeNetwork(8, 5, 3, 16, 1, clock=clock)
    with torch.no_grad():
        made.correction.last.weight.normal_(generator=rng.seeded(1))
    return made


def test_with_weights_of_zero_the_network_is_the_one_without_a_clock_to_the_bit():
    old, new = network(0), network(2)
    x, noise = torch.randn(2, 9, 8, generator=rng.seeded(2)), torch.tensor([0.3, 2.0])
    waves = torch.randn(9, 4, generator=rng.seeded(3))
    assert torch.equal(old(x, noise), AtTimes(new, waves)(x, noise))
    with torch.no_grad():
        new.clock.weight.normal_(generator=rng.seeded(4))
    assert not torch.equal(old(x, noise), AtTimes(new, waves)(x, noise))


def amplitude(start, states):
    """Return e^(1.5 cos) of the time of the year: 20 times as large in January as in July."""
    return (1.5 * waves_of_year(start, states, SPACE, 1)[:, 0]).exp()


def record(years=5, series=10):
    """White noise of this amplitude, one variable in independent series."""
    size = (series, years * 365, 1)
    noise = torch.randn(size, generator=rng.seeded(0), dtype=torch.float64)
    return Fields(noise * amplitude(START, size[1])[:, None], SPACE, START)


def least_error(std, nu):
    r"""Return the least mean squared error of a state without its date, by quadrature.

    Of n states, each :math:`N(0, \sigma_k^2)` with noise :math:`\nu` where k is one of the dates,
    all that tells of k is the sum of squares s. With the share :math:`g_k = \sigma_k^2 /
    (\sigma_k^2 + \nu^2)` the mean of the state is :math:`E[g | s] y`, and the error is
    :math:`E[g_k \nu^2] + E[(g_k - E[g | s])^2 s] / n`.
    """
    var = std.square()[:, None]
    total = var + nu**2
    share = var / total
    s = torch.logspace(-6, math.log10(80 * float(total.max())), 4000, dtype=torch.float64)
    # Of log s given k, to a factor: chi-squared.
    density = ((s / total).log() * STATES / 2 - s / (2 * total)).exp()
    mean = (density * share).sum(0) / density.sum(0)
    density = density / density.sum(1, keepdim=True)
    more = (density * (share - mean).square() * s / STATES).sum(1).mean()
    return float((share * nu**2).mean() + more)


@pytest.mark.slow
def test_a_clock_denoises_as_only_who_knows_the_date_can(tmp_path):
    """Errors at 24 dates, from the file of weights, against the two that are known.

    With the date the mean of a state is a share of what is seen; without it no denoiser is better
    than `least_error`.
    """
    fields = record()
    settings = replace(
        training_for(fields), training_steps=400, rate=1e-2, every=100, segment=STATES, batch=64,
        min_noise=0.1, max_noise=5.0,
    )  # fmt: skip
    made = train_on_fields(fields, width=32, blocks=1, settings=settings, clock=1)
    made.save(tmp_path / "prior.safetensors")
    prior = sc.load(tmp_path / "prior.safetensors")
    dates = [f"2021-{month:02}-{day:02}" for month in range(1, 13) for day in (5, 20)]
    std = torch.stack([amplitude(date, 1)[0] for date in dates]) / prior.standardisation.std
    for nu in (0.5, 1.0):
        errors, known = [], []
        for i, date in enumerate(dates):
            x, eps = torch.randn(2, 2000, STATES, 1, generator=rng.seeded(i))
            x, level = x * float(std[i]), torch.full((2000,), nu)
            started = prior.starting(date, STATES)
            found = precondition(started.network, x + nu * eps, level)
            errors.append((found - x).square().mean())
            exact = std[i] ** 2 / (std[i] ** 2 + nu**2) * (x + nu * eps)
            known.append((exact - x).square().mean())
        error, exact = float(torch.stack(errors).mean()), float(torch.stack(known).mean())
        # The training leaves 3 %. The least without the date is 38 % above at a noise of 1.
        assert error < 1.05 * exact < 0.85 * least_error(std, nu)
    spreads = [
        float(prior.starting(date, STATES).sample(400, STATES - 1, 0).std())
        for date in ("2020-01-01", "2020-07-01")
    ]
    assert spreads[0] > 5 * spreads[1]
    with pytest.raises(ValueError, match="say when the window begins"):
        prior.denoiser(STATES)
    with pytest.raises(ValueError, match="an emulator does not have"):
        sc.priors.Emulator(prior.starting(START, STATES))


def small(fields, clock=2, **how):
    """A prior of few steps."""
    settings = replace(training_for(fields), training_steps=6, every=2, segment=STATES)
    return train_on_fields(fields, width=4, blocks=1, settings=settings, clock=clock, **how)


@pytest.mark.slow
def test_a_killed_training_with_a_clock_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_since", lambda began, seconds: seconds == 60)
    fields = record(4, 1)

    def killed(entry):
        if entry["step"] == 4:
            raise KeyboardInterrupt

    path = tmp_path / "c.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        small(fields, checkpoint=path, report=killed)
    resumed, whole = small(fields, checkpoint=path).network, small(fields).network
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert whole.clock.weight.any()


@pytest.mark.slow
def test_a_header_cannot_ask_for_what_its_file_does_not_have(tmp_path):
    """A network of another size, more harmonics than there may be, and no mean for its dates."""
    prior, path = small(record(4, 1)), tmp_path / "p.safetensors"
    for wrong, says in ((3, "clock.weight"), (10**9, "0 to 12"), (-1, "0 to 12"), (1.5, "whole")):
        replace(prior, architecture={**prior.architecture, "clock": wrong}).save(path)
        with pytest.raises(ValueError, match=says):
            sc.load(path)
    replace(prior, diurnal_mean=None, annual=None).save(path)
    with pytest.raises(ValueError, match="incomplete yearly cycle"):
        sc.load(path)


def test_a_record_without_three_years_of_dates_has_no_clock():
    fields = record(4, 1)
    for few in (replace(fields, start=None), replace(fields, states=fields.states[:, :1000])):
        with pytest.raises(ValueError, match="three years"):
            train_on_fields(few, clock=1)
    for wrong in (-1, 13):
        with pytest.raises(ValueError, match="0 to 12"):
            train_on_fields(fields, clock=wrong)
