"""Distillation: the score of the walk against slow computation, and what training it mends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import scorda as sc
from scorda.core import rng
from scorda.diffusion.denoisers import NetworkDenoiser, align
from scorda.diffusion.distillation import WalkLoss, _key, observed_precision, window_energy
from scorda.diffusion.levels import observed_levels, often_observed
from scorda.diffusion.samplers import Ancestral
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.training import Training, denoising_loss, fit

FEW = StochasticMultistep(6, corrections=0, min_noise=0.02, max_noise=10.0)


class Gain(nn.Module):
    """D = g x / (1 + nu^2), gains g by noise level: exact for unit variance where they are 1."""

    per_entry = True

    def __init__(self, levels: int = 12) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(levels))

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        nu = align(noise, x)
        place = (nu.log() - math.log(0.01)) / math.log(2e3) * (len(self.gains) - 1)
        place = place.clamp(0, len(self.gains) - 1.001)
        low = place.floor().long()
        gain = self.gains[low] + (place - low) * (self.gains[low + 1] - self.gains[low])
        return (gain - 1) * x / (nu * (1 + nu**2).sqrt())


class Mixing(nn.Module):
    """Entries of a trajectory, and their levels, change each other."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.size * torch.tanh(x / (1 + noise.square())).cumsum(1)


def walk_loss(**other: object) -> WalkLoss:
    return WalkLoss(FEW, **{"end": 0.1, "windows": (3,), **other})  # type: ignore[arg-type]


def test_energy_of_windows_is_the_mean_of_energy_scores() -> None:
    at = torch.Generator().manual_seed(0)
    u = torch.randn(2, 5, 9, 2, generator=at, dtype=torch.float64)
    truth = torch.randn(2, 9, 2, generator=at, dtype=torch.float64)
    found = window_energy(u, truth, (4, 12))
    for group, single, value in zip(u, truth, found, strict=True):
        slow = sc.metrics.energy_score(group.flatten(1), single.flatten()) / math.sqrt(18)
        parts = [
            sc.metrics.energy_score(group[:, k : k + 4].flatten(1), single[k : k + 4].flatten())
            for k in (0, 2, 4)
        ]
        slow = slow + torch.stack(parts).mean() / math.sqrt(8)
        torch.testing.assert_close(value, slow)


def test_precision_is_that_of_the_observations() -> None:
    noise = torch.tensor([2e-3, 0.1, 20.0])
    precision = torch.zeros(3, 40, 2, dtype=torch.float64)
    precision[:, ::8, 0] = 0.3**-2
    levels = (noise.double()[:, None, None] ** -2 + precision).rsqrt().float()
    found = observed_precision(levels).double()
    assert ((found > 0) == (precision > 0)).all()
    # Rounding of the levels to single precision: 1e-7 of the precision of the noise.
    limit = 3e-7 * noise.double()[:, None, None] ** -2 + 1e-6 * precision
    assert ((found - precision).abs() <= limit).all()
    assert not observed_precision(noise[:, None, None].expand(3, 40, 2)).any()


def test_walk_is_that_of_the_sampler_and_a_merged_denoiser() -> None:
    at = torch.Generator().manual_seed(1)
    y = torch.randn(2, 9, 2, generator=at, dtype=torch.float64)
    precision = torch.zeros_like(y)
    precision[0, ::3, 0], precision[1, 1::2, 1] = 4.0, 9.0
    network, loss = Mixing().double(), walk_loss(members=3)
    levels = loss.levels
    assert levels[-1] <= 0.1 < levels[-2]
    noise = torch.randn(2, len(levels), 3, 9, 2, generator=at, dtype=torch.float64)
    found = loss._walk(network, y, precision, noise)
    # Each member alone, merged by hand.
    for group, member in ((0, 0), (0, 2), (1, 1)):
        own = noise[group, :, member]
        u, previous = own[0] * math.hypot(1, levels[0]), None
        for i, nu in enumerate(levels[:-1]):
            var = 1 / (nu**-2 + precision[group])
            merged = var * (u * nu**-2 + y[group] * precision[group])
            mean = NetworkDenoiser(network).denoise(merged[None], var.sqrt()[None])[0]
            around = (levels[max(i - 1, 0)], nu, levels[i + 1])
            u = FEW.move(u, mean, previous, around, lambda k=i + 1, own=own: own[k])
            previous = mean
        torch.testing.assert_close(found[group, member], u)


def test_each_segment_has_noise_of_its_own() -> None:
    # One entry tells segments apart, and so do 20 000 at random: torch keeps 32 bits of a seed.
    rows = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = {float(torch.randn((), generator=rng.at(_key(row), 0))) for row in rows}
    # Chance: 0.05 pairs of one seed, and normal numbers of 24 bits.
    assert len(drawn) > 19_900


def test_often_observed_segments_have_observations_throughout() -> None:
    at = torch.Generator().manual_seed(4)
    level = often_observed(torch.full((400,), 5.0), (97, 3), at)
    seen = level < 4.9
    assert seen.flatten(1).any(1).all()
    # Every 16th step at the least, on average where times are at random.
    assert seen.any(2).double().mean(1).mean() > 1 / 4
    assert 0.5 < seen.any(1).double().mean() < 0.7


def test_loss_of_a_segment_does_not_depend_on_the_others() -> None:
    at = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 4, 9, 2, generator=at, dtype=torch.float64)
    noise = observed_levels(torch.rand(4, generator=at) + 0.1, (9, 2), 1.0, at).double()
    network, loss = Mixing().double(), walk_loss()
    whole = loss(network, x0, noise, eps)
    halves = [loss(network, x0[k : k + 2], noise[k : k + 2], eps[k : k + 2]) for k in (0, 2)]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-12, atol=0)
    alone = walk_loss(share=0.0)(network, x0, noise, eps)
    torch.testing.assert_close(whole - alone, 0.3 * denoising_loss(network, x0, noise, eps))


def test_walk_of_few_steps_gets_the_variance_of_a_gaussian() -> None:
    # With the exact denoiser of unit variance the members of five ancestral steps have too little.
    few = Ancestral(5, corrections=0, min_noise=0.05, max_noise=10.0)

    def variance(network: nn.Module) -> float:
        process = sc.diffusion.VarianceExploding(1e-3, 1e3)
        with torch.no_grad():
            x = few.sample(NetworkDenoiser(network), process, (4, 1), 10_000, 0)
        return float(x.square().mean())

    network, loss = Gain(), WalkLoss(few, members=8, end=0.05, windows=(), share=0.0)
    assert variance(network) < 0.8
    z = torch.randn(8192, 4, 1, generator=torch.Generator().manual_seed(3))
    settings = Training(
        300, 64, 4, rate=2e-2, average=0.95, every=100, validation=0.5, observed=0.0
    )
    history = fit(network, z, settings, keep=True, loss=loss)
    assert history[-1]["validation"] < history[0]["validation"]
    # Standard errors: 0.007 of the 40 000 numbers, 0.011 of the 4096 x 4 of each half.
    assert variance(network) == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": 1},
        {"share": -0.1},
        {"windows": (0,)},
        {"end": 0.001},
        {"end": 10.0},
        {"sampler": StochasticMultistep(6, corrections=1, min_noise=0.02, max_noise=10.0)},
        {"sampler": StochasticMultistep(6, corrections=0, grid="time")},
    ],
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Got"):
        WalkLoss(**{"sampler": FEW, "end": 0.1, **wrong})  # type: ignore[arg-type]
