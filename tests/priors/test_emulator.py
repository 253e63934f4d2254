"""Emulator: exact for a linear-Gaussian law; a trained one learns a linear step."""

import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Multistep
from scorda.diffusion.training import Training
from scorda.methods.enkf import EnKF
from scorda.methods.kalman import KalmanFilter
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.emulator import Emulator, NextDenoiser, load_emulator
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.read_off import STATES, guided_windows
from scorda.priors.trajectory import TrainedTrajectory, load
from scorda.systems.linear import LinearGaussian
from scorda.systems.load import load_system
from scorda.testing import check_system

FINE = Multistep(40, 0, min_noise=1e-3, max_noise=1e2)


def linear():
    angle = torch.tensor(0.5)
    rotation = torch.stack(
        (torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos())))
    )
    cov = torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    mean = torch.tensor([1.0, -2.0])
    return LinearGaussian(0.9 * rotation, cov, mean, torch.tensor([[2.0, 0.5], [0.5, 1.0]]))


def emulated(system):
    return Emulator(GaussianTrajectory.of(system, 1), FINE)


def test_a_step_has_the_law_of_the_linear_gaussian_step():
    """Mean and covariance from one state, within 4 standard errors of 4000 draws."""
    system, members = linear(), 4000
    x = torch.tensor([3.0, 1.0]).expand(members, 2)
    found = emulated(system).step(x, rng.seeded(0))
    error = (found.mean(0) - system.advance(x[0])) / (system.noise_cov.diagonal() / members).sqrt()
    assert error.abs().max() < 4
    root = torch.linalg.cholesky(torch.linalg.inv(system.noise_cov))
    assert_close(
        root.T @ found.T.cov() @ root, torch.eye(2), rtol=0, atol=4 * (2 / members) ** 0.5
    )


def test_pairs_with_a_known_first_state_have_the_conditional_law():
    """The denoiser of pairs at the level of what is known, and the closed form."""
    law = GaussianTrajectory.of(linear(), 1)
    x, u = rng.normal(5, (2,), rng.seeded(0)), rng.normal(5, (2,), rng.seeded(1))
    emulator = emulated(linear())
    z = law.standardisation.forward(x)
    for level in (0.05, 1.0, 20.0):
        noise = torch.full((1, 1), level)
        exact = emulator.next(x).denoise(u, noise)
        # The level that stands for what is known is 0.002 standard deviations.
        assert_close(NextDenoiser(law.denoiser(2), z).denoise(u, noise), exact, rtol=0, atol=1e-4)


def test_it_keeps_the_contract_of_a_system():
    check_system(emulated(linear()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "members"), [(EnKF(), 2000), (ParticleFilter(0.5), 8000)], ids=["enkf", "particle"]
)
def test_filters_of_the_emulator_are_those_of_the_system(method, members):
    """Against Kalman; sampling errors add up over cycles."""
    system = linear()
    _, problem = twin_experiment(system, ObservationModel(Select([0]), std=0.5), 6, 2, 0)
    exact = KalmanFilter().moments(problem)
    problem = Problem(emulated(system), problem.observations, 6)
    analysis = method.assimilate(problem, members, rng.seeded(1))
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    w = torch.full_like(analysis.states[..., 0], 1 / members)
    w = (w if analysis.weights is None else analysis.weights)[..., None]
    mean = (w * analysis.states).sum(0)
    var = (w * (analysis.states - mean).square()).sum(0)
    assert ((mean - exact.means).abs() / std).max() < 0.1
    assert (var.sqrt() / std - 1).abs().max() < 0.1
    if "log_evidence" in analysis.info:
        total = torch.as_tensor(analysis.info["log_evidence"]).sum()
        assert abs(float(total - exact.log_evidence.sum())) < 0.1


def trained(steps=300):
    system = linear()
    states = system.trajectory(system.prior(40, rng.seeded(0)), 100, rng.seeded(1))
    settings = Training(training_steps=steps, batch=256, segment=2, every=100)
    space = StateSpace((2,), variables=("a", "b"))
    torch.set_default_dtype(torch.float32)
    try:
        return sc.train(
            states.float(), space, training=settings, progress=False, transition=True,
            width=32, blocks=2,
        )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float64)


@pytest.mark.slow
def test_a_trained_transition_learns_a_linear_step():
    """A few seconds of training: the mean to a tenth of what is drawn beside it."""
    system, emulator = linear(), Emulator(trained(1500))
    x = system.trajectory(system.prior(20, rng.seeded(3)), 30, rng.seeded(4))[:, -1].float()
    found = emulator.step(x.repeat(400, 1), rng.seeded(0)).view(400, 20, 2)
    std = system.noise_cov.diagonal().sqrt().float()
    error = (found.mean(0) - system.advance(x)) / std
    # 400 draws have a sampling error of 0.05.
    assert error.square().mean().sqrt() < 0.2
    assert abs(float((found.std(0) / std).mean()) - 1) < 0.1


