"""The convolutional network: what it sees, and that it does not know where it is."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.training import denoising_loss
from scorda.nn.temporal import TemporalConv


def randomised(blocks=2, channels=2, **options):
    generator = torch.Generator().manual_seed(0)
    net = TemporalConv(channels, 12, blocks, differences=(0.5, 0.1), **options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return net


@pytest.mark.parametrize(
    ("blocks", "dilation", "half_width"),
    [(1, 1, 5), (2, 1, 9), (3, 1, 13), (2, 2, 11), (3, 2, 21)],
)
def test_half_width_is_what_the_jacobian_says(blocks, dilation, half_width):
    net, middle = randomised(blocks, dilation=dilation), 25
    assert net.half_width == half_width
    x = rng.normal(1, (2 * middle + 1, 2), rng.seeded(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, torch.tensor([0.5]))[0, middle].sum(), x)
    seen = gradient[0].abs().amax(1).nonzero()[:, 0]
    assert (seen.min(), seen.max()) == (middle - net.half_width, middle + net.half_width)


def test_interior_moves_with_the_trajectory():
    """Farther than the half-width from both ends, the network is the same function everywhere."""
    net, noise = randomised(1), torch.tensor([0.3, 3.0])
    k, x = net.half_width, rng.normal(2, (40, 2), rng.seeded(0))
    whole, part = net(x, noise), net(x[:, 7:36], noise)
    assert_close(part[:, k:-k], whole[:, 7 + k : 36 - k], rtol=1e-9, atol=1e-10)
    # And the ends are another function, which is learned.
    assert (part[:, :k] - whole[:, 7 : 7 + k]).abs().amax((0, 2)).min() > 1e-6


def test_members_do_not_see_each_other():
    net, x = randomised(), rng.normal(3, (9, 2), rng.seeded(0))
    noise = torch.tensor([0.01, 0.3, 3.0])
    alone = [net(x[i : i + 1], noise[i : i + 1]) for i in range(3)]
    assert_close(net(x, noise), torch.cat(alone), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("per_entry", [False, True])
def test_states_of_any_shape_and_short_trajectories(per_entry):
    net, noise = randomised(1, 6, per_entry=per_entry), torch.tensor([0.1, 1.0])
    for states in (1, 2, 5):
        x = rng.normal(2, (states, 6), rng.seeded(0))
        out = net(x, noise)
        assert out.isfinite().all()
        assert torch.equal(net(x.view(2, states, 2, 3), noise), out.view(2, states, 2, 3))


def test_untrained_network_is_zero():
    """So that training starts from the best linear denoiser of white data, with loss 1."""
    net = TemporalConv(2, 8, 1)
    out = net(rng.normal(2, (5, 2), rng.seeded(0)), torch.tensor([0.1, 1.0]))
    assert (out - net.last.bias).abs().max() == 0


@pytest.mark.slow
def test_network_overfits_one_batch():
    torch.manual_seed(0)
    net = TemporalConv(2, 32, 1)
    x0, eps = (rng.normal(8, (5, 2), rng.seeded(i)) for i in range(2))
    noise = torch.logspace(-2, 1, 8)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        loss = denoising_loss(net, x0, noise, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
