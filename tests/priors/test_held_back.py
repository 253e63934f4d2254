"""Held-back blocks choose the radius and the size of a learned law."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.nn.spectral import TIMES
from scorda.priors import held_back
from scorda.priors.anomalies import Climatology
from scorda.priors.gaps import Gappy
from scorda.priors.held_back import Points, chosen_by_blocks, inflation_of

POINTS = 24
SPACE = StateSpace((POINTS,), 1.0, ("t",), {"x": np.arange(float(POINTS))})
PLACES = torch.arange(float(POINTS), dtype=torch.float64)[:, None]
LAST = torch.tensor([0.0, 0.0, 1.0])
COV = torch.exp(-(PLACES - PLACES.T).abs() / 6)


def drawn(times, memory=0.8, phases=1, seed=0):
    """Return a red-noise record as `train_on_fields` standardises it: its own mean is zero."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(times, POINTS, generator=generator, dtype=torch.float64)
    noise = noise @ torch.linalg.cholesky(COV).T
    z = torch.empty_like(noise)
    z[0] = noise[0]
    for k in range(1, times):
        z[k] = memory * z[k - 1] + (1 - memory**2) ** 0.5 * noise[k]
    phase = torch.arange(times) % phases
    for p in range(phases):
        z[phase == p] -= z[phase == p].mean(0)
    return z, phase


def choose(z, phase, samples):
    mean = Climatology(phase, torch.zeros(1), samples)
    points = Points(PLACES, torch.zeros(POINTS, dtype=torch.long), SPACE)
    return chosen_by_blocks(Gappy(z.clone()), mean, points, 300)


@pytest.mark.slow
def test_a_gaussian_record_of_many_fields_stays_as_it_is(monkeypatch):
    """The mean log-factor of eight records of 4000 fields, within 4 standard errors of 0.

    One record's 20 windows give a log-factor with a standard deviation of about 0.12, so the mean
    has 0.042. Records of 60 fields need a larger law.
    """
    monkeypatch.setattr(held_back, "RADII", (0.5, 2.0))

    def mean_log(times):
        laws = [choose(*drawn(times, seed=seed), times / 10) for seed in range(8)]
        return np.mean(np.log([law.factor for law in laws]))

    assert abs(mean_log(4000)) < 4 * 0.042
    assert mean_log(60) > 4 * 0.042


@pytest.mark.slow
def test_a_record_of_few_fields_needs_a_taper_more_than_one_of_many(monkeypatch):
    """The CRPS without a taper (nearly) over that with one."""
    monkeypatch.setattr(held_back, "RADII", (0.25, 4.0))
    few, many = choose(*drawn(40), 40.0).radii, choose(*drawn(1500), 1500.0).radii
    assert few[1].crps / few[0].crps > 1.03 > many[1].crps / many[0].crps


def test_a_mean_of_few_fields_is_not_learned_from_the_held_back_ones():
    """With three fields per phase, an anomaly is the negative sum of the other two.

    A mean of all fields would let the kept ones predict the held-back one without an error.
    """
    z, phase = drawn(36, memory=0.0, phases=12)
    kept = torch.arange(36) >= 12
    fresh = held_back._centred(z, phase, kept)
    assert_close(fresh[kept].view(2, 12, -1).sum(0), torch.zeros(12, POINTS, dtype=z.dtype))
    # z is -(a + b), and the mean of a and b is taken off once more.
    assert_close(fresh[~kept], 1.5 * z[~kept])


