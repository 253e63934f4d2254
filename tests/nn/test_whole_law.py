"""The law of whole trajectories stands around the network of windows."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import NetworkDenoiser, precondition
from scorda.diffusion.samplers import PredictorCorrector, VarianceExploding
from scorda.nn.homogeneous import HomogeneousLaw, covariances
from scorda.nn.unet import UNet

GRID, MODES = (8, 12), 8 * 7
NOISE = torch.tensor([0.1, 2.0], dtype=torch.float64)


def toeplitz(states, keep):
    place = torch.arange(states, dtype=torch.float64)
    return keep ** (place[:, None] - place).abs()


def exact_lags(states, keep):
    """Of fields of unit variance, white in space, that keep a share of themselves in a step."""
    return toeplitz(9, keep)[0, :states].view(-1, 1, 1, 1).expand(-1, MODES, 1, 1)


def network(memory, keep=0.8, **options):
    """The exact denoiser of windows of three states, with the law of `memory` states."""
    net = UNet(1, GRID, 1, 4, 1, 1, memory=memory, **options).double()
    net.law.remember(exact_lags(3, keep))
    net.lags.copy_(exact_lags(memory, keep))
    return net


def autoregression(series, length, keep=0.8):
    noise = torch.randn(series, length, 1, *GRID, generator=rng.seeded(1)).double()
    states = [noise[:, 0]]
    for step in range(1, length):
        states.append(keep * states[-1] + (1 - keep**2) ** 0.5 * noise[:, step])
    return torch.stack(states, 1)


def denoised(x, noise, keep=0.8):
    """Means given noisy trajectories, by dense matrices."""
    C = toeplitz(x.shape[1], keep)
    gains = [C @ torch.linalg.inv(C + n**2 * torch.eye(len(C))) for n in noise]
    return torch.einsum("nij,njcyx->nicyx", torch.stack(gains), x)


def test_covariances_are_those_of_the_data():
    """The standard error of a number is 0.11 at most, of the mean over modes 0.01 (30 seeds)."""
    found = covariances(autoregression(40, 20), 4)
    expected = exact_lags(4, 0.8)
    # The largest of 224 numbers was 0.32 at most.
    assert (found - expected).abs().max() < 0.35
    assert_close(found.mean(1), expected.mean(1), rtol=0, atol=0.05)
    two = autoregression(3, 9).view(3, 9, 1, *GRID)
    two = torch.cat((two, two.roll(1, 1)), 2)
    lagged = covariances(two, 3)
    spectra = torch.fft.rfft2(two, norm="ortho").flatten(-2)
    by_hand = sum(
        (spectra[s, t, :, None] * spectra[s, t + 2, None].conj()).real
        for s in range(3)
        for t in range(7)
    )
    assert_close(lagged[2], (by_hand / 21).permute(2, 0, 1))


@pytest.mark.parametrize("states", [4, 6, 7])
def test_untrained_it_is_the_exact_denoiser_of_whole_trajectories(states):
    net, x = network(7), autoregression(2, states)
    noisy = x + NOISE.view(2, 1, 1, 1, 1) * torch.randn(x.shape, generator=rng.seeded(2)).double()
    found = precondition(net, noisy, NOISE)
    assert_close(found, denoised(noisy, NOISE), rtol=1e-7, atol=1e-9)
    apart = NOISE[:, None, None, None, None].square()
    product = net.covariance(x, NOISE)
    assert_close(product, apart * denoised(x, NOISE), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("length", [5, 6, 12])
def test_a_filter_in_time_is_the_composition_of_all_windows(length):
    law = HomogeneousLaw(5, 2, GRID).double()
    lags = torch.eye(2).double() * exact_lags(5, 0.8)
    lags[1:, :, 0, 1] = 0.3 * torch.rand(4, MODES, generator=rng.seeded(4)).double()
    law.remember(lags)
    gains = torch.rand(MODES, 10, 1, 3, 1, generator=rng.seeded(5)).double()
    x = torch.randn(3, length, 2, *GRID, generator=rng.seeded(6)).double().requires_grad_()
    found, expected = law.filter(x, gains), law.compose(law.slide(x) * gains)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(x.shape, generator=rng.seeded(7)).double()
    slopes = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (found, expected)]
    assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_one_variable_may_follow_another():
    """The second variable is the first one of the step before: covariances are not symmetric."""
    net, states = UNet(2, GRID, 1, 4, 1, 1, memory=5).double(), 4
    at = torch.arange(states)[:, None] - torch.arange(2)
    C = 0.8 ** (at.flatten()[:, None] - at.flatten()).abs().double()
    lag = torch.arange(5)[:, None, None] + torch.arange(2)[:, None] - torch.arange(2)
    net.lags.copy_((0.8 ** lag.abs().double())[:, None].expand(5, MODES, 2, 2))
    x = torch.randn(2, states, 2, *GRID, generator=rng.seeded(2)).double()
    gains = torch.stack([C @ torch.linalg.inv(C + n**2 * torch.eye(len(C))) for n in NOISE])
    expected = torch.einsum("nij,njyx->niyx", gains, x.flatten(1, 2)).view_as(x)
    assert_close(precondition(net, x, NOISE), expected, rtol=1e-7, atol=1e-9)


def test_longer_trajectories_have_the_law_of_windows_of_the_memory():
    net, x = network(5), autoregression(2, 9)
    found = precondition(net, x, NOISE)
    for i in range(9):
        first = min(max(i - 2, 0), 4)
        window = denoised(x[:, first : first + 5], NOISE)
        assert_close(found[:, i], window[:, i - first], rtol=1e-7, atol=1e-9)


def test_what_windows_have_learned_is_added_to_it():
    net, plain = network(7, shares=2), network(0, shares=2)
    for each in (net, plain):
        each.shares.copy_(torch.tensor([[0.2, 0.5, 0.3]]).expand(2, 3))
    torch.manual_seed(0)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        p.data.add_(0.1 * torch.randn(p.shape))
        q.data.copy_(p)
    x = autoregression(2, 6)
    bare = [network(m, shares=2) for m in (7, 0)]
    for each in bare:
        each.shares.copy_(net.shares)
    learned = plain(x, NOISE) - bare[1](x, NOISE)
    assert learned.abs().max() > 0.01
    assert_close(net(x, NOISE), bare[0](x, NOISE) + learned, rtol=1e-7, atol=1e-9)
    # A single window is that of the network: the law of the training.
    assert_close(net(x[:, :3], NOISE), plain(x[:, :3], NOISE), rtol=0, atol=0)


def test_it_is_remade_for_another_length_and_other_data():
    net, data = network(7), autoregression(4, 9, keep=0.3)
    for states in (5, 6, 5):
        x = data[:2, :states]
        assert_close(precondition(net, x, NOISE), denoised(x, NOISE), rtol=1e-7, atol=1e-9)
    net.prepare(data)
    after = precondition(net, x, NOISE)
    assert (after - denoised(x, NOISE)).abs().max() > 0.05
    fresh = UNet(1, GRID, 1, 4, 1, 1, memory=7).double()
    fresh.load_state_dict(net.state_dict())
    assert_close(precondition(fresh, x, NOISE), after, rtol=1e-9, atol=1e-12)
    assert not any("whole" in name for name in net.state_dict())


@pytest.mark.parametrize("memory", [9, 0])
def test_what_never_changes_keeps_its_variance(memory):
    r"""With windows of 3 of 9 states each state is drawn to the mean of a window, by a gain
    :math:`3 / (3 + \nu^2)`: what is common to all states is the mean by the weights that this
    leaves as they are, of variance :math:`3 \sum w^2 \approx 1/3`.

    Its 40 x 96 numbers have a variance with a standard error of 2.3 % of it.
    """
    net, variance = network(memory, keep=1.0), 1.0
    if not memory:
        means = torch.zeros(9, 9, dtype=torch.float64)
        for i in range(9):
            first = min(max(i - 1, 0), 6)
            means[i, first : first + 3] = 1 / 3
        variance = float(3 * torch.linalg.matrix_power(means, 1000)[0].square().sum())
        assert 0.33 < variance < 0.38
    sampler = PredictorCorrector(300, 0, min_noise=1e-2, max_noise=100.0)
    x = sampler.sample(
        NetworkDenoiser(net), VarianceExploding(1e-3, 1e3), (9, 1, *GRID), 40, rng.seeded(0),
        like=torch.zeros((), dtype=torch.float64),
    )  # fmt: skip
    assert_close(float(x.detach().mean(1).var()), variance, rtol=0.07, atol=0)


def test_an_even_memory_is_refused():
    with pytest.raises(ValueError, match="odd number of states"):
        network(4)


def test_negative_variances_of_an_estimate_are_none():
    law = HomogeneousLaw(3, 1, GRID)
    law.remember(torch.tensor([1.0, 0.9, 0.0]).view(3, 1, 1, 1).expand(3, MODES, 1, 1))
    assert law.spectrum.min() == 0
    assert_close(law.spectrum[:, -1].mean(), torch.tensor(1 + 0.9 * 2**0.5), rtol=1e-5, atol=0)
