"""The network of a step on a ring: a Gaussian law of the difference, and a correction of it."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser, precondition
from scorda.nn import build
from scorda.nn.steps import StepRing

SITES, KNOWN = 7, 2e-3
STD = [0.3, 0.05]


def randomised(channels=2, blocks=1, context=0):
    """A network none of whose weights is zero."""
    generator = torch.Generator().manual_seed(0)
    net = StepRing(channels, [SITES], 8, blocks, differences=STD[:channels], context=context)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def pairs(channels=2, members=3):
    return rng.normal(members, (2, channels, SITES), rng.seeded(1))


def levels(nu, x):
    """The level of a known state, and a level of the next one for each member."""
    nu = torch.as_tensor(nu).expand(len(x))
    both = torch.stack((torch.full_like(nu, KNOWN), nu), 1)
    return both[:, :, None, None].expand(x.shape)


@pytest.mark.parametrize("nu", [0.005, 0.2, 10.0])
def test_untrained_it_is_the_denoiser_of_independent_differences(nu):
    net = build({"name": "step-ring", "channels": 2, "grid": [SITES], "differences": STD})
    x = pairs()
    found = precondition(net, x, levels(nu, x))
    cov = torch.tensor(STD).square().repeat_interleave(SITES).diag()
    for (known, u), own in zip(x, found[:, 1], strict=True):
        exact = GaussianDenoiser.from_cov(known.flatten(), cov)
        mean = exact.denoise(u.flatten()[None], torch.tensor(nu))[0]
        # Double precision, divided by the level.
        assert_close(own.flatten(), mean, rtol=1e-9, atol=1e-9)
    # Its half for the known state is 0, and leaves that of white data at its level.
    assert net(x, levels(nu, x))[:, 0].abs().max() == 0
    assert_close(found[:, 0], x[:, 0] / (1 + KNOWN**2))


def test_the_correction_has_the_size_of_what_is_left():
    """A correction of 1 moves the denoised state by the standard deviation given the noisy one."""
    net, x, nu = StepRing(2, [SITES], 8, 1, differences=STD), pairs(), 0.1
    before = precondition(net, x, levels(nu, x))[:, 1]
    torch.nn.init.ones_(net.last.bias)
    moved = precondition(net, x, levels(nu, x))[:, 1] - before
    for variable, s in enumerate(STD):
        left = (1 / (s**-2 + nu**-2)) ** 0.5
        assert_close(moved[:, variable], torch.full_like(moved[:, 0], left))


def test_turning_the_ring_turns_the_output():
    net, x = randomised(), pairs()
    noise = levels(torch.tensor([0.01, 0.3, 3.0]), x)
    out = net(x, noise)
    for points in (1, 3, SITES - 1):
        assert_close(net(x.roll(points, -1), noise), out.roll(points, -1), rtol=1e-9, atol=1e-10)
    assert (net(x.flip(-1), noise) - out.flip(-1)).abs().max() > 1e-3


def test_turning_the_ring_with_its_fields_turns_the_output():
    """Without turning them it does not; and a file has them where there are some."""
    net, x, context = randomised(context=1), pairs(), torch.randn(1, SITES)
    noise = levels(0.3, x)
    net.context.copy_(context)
    out = net(x, noise)
    assert (net(x.roll(2, -1), noise) - out.roll(2, -1)).abs().max() > 1e-3
    net.context.copy_(context.roll(2, -1))
    assert_close(net(x.roll(2, -1), noise), out.roll(2, -1), rtol=1e-9, atol=1e-10)
    assert set(net.state_dict()) - set(randomised().state_dict()) == {"context"}


def test_members_have_levels_of_their_own():
    net, x, nu = randomised(), pairs(), torch.tensor([0.01, 0.3, 3.0])
    alone = [net(x[i : i + 1], levels(nu[i], x[i : i + 1])) for i in range(3)]
    assert_close(net(x, levels(nu, x)), torch.cat(alone), rtol=1e-9, atol=1e-10)


def test_one_variable_needs_no_axis_of_variables():
    net, x = randomised(channels=1), pairs(channels=1)
    noise = levels(0.3, x)
    assert torch.equal(net(x[:, :, 0], noise[:, :, 0]), net(x, noise)[:, :, 0])


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_its_reach_is_what_the_jacobian_says(blocks):
    net = StepRing(1, [41], 4, blocks)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    x = rng.normal(1, (2, 41), rng.seeded(1)).requires_grad_()
    out = net(x, torch.tensor([KNOWN, 0.3])[None, :, None].expand(x.shape))[0, 1, 20]
    (gradient,) = torch.autograd.grad(out, x)
    seen = gradient[0, 0].nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (18 - 4 * blocks, 22 + 4 * blocks)


def test_bad_input_is_refused():
    for grid in ([2], [4, 4], []):
        with pytest.raises(ValueError, match="one ring of at least 3 points"):
            StepRing(1, grid)
    for differences in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="for 2 variables: give one of each"):
            StepRing(2, [4], differences=differences)
