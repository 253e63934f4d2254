"""Optimal interpolation and 3D-Var against the Kalman update with the climatology."""

import pytest
import torch
from torch.testing import assert_close

from scorda.assimilation.climatology import Climatology
from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.methods.interpolation import OptimalInterpolation
from scorda.methods.variational import ThreeDVar
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.linear import LinearGaussian

MEMBERS = 4000
SOME = Climatology(0.5, draws=30)


def linear_problem(members=None, operator=None, steps=0):
    """One observation of a linear system at its first step, or one at each."""
    noise = iter(rng.spawn(rng.seeded(5), 4))
    root = rng.normal(4, (4,), next(noise))
    transition = 0.4 * rng.normal(4, (4,), next(noise))
    system = LinearGaussian(transition, torch.zeros(4, 4), torch.arange(4.0), root @ root.T)
    operator = Linear(rng.normal(2, (4,), next(noise))) if operator is None else operator
    model = ObservationModel(operator, cov=torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
    steps_seen = list(range(steps + 1))
    values = rng.normal(steps + 1, (2,), next(noise))
    start = None if members is None else system.prior(members, rng.seeded(1))
    return Problem(system, Observations(model, steps_seen, values), steps, start)


def moments(problem, climatology):
    """Mean and covariance of the draws, times the factor."""
    draws = problem.system.prior(climatology.draws, rng.seeded(0))
    return draws.mean(0), climatology.scale * draws.T.cov()


def matrix_of(problem):
    model = problem.instruments[0].model
    return model.operator(torch.eye(4)).T, model.cov


def test_interpolation_is_the_kalman_update_of_the_climatology_whatever_the_forecast():
    """The mean exactly; the covariance within 5 standard errors of its entries."""
    problem = linear_problem(MEMBERS)
    H, R = matrix_of(problem)
    y = problem.instruments[0].values[0]
    mean, cov, _ = gaussian_condition(*moments(problem, SOME), H, y, R)
    for shift in (0.0, 100.0):
        moved = Problem(problem.system, problem.observations, 0, problem.initial + shift)
        states = OptimalInterpolation(SOME).assimilate(moved, MEMBERS, 0).states[:, 0]
        assert_close(states.mean(0), mean, atol=1e-10, rtol=0)
        var = cov.diagonal()
        error = ((torch.outer(var, var) + cov**2) / MEMBERS).sqrt()
        assert ((states.T.cov() - cov).abs() < 5 * error).all()
    one = Problem(problem.system, problem.observations, 0, problem.initial[:1])
    alone = OptimalInterpolation(SOME).assimilate(one, 1, 0).states[0, 0]
    assert_close(alone, mean, atol=1e-10, rtol=0)


def test_interpolation_of_a_nonlinear_operator_is_the_linear_regression_on_the_climatology():
    """Of x on h(x) over the draws; and without information it is the climatology."""
    cube = Function(lambda x: x[:, :2] ** 3)
    problem = linear_problem(1, cube)
    draws = problem.system.prior(30, rng.seeded(0))
    h, y = cube(draws), problem.instruments[0].values[0]
    joint = torch.cat((draws, h), 1).T.cov()
    gain = joint[:4, 4:] @ torch.linalg.inv(joint[4:, 4:] + matrix_of(linear_problem())[1])
    expected = draws.mean(0) + gain @ (y - h.mean(0))
    found = OptimalInterpolation(Climatology(draws=30)).assimilate(problem, 1, 0).states[0, 0]
    assert_close(found, expected, atol=1e-9, rtol=0)
    seen = Observations(ObservationModel(cube, std=1e8), [0], y[None])
    vague = Problem(problem.system, seen, 0, problem.initial)
    found = OptimalInterpolation(Climatology(draws=30)).assimilate(vague, 1, 0).states[0, 0]
    assert_close(found, draws.mean(0), atol=1e-6, rtol=0)


def test_3dvar_moves_each_member_by_the_static_gain():
    """Explicitly, with the centred perturbations of the stream; one member has none."""
    problem = linear_problem(6)
    H, R = matrix_of(problem)
    _, B = moments(problem, SOME)
    K = B @ H.T @ torch.linalg.inv(H @ B @ H.T + R)
    y, x = problem.instruments[0].values[0], problem.initial
    model = problem.observed()[0][1]
    noise = rng.normal(6, (2,), rng.seeded(1)) @ torch.linalg.cholesky(R).T
    run = ThreeDVar(SOME).begin(problem)
    expected = x + (y + noise - noise.mean(0) - x @ H.T) @ K.T
    assert_close(run.update(x, y, model, rng.seeded(1)), expected, atol=1e-10, rtol=0)
    alone = run.update(x[:1], y, model, rng.seeded(1))
    assert_close(alone, x[:1] + (y - x[:1] @ H.T) @ K.T, atol=1e-10, rtol=0)


def test_3dvar_of_a_nonlinear_operator_is_the_minimum_of_its_cost():
    """The gradient vanishes there; a linear operator that is called nonlinear gives the gain."""
    problem = linear_problem(6)
    model, y = problem.observed()[0][1], problem.instruments[0].values[0]
    called = ObservationModel(Function(problem.instruments[0].model.operator), cov=model.cov)
    run = ThreeDVar(SOME).begin(problem)
    x = problem.initial
    found = run.update(x, y, called, rng.seeded(1))
    assert_close(found, run.update(x, y, model, rng.seeded(1)), atol=1e-4, rtol=0)
    curved = ObservationModel(Function(lambda x: x[:, :2].atan()), std=0.1)
    found = run.update(x[:1], y, curved, rng.seeded(1)).requires_grad_()
    _, B = moments(problem, SOME)
    misfit = curved.white_residuals(y, found)
    step = found - x[:1]
    cost = 0.5 * (step @ torch.linalg.inv(B) @ step.T).sum() + 0.5 * misfit.square().sum()
    (gradient,) = torch.autograd.grad(cost, found)
    root = torch.linalg.cholesky(B)
    assert (gradient @ root).abs().max() < 1e-4


def test_the_spread_of_3dvar_is_that_of_its_error():
    """For a linear model the covariance follows Joseph's form with a gain that is not optimal.

    4000 members, so 5 standard errors of the entries.
    """
    problem = linear_problem(MEMBERS, steps=3)
    H, R = matrix_of(problem)
    _, B = moments(problem, SOME)
    K = B @ H.T @ torch.linalg.inv(H @ B @ H.T + R)
    rest, A = torch.eye(4) - K @ H, problem.system.transition
    P = problem.system.cov
    states = ThreeDVar(SOME).assimilate(problem, MEMBERS, 0).states
    for k in range(4):
        P = rest @ (P if k == 0 else A @ P @ A.T) @ rest.T + K @ R @ K.T
        var = P.diagonal()
        error = ((torch.outer(var, var) + P**2) / MEMBERS).sqrt()
        assert ((states[:, k].T.cov() - P).abs() < 5 * error).all()


def test_a_system_without_prior_and_settings_that_mean_nothing_are_refused():
    class Still:
        space = linear_problem().space

        def step(self, x, generator=None):
            return x

    _, problem = twin_experiment(
        linear_problem().system, ObservationModel(Select([0]), std=1.0), 2, 1, 0
    )
    start = problem.system.prior(5, rng.seeded(0))
    problem = Problem(Still(), problem.observations, 2, start)
    for method in (OptimalInterpolation(), ThreeDVar()):
        with pytest.raises(ValueError, match=r"needs a system whose `prior`.*ETKF"):
            method.assimilate(problem, 5, 0)
    for wrong in ({"scale": 0.0}, {"draws": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Climatology(**wrong)
