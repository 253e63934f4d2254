"""Denoisers against conditioning formulas and explicit mixtures."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import (
    Denoiser,
    GaussianDenoiser,
    KernelDenoiser,
    NetworkDenoiser,
    precondition,
)
from scorda.diffusion.samplers import VarianceExploding
from scorda.diffusion.training import denoising_loss
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.nn.temporal import TemporalConv, WindowMLP

PROCESSES = [VariancePreserving(), VarianceExploding()]
LEVELS = [0.15, 0.5, 0.85]


@pytest.fixture(params=PROCESSES, ids=["preserving", "exploding"])
def process(request):
    return request.param


def gaussian(d=4):
    root = rng.normal(d, (d,), rng.seeded(0))
    return rng.normal(1, (d,), rng.seeded(1))[0], root @ root.T / d


def conditioned(mean, cov, process, x, t):
    """Mean and covariance of x_0 given x_t, by the textbook formula."""
    alpha, var = process.alpha(t), process.var(t)
    gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + var * torch.eye(len(mean)))
    return mean + (x - alpha * mean) @ gain.T, cov - alpha * gain @ cov


@pytest.mark.parametrize("level", LEVELS)
def test_gaussian_denoiser_conditions(process, level):
    (mean, cov), t = gaussian(), torch.tensor(level)
    x = rng.normal(5, (4,), rng.seeded(2))
    denoiser = GaussianDenoiser.from_cov(mean, cov)
    assert isinstance(denoiser, Denoiser)
    expected, _ = conditioned(mean, cov, process, x, t)
    assert_close(process.denoise(denoiser, x, t), expected, rtol=1e-9, atol=1e-11)
    # The same with the state as a field and with one time per member.
    field = GaussianDenoiser.from_cov(mean.view(2, 2), cov)
    found = process.denoise(field, x.view(5, 2, 2), t.expand(5))
    assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("level", LEVELS)
def test_jacobian_of_the_denoiser_is_the_posterior_covariance(process, level):
    (mean, cov), t = gaussian(), torch.tensor(level)
    denoiser = GaussianDenoiser.from_cov(mean, cov)
    x = rng.normal(1, (4,), rng.seeded(2))[0]
    jacobian = torch.func.jacrev(lambda x: process.denoise(denoiser, x[None], t)[0])(x)
    _, expected = conditioned(mean, cov, process, x, t)
    assert_close(process.var(t) / process.alpha(t) * jacobian, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("members", [60, 4], ids=["more than dimensions", "fewer"])
def test_low_rank_gaussian_is_the_full_one_of_the_sample_covariance(process, members):
    samples = rng.normal(members, (2, 3), rng.seeded(3)) + 5
    low = GaussianDenoiser.from_samples(samples)
    full = GaussianDenoiser.from_cov(samples.mean(0), samples.flatten(1).T.cov())
    assert low.basis.shape[1] == min(members, 6)
    x, t = 3 * rng.normal(7, (2, 3), rng.seeded(4)), torch.tensor(0.4)
    assert_close(process.denoise(low, x, t), process.denoise(full, x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batched", [False, True])
def test_one_level_is_many_equal_ones_also_where_columns_are_not_orthonormal(batched):
    """Two computations of the same mean: by eigenvalues, and by a Cholesky factor per level."""
    basis = rng.normal(5, (6, 3), rng.seeded(3))
    denoiser = GaussianDenoiser(
        torch.ones(2, 3), basis if batched else basis[0], torch.tensor([0.3, 1.0, 4.0])
    )
    u = rng.normal(5, (2, 3), rng.seeded(4))
    for noise in (torch.tensor(0.7), torch.tensor([0.1, 0.4, 1.0, 3.0, 9.0])[:, None, None]):
        found = denoiser.denoise(u, noise.expand(5, 2, 3).clone())
        assert_close(denoiser.denoise(u, noise), found, rtol=1e-9, atol=1e-10)


def mixture(members, bandwidth, process, x, t, log_weights=None):
    """E[x_0 | x_t] of a kernel density, component by component."""
    rows = []
    for i in range(len(x)):
        alpha, var = process.alpha(t[i]), process.var(t[i])
        total = var + alpha**2 * bandwidth**2
        logs = -((x[i] - alpha * members) ** 2).flatten(1).sum(1) / (2 * total)
        logs = logs + (0 if log_weights is None else log_weights)
        weights = (logs - logs.logsumexp(0)).exp()
        gain = alpha * bandwidth**2 / total
        means = members + gain * (x[i] - alpha * members)
        rows.append(torch.einsum("m,m...->...", weights, means))
    return torch.stack(rows)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("bandwidth", [0.0, 0.3])
def test_kernel_denoiser_is_the_explicit_mixture(process, bandwidth, weighted):
    members = rng.normal(9, (2, 2), rng.seeded(0)) + 3
    log_weights = rng.normal(9, (), rng.seeded(1)) if weighted else None
    denoiser = KernelDenoiser(members, bandwidth, log_weights)
    t = torch.tensor([0.3, 0.5, 0.6, 0.7, 0.9])
    x = process.sample(members[:5], t, rng.seeded(2))
    expected = mixture(members, bandwidth, process, x, t, log_weights)
    assert_close(process.denoise(denoiser, x, t), expected, rtol=1e-9, atol=1e-9)
    one = process.denoise(denoiser, x, t[1])
    expected = mixture(members, bandwidth, process, x, t[1].expand(5), log_weights)
    assert_close(one, expected, rtol=1e-9, atol=1e-9)


def test_kernel_denoiser_in_single_precision_survives_a_large_mean(process):
    """Uncentred, |x|^2 = 1e6 would leave an error of order 1 in logits of float32."""
    members = rng.normal(9, (4,), rng.seeded(0)) + 500
    t = torch.tensor([0.6] * 9)
    x = process.sample(members, t, rng.seeded(2)).float()
    denoiser = KernelDenoiser(members, 0.2)
    expected = mixture(members, 0.2, process, x.double(), t)
    # x itself is rounded to 500 * 6e-8 = 3e-5, and alpha to 6e-8.
    found = process.denoise(denoiser, x, t.float()).double()
    assert_close(found - 500, expected - 500, rtol=0, atol=2e-3)


def test_kernel_denoiser_keeps_noiseless_data_where_it_has_a_bandwidth():
    process = VarianceExploding(1e-7, 10.0)
    x = rng.normal(3, (4,), rng.seeded(0))
    denoiser = KernelDenoiser(rng.normal(9, (4,), rng.seeded(1)), 0.3)
    assert_close(process.denoise(denoiser, x, torch.tensor(0.0)), x, rtol=1e-9, atol=1e-9)


def test_kernel_denoiser_of_one_member_is_a_gaussian_and_without_bandwidth_a_constant(process):
    member, t = rng.normal(1, (4,), rng.seeded(1)), torch.tensor(0.6)
    x = rng.normal(3, (4,), rng.seeded(0))
    expected, _ = conditioned(member[0], 0.25 * torch.eye(4), process, x, t)
    assert_close(process.denoise(KernelDenoiser(member, 0.5), x, t), expected)
    assert_close(process.denoise(KernelDenoiser(member, 0.0), x, t), member.expand(3, 4))


def test_kernel_denoiser_ignores_the_order_of_members(process):
    members, order = rng.normal(9, (4,), rng.seeded(0)), torch.tensor([3, 1, 8, 0, 2, 7, 6, 5, 4])
    x, t = rng.normal(5, (4,), rng.seeded(2)), torch.tensor(0.6)
    logs = rng.normal(9, (), rng.seeded(1))
    a = KernelDenoiser(members, 0.1, logs)
    b = KernelDenoiser(members[order], 0.1, logs[order])
    assert_close(process.denoise(a, x, t), process.denoise(b, x, t))


def test_kernel_denoiser_forms_no_tensor_of_all_pairs():
    """The largest intermediate is a state array with a few more columns: memory O(N d)."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)))
            return out

    denoiser = KernelDenoiser(rng.normal(90, (7,), rng.seeded(0)), 0.1)
    x = rng.normal(80, (7,), rng.seeded(1))
    with Watch():
        denoiser.denoise(x, torch.tensor(0.5))
    assert max(sizes) == 90 * 8


