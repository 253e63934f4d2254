"""Samplers against the exact flow, exact marginals and slow loops."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector, VarianceExploding
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.variance_preserving import VariancePreserving

PROCESSES = [VariancePreserving(), VarianceExploding(1e-3, 100.0)]
SAMPLERS = [Ancestral, Multistep, PredictorCorrector, StochasticMultistep]
D = 3


@pytest.fixture(params=PROCESSES, ids=["preserving", "exploding"])
def process(request):
    return request.param


class Counted:
    """Denoiser that counts the samples it is called with."""

    def __init__(self, denoiser):
        self.denoiser, self.levels, self.rows = denoiser, [], 0

    def denoise(self, u, noise):
        self.rows += len(u)
        self.levels.append(round(float(noise), 3))
        return self.denoiser.denoise(u, noise)


def gaussian():
    """Variances of 0.2 to 1.6 along the axes: rounding is not amplified much."""
    cov = torch.tensor([[1.0, 0.5, -0.2], [0.5, 0.8, 0.1], [-0.2, 0.1, 0.6]])
    return GaussianDenoiser.from_cov(torch.tensor([0.7, -1.1, 0.4]), cov)


def no_noise():
    raise AssertionError("a deterministic step asked for noise")


@pytest.mark.parametrize("build", [Multistep, PredictorCorrector])
def test_one_step_from_exact_noise_lands_on_the_next_level(build):
    """For a delta prior x_t = alpha x_0 + sigma eps, with the same eps at every level."""
    x0, eps = rng.normal(4, (D,), rng.seeded(0)), rng.normal(4, (D,), rng.seeded(1))
    u = build(8).move(x0 + 0.9 * eps, x0, None, (0.9, 0.9, 0.2), no_noise)
    assert_close(u, x0 + 0.2 * eps)
    u = build(8).move(u, x0, x0, (0.9, 0.2, 0.1), no_noise)
    assert_close(u, x0 + 0.1 * eps)


def test_ancestral_step_has_the_exact_marginal():
    """u' - x_0 = a (u - x_0) + b eps with independent terms: nu'^2 = a^2 nu^2 + b^2."""
    x0 = rng.normal(1, (2,), rng.seeded(0))
    from_u, from_noise = torch.tensor([[0.9, 0.0]]), torch.tensor([[0.0, 1.0]])
    out = Ancestral(8).move(x0 + from_u, x0, None, (2.0, 0.9, 0.2), lambda: from_noise) - x0
    assert_close(out.square().sum().sqrt(), torch.tensor(0.2))
    # And its correlation with u is that of x_s and x_t given x_0: nu'^2 / nu^2.
    assert_close(out[0, 0] / 0.9, torch.tensor((0.2 / 0.9) ** 2))


@pytest.mark.parametrize("grid", ["time", "log"])
def test_predictor_is_ddim(process, grid):
    r"""x <- r x + (sigma' - r sigma) eps(x), r = alpha' / alpha (equation 17 of SDA)."""
    denoiser, sampler = gaussian(), PredictorCorrector(12, 0, grid=grid)
    samples = sampler.sample(denoiser, process, (D,), 5, rng.seeded(0))
    x = rng.Stream(rng.key(rng.seeded(0)), 0, 5, (D,))()
    times = sampler.times(process)
    x = x * (process.alpha(times[0]) ** 2 + process.sigma(times[0]) ** 2).sqrt()
    for t, after in pairwise(times):
        eps = (x - process.alpha(t) * process.denoise(denoiser, x, t)) / process.sigma(t)
        r = process.alpha(after) / process.alpha(t)
        x = r * x + (process.sigma(after) - r * process.sigma(t)) * eps
    assert_close(samples, process.denoise(denoiser, x, times[-1]), rtol=1e-8, atol=1e-9)


def test_levels_run_from_high_to_low(process):
    sampler = Multistep(17, max_noise=5.0, min_noise=0.01)
    levels = process.noise_level(sampler.times(process)).log()
    assert_close(levels, torch.linspace(math.log(5.0), math.log(0.01), 17), rtol=1e-6, atol=1e-6)
    times = Multistep(5, grid="time").times(process)
    assert_close(times, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


def flow(denoiser, u, start, end):
    """Exact probability flow of a Gaussian from a noise level to another, in x / alpha."""
    basis, spectrum = denoiser.basis, denoiser.spectrum
    gain = ((spectrum + end**2) / (spectrum + start**2)).sqrt()
    return denoiser.mean + ((u - denoiser.mean) @ basis * gain) @ basis.T


@pytest.mark.parametrize(("build", "order"), [(PredictorCorrector, 1), (Multistep, 2)])
def test_order_of_convergence(build, order, process):
    """Fitted slope of the error against the exact flow, 20 to 160 steps."""
    denoiser = gaussian()
    steps = [20, 40, 80, 160]
    errors = []
    for n in steps:
        sampler = build(n, 0, max_noise=20.0, min_noise=0.05)
        times = sampler.times(process)
        samples = sampler.sample(denoiser, process, (D,), 32, rng.seeded(0))
        x = rng.Stream(rng.key(rng.seeded(0)), 0, 32, (D,))()
        u = x * (1 + process.noise_level(times[0]) ** 2).sqrt()
        u = flow(denoiser, u, 20.0, 0.05)
        exact = denoiser.denoise(u, process.noise_level(times[-1]))
        errors.append(float((samples - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    # The slope tends to the order; 0.15 is what the next order adds at these steps.
    assert abs(slope - order) < 0.15


@pytest.mark.parametrize(
    ("build", "n", "error"), [(PredictorCorrector, 512, 0.05), (Multistep, 64, 2e-3)]
)
def test_what_is_encoded_comes_back(build, n, error, process):
    """Numbers are those of the exact flow, and lead back: to the order of the steps."""
    denoiser, x = gaussian(), rng.normal(32, (D,), rng.seeded(2))
    sampler, counted = build(n, 0, max_noise=50.0, min_noise=2e-3), Counted(denoiser)
    numbers = sampler.encode(counted, process, x)
    assert counted.rows == 32 * (n - 1)
    exact = flow(denoiser, x, 2e-3, 50.0) / math.hypot(1, 50.0)
    assert_close(numbers, exact, rtol=error, atol=error)
    back = sampler.sample(denoiser, process, (D,), 32, rng.seeded(0), start=numbers)
    assert_close(back, x, rtol=0, atol=error)


def test_a_start_of_its_own_is_used_in_chunks_too(process):
    """Given the numbers that would have been drawn, the samples are the same."""
    sampler, denoiser = Multistep(6, 0), gaussian()
    numbers = rng.Stream(rng.key(rng.seeded(0)), 0, 11, (D,))()
    drawn = sampler.sample(denoiser, process, (D,), 11, rng.seeded(0))
    for chunk in (3, None):
        given = sampler.sample(denoiser, process, (D,), 11, rng.seeded(5), chunk, start=numbers)
        assert_close(given, drawn, rtol=1e-9, atol=1e-10)


def test_a_sampler_that_draws_noise_does_not_encode(process):
    for sampler in (Ancestral(6, 0), Multistep(6, 1)):
        with pytest.raises(ValueError, match="draws noise"):
            sampler.encode(gaussian(), process, torch.zeros(2, D))


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
def test_corrector_inflates_the_variance_of_white_noise(tau):
    """Stationary variance v = (1 - tau / v)^2 v + 2 tau / v, so v = 1 + tau / 2.

    In many dimensions, where the norm of the score is its expectation; the estimate averages
    over 100 iterations of 20 000 numbers (correlated over 1 / tau of them): standard error 0.003.
    """
    sampler, level, dimensions = PredictorCorrector(8, 1, tau), torch.ones(1, 1), 20_000
    # Prior N(0, 0): the denoiser is 0 and u ~ N(0, 1) at the noise level 1.
    delta = GaussianDenoiser(torch.zeros(dimensions), torch.eye(dimensions, 1), torch.zeros(1))
    generator, x, variances = torch.Generator().manual_seed(0), torch.zeros(1, dimensions) + 1, []
    for i in range(160):
        noise = torch.randn(x.shape, generator=generator)
        x = sampler._correct(delta, x, level, noise)
        if i >= 60:
            variances.append(x.square().mean())
    assert abs(torch.stack(variances).mean() - (1 + tau / 2)) < 4 * 0.003


def test_corrections_are_sized_per_member():
    """The step of a member does not depend on the others."""
    sampler, level = PredictorCorrector(8), torch.full((1, 1), 0.14)
    denoiser, noise = gaussian(), rng.normal(2, (D,), rng.seeded(1))
    x = torch.tensor([[1.0], [100.0]]) * rng.normal(2, (D,), rng.seeded(0))
    both = sampler._correct(denoiser, x, level, noise)
    alone = [sampler._correct(denoiser, x[i : i + 1], level, noise[i : i + 1]) for i in range(2)]
    assert_close(both, torch.cat(alone))


def variance_error(sampler, var):
    """Relative error of the variance of a Gaussian's samples, without sampling error.

    All is linear: the axes of one "sample" are the start and the draws, each with unit variance.
    """
    process, axes = VarianceExploding(1e-4, 100.0), torch.eye(sampler.noise_levels)
    denoiser = GaussianDenoiser(torch.zeros(len(axes)), axes, torch.full((len(axes),), var))
    levels = process.noise_level(sampler.times(process))
    u, previous, before = axes[:1] * (1 + levels[0] ** 2).sqrt(), None, float(levels[0])
    for i, (nu, after) in enumerate(pairwise(levels.tolist())):
        mean = denoiser.denoise(u, torch.full((1, 1), nu))
        draw = axes[i + 1 : i + 2]
        u = sampler.move(u, mean, previous, (before, nu, after), lambda draw=draw: draw)
        previous, before = mean, nu
    return float(denoiser.denoise(u, levels[-1:, None]).square().sum() / var - 1)


@pytest.mark.parametrize(("build", "order"), [(Ancestral, 1), (StochasticMultistep, 2)])
@pytest.mark.parametrize("var", [1.0, 0.3])
def test_order_of_convergence_of_a_variance(build, order, var):
    """Fitted slope, 40 to 320 steps; the lowest level alone costs 0.004^2 / var, below 1e-4."""
    steps = [40, 80, 160, 320]
    errors = [variance_error(build(n, 0, max_noise=20.0, min_noise=4e-4), var) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]
    # The slope tends to the order; 0.15 is what the next order adds at these steps.
    assert abs(slope - order) < 0.15, errors


def test_sixteen_stochastic_steps_keep_a_variance_that_ancestral_ones_lose():
    settings = {"corrections": 0, "max_noise": 20.0, "min_noise": 4e-3}
    assert abs(variance_error(StochasticMultistep(16, **settings), 1.0) - 0.08) < 0.005
    assert abs(variance_error(Ancestral(16, **settings), 1.0) + 0.40) < 0.005


def ancestral_spectrum(spectrum, levels):
    """Variances of the samples of `Ancestral`, direction by direction.

    u' - m = [g + r (1 - g)] (u - m) + nu' sqrt(1 - r) eps, g = s / (s + nu^2), r = (nu' / nu)^2.
    """
    var = 1 + levels[0] ** 2
    for nu, after in pairwise(levels):
        gain, ratio = spectrum / (spectrum + nu**2), (after / nu) ** 2
        var = (gain + ratio * (1 - gain)) ** 2 * var + after**2 * (1 - ratio)
    return (spectrum / (spectrum + after**2)) ** 2 * var


@pytest.mark.parametrize("build", SAMPLERS)
def test_samples_have_the_moments_of_a_gaussian(build, process):
    """4000 draws: standard errors 0.016 std of the mean and 2.2% of the variance; 4 of each.

    Discretisation adds up to 1% (both multistep) and 3% (PredictorCorrector, first order) of the
    variance; Ancestral, whose variance is far too small, is held to its own recursion.
    """
    denoiser, sampler, members = gaussian(), build(100, 0, max_noise=50.0), 4000
    samples = sampler.sample(denoiser, process, (D,), members, rng.seeded(0))
    spectrum, bias = denoiser.spectrum, 0.03 if build is PredictorCorrector else 0.01
    if build is Ancestral:
        levels = process.noise_level(sampler.times(process))
        spectrum, bias = ancestral_spectrum(spectrum, levels), 0.0
        assert (spectrum < 0.93 * denoiser.spectrum).all()
    cov = denoiser.basis @ spectrum.diag() @ denoiser.basis.T
    std = cov.diagonal().sqrt()
    assert ((samples.mean(0) - denoiser.mean).abs() < 4 * 0.016 * std + 0.01).all()
    assert ((samples.var(0) / std**2 - 1).abs() < 4 * 0.022 + bias).all()


@pytest.mark.parametrize("build", SAMPLERS)
@pytest.mark.parametrize("corrections", [0, 2])
def test_evaluations_are_counted_and_reported(build, corrections, process):
    sampler, denoiser, seen = build(6, corrections), Counted(gaussian()), []
    sampler.sample(
        denoiser, process, (D,), 40, rng.seeded(0), chunk=16, report=lambda *a: seen.append(a)
    )
    # Batches of 16, 16 and again 16 for the last 8.
    assert denoiser.rows == 48 * sampler.evaluations
    total = 3 * sampler.evaluations
    assert seen == [(i + 1, total) for i in range(total)]


@pytest.mark.parametrize("build", SAMPLERS)
def test_corrections_below_a_level_leave_out_those_above(build):
    """Levels 10, 1, 0.1, 0.01: two corrections at each of the last two, none at the others."""
    process = VarianceExploding(1e-3, 100.0)
    sampler = build(4, 2, min_noise=0.01, max_noise=10.0, correct_below=0.5)
    denoiser = Counted(gaussian())
    sampler.sample(denoiser, process, (D,), 1, rng.seeded(0))
    assert denoiser.levels == [10.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert denoiser.rows == sampler.evaluations == 8
    between = replace(sampler, correct_below=5.0, correct_above=0.05)
    denoiser = Counted(gaussian())
    between.sample(denoiser, process, (D,), 1, rng.seeded(0))
    assert denoiser.levels == [10.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01]
    assert between.evaluations == 8
    whole = build(4, 2, min_noise=0.01, max_noise=10.0, correct_below=1e9)
    expected = build(4, 2, min_noise=0.01, max_noise=10.0).sample(
        denoiser, process, (D,), 3, rng.seeded(0)
    )
    assert torch.equal(whole.sample(denoiser, process, (D,), 3, rng.seeded(0)), expected)


@pytest.mark.parametrize("build", SAMPLERS)
def test_samples_do_not_depend_on_the_chunk(build, process):
    sampler, denoiser = build(6, 1), gaussian()
    whole = sampler.sample(denoiser, process, (D,), 11, rng.seeded(0))
    expected = sampler.sample(denoiser, process, (D,), 40, rng.seeded(0), 16)
    for chunk in (1, 4, 100):
        parts = sampler.sample(denoiser, process, (D,), 40, rng.seeded(0), chunk)
        assert torch.equal(parts, expected)
    # Matrix products of another size round differently.
    assert_close(expected[:11], whole, rtol=1e-9, atol=1e-10)
    assert_close(
        sampler.sample(denoiser, process, (D,), 5, rng.seeded(0)), whole[:5], rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("build", SAMPLERS)
def test_precision_follows_like_and_the_seed_repeats(build, process):
    sampler, denoiser = build(6, 1, min_noise=0.1), gaussian()
    single = sampler.sample(denoiser, process, (D,), 5, rng.seeded(0), like=torch.zeros(1).float())
    double = sampler.sample(denoiser, process, (D,), 5, rng.seeded(0))
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    # Same noise, rounded: 1e-7 per operation, amplified by the corrections at low noise.
    assert_close(single.double(), double, rtol=0, atol=1e-3)
    generator = rng.seeded(0)
    first = sampler.sample(denoiser, process, (D,), 5, generator)
    assert torch.equal(first, double)
    assert not torch.equal(first, sampler.sample(denoiser, process, (D,), 5, generator))


@pytest.mark.parametrize("build", SAMPLERS)
def test_noise_levels_that_the_process_has_not_are_refused(build):
    """They would be repeated, and a multistep solver divides by their distance."""
    narrow = VarianceExploding(1e-2, 5.0)
    for options in ({"max_noise": 10.0, "min_noise": 1e-2}, {"max_noise": 5.0}):
        with pytest.raises(
            ValueError, match=r"noise levels are from 0\.01 to 5: give the sampler"
        ):
            build(8, 0, **options).sample(gaussian(), narrow, (D,), 2)
    whole = build(8, 0, min_noise=1e-2, max_noise=5.0)
    assert whole.sample(gaussian(), narrow, (D,), 2, rng.seeded(0)).isfinite().all()


def test_settings_are_checked():
    for wrong in ({"noise_levels": 1}, {"corrections": -1}, {"tau": 2.0}):
        with pytest.raises(ValueError, match="need noise_levels >= 2"):
            Ancestral(**wrong)
    for wrong in ({"grid": "rho"}, {"min_noise": 0.0}, {"min_noise": 20.0}):
        with pytest.raises(ValueError, match="the grid is"):
            Ancestral(**wrong)
    for wrong in (
        {"correct_below": 1e-4},
        {"correct_below": 1.0, "grid": "time"},
        {"correct_above": 1e-4},
        {"correct_above": 1.0, "grid": "time"},
        {"correct_above": 1.0, "correct_below": 1.0},
    ):
        with pytest.raises(ValueError, match="noise level above the lowest"):
            Ancestral(**wrong)