def test_a_transition_is_stored_with_states_of_its_record_and_read_again(tmp_path):
    prior, path = trained(4), tmp_path / "next.safetensors"
    prior.save(path)
    emulator = load_emulator(path)
    x = emulator.prior(7, rng.seeded(0))
    assert x.shape == (7, 2) and bool((x[:, None] == prior.start).all(-1).any(1).all())
    assert torch.equal(emulator.step(x, 3), Emulator(prior).step(x, 3))
    assert torch.equal(load_system("emulator", file=str(path)).step(x, 3), emulator.step(x, 3))
    with pytest.raises(ValueError, match="was trained on transitions"):
        load(path).sample(2, 3)


def test_a_law_of_more_than_two_states_is_refused():
    with pytest.raises(ValueError, match="the law of 3 states"):
        Emulator(GaussianTrajectory.of(linear(), 2)).step(torch.zeros(3, 2))


def single_level(steps=1):
    """The exact law, of which one noise level for all entries is asked."""
    law = GaussianTrajectory.of(linear(), steps)
    object.__setattr__(law, "per_entry", False)
    return law


def test_windows_given_their_first_state_have_the_conditional_law():
    """Guidance by MMPS, exact with two iterations, but for the error of 0.02 of that state."""
    law, x = single_level(), rng.normal(5, (2,), rng.seeded(0))
    z = law.standardisation.forward(x)
    u = rng.normal(5, (2, 2), rng.seeded(1))
    noise = torch.tensor(1.0)
    found = guided_windows(law, z, MMPS(4)).denoise(u, noise)
    size, noisy = 2, law.cov + torch.diag(torch.ones(4))
    # Of the window given u, and then given its first state with its error.
    gain = law.cov @ torch.linalg.inv(noisy)
    mean = law.mean.flatten() + (u.flatten(1) - law.mean.flatten()) @ gain.mT
    cov = law.cov - gain @ law.cov
    seen = cov[:, :size] @ torch.linalg.inv(cov[:size, :size] + 0.02**2 * torch.eye(size))
    exact = mean + (z - mean[:, :size]) @ seen.mT
    assert_close(found.flatten(1), exact, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_steps_read_off_windows_have_the_law_of_the_linear_gaussian_step():
    """4000 draws: within 4 standard errors, and the error of 0.02 in the state before."""
    system, members = linear(), 4000
    emulator = Emulator(single_level(), FINE, guidance=MMPS(4))
    x = torch.tensor([3.0, 1.0]).expand(members, 2)
    found = emulator.step(x, rng.seeded(0))
    std = system.noise_cov.diagonal().sqrt()
    assert ((found.mean(0) - system.advance(x[0])) / std).abs().max() < 4 / members**0.5 + 1e-2
    root = torch.linalg.cholesky(torch.linalg.inv(system.noise_cov))
    cov = root.T @ found.T.cov() @ root
    assert_close(cov, torch.eye(2), rtol=0, atol=4 * (2 / members) ** 0.5 + 1e-2)
    check_system(emulator)


class ExactWindows(torch.nn.Module):
    """What `precondition` asks of a network whose denoiser of windows is that of a law."""

    per_entry, half_width = True, STATES

    def __init__(self, law):
        super().__init__()
        self.exact = law.denoiser(STATES)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, noise):
        nu = noise.reshape(noise.shape + (1,) * (x.ndim - noise.ndim))
        mean = self.exact.denoise(x, nu.expand(x.shape))
        return (mean - x / (1 + nu.square())) * (1 + nu.square()).sqrt() / nu


@pytest.mark.slow
def test_steps_read_off_a_network_with_levels_have_the_law_of_the_step():
    """4000 draws of merged states: 4 standard errors, and the error of 0.01 in that before."""
    system, members = linear(), 4000
    law = GaussianTrajectory.of(system, STATES - 1)
    prior = TrainedTrajectory(
        {"name": "exact"}, ExactWindows(law), law.space, law.standardisation,
        law.process, FINE, handover=0.0,
    )  # fmt: skip
    x = torch.tensor([3.0, 1.0]).expand(members, 2)
    found = Emulator(prior).step(x, rng.seeded(0))
    std = system.noise_cov.diagonal().sqrt()
    assert ((found.mean(0) - system.advance(x[0])) / std).abs().max() < 4 / members**0.5 + 1e-2
    root = torch.linalg.cholesky(torch.linalg.inv(system.noise_cov))
    cov = root.T @ found.T.cov() @ root
    assert_close(cov, torch.eye(2), rtol=0, atol=4 * (2 / members) ** 0.5 + 1e-2)


@pytest.mark.slow
def test_steps_read_off_the_shipped_prior_are_those_of_the_model():
    """Means of 20 draws for 10 states, in standard deviations of the model error."""
    model = sc.systems.Lorenz63()
    x = model.prior(10, rng.seeded(0)).float()
    found = Emulator(load("lorenz63")).step(x.expand(20, *x.shape), rng.seeded(1))
    error = (found.mean(0) - model.advance(x)) / model.noise_std
    # 20 draws have a sampling error of 0.22; windows of two states have 4.
    assert error.square().mean().sqrt() < 0.6
    assert 0.8 < float(found.std(0).square().mean().sqrt()) / model.noise_std < 1.3
