"""Scores and statistics of fields, against direct sums and closed forms."""

import math
import sys

import pytest
import torch
from torch.testing import assert_close

from scorda import metrics
from scorda.core.rng import normal, seeded
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarity(x, y, data_range):
    """SSIM of two fields window by window, from its definition."""
    distance = torch.arange(-5.0, 6.0)
    one = torch.exp(-distance.square() / (2 * 1.5**2))
    g = one[:, None] * one / one.sum() ** 2
    x, y = (v.unfold(0, 11, 1).unfold(1, 11, 1) for v in (x, y))

    def mean(v):
        return (g * v).sum((-1, -2))

    mx, my = mean(x), mean(y)
    vx, vy = mean(x * x) - mx**2, mean(y * y) - my**2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = mean(x * y) - mx * my
    score = (2 * mx * my + c1) * (2 * covariance + c2)
    return (score / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def test_ssim_is_that_of_gaussian_windows():
    """1e-10: rounding of differences of mean squares, over constants of about 1e-2."""
    pytest.importorskip("skimage")
    truth = draw(3, 2, 14, 17).cumsum(-1)
    ensemble = truth + 0.5 * draw(4, 3, 2, 14, 17, seed=1)
    weights = draw(4, 3, seed=2).square()
    mean = ((weights / weights.sum(0))[..., None, None, None] * ensemble).sum(0)
    span = float(truth.max() - truth.min())
    each = [[similarity(mean[k, c], truth[k, c], span) for c in range(2)] for k in range(3)]
    expected = torch.tensor(each).mean(1)
    found = metrics.ssim(ensemble, truth, weights, per_step=True)
    assert_close(found, expected, atol=1e-10, rtol=0)
    assert_close(metrics.ssim(ensemble, truth, weights), expected.mean(), atol=1e-10, rtol=0)
    one = metrics.ssim(ensemble[:, 0, 0], truth[0, 0], data_range=3.0)
    assert_close(one, similarity(ensemble[:, 0, 0].mean(0), truth[0, 0], 3.0))


def test_ssim_is_one_for_the_truth_and_leaves_incomplete_steps_out():
    pytest.importorskip("skimage")
    truth = draw(3, 12, 12)
    ensemble = truth[None].repeat(2, 1, 1, 1)
    truth[1, 3, 4] = math.nan
    scores = metrics.ssim(ensemble, truth, per_step=True)
    assert_close(scores[[0, 2]], torch.ones(2))
    assert scores[1].isnan()
    assert_close(metrics.ssim(ensemble, truth), torch.tensor(1.0))
    ensemble[0, 0, 6, 6] = math.nan
    assert metrics.ssim(ensemble, truth).isnan()


def test_ssim_says_what_it_needs(monkeypatch):
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(draw(2, 3, 10, 20), draw(3, 10, 20))
    with pytest.raises(ValueError, match="positive `data_range`"):
        metrics.ssim(draw(2, 3, 12, 12), torch.zeros(3, 12, 12))
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match=r"scorda\[ssim\]"):
        metrics.ssim(draw(2, 3, 12, 12), draw(3, 12, 12))


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 15, 18), (3, 4, 2, 8, 8)])
def test_energies_of_all_shells_add_up_to_that_of_the_field(shape):
    velocity = draw(*shape)
    energies = metrics.spectrum(velocity)
    assert energies.shape[:-1] == shape[:-3]
    expected = velocity.square().sum(-3).mean((-1, -2)) / 2
    assert_close(energies.sum(-1), expected)
    assert_close(energies[..., 0], velocity.mean((-1, -2)).square().sum(-1) / 2)


@pytest.mark.parametrize(("a", "b", "k"), [(3, 4, 5), (0, 7, 7), (1, 1, 1), (2, -1, 2), (2, 2, 3)])
def test_a_wave_has_its_energy_in_the_shell_next_to_its_wavenumber(a, b, k):
    """A wave of amplitude A in u has A^2 / 4; rounding elsewhere, below 1e-20."""
    axis = 2 * math.pi * torch.arange(16) / 16
    u = 3 * torch.cos(a * axis + b * axis[:, None] + 0.3)
    energies = metrics.spectrum(torch.stack([u, 0 * u]))
    expected = torch.zeros(12)
    expected[k] = 9 / 4
    assert_close(energies, expected, atol=1e-20, rtol=1e-12)


def test_csi_counts_hits_misses_and_false_alarms():
    # The median of the truth is 4.5: events are the values 5 to 8.
    truth = torch.tensor([[1.0, 5.0, 6.0, 2.0], [3.0, 7.0, 4.0, 8.0]])
    mean = torch.tensor([[5.0, 5.0, 0.0, 0.0], [0.0, 9.0, 0.0, 4.5]])
    ensemble = torch.stack([mean - 1, mean + 1])
    # Step 0: one hit, one miss, one false alarm; step 1: two hits.
    assert_close(metrics.csi(ensemble, truth, level=0.5), torch.tensor(3 / 5))
    series = metrics.csi(ensemble, truth, level=0.5, per_step=True)
    assert_close(series, torch.tensor([1 / 3, 1.0]))
    assert metrics.csi(truth[None], truth) == 1
    # Absent values are no events: the quantile and the counts are those of the others.
    absent = torch.cat([truth, torch.full((2, 3), math.nan)], 1)
    more = torch.cat([ensemble, torch.full((2, 2, 3), 9.0)], 2)
    assert_close(metrics.csi(more, absent, level=0.5), torch.tensor(3 / 5))
    ensemble[0, 0, 0] = math.nan
    assert metrics.csi(ensemble, truth).isnan()
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.csi(ensemble, truth, level=95)


def test_residuals_of_present_values_count_over_members_and_cycles():
    model = ObservationModel(Select([0, 1]), std=1.0)
    values = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [math.nan, math.nan]])
    states = torch.zeros(2, 5, 3)
    states[1, 1, 0] = 4.0
    observations = Observations(model, [1, 2, 4], values)
    # Squares of cycle 0: 1, 4 and 9, 4; of cycle 1: 0 and 0.
    assert_close(metrics.residual_std(states, observations), torch.tensor(18 / 6).sqrt())
    series = metrics.residual_std(states, observations, per_cycle=True)
    assert_close(series[:2], torch.tensor([4.5, 0.0]).sqrt())
    assert series[2].isnan()


def test_samples_of_the_exact_posterior_leave_the_error_of_the_observations():
    """Prior N(0, 1), error std 0.5: posterior N(0.8 y, 0.2), here for 40000 states at once.

    Residuals of 4 samples for one y are correlated by 1/5; the relative standard error of their
    root mean square is below (2 * 40000)^-1/2 = 0.35 %; four of them.
    """
    size, std = 40_000, 0.5
    truth = normal(1, (size,), seeded(0))[0]
    y = truth + std * normal(1, (size,), seeded(1))[0]
    samples = 0.8 * y + math.sqrt(0.2) * normal(4, (size,), seeded(2))
    model = ObservationModel(Select(range(size)), std=std)
    found = metrics.residual_std(samples[:, None], Observations(model, [0], y[None]))
    assert_close(found, torch.tensor(std), rtol=0.014, atol=0)
    # Copies of the posterior mean overfit: 0.2 y is left, of std 0.2 * 1.25^1/2.
    found = metrics.residual_std((0.8 * y)[None, None], Observations(model, [0], y[None]))
    assert_close(found, torch.tensor(0.2 * math.sqrt(1.25)), rtol=0.014, atol=0)
