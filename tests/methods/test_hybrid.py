"""Hybrid covariances: their limits, and their gains against explicit matrices."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from scorda.assimilation.climatology import Climatology
from scorda.assimilation.hybrid import Hybrid
from scorda.core import rng
from scorda.core.gaussian import gaussian_condition, psd_root
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.variational import FourDVar, ThreeDVar
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear
from scorda.observations.problem import Problem
from scorda.systems.linear import LinearGaussian

SCALE, DRAWS = 0.5, 30


def linear_problem(members=6, obs=3, steps=0):
    """Observations of a linear system of five variables at each step."""
    noise = iter(rng.spawn(rng.seeded(5), 6))
    root = rng.normal(5, (5,), next(noise))
    transition = 0.4 * rng.normal(5, (5,), next(noise))
    system = LinearGaussian(transition, torch.zeros(5, 5), torch.arange(5.0), root @ root.T)
    R = rng.normal(obs, (obs,), next(noise))
    R = R @ R.T / obs + 0.2 * torch.eye(obs)
    model = ObservationModel(Linear(rng.normal(obs, (5,), next(noise))), cov=R)
    values = rng.normal(steps + 1, (obs,), next(noise))
    start = 2 + 0.7 * rng.normal(members, (5,), next(noise))
    return Problem(system, Observations(model, list(range(steps + 1)), values), steps, start)


def matrices(problem, weight):
    """H, R and the hybrid covariance."""
    model, system = problem.instruments[0].model, problem.system
    B = SCALE * system.prior(DRAWS, rng.seeded(0)).T.cov()
    P = (1 - weight) * problem.initial.T.cov() + weight * B
    return model.operator(torch.eye(5)).T, model.cov, P


def analysed(method, problem, seed=1):
    (y, model), run = problem.observed()[0], method.begin(problem)
    return run.update(problem.initial, y, model, rng.seeded(seed))


@pytest.mark.parametrize("method", [EnKF(1.1), ETKF(1.1, rotation=True), FourDVar()], ids=repr)
def test_without_weight_every_bit_is_that_without_a_hybrid(method):
    problem = linear_problem(steps=2)
    hybrid = replace(method, hybrid=Hybrid(0.0))
    found = [m.assimilate(problem, 6, rng.seeded(0)).states for m in (method, hybrid)]
    assert torch.equal(*found)


def test_with_all_weight_the_enkf_is_3dvar():
    problem = linear_problem(steps=3)
    hybrid = EnKF(hybrid=Hybrid(1.0, SCALE, DRAWS))
    found = hybrid.assimilate(problem, 6, rng.seeded(0)).states
    expected = ThreeDVar(Climatology(SCALE, DRAWS)).assimilate(problem, 6, rng.seeded(0)).states
    assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("obs", [3, 50])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_enkf_moves_each_member_by_the_hybrid_gain(weight, obs):
    """Fewer observations than joint anomalies, and more."""
    problem = linear_problem(obs=obs)
    H, R, P = matrices(problem, weight)
    K = P @ H.T @ torch.linalg.inv(H @ P @ H.T + R)
    x, y = problem.initial, problem.instruments[0].values[0]
    noise = rng.normal(6, (obs,), rng.seeded(1)) @ torch.linalg.cholesky(R).T
    expected = x + (y + noise - noise.mean(0) - x @ H.T) @ K.T
    found = analysed(EnKF(hybrid=Hybrid(weight, SCALE, DRAWS)), problem)
    assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("obs", [3, 50])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_etkf_moves_mean_and_anomalies_by_the_gain_and_its_square_root(weight, obs):
    """In white units; the reduced gain makes of P the covariance of the Kalman update."""
    problem = linear_problem(obs=obs)
    H, R, P = matrices(problem, weight)
    x, y = problem.initial, problem.instruments[0].values[0]
    white = torch.linalg.inv(torch.linalg.cholesky(R))
    h, eye = white @ H, torch.eye(obs)
    S = h @ P @ h.T + eye
    mean, cov, _ = gaussian_condition(x.mean(0), P, h, white @ y, eye)
    reduced = torch.eye(5) - P @ h.T @ torch.linalg.inv(S + psd_root(S)) @ h
    assert_close(reduced @ P @ reduced.T, cov, atol=1e-9, rtol=0)
    A = x - x.mean(0)
    hybrid = Hybrid(weight, SCALE, DRAWS)
    assert_close(analysed(ETKF(hybrid=hybrid), problem), mean + A @ reduced.T, atol=1e-9, rtol=0)
    turned = analysed(ETKF(1.3, rotation=True, hybrid=hybrid), problem)
    assert_close(turned.mean(0), mean, atol=1e-9, rtol=0)
    expected = 1.69 * reduced @ A.T.cov() @ reduced.T
    assert_close(turned.T.cov(), expected, atol=1e-9, rtol=0)


def test_with_little_weight_the_etkf_is_the_transform():
    """The rest is of the order of the weight."""
    problem = linear_problem()
    found = analysed(ETKF(1.2, rotation=True, hybrid=Hybrid(1e-9)), problem)
    assert_close(found, analysed(ETKF(1.2, rotation=True), problem), atol=1e-6, rtol=0)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_4dvar_has_the_hybrid_background(weight):
    """Of one step: the Kalman update of the mean, to the tolerance of the minimisation."""
    problem = linear_problem()
    H, R, P = matrices(problem, weight)
    y = problem.instruments[0].values[0]
    mean, _, _ = gaussian_condition(problem.initial.mean(0), P, H, y, R)
    method = FourDVar(tolerance=1e-10, hybrid=Hybrid(weight, SCALE, DRAWS))
    assert_close(method.assimilate(problem, 1).states[0, 0], mean, atol=1e-7, rtol=0)


def test_hybrids_that_mean_nothing_are_refused():
    problem = linear_problem()
    alone = Problem(problem.system, problem.observations, 0)
    with pytest.raises(ValueError, match="give some, or leave `hybrid` out"):
        FourDVar(hybrid=Hybrid(0.5)).assimilate(alone, 1)
    for method in (EnKF(hybrid=Hybrid(0.5)), ETKF(hybrid=Hybrid(0.5))):
        with pytest.raises(ValueError, match="needs a system"):
            method.update(problem.initial, *problem.observed()[0])
    for wrong in ({"weight": 1.5}, {"weight": 0.5, "scale": 0.0}, {"weight": 0.5, "draws": 1}):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            Hybrid(**wrong)
