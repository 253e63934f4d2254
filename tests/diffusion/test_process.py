"""Forward processes against their differential equations and against exact posteriors."""

import math

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.samplers import VarianceExploding
from scorda.diffusion.variance_preserving import VariancePreserving

PROCESSES = [
    VariancePreserving(),
    VariancePreserving(eta=0.02, floor=0.05),
    VarianceExploding(),
    VarianceExploding(0.1, 3.0),
]
# Explicit: these are made before the tests switch to double precision.
F64 = torch.float64
TIMES = torch.tensor([0.0, 0.013, 0.2, 0.5, 0.81, 1.0], dtype=F64)


@pytest.fixture(params=PROCESSES, ids=str)
def process(request):
    return request.param


def coefficients(process, t):
    """Drift f and squared diffusion g^2, differentiated by hand."""
    if isinstance(process, VarianceExploding):
        rate = math.log(process.max_noise / process.min_noise)
        return torch.zeros_like(t), 2 * rate * process.min_noise**2 * (2 * rate * t).exp()
    angle = math.acos(math.sqrt(process.floor))
    slope = (angle * t).tan()
    return -2 * angle * slope, 4 * angle * slope * (1 + process.eta**2)


def derivative(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum() + 0 * t.sum(), t)[0]


def test_diffusion_is_the_derivative_of_the_variance_less_the_drift(process):
    f = derivative(lambda t: process.alpha(t).log(), TIMES)
    square = derivative(process.var, TIMES) - 2 * f * process.var(TIMES)
    by_hand = coefficients(process, TIMES)
    assert (square >= -1e-15).all()
    assert_close((f, square), by_hand, rtol=1e-9, atol=1e-12)


def test_integrated_moments_are_amplitude_and_variance(process):
    """RK4 on m' = f m and S' = 2 f S + g^2 from t = 0: 1000 steps leave less than 1e-5."""
    steps = 1000
    h = 1 / steps
    moments = torch.stack([torch.tensor(1.0), process.var(torch.tensor(0.0))])

    def slope(t, moments):
        f, square = coefficients(process, torch.tensor(t))
        return torch.stack([f * moments[0], 2 * f * moments[1] + square])

    for i in range(steps):
        a = slope(i * h, moments)
        b = slope(i * h + h / 2, moments + h / 2 * a)
        c = slope(i * h + h / 2, moments + h / 2 * b)
        d = slope(i * h + h, moments + h * c)
        moments = moments + h / 6 * (a + 2 * b + 2 * c + d)
    end = torch.tensor(1.0)
    x0 = torch.tensor([1.7, -0.4])
    # Relative to alpha(1), which is small: RK4 errs where the tangent grows fastest.
    assert_close(moments[0] * x0, process.mean(x0, end), rtol=1e-5, atol=0)
    assert_close(moments[1], process.var(end), rtol=1e-6, atol=0)


def test_transitions_compose_and_invert(process):
    r, s, t = torch.tensor([0.1, 0.45, 0.9])
    for u, v, w in [(r, s, t), (t, s, r), (r, t, s)]:
        first, second, whole = (process.transition(*p) for p in [(u, v), (v, w), (u, w)])
        assert_close(whole.scale, second.scale * first.scale)
        assert_close(whole.var, second.scale**2 * first.var + second.var)
    there, back = process.transition(r, t), process.transition(t, r)
    assert there.var > 0 > back.var
    assert_close(back.scale * there.scale, torch.tensor(1.0))
    assert_close(back.scale**2 * there.var + back.var, torch.tensor(0.0), atol=1e-9, rtol=0)
    # And the marginal at t is the marginal at r moved there.
    assert_close(there.scale**2 * process.var(r) + there.var, process.var(t))


def test_variance_preserving_ends():
    process = VariancePreserving(eta=1e-3)
    ends = torch.tensor([0.0, 1.0])
    assert_close(process.alpha(ends), torch.tensor([1.0, 1e-3]))
    assert_close(process.sigma(ends), torch.tensor([1e-3, math.sqrt(1 + 1e-6 - 1e-6)]))


def test_variance_preserving_does_not_cancel_in_single_precision():
    """1 - cos^4 evaluated in float32 has an error of 1e-7, as large as sigma^2 itself here."""
    process = VariancePreserving(eta=1e-4)
    t = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2])
    assert_close(
        process.var(t.float()).double(), process.var(t.float().double()), rtol=1e-6, atol=0
    )
    noise = process.noise_level(t)
    assert_close(process.time(noise.float()).double(), t, rtol=1e-5, atol=1e-9)