def test_errors_are_those_of_the_gaussian_posterior_of_the_window():
    """By the covariance of the whole window at once, with one value missing."""
    z, _ = drawn(5)
    z[2, 3] = math.nan
    values, vectors = torch.linalg.eigh(COV)
    spectrum = torch.cat((values, values[:1]))
    memory = torch.zeros(POINTS + 1, len(TIMES), dtype=torch.float64)
    memory[:, 2] = 1
    law = held_back._Law(vectors, spectrum, memory)
    generator = torch.Generator().manual_seed(3)
    made = held_back._errors(law, z, generator)
    generator.manual_seed(3)
    order, count = torch.randperm(POINTS, generator=generator), POINTS // 2
    noise = held_back.ERROR * torch.randn(5, count, generator=generator, dtype=torch.float64)
    lag = (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs().double()
    for row, factor in zip(made, held_back.FACTORS, strict=True):
        cov = factor * torch.kron(torch.exp(-lag / TIMES[2]), COV[order][:, order])
        x, where = z[:, order].flatten(), torch.arange(POINTS).repeat(5) < count
        y = x.clone()
        y[where] += noise.flatten()
        seen, fresh = where & x.isfinite(), ~where & x.isfinite()
        total = cov[seen][:, seen] + held_back.ERROR**2 * torch.eye(int(seen.sum())).double()
        gain = torch.linalg.solve(total, cov[seen][:, fresh])
        error = x[fresh] - y[seen] @ gain
        var = cov.diagonal()[fresh] - (gain * cov[seen][:, fresh]).sum(0)
        assert_close(row[:2], torch.stack((error.square().sum(), var.sum())))


def test_the_factor_makes_variance_and_squared_error_equal():
    """Of sums with the variance 2 f and the squared error 3: f = 1.5, between two candidates."""
    factors = torch.tensor(held_back.FACTORS, dtype=torch.float64)
    sums = torch.stack((torch.full_like(factors, 3.0), 2 * factors, 1 + (factors - 2) ** 2), 1)
    (factor, crps), (other, more) = held_back._best(torch.stack((sums, sums + LAST)))
    assert factor == other == pytest.approx(1.5)
    assert more == pytest.approx(crps + 1.0)


@pytest.mark.parametrize(("series", "times"), [(1, 43), (3, 21), (7, 20)])
def test_windows_lie_within_one_series_and_one_block(series, times):
    block = held_back._blocks(series, times)
    assert len(block) == series * times and set(block.tolist()) == set(range(held_back.BLOCKS))
    for held in range(held_back.BLOCKS):
        for rows in held_back._windows(block == held, times):
            assert (block[rows] == held).all() and len((rows // times).unique()) == 1
            assert (rows.diff() == 1).all()


def test_the_inflation_is_that_of_a_mean_of_few_draws():
    assert inflation_of(3.0) == 2.0


@pytest.mark.parametrize(("series", "times"), [(1, 5000), (3, 1000), (400, 7)])
def test_of_a_long_record_runs_are_looked_at(monkeypatch, series, times):
    monkeypatch.setattr(held_back, "FIELDS", 200)
    runs = held_back._runs(series, times)
    assert 150 < runs.numel() <= 200 and len(runs) >= held_back.RUNS
    assert (runs.diff(dim=1) == 1).all()
    assert (runs // times == runs[:, :1] // times).all()
    assert runs.min() == 0 and runs.max() == series * times - 1


def test_runs_of_a_record_choose_about_what_the_whole_does(monkeypatch):
    """Log-factors of one record differ by its sampling error, 0.12 (see above), times four."""
    monkeypatch.setattr(held_back, "RADII", (2.0,))
    z, phase = drawn(2000, phases=4)
    whole = choose(z, phase, 200.0)
    monkeypatch.setattr(held_back, "FIELDS", 1000)
    some = choose(z, phase, 200.0)
    assert some != whole
    assert abs(math.log(some.factor / whole.factor)) < 4 * 0.12


@pytest.mark.slow
def test_a_long_record_whose_points_all_go_together_has_no_taper():
    """A common series and a little noise: the widest taper takes a tenth of the correlation."""
    z, phase = drawn(1500)
    z = z[:, :1] + 0.2 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2)).double()
    chosen = choose((z - z.mean(0)) / z.std(0), phase, 150.0)
    assert chosen.radius == math.inf and chosen.radii[-1].radius == math.inf


def pair(times, correlation, seed=0):
    """Return two variables at each point, whose noise has that correlation."""
    first, phase = drawn(times, seed=seed)
    second, _ = drawn(times, memory=0.5 if correlation == 0 else 0.8, seed=seed + 100)
    second = correlation * first + (1 - correlation**2) ** 0.5 * second
    space = StateSpace((2, POINTS), 1.0, ("t", "q"), SPACE.coordinates)
    points = Points(PLACES.repeat(2, 1), torch.arange(2).repeat_interleave(POINTS), space)
    return torch.cat((first, second), 1), phase, points


@pytest.mark.parametrize(("correlation", "groups"), [(0.0, (1, 0)), (0.9, (0, 0))])
def test_variables_stay_together_where_one_tells_of_the_other(monkeypatch, correlation, groups):
    """Of 60 fields, independent variables have chance correlations that only mislead."""
    monkeypatch.setattr(held_back, "RADII", (0.5, 1.0))
    z, phase, points = pair(60, correlation)
    chosen = chosen_by_blocks(Gappy(z), Climatology(phase, torch.zeros(1), 60.0), points, 300)
    assert chosen.groups == groups
    assert {score.groups for score in chosen.apart} == {(0, 0), (1, 0)}


def test_groups_leave_no_covariance_between_them():
    _, _, points = pair(10, 0.0)
    taper = points.taper(2.0, (1, 0), slice(3, 5))
    assert (taper[:, :POINTS] > 0).any() and not taper[:, POINTS:].any()
    assert_close(taper[:, :POINTS], points.taper(2.0, (0, 0), slice(3, 5))[:, :POINTS])


def test_a_variable_leaves_a_group_and_two_part_once():
    assert held_back._apart((0, 0)) == [(1, 0)]
    assert held_back._apart((0, 0, 1)) == [(2, 0, 1)]
    assert held_back._apart((0, 0, 0)) == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 2)]
    assert held_back._apart((0, 1)) == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_hidden_variable_is_predicted_from_the_others_alone(which):
    """By the closed form for one state: E[v | u] of unit variances with a correlation of 0.9."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(cov)
    memory = torch.zeros(3, len(TIMES), dtype=torch.float64)
    memory[:, 2] = 1
    law = held_back._Law(vectors, torch.cat((values, values[:1])), memory)
    z = torch.full((1, 2), 1.3, dtype=torch.float64)
    z[0, which] = -0.4
    hidden = torch.arange(2) == which
    made = held_back._errors(law, z, torch.Generator().manual_seed(3), hidden)
    generator = torch.Generator().manual_seed(3)
    torch.randperm(2, generator=generator)
    y = 1.3 + held_back.ERROR * torch.randn(1, 1, generator=generator, dtype=torch.float64).item()
    for row, factor in zip(made, held_back.FACTORS, strict=True):
        gain = 0.9 * factor / (factor + held_back.ERROR**2)
        assert row[0].item() == pytest.approx((-0.4 - gain * y) ** 2)
        assert row[1].item() == pytest.approx(factor - 0.9 * factor * gain)


def test_every_variable_of_many_is_hidden_as_often(monkeypatch):
    """Of 20 windows, each of ten variables is predicted from the others in two."""
    variables, seen = 10, []
    space = StateSpace((variables, 40), 1.0, tuple("abcdefghij"), {"x": np.arange(40.0)})
    points = Points(torch.zeros(400, 1).double(), torch.arange(10).repeat_interleave(40), space)
    z = rng.normal(100, (400,), rng.seeded(0)).double()
    blocks = held_back._Blocks(
        z, torch.zeros(100).long(), None, 100.0, torch.arange(100) // 20, 100
    )

    def noted(law, z, generator, hidden=None):
        if hidden is not None:
            seen.append(int(points.variable[hidden].unique()))
        return torch.ones(len(held_back.FACTORS), 3, dtype=torch.float64)

    monkeypatch.setattr(held_back, "_errors", noted)
    held_back._scores(blocks, points, [(math.inf, (0,) * variables)], 5, hide=True)
    assert [seen.count(i) for i in range(variables)] == [2] * variables
