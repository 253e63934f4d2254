"""SSLS: its Langevin steps are an affine recursion where the score is exact and Gaussian."""

import math
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from moments import UnitNoise, forecast
from networks import online
from scorda.assimilation.likelihood_score import held
from scorda.core import rng
from scorda.methods.ssls import SSLS, _curvature
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.systems.lorenz import Lorenz96


def recursion(C, H, R, y, noise, h, steps, pulls):
    """A, b and V of z_end = A z_0 + b + N(0, V) for a standardised prior N(0, C)."""
    eye = torch.eye(len(C))
    A, b, V = eye, torch.zeros(len(C)), torch.zeros_like(C)
    precision = torch.linalg.inv(C + noise**2 * eye) + H.T @ H / R
    for pull in pulls:
        phi = (1 - math.exp(-pull * h)) / pull if pull else h
        twice = (1 - math.exp(-2 * pull * h)) / (2 * pull) if pull else h
        a = math.exp(-pull * h) * eye - phi * precision
        for _ in range(steps):
            A, b, V = a @ A, a @ b + phi * H.T @ y / R, a @ V @ a.T + 2 * twice * eye
    return A, b, V


COVARIANCES = {
    "one": torch.eye(1),
    "two": torch.tensor([[1.0, 0.8], [0.8, 1.0]]),
    "two, of other sizes": torch.tensor([[4.0, -0.6], [-0.6, 0.25]]),
}


@pytest.mark.parametrize(("stages", "confinement"), [(1, 0.0), (1, 0.5), (3, 2.0)])
@pytest.mark.parametrize("cov", COVARIANCES.values(), ids=COVARIANCES.keys())
def test_moments_are_those_of_the_recursion(cov, stages, confinement):
    """To rounding: responses to unit noise, less what the start of each member explains."""
    cov = cov.double()
    steps, h, R, y, size = 12, 0.01, 0.7, torch.tensor([1.7]), len(cov)
    x = forecast(1 + stages * steps * size, cov)
    std, mean, H = cov.diagonal().sqrt(), x.mean(0), torch.eye(1, len(cov))
    method = SSLS(Gaussian(), 0.2, steps, h, stages, confinement, clip=None, inflation=1.0)
    model = ObservationModel(Linear(H), std=R**0.5)
    with mock.patch.object(rng, "Stream", UnitNoise):
        found = (method.update(x, y, model) - mean) / std
    pulls = [confinement * 0.5**stage for stage in range(stages)]
    C = cov / std / std[:, None]
    A, b, V = recursion(C, H * std, R, y - H @ mean, 0.2, h, steps, pulls)
    responses = found - ((x - mean) / std) @ A.T - b
    assert responses[0].abs().max() < 1e-9
    assert_close(responses.T @ responses, V, rtol=1e-8, atol=1e-9)


