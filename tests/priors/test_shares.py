"""The shares of windows are those with the least squared error."""

import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.nn.unet import UNet
from scorda.priors import shares
from scorda.priors.shares import fit_shares

MEMORY, GRID = 0.8, (8, 12)


def toeplitz(states):
    place = torch.arange(states, dtype=torch.float64)
    return MEMORY ** (place[:, None] - place).abs()


def autoregression(series, length):
    """Fields white in space that keep 0.8 of themselves at each step, of unit variance."""
    noise = torch.randn(series, length, 1, *GRID, generator=rng.seeded(1))
    states = [noise[:, 0]]
    for step in range(1, length):
        states.append(MEMORY * states[-1] + (1 - MEMORY**2) ** 0.5 * noise[:, step])
    return torch.stack(states, 1)


def network(levels):
    """The exact denoiser of windows of three states."""
    net = UNet(1, GRID, 1, 4, 1, 1, shares=levels)
    spectrum, basis = torch.linalg.eigh(toeplitz(3))
    net.law.basis.copy_(basis)
    net.law.spectrum.copy_(spectrum)
    return net


def errors(noise):
    """Covariance of the errors of three windows at the state that all hold, in closed form."""
    gain = toeplitz(3) @ torch.linalg.inv(toeplitz(3) + noise**2 * torch.eye(3))
    rows = torch.zeros(3, 5, dtype=torch.float64)
    for e in range(3):
        rows[e, 2 - e : 5 - e] = gain[e]
    covariance = toeplitz(5) + noise**2 * torch.eye(5)
    signal = rows @ toeplitz(5)[:, 2]
    return rows @ covariance @ rows.T - signal[:, None] - signal + 1


def test_shares_have_the_least_error_of_the_closed_form(monkeypatch):
    """The excess is chi-squared_2 / n: of n = 57 600 numbers 2.4e-4 at the quantile of .999."""
    monkeypatch.setattr(shares, "PIECES", 600)
    net = network(4)
    fit_shares(net, autoregression(100, 30), rng.seeded(0))
    for found, noise in zip(net.shares, net.share_levels(), strict=True):
        C = errors(float(noise))
        least = 1 / torch.linalg.solve(C, torch.ones(3)).sum()
        assert_close(found.sum(), torch.ones(()))
        assert found @ C @ found < (1 + 5e-4) * least
    # The centre alone knows less where noise and law weigh alike.
    C = errors(float(net.share_levels()[2]))
    assert net.shares[2] @ C @ net.shares[2] < 0.995 * C[1, 1]


def test_a_state_that_windows_estimate_badly_has_no_share(monkeypatch):
    def wrong_at_first(network, u, noise):
        found = u.clone()
        found[:, 0] += 100
        return found

    monkeypatch.setattr(shares, "precondition", wrong_at_first)
    net = network(2)
    fit_shares(net, autoregression(40, 5), rng.seeded(0))
    assert net.shares[:, 0].abs().max() < 0.01
    assert_close(net.shares[:, 1:], torch.full((2, 2), 0.5), rtol=0, atol=0.01)


def test_without_shares_or_with_short_trajectories_centres_stay():
    bare = network(0)
    fit_shares(bare, autoregression(4, 9), rng.seeded(0))
    assert not len(bare.shares)
    assert "shares" not in bare.state_dict()
    short = network(3)
    fit_shares(short, autoregression(4, 4), rng.seeded(0))
    assert_close(short.shares, torch.eye(3)[1].expand(3, 3))


def test_last_trajectories_alone_are_used():
    one, other = network(3), network(3)
    z = autoregression(40, 9)
    fit_shares(one, z, rng.seeded(0))
    changed = torch.cat((torch.zeros_like(z[:8]), z[8:]))
    fit_shares(other, changed, rng.seeded(0))
    assert torch.equal(one.shares, other.shares)
    assert one.shares.sum(1).sub(1).abs().max() < 1e-6
