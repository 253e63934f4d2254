"""Corrections that know the law: they leave a Gaussian as it is, where Langevin's widen it."""

from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser, SwitchedDenoiser
from scorda.diffusion.guidance import InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, PredictorCorrector, VarianceExploding
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel

NU = 0.7
# 2000 directions of each variance, in 40 members: of their mean squares the standard error is
# sqrt(2 / 80000) = 0.5 %.
VARIANCES = torch.tensor([0.01, 0.1, 1.0, 100.0], dtype=torch.float64)
SAMPLER = Ancestral(8, 12, tau=1.0, min_noise=0.01, max_noise=10.0)


@dataclass(frozen=True)
class Independent:
    """The exact denoiser of independent directions; its law's variances are too large or exact."""

    variances: torch.Tensor
    wide: float = 1.0

    def denoise(self, u, noise):
        return u * self.variances / (self.variances + noise.square())

    def deviations(self, eps, noise):
        left = self.variances * noise.square() / (self.variances + noise.square())
        return eps * (self.wide * left).sqrt()


def gaussian():
    return GaussianDenoiser.from_cov(torch.zeros(3).double(), torch.eye(3).double())


def corrected(sampler, wide=1.0):
    """Mean squares by variance, over exact ones, after twelve corrections of exact ones."""
    # A trajectory of two states: one of noise alone, one of signal.
    every = VARIANCES.repeat_interleave(2000).view(2, 4000)
    exact = every + NU**2
    generator = rng.seeded(3)
    u = exact.sqrt() * torch.randn(40, 2, 4000, generator=generator, dtype=torch.float64)
    level = torch.tensor([[[NU]]], dtype=torch.float64)

    def noise():
        return torch.randn(u.shape, generator=generator, dtype=u.dtype)

    for _ in range(sampler.corrections):
        u = sampler._correct(Independent(every, wide), u, level, noise)
    return (u.square() / exact).view(40, 4, 2000).mean((0, 2))


def after_langevin(tau):
    """The variances that corrections with white noise lead to, over exact ones, by recursion."""
    exact, variances = VARIANCES + NU**2, VARIANCES + NU**2
    for _ in range(SAMPLER.corrections):
        delta = tau / (variances / exact.square()).mean()
        variances = (1 - delta / exact).square() * variances + 2 * delta
    return variances / exact


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
def test_a_gaussian_stays_as_it_is(tau):
    sampler = Ancestral(8, 12, tau=tau, min_noise=0.01, max_noise=10.0, law=1.0)
    assert_close(corrected(sampler), torch.ones(4).double(), rtol=0, atol=0.02)


def test_without_the_law_it_becomes_wider():
    expected = after_langevin(1.0)
    assert (expected[:2] > 1.4).all()
    assert_close(corrected(SAMPLER), expected, rtol=0.02, atol=0)


def test_a_law_that_is_too_wide_counts_by_its_share():
    sampler = Ancestral(8, 12, tau=1.0, min_noise=0.01, max_noise=10.0, law=0.25)
    assert_close(corrected(sampler, wide=4.0), torch.ones(4).double(), rtol=0, atol=0.02)
    found = corrected(Ancestral(8, 12, tau=1.0, min_noise=0.01, max_noise=10.0, law=0.0))
    # Without any of it the directions with signal become too narrow, those of noise do not.
    assert_close(found[0], torch.tensor(1.0).double(), rtol=0, atol=0.03)
    assert found[2] < 0.8


def test_posteriors_and_switches_hand_on_the_law_of_the_prior():
    prior, eps = Independent(torch.ones(5).double()), torch.ones(2, 5).double()
    level = torch.tensor([2.0]).double()
    expected = (4 / 5) ** 0.5 * eps
    model = ObservationModel(Mask(torch.tensor([True, False, True, False, False])), std=0.1)
    guided = InflatedLikelihood().bind(prior, torch.zeros(2).double(), model)
    assert_close(guided.deviations(eps, level), expected)
    switched = SwitchedDenoiser(guided, gaussian(), 1.0)
    assert_close(switched.deviations(eps, level), expected)


def test_a_denoiser_without_a_law_is_refused():
    sampler = PredictorCorrector(4, 1, min_noise=0.01, law=0.5)
    with pytest.raises(ValueError, match=r"GaussianDenoiser has no Gaussian law.*law=None"):
        sampler.sample(gaussian(), VarianceExploding(1e-3, 100.0), (3,), 2, rng.seeded(0))
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="a share, between 0 and 1"):
            Ancestral(law=wrong)