def test_the_long_run_has_the_precision_of_the_smoothed_prior():
    """1 / (P + noise^2) + 1 / R, inflated by 1 / (1 - h c / 2)."""
    R, noise, h = 0.7, 0.3, 0.02
    c = 1 / (1 + noise**2) + 1 / R
    A, b, V = recursion(torch.eye(1), torch.eye(1), R, torch.tensor([1.0]), noise, h, 3000, [0.0])
    assert A.abs().max() < 1e-9
    assert_close(V.item(), 1 / c / (1 - h * c / 2), rtol=1e-9, atol=0)
    assert_close(b.item(), 1 / R / c, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_samples_follow_the_recursion():
    """5 standard errors of 20 000 draws, at the default step: 0.1 of the bound."""
    members, R = 20_000, 0.5
    x = forecast(members, torch.eye(1))
    method = SSLS(Gaussian(), langevin_steps=60, clip=None, confinement=0.0)
    model = ObservationModel(Select([0]), std=R**0.5)
    found, info = method.analyse(x, torch.tensor([1.7]), model, rng.seeded(3))
    h = 0.1 * 2 / (1 / R + 100)
    assert_close(info["step_size"], h, rtol=1e-6, atol=0)
    A, b, V = recursion(torch.eye(1), torch.eye(1), R, torch.tensor([1.4]), 0.1, h, 60, [0.0])
    var = (A @ A.T + V).item()
    assert abs(found.mean() - 0.3 - b.item()) < 5 * (var / members) ** 0.5
    assert abs(found.var() - var) < 5 * var * (2 / members) ** 0.5


def test_curvature_of_linear_and_nonlinear_likelihoods():
    """Within 5 % from below: 12 power iterations."""
    H = torch.randn(3, 5, generator=rng.seeded(0))
    z = rng.normal(6, (5,), rng.seeded(1))
    exact = torch.linalg.eigvalsh(H.T @ H).max()
    found = _curvature(lambda x: x @ H.T, z)
    assert 0.95 * exact < found <= exact * (1 + 1e-9)
    cubic = _curvature(lambda x: 2 * x**3, z)
    assert 0.95 < cubic / (36 * z**4).max() <= 1 + 1e-9
    assert _curvature(lambda x: 0 * x, z) == 0


@pytest.mark.slow
def test_a_step_that_is_not_stable_is_refused():
    x = forecast(50, torch.eye(1))
    model = ObservationModel(Select([0]), std=0.1)
    bound = 2 / (100 + 100)
    SSLS(Gaussian(), step_size=0.99 * bound).update(x, torch.tensor([0.0]), model)
    with pytest.raises(ValueError, match=r"stable below 0\.01 only"):
        SSLS(Gaussian(), step_size=1.01 * bound).update(x, torch.tensor([0.0]), model)


def test_the_bound_keeps_large_scores_in_place():
    x = forecast(50, torch.eye(1))
    model = ObservationModel(Select([0]), std=0.1)
    method = SSLS(Gaussian(), langevin_steps=20, clip=1.0)
    near, far = (method.update(x, torch.tensor([v]), model, rng.seeded(0)) for v in (1e4, 1e6))
    assert_close(near, far, rtol=1e-6, atol=1e-6)


class Outwards(Gaussian):
    """A prior whose estimates lie farther out than the states, as untrained networks' do."""

    def fit(self, ensemble, modes=None, space=None):
        return mock.Mock(denoise=lambda z, level: 1.2 * z, report={}, learned=True)


@pytest.mark.slow
def test_an_exact_prior_is_not_held():
    """An observation far from the members: the limit of the smoothed Gaussian, not 1.5 of them."""
    x = forecast(400, torch.eye(1))
    mean, std, noise, R, y = x.mean(0), x.std(0), 0.3, 0.25, torch.tensor([8.0])
    model = ObservationModel(Select([0]), std=R**0.5)
    method = SSLS(Gaussian(), noise, langevin_steps=1500, clip=None)
    found = method.update(x, y, model, rng.seeded(0)).mean()
    var = (std**2 * (1 + noise**2)).item()
    expected = mean.item() + var / (var + R) * (y - mean).item()
    # Standard error of 400 draws of std 0.46: 0.023.
    assert (
        abs(found - expected) < 0.1
        and held(torch.full_like(x, expected), x).max() < expected - 0.5
    )


@pytest.mark.slow
def test_a_prior_that_drives_away_is_held_near_the_members():
    """Its estimate ends at 1.5 times the largest deviation L, so the walk ends around there.

    Unheld, z grows by e^(0.2 T / sigma^2) = e^6 at T = 3. Held at 1.5 L the stationary law is
    N(1.5 L, sigma^2): 6 sigma beyond it is room for the largest of 80 numbers.
    """
    x = forecast(40, torch.eye(2))
    model = ObservationModel(Select([0]), std=1e6)
    largest = ((x - x.mean(0)) / x.std(0)).abs().max()
    method = SSLS(Outwards(), noise_level=0.3, langevin_steps=600, step_size=0.005, clip=None)
    z = (method.update(x, torch.zeros(1), model, rng.seeded(0)) - x.mean(0)) / x.std(0)
    assert 1.2 * largest < z.abs().max() < 1.5 * largest + 6 * 0.3


@pytest.mark.slow
def test_a_nonlinear_observation_with_a_network_in_cycles():
    """Lorenz-96 through its arctangent: better than the forecast alone, and with a report."""
    model = ObservationModel(Pointwise(torch.atan), std=0.2)
    system = Lorenz96(dim=8, spinup=5.0)
    truth, problem = twin_experiment(system, model, 20, 2, rng.seeded(0))
    network = online(training_steps=20, fine_tuning_steps=5, width=16, blocks=1, batch=16)
    found = SSLS(network, langevin_steps=60).assimilate(problem, 40, rng.seeded(1))
    free = system.trajectory(system.prior(40, rng.seeded(1)), 20)
    error, without = (
        (s[:, 8:].mean(0) - truth[8:]).square().mean().sqrt() for s in (found.states, free)
    )
    assert error < 0.85 * without
    assert {"innovation", "loss", "evaluations", "step_size", "seconds"} <= found.info.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_level": 0.0}, "noise level"),
        ({"langevin_steps": 0}, "one step"),
        ({"stages": 0}, "stage"),
        ({"confinement": -1.0}, "confinement"),
        ({"decay": 0.0}, "decay"),
        ({"step_size": 0.0}, "step_size"),
        ({"clip": -1.0}, "clip"),
        ({"inflation": 0.9}, "inflation"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SSLS(**options)


@pytest.mark.slow
def test_a_component_in_which_members_agree_keeps_its_value():
    x = forecast(10, torch.eye(2))
    x[:, 1] = 2.0
    model = ObservationModel(Select([0]), std=1.0)
    analysis = SSLS(Gaussian()).update(x, torch.tensor([0.0]), model, rng.seeded(0))
    assert (analysis[:, 1] == 2).all()


def test_an_outlier_in_one_component_leaves_the_bounds_of_others():
    x = forecast(50, torch.eye(2))
    x[0, 0] = 30.0
    far = held(torch.full_like(x, 100.0), x)[0] - x.mean(0)
    assert_close(far, 1.5 * (x - x.mean(0)).abs().amax(0))
    assert far[1] < far[0] / 5
