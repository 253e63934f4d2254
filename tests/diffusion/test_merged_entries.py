"""Conditioned denoisers against the joint law of data, noisy data and observations."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import (
    Conditioned,
    GaussianDenoiser,
    KernelDenoiser,
    NetworkDenoiser,
    SwitchedDenoiser,
)
from scorda.diffusion.samplers import VarianceExploding
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.nn.temporal import TemporalConv

PROCESSES = [VariancePreserving(), VarianceExploding()]
OBSERVED, VALUES, ERROR = [0, 3, 4], [1.5, -0.3, 2.0], [0.2, 1.0, 5.0]


@pytest.fixture(params=PROCESSES, ids=["preserving", "exploding"])
def process(request):
    return request.param


def observation(shape=(6,)):
    values, precision = torch.full((6,), 7.0), torch.zeros(6)
    values[OBSERVED], precision[OBSERVED] = torch.tensor(VALUES), torch.tensor(ERROR) ** -1.0
    return values.view(shape), precision.view(shape)


def gaussian():
    root = rng.normal(6, (6,), rng.seeded(0))
    return rng.normal(1, (6,), rng.seeded(1))[0], root @ root.T / 6


def exact(mean, cov, process, x, t):
    """E[x_0 | x_t, y] from the joint Gaussian law of x_0 and (x_t, y)."""
    H = torch.cat((process.alpha(t) * torch.eye(6), torch.eye(6)[OBSERVED]))
    noise = torch.cat((process.var(t).expand(6), torch.tensor(ERROR))).diag()
    gain = cov @ H.T @ torch.linalg.inv(H @ cov @ H.T + noise)
    both = torch.cat((x, torch.tensor(VALUES).expand(len(x), 3)), 1)
    return mean + (both - mean @ H.T) @ gain.T


@pytest.mark.parametrize("level", [0.15, 0.5, 0.85])
def test_gaussian_given_entries(process, level):
    (mean, cov), t = gaussian(), torch.tensor(level)
    x = 2 * rng.normal(5, (6,), rng.seeded(2))
    prior = GaussianDenoiser.from_cov(mean, cov)
    denoiser = Conditioned(prior, *observation())
    expected = exact(mean, cov, process, x, t)
    assert_close(process.denoise(denoiser, x, t), expected, rtol=1e-8, atol=1e-9)
    # One time per member, and the state as a field.
    field = GaussianDenoiser.from_cov(mean.view(2, 3), cov)
    denoiser = Conditioned(field, *observation((2, 3)))
    got = process.denoise(denoiser, x.view(5, 2, 3), t.expand(5))
    assert_close(got.flatten(1), expected, rtol=1e-8, atol=1e-9)


def test_low_rank_gaussian_given_entries(process):
    samples, t = rng.normal(4, (6,), rng.seeded(3)), torch.tensor(0.4)
    x = rng.normal(5, (6,), rng.seeded(2))
    denoiser = Conditioned(GaussianDenoiser.from_samples(samples), *observation())
    expected = exact(samples.mean(0), samples.T.cov(), process, x, t)
    assert_close(process.denoise(denoiser, x, t), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("bandwidth", [0.0, 0.5])
def test_kernel_given_entries(process, bandwidth):
    """Each member conditions like a Gaussian, and weighs what it predicts for x_t and y."""
    members, t = rng.normal(9, (6,), rng.seeded(4)), torch.tensor(0.5)
    log_weights = rng.normal(1, (9,), rng.seeded(5))[0]
    x = 2 * rng.normal(5, (6,), rng.seeded(2))
    H = torch.cat((process.alpha(t) * torch.eye(6), torch.eye(6)[OBSERVED]))
    noise = torch.cat((process.var(t).expand(6), torch.tensor(ERROR))).diag()
    cov = bandwidth**2 * torch.eye(6)
    both = torch.cat((x, torch.tensor(VALUES).expand(5, 3)), 1)
    total = H @ cov @ H.T + noise
    law = [torch.distributions.MultivariateNormal(H @ m, total) for m in members]
    weights = (log_weights + torch.stack([one.log_prob(both) for one in law], 1)).softmax(1)
    means = [m + (both - H @ m) @ torch.linalg.inv(total) @ H @ cov for m in members]
    expected = torch.einsum("bm,mbi->bi", weights, torch.stack(means))
    prior = KernelDenoiser(members, bandwidth, log_weights)
    found = process.denoise(Conditioned(prior, *observation()), x, t)
    assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_without_observations_it_is_the_prior(process):
    prior = GaussianDenoiser.from_cov(*gaussian())
    x, t = rng.normal(5, (6,), rng.seeded(2)), torch.tensor(0.3)
    nothing = Conditioned(prior, torch.full((6,), float("nan")), torch.zeros(6))
    found, expected = process.denoise(nothing, x, t), process.denoise(prior, x, t)
    assert_close(found, expected, rtol=1e-8, atol=1e-9)


def network(kind, **options):
    torch.manual_seed(0)
    net = kind(channels=3, width=8, **options).double()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return net


def test_equal_levels_per_entry_are_one_level_per_member():
    net = network(TemporalConv, blocks=2, per_entry=True)
    denoiser, process = NetworkDenoiser(net), VarianceExploding()
    x, noise = rng.normal(4, (11, 3), rng.seeded(0)), torch.tensor([0.01, 0.3, 2.0, 9.0])
    per_member = net(x, noise)
    assert_close(net(x, noise[:, None, None].expand(4, 11, 3)), per_member)
    expected = process.denoise(denoiser, x, process.time(noise))
    assert_close(denoiser.denoise(x, noise[:, None, None]), expected)
    # And it does look at the level of the single entry.
    lowered = noise[:, None, None].repeat(1, 11, 3)
    lowered[:, 5, 1] /= 3
    assert ((net(x, lowered) - per_member).abs().amax((1, 2)) > 1e-3).all()


def test_the_switched_denoiser_takes_the_one_above_and_the_other_below(process):
    mean, cov = gaussian()
    above = GaussianDenoiser.from_cov(mean, cov)
    below = GaussianDenoiser.from_cov(-mean, cov)
    denoiser, x = SwitchedDenoiser(above, below, 0.3), rng.normal(2, (6,), rng.seeded(0))
    for level, expected in ((0.2, below), (0.4, above)):
        t = process.time(torch.tensor(level))
        assert torch.equal(process.denoise(denoiser, x, t), process.denoise(expected, x, t))
    with pytest.raises(ValueError, match="one noise level"):
        process.denoise(denoiser, x, torch.full((2,), 0.5))