def test_time_inverts_the_noise_level(process):
    # sigma is flat at t = 0, where sqrt(eps) of t is lost.
    assert_close(process.time(process.noise_level(TIMES)), TIMES, rtol=1e-9, atol=3e-7)


MEANS = torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.0, 2.0]], dtype=F64)
COVS = torch.tensor(
    [[[1.0, 0.6], [0.6, 0.8]], [[0.2, 0.0], [0.0, 0.5]], [[0.3, -0.1], [-0.1, 0.1]]], dtype=F64
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)


def log_density(process, x, t, parts):
    """Log density of x_t for the first `parts` components of the mixture."""
    alpha, eye = process.alpha(t), torch.eye(2)
    components = [
        torch.distributions.MultivariateNormal(
            alpha * m, alpha**2 * c + process.var(t) * eye
        ).log_prob(x)
        + w.log()
        for m, c, w in zip(MEANS[:parts], COVS[:parts], WEIGHTS[:parts], strict=True)
    ]
    return torch.stack(components, -1)


def posterior_mean(process, x, s, t, parts):
    """E[x_t | x_s] for t < s, by conditioning each component; t = None means the data."""
    eye = torch.eye(2)
    amplitude, var = (1.0, 0.0) if t is None else (process.alpha(t), process.var(t))
    scale = process.alpha(s) / amplitude
    weights = log_density(process, x, s, parts).softmax(-1)
    means = []
    for m, c in zip(MEANS[:parts], COVS[:parts], strict=True):
        cov = amplitude**2 * c + var * eye
        gain = scale * cov @ torch.linalg.inv(process.alpha(s) ** 2 * c + process.var(s) * eye)
        means.append(amplitude * m + (x - process.alpha(s) * m) @ gain.T)
    return (weights[..., None] * torch.stack(means, 1)).sum(1)


@pytest.mark.parametrize("parts", [1, 3], ids=["Gaussian", "mixture"])
def test_tweedie_gives_the_score_and_the_step(process, parts):
    x = rng.normal(6, (2,), rng.seeded(0))
    for s in torch.tensor([0.3, 0.6]):
        x_s = process.alpha(s) * x + process.sigma(s)
        leaf = x_s.clone().requires_grad_()
        total = log_density(process, leaf, s, parts).logsumexp(-1).sum()
        (score,) = torch.autograd.grad(total, leaf)
        data = posterior_mean(process, x_s, s, None, parts)
        assert_close(process.score(x_s, s, data), score, rtol=1e-7, atol=1e-8)
        t = torch.tensor(0.1)
        there = process.transition(t, s)
        step = (x_s + there.var * score) / there.scale
        assert_close(step, posterior_mean(process, x_s, s, t, parts), rtol=1e-7, atol=1e-8)


def test_score_takes_one_time_per_member(process):
    x, data = rng.normal(3, (2, 4), rng.seeded(1)), rng.normal(3, (2, 4), rng.seeded(2))
    t = torch.tensor([0.2, 0.5, 0.9])
    rows = [process.score(x[i : i + 1], t[i], data[i : i + 1]) for i in range(3)]
    assert_close(process.score(x, t, data), torch.cat(rows))


def test_samples_have_the_moments(process):
    members, t = 20_000, torch.tensor(0.4)
    x0 = torch.tensor([1.0, -3.0])
    x = process.sample(x0.expand(members, 2), t, rng.seeded(3))
    std = process.sigma(t)
    # Standard errors: std / sqrt(n) of the mean, sqrt(2 / n) of the relative variance; 5 of them.
    assert ((x.mean(0) - process.alpha(t) * x0).abs() < 5 * std / members**0.5).all()
    assert ((x.var(0) / std**2 - 1).abs() < 5 * (2 / members) ** 0.5).all()


def test_sampling_takes_one_time_per_member():
    process, t = VarianceExploding(1e-3, 10.0), torch.tensor([0.0, 1.0])
    x = process.sample(torch.zeros(2, 50), t, rng.seeded(0))
    noise = rng.normal(2, (50,), rng.seeded(0))
    assert_close(x, process.sigma(t)[:, None] * noise)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="0 < floor < 1"):
        VariancePreserving(floor=0.0)
    with pytest.raises(ValueError, match="0 < min_noise < max_noise"):
        VarianceExploding(1.0, 0.5)
