"""The yearly cycle of a record: harmonics, as many as predict held-back blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.times import waves_of_year
from scorda.diffusion.training import Training
from scorda.priors import anomalies
from scorda.priors.anomalies import BLOCKS, mean_of
from scorda.priors.from_fields import train_on_fields
from scorda.priors.season import Sums
from scorda.reading.records import Fields

FEW = Training(training_steps=4, batch=4, segment=8, rate=1e-3, validation=0.2, every=2)
UNITS = {"time": "hours", "t": "K", "q": "g/kg"}
START = "2001-03-01T00:00:00"


@pytest.fixture(autouse=True)
def _few_radii(monkeypatch):
    monkeypatch.setattr("scorda.priors.held_back.RADII", (0.5, 1.0))


def cycle(times, dt, start=START):
    """Return a mean of the year and of the day, of two points."""
    waves = waves_of_year(start, times, SPACES[dt], 2)
    hour = 2 * torch.pi * torch.arange(times) * dt / 24
    size = torch.tensor([[9.0, 1.0, -2.0, 0.5], [6.0, 4.0, 0.0, -1.0]], dtype=torch.float64)
    return 280 + waves @ size.mT + 3 * torch.sin(hour)[:, None].double()


def space(dt, variables=("t",)):
    shape = (2,) if len(variables) == 1 else (2, 2)
    return StateSpace(shape, dt, variables, {"x": np.arange(2.0)}, units=UNITS)


SPACES = {dt: space(dt) for dt in (6.0, 24.0)}


def record(years=4, dt=24.0, noise=1.0, seed=0):
    """Red noise of a few days about the mean, in days or in steps of six hours."""
    times = round(365.25 * years * 24 / dt)
    draw = torch.Generator().manual_seed(seed)
    eps = torch.randn(times, 2, generator=draw, dtype=torch.float64)
    x, memory = torch.zeros(times, 2, dtype=torch.float64), 0.5 ** (dt / 24)
    for k in range(1, times):
        x[k] = memory * x[k - 1] + (1 - memory**2) ** 0.5 * eps[k]
    return Fields(cycle(times, dt) + noise * x, SPACES[dt], START)


@pytest.mark.parametrize("dt", [24.0, 6.0])
def test_a_prior_recovers_the_cycles_of_the_day_and_of_the_year(dt):
    """Within 5 standard errors: a coefficient of N days, of which e-folding lasts 1.44.

    The variance of a mean of N such days is 3 / N, that of a harmonic at most twice as much, and a
    mean at one time has six of them.
    """
    found = mean_of(record(dt=dt))
    error = 5 * (6 * 2 * 3 / (365.25 * 4)) ** 0.5
    assert (found.at(slice(None)) - cycle(len(found.phase), dt)).abs().max() < error
    assert found.harmonics(SPACES[dt]) == {"t": 2}


def test_without_noise_the_mean_of_a_later_year_is_exact():
    """To the share of a day between times of day (none) and rounding; and it is kept in a file."""
    prior = train_on_fields(record(noise=1e-6), corrected=1, width=8, settings=FEW)
    started = prior.starting("2011-07-05", 5)
    exact = cycle(5, 24.0, "2011-07-05")
    assert_close(started.standardisation.mean, exact, rtol=0, atol=1e-6)
    assert started.annual is None and started.starting("2011-07-05", 5) is started


def test_a_yearly_cycle_is_kept_in_the_file_and_asks_for_a_date(tmp_path):
    prior = train_on_fields(record(), corrected=1, width=8, settings=FEW)
    prior.save(tmp_path / "p.safetensors")
    loaded = sc.load(tmp_path / "p.safetensors")
    assert torch.equal(loaded.annual, prior.annual) and loaded.annual.shape == (4, 2)
    assert loaded.provenance["harmonics"] == {"t": 2}
    with pytest.raises(ValueError, match="cycle of the day or year: say when the window begins"):
        loaded.denoiser(4)
    drawn = [
        p.starting("2010-12-30T12:00", 4).sample(2, 3, rng.seeded(1)) for p in (prior, loaded)
    ]
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match="a yearly cycle, which an emulator does not have"):
        sc.priors.Emulator(loaded)
    replace(loaded, annual=loaded.annual[:3]).save(tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="incomplete yearly cycle"):
        sc.load(tmp_path / "p.safetensors")


def test_what_has_no_season_has_no_harmonics():
    fields = record()
    both = torch.stack((fields.states, fields.states - fields.states), 2)
    draw = torch.randn(both[:, :, 1].shape, generator=torch.Generator().manual_seed(1))
    both[:, :, 1] = draw.double()
    found = mean_of(Fields(both, space(24.0, ("t", "q")), START))
    assert found.harmonics(space(24.0, ("t", "q"))) == {"t": 2}
    assert found.annual is not None and not found.annual[:, 1].any()
    assert mean_of(Fields(both[:, :, 1], SPACES[24.0], START)).annual is None


def test_few_years_and_steps_of_months_have_none():
    assert anomalies.harmonics_of(record(years=2.9)) == 0
    assert anomalies.harmonics_of(record(years=3.1)) == 3
    fields = record()
    months = replace(SPACES[24.0], units={**UNITS, "time": "months"}, dt=1.0)
    assert anomalies.harmonics_of(Fields(fields.states, months, START)) == 0
    assert anomalies.harmonics_of(Fields(fields.states, SPACES[24.0])) == 0
    unknown = replace(SPACES[24.0], units={})
    assert anomalies.harmonics_of(Fields(fields.states, unknown, START)) == 0


def test_coefficients_are_those_of_least_squares_of_what_is_present():
    draw = np.random.default_rng(0)
    waves, values = draw.normal(size=(60, 3)), draw.normal(size=(60, 2))
    values[draw.random((60, 2)) < 0.3] = np.nan
    block = torch.arange(60) * BLOCKS // 60
    sums = Sums(torch.from_numpy(waves), block, 2)
    for rows in (slice(0, 25), slice(25, 60)):
        sums.add(rows, torch.from_numpy(values[None, rows]))
    every = torch.ones(2, 3, dtype=torch.bool)
    errors = np.zeros(2)
    for point, column in enumerate(values.T):
        there = np.isfinite(column)
        exact = np.linalg.lstsq(waves[there], column[there], rcond=None)[0]
        assert_close(sums.coefficients(every)[point], torch.from_numpy(exact), rtol=0, atol=1e-7)
        for b in range(BLOCKS):
            kept, held = there & (block != b).numpy(), there & (block == b).numpy()
            c = np.linalg.lstsq(waves[kept], column[kept], rcond=None)[0]
            errors[point] += ((column[held] - waves[held] @ c) ** 2).sum()
    assert_close(sums.errors(every), torch.from_numpy(errors), rtol=1e-6, atol=0)
    some = torch.tensor([[True, False, False], [True, True, True]])
    assert not sums.coefficients(some)[0, 1:].any()


@pytest.mark.parametrize(("seen", "waves", "bound"), [(3, 0, 20), (9, 4, 5)])
def test_a_point_seen_in_some_months_has_the_harmonics_that_these_tell_apart(seen, waves, bound):
    """Seen from December on in all years: its mean of other seasons stays at a mean of its own.

    The cycle goes up and down by 10 K. Without this the mean of a point seen in three months is
    off by 200 K in summer.
    """
    fields, exact = record(seed=1), cycle(365, 24.0)
    month = (np.datetime64(START[:10]) + np.arange(len(fields))).astype("M8[M]").astype(int) % 12
    states = fields.states.clone()
    states[:, torch.from_numpy((month + 1) % 12 >= seen), 0] = torch.nan
    found = mean_of(Fields(states, SPACES[24.0], START))
    assert found.harmonics(SPACES[24.0])["t"] == 2
    assert int((found.annual[:, 0] != 0).sum()) == waves and (found.annual[:, 1] != 0).all()
    assert (found.at(slice(0, 365)) - exact).abs().amax(0)[0] < bound


def test_a_year_of_360_days_has_its_middle_in_july():
    own = StateSpace((1,), 24.0, units=UNITS, calendar="360_day")
    waves = waves_of_year("2000-07-01", 91, own, 1)
    assert_close(waves[0], torch.tensor([-1.0, 0.0]).double(), rtol=0, atol=1e-12)
    assert_close(waves[90], torch.tensor([0.0, -1.0]).double(), rtol=0, atol=1e-12)


def test_the_unit_of_a_record_does_not_matter():
    """Kelvin in thousandths, from another zero."""
    fields = record()
    scaled = Fields(1000 * fields.states - 273, SPACES[24.0], START)
    plain, other = (
        train_on_fields(f, corrected=1, width=8, settings=FEW).starting("2010-01-30", 3)
        for f in (fields, scaled)
    )
    x, y = (p.sample(3, 2, rng.seeded(0)) for p in (plain, other))
    # Draws are in single precision.
    assert_close(1000 * x.double() - 273, y.double(), rtol=1e-5, atol=0.5)


def test_the_climate_of_a_prior_has_its_seasons():
    """The spread of all days of the record, to their sampling error (a few per cent)."""
    from scorda.cli.common import climate_of

    fields = record()
    prior = train_on_fields(fields, corrected=1, width=8, settings=FEW)
    mean, std = climate_of(prior, 0)["t"]
    assert mean == pytest.approx(float(fields.states.mean()), abs=0.1)
    assert std == pytest.approx(float(fields.states.std()), rel=0.05)


def test_land_stays_land():
    fields = record()
    masked = replace(SPACES[24.0], mask=np.array([True, False]))
    states = fields.states.clone()
    states[..., 1] = torch.nan
    prior = train_on_fields(Fields(states, masked, START), corrected=1, width=8, settings=FEW)
    drawn = prior.starting("2010-01-30", 3).sample(3, 2, rng.seeded(0))
    assert drawn[..., 0].isfinite().all() and drawn[..., 1].isnan().all()
