"""Priors as denoisers of azula: the mean to rounding, both ways, and a sampler's exact result.

Where azula is not installed, only its interface stands in for it.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.priors import AzulaDenoiser, as_azula
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.systems.linear import LinearGaussian

LEVELS = (0.02, 0.5, 3.0, 9.0)


@pytest.fixture(params=["azula", "its interface"])
def azula(request, monkeypatch):
    """The library, or what `as_azula` uses of it."""
    if request.param == "azula":
        pytest.importorskip("azula.sample")
        return
    monkeypatch.setitem(sys.modules, "azula", SimpleNamespace())
    denoise = SimpleNamespace(Denoiser=nn.Module, DiracPosterior=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "azula.denoise", denoise)
    monkeypatch.setitem(sys.modules, "azula.noise", SimpleNamespace(Schedule=object))


def gaussian(states):
    """The exact prior of trajectories of a linear system."""
    turn = torch.tensor([[0.9, -0.3], [0.3, 0.9]])
    system = LinearGaussian(turn, 0.1 * torch.eye(2), torch.tensor([1.0, 0.0]), torch.eye(2))
    return GaussianTrajectory.of(system, states - 1)


def lorenz(states):
    return sc.load("lorenz63")


@pytest.mark.parametrize("made", [gaussian, lorenz])
def test_there_and_back_is_the_denoiser_of_the_prior(azula, made):
    """The level's time is found by 40 halvings, to about 1e-11; a network is in single."""
    prior = made(5)
    own, given = prior.denoiser(5), as_azula(prior, 5)
    u = rng.normal(3, (5, *prior.space.shape), rng.seeded(0))
    tolerance = 1e-9 if made is gaussian else 1e-5
    for nu in LEVELS:
        found = AzulaDenoiser(given).denoise(u, torch.tensor(nu))
        assert_close(found, own.denoise(u, torch.tensor(nu)), rtol=tolerance, atol=tolerance)


def test_the_mean_is_ours_at_the_times_of_the_process_and_of_a_schedule(azula):
    """To rounding, for one time for all samples or one for each."""
    prior = gaussian(4)
    own, x = prior.denoiser(4), rng.normal(3, (4, 2), rng.seeded(1))

    def preserving(t):
        return (1.5 * t).cos(), 0.01 + (1.5 * t).sin()

    for schedule in (None, preserving):
        given = as_azula(prior, 4, schedule)
        for t in (torch.tensor(0.3), torch.tensor([0.1, 0.5, 0.9])):
            alpha, sigma = (part.view(-1, 1, 1) for part in given.schedule(t))
            assert_close(given(alpha * x, t).mean, own.denoise(x, sigma / alpha))


def test_weights_are_a_copy_that_moves_with_the_denoiser(azula):
    prior = sc.load("lorenz63")
    given = as_azula(prior, 5).to(torch.float64)
    assert {p.dtype for p in given.parameters()} == {torch.float64}
    assert {p.dtype for p in prior.network.parameters()} == {torch.float32}
    assert next(given.own.network.parameters()).dtype == torch.float64


def test_trajectories_of_other_shapes_are_refused(azula):
    """A network would take any number of states, and none that was asked for."""
    given = as_azula(sc.load("lorenz63"), 5)
    for shape in ((2, 9, 3), (2, 5, 4), (5, 3)):
        with pytest.raises(ValueError, match=r"takes \(members, 5, 3\)"):
            given(torch.zeros(shape), torch.tensor(0.5))
    with pytest.raises(ValueError, match="at least one"):
        as_azula(sc.load("lorenz63"), 0)


def test_the_lack_of_azula_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "azula.denoise", None)
    with pytest.raises(ImportError, match="pip install azula"):
        as_azula(gaussian(4), 4)


def test_a_sampler_of_azula_draws_the_gaussian_prior():
    r"""To rounding its own linear map; and that is of the prior's covariance to the step's error.

    The steps of Euler's method in log sigma multiply a direction of variance v by
    (v + sigma_s sigma_t) / (v + sigma_t^2) each.
    """
    sample = pytest.importorskip("azula.sample")
    prior, states = gaussian(4), 4
    law = prior.denoiser(states)
    given = as_azula(prior, states)
    sampler = sample.EulerSampler(given, steps=400, silent=True, dtype=torch.float64)
    noise = given.schedule(sampler.timesteps)[1]
    x = law.mean + noise[0] * rng.normal(3, (states, 2), rng.seeded(0))
    v = law.spectrum[:, None]
    map_of = ((v + noise[1:] * noise[:-1]) / (v + noise[:-1] ** 2)).prod(1)
    moved = law.basis * map_of @ law.basis.T
    expected = law.mean + ((x - law.mean).flatten(1) @ moved).view_as(x)
    assert_close(sampler(x), expected)
    drawn = moved @ moved * noise[0] ** 2
    # First order: the error of 400 steps over 13.8 units of log sigma, and half of it with 800.
    assert_close(drawn, prior.cov, rtol=0, atol=0.03)