def explicit(members, u, noise, bandwidth=0.0, log_weights=0.0):
    """E[x_0 | x_0 + noise = u] of a kernel density, from all pairs, in double precision."""
    members, u, noise = members.double(), u.double(), noise.double().expand(u.shape)
    total = noise.square() + bandwidth**2
    pairs = (u[:, None] - members) / total.sqrt()[:, None]
    weights = (log_weights - pairs.square().flatten(2).sum(2) / 2).softmax(1)
    mean = torch.einsum("em,m...->e...", weights, members)
    return mean + bandwidth**2 / total * (u - mean)


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (6, 1, 1), (2,), (3, 1), (6, 3, 2)], ids=str)
def test_kernel_denoiser_takes_a_noise_level_of_any_shape(shape):
    members, u = (rng.normal(n, (3, 2), rng.seeded(n)) for n in (9, 6))
    noise = rng.uniform(1, shape, rng.seeded(2))[0] + 0.2
    logs = rng.normal(9, (), rng.seeded(1))
    denoiser = KernelDenoiser(members, 0.3, logs)
    assert_close(denoiser.denoise(u, noise), explicit(members, u, noise, 0.3, logs))


def test_members_of_weight_zero_do_not_count(process):
    """Also where they fill whole blocks of a fused kernel: 600 of them, before the others."""
    members = rng.normal(609, (3,), rng.seeded(0))
    logs = torch.zeros(609).index_fill(0, torch.arange(600), -torch.inf)
    x, t = rng.normal(5, (3,), rng.seeded(2)), torch.tensor(0.6)
    few = process.denoise(KernelDenoiser(members[600:], 0.1), x, t)
    assert_close(process.denoise(KernelDenoiser(members, 0.1, logs), x, t), few)


