"""A U-Net on windows of periodic fields, around the exact denoiser of a homogeneous law."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser, NetworkDenoiser, precondition
from scorda.diffusion.guidance import MMPS, InflatedLikelihood, SwitchedGuidance
from scorda.diffusion.training import denoising_loss
from scorda.nn import build, unet
from scorda.nn.ring import Ring
from scorda.nn.steps import StepUNet
from scorda.nn.unet import UNet
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function
from scorda.observations.spatial import Average

GRID = (8, 12)
SIZES = {"width": 4, "blocks": 1, "k": 1}
NOISE = torch.tensor([0.05, 3.0], dtype=torch.float64)


def waves(series, length=5, grid=GRID):
    """Fields of two variables: a few waves of random phase that drift, as a homogeneous law."""
    y, x = (torch.arange(n) * 2 * torch.pi / n for n in grid)
    phase = 6.3 * torch.rand(series, 1, 2, 3, 1, 1, generator=rng.seeded(1))
    time = (
        torch.arange(length)[:, None, None, None, None]
        * torch.tensor([0.2, 0.5, 0.9])[:, None, None]
    )
    ky, kx = (torch.tensor(k)[:, None, None] for k in ([1.0, 0.0, 2.0], [1.0, 2.0, -1.0]))
    angle = ky * y[:, None] + kx * x + phase + time
    # The second variable leads the first.
    second = torch.tensor([0.0, 1.0])[:, None, None, None]
    return (torch.tensor([0.9, 0.5, 0.2])[:, None, None] * (angle + second).sin()).sum(-3)


def randomised(prepared=True, **options):
    """A network none of whose weights is zero."""
    torch.manual_seed(0)
    net = UNet(2, GRID, **(SIZES | options))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    if prepared:
        context = torch.arange(GRID[0]).sin()[None, :, None].expand(1, *GRID)
        net.prepare(waves(40), context if options.get("context") else None)
    return net


def noisy(length=5, members=2):
    x = waves(members, length)
    return x + NOISE[:members, None, None, None, None] * torch.randn(
        x.shape, generator=rng.seeded(2)
    )


def test_shifts_of_the_field_shift_the_output():
    """By the strides, along both axes; with a context that varies along y, along x only."""
    x = noisy()
    for options, shifts in (({}, ((4, 0), (0, 4), (4, 8))), ({"context": 1}, ((0, 4), (0, 8)))):
        net = randomised(**options)
        for shift in shifts:
            moved = net(x.roll(shift, (-2, -1)), NOISE)
            assert_close(moved, net(x, NOISE).roll(shift, (-2, -1)), rtol=1e-9, atol=1e-10)
    moved = net(x.roll(4, -2), NOISE)
    assert (moved - net(x, NOISE).roll(4, -2)).abs().max() > 1e-3


def test_a_trajectory_is_a_loop_over_windows():
    """Algorithm 2 of SDA, state by state; a single window is the network itself."""
    net, x, k = randomised(), noisy(6), 1
    out = net(x, NOISE)
    for i in range(6):
        centre = min(max(i, k), 5 - k)
        window = net(x[:, centre - k : centre + k + 1], NOISE)
        assert_close(out[:, i], window[:, i - (centre - k)], rtol=1e-9, atol=1e-10)


def test_shares_weigh_all_windows_that_hold_a_state():
    """State by state, each noise level with shares of its own; a single window has them all."""
    net, x, k = randomised(shares=3), noisy(6), 1
    plain = randomised()
    assert_close(net(x, NOISE), plain(x, NOISE), rtol=1e-9, atol=1e-10)
    shares = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [-0.1, 0.5, 0.6]])
    net.shares.copy_(shares)
    low, middle = net.share_levels()[:2]
    noise = torch.stack((1e-3 * low, low**0.25 * middle**0.75)).double()
    expected = torch.stack((shares[0], 0.25 * shares[0] + 0.75 * shares[1]))
    out = net(x, noise)
    windows = torch.stack([plain(x[:, j : j + 3], noise) for j in range(4)], 1)
    for i in range(6):
        total = 0
        for e in range(2 * k + 1):
            j = min(max(i - e, 0), 3)
            total = total + expected[:, e, None, None, None] * windows[:, j, i - j]
        assert_close(out[:, i], total, rtol=1e-5, atol=1e-6)
    assert_close(net(x[:, :3], noise), plain(x[:, :3], noise), rtol=1e-6, atol=1e-7)


def test_one_variable_needs_no_axis_of_variables():
    torch.manual_seed(0)
    net, step = UNet(1, GRID, **SIZES), StepUNet(1, GRID, 4, 1, 1)
    for each in (net, step):
        torch.nn.init.normal_(each.get_parameter([n for n, _ in each.named_parameters()][-2]))
    x = noisy()[:, :, :1]
    assert torch.equal(net(x[:, :, 0], NOISE), net(x, NOISE)[:, :, 0])
    assert torch.equal(net.covariance(x[:, :, 0], NOISE), net.covariance(x, NOISE)[:, :, 0])
    pair, levels = x[:, :2], NOISE.view(2, 1, 1, 1, 1).expand_as(x[:, :2])
    assert torch.equal(step(pair[:, :, 0], levels[:, :, 0]), step(pair, levels)[:, :, 0])


def test_members_and_windows_do_not_leak():
    net, x = randomised(), noisy(6)
    out = net(x, NOISE)
    for i in range(2):
        assert_close(net(x[i : i + 1], NOISE[i : i + 1])[0], out[i], rtol=1e-9, atol=1e-10)
    changed = x.clone()
    changed[:, 5] += 1
    # Windows of three states: the last two outputs see the last state, those before do not.
    assert_close(net(changed, NOISE)[:, :4], out[:, :4], rtol=1e-9, atol=1e-10)
    assert (net(changed, NOISE)[:, 4:] - out[:, 4:]).abs().amin((0, 2, 3, 4)).max() > 1e-6


def test_parts_and_what_they_forget_leave_the_numbers(monkeypatch):
    net, x = randomised(), noisy(6)

    def evaluate():
        z = x.clone().requires_grad_()
        out = net(z, NOISE)
        inner = torch.autograd.grad(out.sin().sum(), [z, *net.parameters()])
        return [out, *inner]

    whole = evaluate()
    monkeypatch.setattr(unet, "POINTS", 3 * GRID[0] * GRID[1])
    parts = evaluate()
    for a, b in zip(whole, parts, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_untrained_it_is_the_exact_denoiser_of_the_law():
    """Against the dense covariance of windows of the same homogeneous law."""
    net = build({"name": "unet", "channels": 2, "grid": list(GRID)} | SIZES)
    x = noisy(3)
    # White before it is prepared: what the preconditioner itself denoises.
    assert_close(net(x, NOISE), torch.zeros_like(x), rtol=0, atol=1e-12)
    net.double().prepare(waves(40))
    size = x[0].numel()
    # The covariance as a matrix: E Lambda E^T of every wave number applied to every unit window.
    unit = torch.eye(size).view(size, 1, -1, *GRID)
    law = net.law
    spread = law.coefficients(unit) * law.spectrum[:, :, None, None, None]
    cov = law.windows(spread).reshape(size, size)
    assert_close(cov, cov.T, rtol=1e-9, atol=1e-10)
    # It is that of the waves, with all shifts (and the upside-down field) averaged over.
    w = waves(40)[:, :3]
    both = torch.cat((w, w.flip(-2, -1)))
    shifts = [both.roll((i, j), (-2, -1)) for i in range(GRID[0]) for j in range(GRID[1])]
    rows = torch.cat(shifts).reshape(-1, size)
    assert_close(cov, rows.T @ rows / len(rows), rtol=1e-9, atol=1e-10)
    exact = GaussianDenoiser.from_cov(torch.zeros(x.shape[1:]), cov)
    expected = exact.denoise(x, NOISE.view(-1, *(1,) * (x.ndim - 1)))
    assert_close(precondition(net, x, NOISE), expected, rtol=1e-6, atol=1e-7)


def test_gradient_is_that_of_finite_differences():
    net, x = randomised(context=1), noisy(3)
    direction = torch.randn(x.shape, generator=rng.seeded(3))
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(z, NOISE).sin().sum(), z)
    h = 1e-5
    ahead, behind = (net(x + s * h * direction, NOISE).sin().sum() for s in (1, -1))
    # Error of the central difference, of order h^2.
    assert_close((gradient * direction).sum(), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)


def test_ring_padding_and_its_gradient():
    z = torch.randn(2, 3, 4, 5, generator=rng.seeded(4), requires_grad=True)
    expected = torch.nn.functional.pad(z, (1, 1, 1, 1), mode="circular")
    assert torch.equal(Ring.apply(z), expected)
    assert torch.autograd.gradcheck(Ring.apply, z)


@pytest.mark.slow
def test_overfits_one_batch():
    """What the Gaussian law leaves of waves of fixed size, which are not Gaussian."""
    torch.manual_seed(0)
    net = UNet(2, GRID, **(SIZES | {"width": 16}))
    net.prepare(waves(4, 3))
    x, noise = waves(4, 3), torch.tensor([0.1, 0.5, 1.0, 4.0])
    eps = torch.randn(x.shape, generator=rng.seeded(5))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    before = denoising_loss(net, x, noise, eps).mean().item()
    for _ in range(60):
        optimiser.zero_grad()
        loss = denoising_loss(net, x, noise, eps).mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * before


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        UNet(2, (8, 10))
    net = UNet(2, GRID, **SIZES)
    with pytest.raises(ValueError, match="2 states for windows of 3"):
        net(torch.zeros(1, 2, 2, *GRID), torch.ones(1))
    with pytest.raises(ValueError, match="windows of 3 states of shape"):
        net.prepare(waves(2, 2))
    with pytest.raises(ValueError, match="windows of 3 states of shape"):
        net.prepare(waves(2)[..., :4])
    with pytest.raises(ValueError, match="1 constant fields for a network made for 0"):
        net.prepare(waves(2), torch.zeros(1, *GRID))


def test_what_was_learned_fades_out_below_the_levels_of_training():
    """As the fourth power of the level; at them nothing changes."""
    net, law = randomised(min_noise=0.5), randomised(min_noise=0.5)
    torch.nn.init.zeros_(law.last.weight)
    torch.nn.init.zeros_(law.last.bias)
    x = waves(3)
    levels = torch.tensor([0.5, 0.25, 0.05])
    with torch.no_grad():
        parts = (net(x, levels) - law(x, levels)).flatten(1)
        # What the network itself says is the same at all of these levels, for the same features.
        again = (net(x, torch.full((3,), 0.5)) - law(x, torch.full((3,), 0.5))).flatten(1)
    assert parts[1].norm() < 0.2 * again[1].norm() and parts[2].norm() < 1e-3 * again[2].norm()


def test_the_covariance_of_the_law_is_that_of_its_denoiser():
    """Tweedie: that denoiser, which is linear, times the squared noise level."""
    net = UNet(2, GRID, **SIZES)
    net.prepare(waves(40))
    denoiser = NetworkDenoiser(net.double())
    for length in (3, 6):
        x, nu = noisy(length).double(), torch.tensor(1.0)
        v = rng.normal(len(x), tuple(x.shape[1:]), rng.seeded(3)).double()
        with torch.no_grad():
            product = denoiser.denoise(x + v, nu) - denoiser.denoise(x, nu)
        assert_close(denoiser.covariance(v, nu), nu**2 * product, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="no Gaussian law"):
        NetworkDenoiser(torch.nn.Linear(2, 2)).covariance(v, nu)


def test_guidance_by_the_law_is_that_by_the_denoiser_where_nothing_was_learned():
    """Of one window, whose covariance is symmetric; `SwitchedGuidance` is the one or the other."""
    net = UNet(2, GRID, **SIZES)
    net.prepare(waves(40))
    denoiser = NetworkDenoiser(net.double())
    x, noise = noisy(3).double(), torch.tensor(1.0)
    y = torch.linspace(-1, 1, 3 * 2 * 2 * 3).double()
    averages = Function(lambda z: Average(4)(z.flatten(0, 1)).reshape(len(z), -1))
    over = ObservationModel(averages, std=0.3)
    by_law, by_denoiser = (MMPS(4, covariance=kind) for kind in ("law", "denoiser"))
    (mean, shift), (other, expected) = (
        guidance.displacement(denoiser, x, noise, y, over) for guidance in (by_law, by_denoiser)
    )
    assert_close(mean, other)
    assert_close(shift, expected, rtol=1e-7, atol=1e-9)
    assert by_law.products == 0 and by_denoiser.products == 4
    plain, nu = InflatedLikelihood(), float(noise)
    for level, chosen in ((0.9 * nu, by_law), (1.1 * nu, plain)):
        found = SwitchedGuidance(by_law, plain, level).displacement(denoiser, x, noise, y, over)[1]
        assert torch.equal(found, chosen.displacement(denoiser, x, noise, y, over)[1])
    with pytest.raises(ValueError, match="as many products"):
        SwitchedGuidance(by_denoiser, plain, 1.0)
    with pytest.raises(ValueError, match='"denoiser" or its "law"'):
        MMPS(covariance="none")
