"""Composition of local denoisers (algorithm 2 of SDA)."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.training import denoising_loss
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.nn import build
from scorda.nn.temporal import WindowMLP, compose


def randomised(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return network


def slow_compose(x, k, local):
    """Algorithm 2, state by state."""
    length, out = x.shape[1], []
    for i in range(length):
        centre = min(max(i, k), length - 1 - k)
        window = x[:, centre - k : centre + k + 1]
        out.append(local(window)[:, i - (centre - k)])
    return torch.stack(out, 1)


@pytest.mark.parametrize("length", [7, 8, 20])
def test_network_on_a_trajectory_is_a_loop_over_windows(length):
    k, net = 3, randomised(WindowMLP(2, 3, 16, 2))
    x, noise = rng.normal(4, (length, 2), rng.seeded(0)), torch.tensor([0.01, 0.3, 2.0, 15.0])
    expected = slow_compose(x, k, lambda window: net(window, noise))
    assert_close(net(x, noise), expected, rtol=1e-9, atol=1e-10)


def test_states_of_any_shape():
    net, noise = randomised(WindowMLP(6, 1, 16, 2)), torch.tensor([0.1, 1.0])
    x = rng.normal(2, (5, 6), rng.seeded(0))
    assert torch.equal(net(x.view(2, 5, 2, 3), noise), net(x, noise).view(2, 5, 2, 3))


def test_too_short_a_trajectory_is_refused():
    with pytest.raises(ValueError, match="5 states for windows of 7"):
        WindowMLP(2, 3)(torch.zeros(1, 5, 2), torch.ones(1))


def test_unknown_architectures_are_refused():
    with pytest.raises(ValueError, match="Unknown architecture 'transformer'"):
        build({"name": "transformer"})
    with pytest.raises(ValueError, match="do not fit"):
        build({"name": "window-mlp", "channels": 2, "blocks": 3})


def chain(rho, length):
    """Covariance of a stationary first-order chain with unit variance."""
    lag = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    return (rho**lag if rho else torch.eye(length)).to(torch.get_default_dtype())


def scores(rho, length, k, t):
    """Matrices of the exact score of x_t and of the composed scores of exact windows."""
    process = VariancePreserving(eta=1e-9)
    alpha, var = process.alpha(torch.tensor(t)), process.var(torch.tensor(t))
    cov = alpha**2 * chain(rho, length) + var * torch.eye(length)
    window = torch.linalg.inv(cov[: 2 * k + 1, : 2 * k + 1])
    local = lambda w: -torch.einsum("ij,enjc->enic", window, w)  # noqa: E731
    composed = compose(torch.eye(length)[..., None], k, local)[..., 0].T
    return cov, -torch.linalg.inv(cov), composed


def relative_error(rho, length, k, t):
    """Root-mean-square error of the composed score under p_t, relative to the score's."""
    cov, exact, composed = scores(rho, length, k, t)
    error = composed - exact
    return float(((error @ cov @ error.T).trace() / (exact @ cov @ exact.T).trace()).sqrt())


@pytest.mark.parametrize("k", [3, 4])
def test_composed_score_is_exact_where_the_window_covers_the_trajectory(k):
    _, exact, composed = scores(0.9, 7 if k == 3 else 9, k, 0.4)
    assert_close(composed, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_composed_score_is_exact_for_independent_states(k):
    _, exact, composed = scores(0.0, 20, k, 0.4)
    assert_close(composed, exact, rtol=1e-9, atol=1e-10)


# t = 0.25, 0.5 and 0.75 of the cosine process, rho = 0.9, 65 states.
PUBLISHED = {
    1: (0.30, 0.26, 0.056),
    2: (0.13, 0.18, 0.048),
    4: (0.028, 0.093, 0.036),
    8: (0.0012, 0.026, 0.020),
    16: (2e-6, 0.002, 0.006),
}


@pytest.mark.parametrize("k", PUBLISHED)
def test_error_of_the_composed_score_falls_with_the_window(k):
    for t, expected in zip((0.25, 0.5, 0.75), PUBLISHED[k], strict=True):
        # The figures were recorded to one or two digits.
        assert abs(relative_error(0.9, 65, k, t) / expected - 1) < 0.26


@pytest.mark.slow
def test_network_overfits_one_batch():
    """Fixed noise is learned by heart: the loss falls far below that of the best denoiser."""
    torch.manual_seed(0)
    net = WindowMLP(2, 2, 64, 2)
    x0, eps = (rng.normal(8, (5, 2), rng.seeded(i)) for i in range(2))
    noise = torch.logspace(-2, 1, 8)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        loss = denoising_loss(net, x0, noise, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
