"""SF: its Euler steps are an affine recursion where the score is exact and Gaussian.

Run on unit vectors instead of noise (`UnitNoise`) the filter gives away mean and covariance of its
draws without sampling error; a Gaussian of the ensemble has the moments of the members exactly.
"""

import math
import re
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from moments import UnitNoise, forecast
from networks import online
from scorda.core import rng
from scorda.methods.sf import SF, PowerExploding
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.systems.lorenz import Lorenz63
from scorda.testing.diffusion import check_process


def recursion(C, H, R, y, steps, reach=0.5, end=1e-3, base=25.0):
    """Mean and covariance of standardised draws for a standardised prior N(0, C)."""
    eye = torch.eye(len(C))
    dt = (1 - end) / steps
    variance = (base**2 - 1) / (2 * math.log(base))
    m, V = torch.zeros(len(C)), variance * eye
    for k in range(steps):
        t = 1 - k * dt
        v, g2 = (base ** (2 * t) - 1) / (2 * math.log(base)), base ** (2 * t)
        h = max(0.0, 1 - t / reach)
        precision = torch.linalg.inv(C + v * eye) + h * H.T @ H / R
        a = eye - g2 * dt * precision
        m = a @ m + g2 * dt * h * (H.T @ y) / R
        V = a @ V @ a.T + (g2 * dt * eye if k < steps - 1 else 0)
    return m, V


def analysis(method, x, H, y, R):
    model = ObservationModel(Linear(H), std=R**0.5)
    with mock.patch.object(rng, "Stream", UnitNoise):
        states = method.update(x, y, model)
    responses = states[1:] - states[0]
    return states[0], responses.T @ responses


COVARIANCES = {
    "one": torch.eye(1),
    "one, wide": 9 * torch.eye(1),
    "two": torch.tensor([[1.0, 0.8], [0.8, 1.0]]),
    "two, of other sizes": torch.tensor([[4.0, -0.6], [-0.6, 0.25]]),
}


@pytest.mark.parametrize("reach", [0.5, 1.0])
@pytest.mark.parametrize("cov", COVARIANCES.values(), ids=COVARIANCES.keys())
def test_moments_are_those_of_the_recursion(cov, reach):
    """To rounding, in units of the state: standardisation is undone exactly."""
    cov = cov.double()
    # So vague that all steps are stable: large intermediate numbers would lose digits.
    steps, R, y, size = 40, 0.7 * float(cov[0, 0]), torch.tensor([1.7]), len(cov)
    x = forecast(1 + steps * size, cov)
    H = torch.eye(1, size)
    std = cov.diagonal().sqrt()
    method = SF(Gaussian(), euler_steps=steps, reach=reach, clip=None)
    mean, found = analysis(method, x, H, y, R)
    m, V = recursion(cov / std / std[:, None], H * std, R, y - H @ x.mean(0), steps, reach)
    assert_close(mean, x.mean(0) + std * m, rtol=1e-8, atol=1e-8)
    assert_close(found, std * V * std[:, None], rtol=1e-7, atol=1e-7)


def test_the_published_form_does_not_standardise():
    steps, R, y, cov = 60, 0.7, torch.tensor([1.7]), 4 * torch.eye(1)
    x = forecast(1 + steps, cov, mean=0.0)
    method = SF(Gaussian(), euler_steps=steps, clip=None, standardise=False)
    mean, found = analysis(method, x, torch.eye(1), y, R)
    m, V = recursion(cov, torch.eye(1), R, y, steps)
    assert_close(mean, m, rtol=1e-8, atol=1e-8)
    assert_close(found, V, rtol=1e-7, atol=1e-7)


def test_table_of_the_docstring():
    rows = []
    for R in (1.0, 0.25, 0.01):
        m, V = recursion(torch.eye(1), torch.eye(1), R, torch.tensor([1.4]), 500)
        rows.append(f"{0.3 + m.item():.3f}/{V.item():.4f}".replace("/0", "/"))
    (row,) = re.findall(r"SF +(\S+)  (\S+)  (\S+)\n", SF.__doc__)
    assert list(row) == rows


def test_without_information_the_prior_comes_back():
    """Euler's error of 500 steps: 1 % of the variance."""
    m, V = recursion(torch.eye(1), torch.eye(1), 1e12, torch.tensor([1.4]), 500)
    assert abs(m) < 1e-9 and abs(V - 1) < 0.01


def test_the_bound_keeps_large_scores_in_place():
    """Beyond it a hundred times the innovation changes nothing; root mean square, not entries."""
    x = forecast(300, torch.eye(1))
    model = ObservationModel(Select([0]), std=1e-3)
    method = SF(Gaussian(), euler_steps=50, clip=1.0)
    near, far = (method.update(x, torch.tensor([v]), model, rng.seeded(0)) for v in (1e4, 1e6))
    assert_close(near, far, rtol=1e-6, atol=1e-6)
    free = SF(Gaussian(), euler_steps=50, clip=None)
    with pytest.raises(AssertionError):
        assert_close(free.update(x, torch.tensor([1e4]), model, rng.seeded(0)), near)


def test_process():
    check_process(PowerExploding())
    process, t = PowerExploding(25.0), torch.tensor([0.1, 1.0], requires_grad=True)
    assert_close(process.sigma(t)[1], torch.tensor(9.84), rtol=0, atol=0.01)
    (slope,) = torch.autograd.grad(process.var(t).sum(), t)
    assert_close(process.diffusion(t), slope)


@pytest.mark.slow
def test_a_cubic_observation_with_a_network_in_cycles():
    """The cube of x of Lorenz-63: better than the forecast alone, and with a report."""
    model = ObservationModel(Pointwise(lambda x: (x / 10) ** 3), std=0.3)
    truth, problem = twin_experiment(Lorenz63(spinup=2.0), model, 16, 4, rng.seeded(0))
    method = SF(
        online(training_steps=20, fine_tuning_steps=5, width=16, batch=16), euler_steps=100
    )
    found = method.assimilate(problem, 40, rng.seeded(1))
    free = problem.system.trajectory(problem.system.prior(40, rng.seeded(1)), 16, rng.seeded(2))
    error, without = (
        (s[:, 4:].mean(0) - truth[4:]).square().mean().sqrt() for s in (found.states, free)
    )
    assert error < 0.7 * without
    assert {"innovation", "loss", "evaluations", "spread", "seconds"} <= found.info.keys()


@pytest.mark.slow
def test_a_component_in_which_members_agree_keeps_its_value():
    x = forecast(10, torch.eye(2))
    x[:, 1] = 2.0
    model = ObservationModel(Select([0]), std=1.0)
    analysis = SF(Gaussian()).update(x, torch.tensor([0.0]), model, rng.seeded(0))
    assert (analysis[:, 1] == 2).all()


def test_wrong_input_is_refused():
    box = ObservationModel(Function(lambda s: s, differentiable=False), std=1.0)
    _, problem = twin_experiment(Lorenz63(spinup=0.5), box, 4, 2, rng.seeded(0))
    with pytest.raises(ValueError, match="gradient"):
        SF().assimilate(problem, 5)
    for options, words in [
        ({"euler_steps": 0}, "one step"),
        ({"end": 1.0}, "end"),
        ({"reach": 0.0}, "reach"),
        ({"clip": 0.0}, "positive bound"),
        ({"base": 1.0}, "above 1"),
        ({"inflation": 0.5}, "inflation"),
    ]:
        with pytest.raises(ValueError, match=words):
            SF(**options)
