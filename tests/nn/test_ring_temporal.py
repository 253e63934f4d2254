"""The network of a ring and time: it turns with the ring, and parts of it do not leak."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.training import denoising_loss
from scorda.nn import build
from scorda.nn.ring_temporal import RingTemporalConv

SITES = 7


def randomised(channels=2, blocks=2, per_entry=True):
    """A network none of whose weights is zero."""
    generator = torch.Generator().manual_seed(0)
    net = RingTemporalConv(
        channels, [SITES], 8, blocks, differences=(0.5, 0.1), per_entry=per_entry
    )
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def noisy(length, members=3, channels=2):
    shape = (length, channels, SITES)
    return rng.normal(members, shape, rng.seeded(1)), rng.uniform(members, shape, rng.seeded(2))


@pytest.mark.parametrize("length", [5, 6, 12, 13])
def test_turning_the_ring_turns_the_output(length):
    """By any number of points, with levels that differ between entries; a shift in time not."""
    net, (x, u) = randomised(), noisy(length)
    noise = 0.1 + u
    out = net(x, noise)
    for points in (1, 3, SITES - 1):
        turned = net(x.roll(points, -1), noise.roll(points, -1))
        assert_close(turned, out.roll(points, -1), rtol=1e-9, atol=1e-10)
    assert (net(x.roll(1, 1), noise.roll(1, 1)) - out.roll(1, 1)).abs().max() > 1e-3


def test_turning_the_ring_with_its_fields_turns_the_output():
    """Without turning them it does not; where they are 0 they change nothing but the bits."""
    torch.manual_seed(0)
    net = RingTemporalConv(2, [SITES], 8, 1, per_entry=True, context=1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    (x, u), context = noisy(9), torch.randn(1, SITES)
    net.context.copy_(context)
    out = net(x, 0.1 + u)
    turned = [part.roll(2, -1) for part in (x, 0.1 + u)]
    assert (net(*turned) - out.roll(2, -1)).abs().max() > 1e-3
    net.context.copy_(context.roll(2, -1))
    assert_close(net(*turned), out.roll(2, -1), rtol=1e-9, atol=1e-10)
    plain = RingTemporalConv(2, [SITES], 8, 1, per_entry=True)
    weights = net.state_dict()
    assert set(weights) - set(plain.state_dict()) == {"context"}
    weights["first.weight"] = weights["first.weight"][:, :-1]
    plain.load_state_dict({n: w for n, w in weights.items() if n != "context"})
    net.context.zero_()
    assert_close(net(x, 0.1 + u), plain(x, 0.1 + u), rtol=1e-9, atol=1e-10)


def test_one_variable_needs_no_axis_of_variables():
    net, (x, u) = randomised(channels=1), noisy(9, channels=1)
    out = net(x[:, :, 0], 0.1 + u[:, :, 0])
    assert torch.equal(out, net(x, 0.1 + u)[:, :, 0])


@pytest.mark.parametrize("blocks", [0, 1])
def test_half_width_is_what_the_jacobian_says(blocks):
    """The farthest that any of the states of a row sees."""
    net = randomised(blocks=blocks)
    x, reach = noisy(41, 1)[0].requires_grad_(), 0
    for middle in range(20, 24):
        (gradient,) = torch.autograd.grad(net(x, torch.tensor([0.5]))[0, middle].sum(), x)
        seen = gradient[0].abs().amax((1, 2)).nonzero()[:, 0]
        reach = max(reach, middle - int(seen.min()), int(seen.max()) - middle)
    assert reach == net.half_width


def test_other_lengths_are_two_parts():
    """Of whole rows and one more state each, the halves of which are put together."""
    net, (x, u) = randomised(), noisy(11)
    noise = 0.1 + u
    first, last = net(x[:, :9], noise[:, :9]), net(x[:, 2:], noise[:, 2:])
    whole = net(x, noise)
    assert_close(whole[:, :5], first[:, :5], rtol=1e-9, atol=1e-10)
    assert_close(whole[:, 5:], last[:, 3:], rtol=1e-9, atol=1e-10)


def test_members_do_not_see_each_other():
    net, x, noise = randomised(per_entry=False), noisy(9)[0], torch.tensor([0.01, 0.3, 3.0])
    alone = [net(x[i : i + 1], noise[i : i + 1]) for i in range(3)]
    assert_close(net(x, noise), torch.cat(alone), rtol=1e-9, atol=1e-10)


def test_one_level_for_all_entries_is_that_level():
    """A network of levels per entry, given one per member."""
    net, x, noise = randomised(), noisy(7)[0], torch.tensor([0.01, 0.3, 3.0])
    assert_close(net(x, noise), net(x, noise.view(-1, 1, 1, 1).expand_as(x)))


def test_memory_is_linear_in_the_ensemble():
    """What a gradient keeps grows by as much with each member."""
    net, kept = randomised(), []
    for members in (1, 2, 3):
        total = []

        def note(t, total=total):
            total.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            net(noisy(13, members)[0].requires_grad_(), torch.ones(members))
        kept.append(sum(total))
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


def test_untrained_network_is_zero():
    """So that training starts from the best linear denoiser of white data, with loss 1."""
    net = build({"name": "ring-conv", "channels": 2, "grid": [SITES], "width": 8})
    assert net(noisy(5)[0], torch.ones(3)).abs().max() == 0


@pytest.mark.slow
def test_network_overfits_one_batch():
    torch.manual_seed(0)
    net = RingTemporalConv(2, [SITES], 48, 1)
    x0, eps = (rng.normal(4, (5, 2, SITES), rng.seeded(i)) for i in range(2))
    noise = torch.logspace(-2, 1, 4)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(400):
        loss = denoising_loss(net, x0, noise, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_bad_input_is_refused():
    for grid in ([2], [4, 4], []):
        with pytest.raises(ValueError, match="one ring of at least 3 points"):
            RingTemporalConv(1, grid)
    with pytest.raises(ValueError, match="4 states: a network along a ring takes at least 5"):
        randomised()(noisy(4)[0], torch.ones(3))
