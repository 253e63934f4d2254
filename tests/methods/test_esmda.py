"""The ensemble smoother with multiple data assimilation against the Kalman smoother and others."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.esmda import ESMDA
from scorda.methods.kalman import KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian

MEMBERS = 4000
SETTINGS = [
    ESMDA(1),
    ESMDA(4),
    ESMDA(4, ratio=1.752),
    ESMDA(alphas=(9.333, 7.0, 4.0, 2.0)),
]


def linear_problem(error=0.1):
    transition = torch.tensor([[0.9, 0.3], [-0.2, 0.8]])
    noise = error * torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    system = LinearGaussian(transition, noise, torch.ones(2), torch.eye(2) + 0.3)
    model = ObservationModel(Select([0]), std=0.6)
    return twin_experiment(system, model, 6, 2, rng.seeded(2))[1]


def test_inverses_of_the_factors_add_up_to_one():
    """Geometric factors from 11.2 on: 11.2, 6.39, 3.65 and 2.08, to the digits of the ratio."""
    for method in SETTINGS:
        assert sum(1 / a for a in method.factors) == pytest.approx(1, abs=1e-12)
    assert ESMDA(4, ratio=1.752).factors == pytest.approx((11.2, 6.39, 3.65, 2.08), rel=2e-3)
    assert ESMDA(3).factors == pytest.approx((3, 3, 3))


@pytest.mark.parametrize("method", SETTINGS, ids=repr)
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_it_tends_to_the_kalman_smoother_with_any_stages(error, method):
    """Means within 5 standard errors, twice for the sampling error of the gain, and for each
    further stage as much again; variances likewise. With model error, and without."""
    problem = linear_problem(error)
    exact = KalmanSmoother().moments(problem)
    states = method.assimilate(problem, MEMBERS, rng.seeded(0)).states
    variances = exact.covs.diagonal(dim1=-2, dim2=-1)
    slack = 10 * len(method.factors) ** 0.5
    means = (states.mean(0) - exact.means).abs() / (variances / MEMBERS).sqrt()
    assert means.max() < slack
    assert ((states.var(0) / variances - 1).abs() < slack * (2 / MEMBERS) ** 0.5).all()
    lagged = torch.einsum("eti,etj->tij", states[:, 1:] - states[:, 1:].mean(0), states[:, :-1])
    scale = (variances[1:, :, None] * variances[:-1, None, :]).sqrt()
    assert ((lagged / MEMBERS - exact.lag_one).abs() < slack * scale / MEMBERS**0.5).all()


def test_each_stage_is_the_kalman_update_of_the_members():
    """The explicit gain over all observations, with the perturbations that the streams give."""
    problem = linear_problem(0.0)
    x = problem.system.prior(9, rng.seeded(3))
    problem = Problem(problem.system, problem.observations, 6, x)
    key = [rng.key(g) for g in [rng.seeded(0)] for _ in range(3)][2]
    A = problem.system.transition
    H = torch.cat([torch.linalg.matrix_power(A, k)[:1] for k in (2, 4, 6)])
    y, R = problem.instruments[0].values.flatten(), 0.36 * torch.eye(3)
    method = ESMDA(2, ratio=2.0)
    for stage, alpha in enumerate(method.factors):
        noise = rng.normal(9, (3,), rng.at(key, stage)) * 0.6
        P = x.T.cov()
        gain = P @ H.T @ torch.linalg.inv(H @ P @ H.T + alpha * R)
        x = x + (y + alpha**0.5 * (noise - noise.mean(0)) - x @ H.T) @ gain.T
    states = method.assimilate(problem, 9, rng.seeded(0)).states
    assert_close(states[:, 0], x, atol=1e-10, rtol=0)


def test_observations_of_several_steps_are_those_of_a_state_that_has_both():
    """The sum of two steps of a linear model is a row of the first state."""
    problem = linear_problem(0.0)
    x, A = problem.system.prior(9, rng.seeded(3)), problem.system.transition
    both = Function(lambda s: s[:, :, 0].sum(1, keepdim=True))
    one = Linear((torch.eye(2) + torch.linalg.matrix_power(A, 3))[:1])
    y = torch.tensor([[0.7]])
    found = []
    for operator, step in ((both, (0, 3)), (one, 0)):
        seen = Observations(ObservationModel(operator, std=0.6), [step], y)
        again = Problem(problem.system, seen, 6, x)
        found.append(ESMDA().assimilate(again, 9, rng.seeded(0)).states)
    assert_close(*found, atol=1e-12, rtol=0)


def decay():
    """Exponential decay with an unknown rate, which is the second entry of the state."""

    def step(x):
        return torch.stack((x[:, 0] * (-0.3 * x[:, 1].exp()).exp(), x[:, 1]), 1)

    def initial(members, seed):
        z = rng.normal(members, (2,), rng.seeded(seed))
        return torch.stack((1 + 0.05 * z[:, 0], 0.7 * z[:, 1]), 1)

    system = FunctionSystem(step, initial, StateSpace((2,)), library="torch")
    model = ObservationModel(Select([0]), std=0.03)
    seen = Observations(model, [2, 4], torch.tensor([[0.30], [0.10]]))
    return Problem(system, seen, 4)


def exact_decay(problem):
    """Moments of amplitude and log rate by quadrature."""
    a, b = torch.linspace(0.7, 1.3, 401), torch.linspace(-3, 3, 2001)
    a, b = torch.meshgrid(a, b, indexing="ij")
    log = -0.5 * ((a - 1) / 0.05).square() - 0.5 * (b / 0.7).square()
    part = problem.instruments[0]
    for k, y in zip(part.steps, part.values.flatten(), strict=True):
        log = log - 0.5 * ((y - a * (-0.3 * k * b.exp()).exp()) / 0.03).square()
    p = (log - log.max()).exp()
    p = p / p.sum()
    mean = (p * b).sum()
    return float(mean), float((p * (b - mean).square()).sum().sqrt())


def test_a_parameter_in_the_state_is_found_and_stages_help():
    """The log rate of a decay against quadrature, in standard deviations of the posterior.

    ES-MDA is not exact here: 16 stages end within a third of one, and closer than the smoother.
    """
    problem = decay()
    mean, std = exact_decay(problem)
    errors = []
    for stages in (1, 16):
        states = ESMDA(stages).assimilate(problem, MEMBERS, rng.seeded(0)).states
        assert torch.equal(states[:, 0, 1], states[:, -1, 1])
        b = states[:, 0, 1]
        errors.append((abs(float(b.mean()) - mean) / std, float(b.std()) / std))
    assert errors[1][0] < 1 / 3 and errors[1][0] < errors[0][0]
    assert abs(errors[1][1] - 1) < 0.1


def test_misfit_falls_and_wrong_settings_are_refused():
    info = ESMDA().assimilate(decay(), 200, rng.seeded(0)).info
    assert info["misfit"][-1] < 0.1 * info["misfit"][0] and len(info["misfit"]) == 5
    for wrong in ({"stages": 0}, {"ratio": 0.0}, {"alphas": (2.0, 3.0)}, {"alphas": (-1.0,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ESMDA(**wrong)