def test_fused_attention_is_the_explicit_softmax_in_single_precision():
    """100 components of order 1, so logits of order 100 / level^2, rounded at 6e-8 of that.

    Silverman's bandwidth of 2000 members in 100 dimensions is 0.9.
    """
    members, u = (rng.normal(n, (100,), rng.seeded(n)).float() + 3 for n in (2000, 300))
    logs = rng.normal(2000, (), rng.seeded(1)).float()
    for level in (0.9, 5.0):
        noise = torch.tensor(level)
        found = KernelDenoiser(members, 0.0, logs).denoise(u, noise.float())
        expected = explicit(members, u, noise, 0.0, logs)
        error = (found - expected).norm(dim=1) / (expected - 3).norm(dim=1)
        assert error.max() < 1e-5


def test_negative_bandwidth_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        KernelDenoiser(torch.zeros(2, 1), -0.1)


def network(kind):
    torch.manual_seed(0)
    net = TemporalConv(2, 8, 1) if kind == "conv" else WindowMLP(2, 1, 16, 2)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_network_denoiser_is_one_function_of_the_noise_level(kind):
    preserving, exploding = PROCESSES
    net, u = network(kind), rng.normal(3, (5, 2), rng.seeded(0))
    for level in torch.tensor([0.01, 0.7, 8.0]):
        t, s = preserving.time(level), exploding.time(level)
        a = preserving.denoise(NetworkDenoiser(net), preserving.alpha(t) * u, t)
        b = exploding.denoise(NetworkDenoiser(net), u, s.expand(3))
        assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_network_denoiser_keeps_the_precision_of_its_input():
    denoiser = NetworkDenoiser(network("conv").float())
    assert isinstance(denoiser, Denoiser)
    x = rng.normal(3, (5, 2), rng.seeded(0))
    noise = torch.tensor(0.5)
    wide, narrow = denoiser.denoise(x, noise), denoiser.denoise(x.float(), noise.float())
    assert wide.dtype == torch.float64 and narrow.dtype == torch.float32
    assert_close(wide.float(), narrow)


def test_preconditioning_is_exact_for_white_data():
    """For x_0 ~ N(0, 1) the best denoiser is x / (1 + nu^2): the target of the network is 0."""
    zero = torch.nn.Module()
    zero.forward = lambda x, noise: torch.zeros_like(x)
    x, noise = rng.normal(4, (3, 2), rng.seeded(0)), torch.tensor([1e-3, 0.1, 1.0, 30.0])
    expected = torch.stack(
        [
            conditioned(torch.zeros(6), torch.eye(6), VarianceExploding(), x[i].flatten(), t)[0]
            for i, t in enumerate(VarianceExploding().time(noise))
        ]
    ).view_as(x)
    assert_close(precondition(zero, x, noise), expected)


def test_zero_network_has_loss_one_at_every_noise_level():
    zero = torch.nn.Module()
    zero.forward = lambda x, noise: torch.zeros_like(x)
    x0, eps = (rng.normal(4, (5000, 4), rng.seeded(i)) for i in range(2))
    noise = torch.tensor([1e-3, 0.1, 1.0, 30.0])
    loss = denoising_loss(zero, x0, noise, eps)
    nu = noise[:, None, None]
    # (x_0 + nu eps) / (1 + nu^2) - x_0, weighted: its target, which has unit variance.
    assert_close(loss, ((eps - nu * x0).square() / (1 + nu**2)).flatten(1).mean(1))
    # Standard error of a mean of 20 000 squares of standard normal numbers: sqrt(2 / 20 000).
    assert ((loss - 1).abs() < 4 * 0.01).all()
