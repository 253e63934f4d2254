"""The iterative ensemble Kalman smoother against linear smoothers and the exact minimum."""

import pytest
import torch
from torch.testing import assert_close

from scorda.assimilation.kalman_algebra import symmetric_transform, white_innovation
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.enkf import ETKF
from scorda.methods.ienks import IEnKS
from scorda.methods.kalman import KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

MEMBERS = 12
TRANSITION = torch.tensor([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.1, 1.1]])


def linear_problem(error=0.0, steps=11, first=2):
    """Twelve members of a linear system, observed at each third step."""
    noise = error * (torch.eye(3) + 0.5)
    system = LinearGaussian(TRANSITION, noise, torch.ones(3), torch.eye(3) + 0.3)
    model = ObservationModel(Select([0, 2]), std=0.6)
    _, problem = twin_experiment(system, model, steps, 3, rng.seeded(2), start=first)
    return Problem(system, problem.observations, steps, system.prior(MEMBERS, rng.seeded(3)))


def estimates(method, problem):
    """The states of the filter."""
    return torch.stack([c.ensemble for c in method.run(problem, MEMBERS, rng.seeded(0))], 1)


@pytest.mark.parametrize("error", [0.0, 0.1])
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("lag", [0, 1, 3, 9])
@pytest.mark.parametrize("iterations", [1, 10])
def test_a_linear_model_makes_it_the_etkf_member_by_member(iterations, lag, first, error):
    """Whatever lag, model error, inflation and rotation: the first iteration is exact."""
    problem = linear_problem(error, first=first)
    expected = ETKF(1.05, rotation=True).assimilate(problem, MEMBERS, rng.seeded(0)).states
    method = IEnKS(1.05, rotation=True, lag=lag, iterations=iterations)
    assert_close(estimates(method, problem), expected, atol=1e-10, rtol=0)


def sample_system(problem):
    """The system that starts from the sample moments of the members."""
    x, system = problem.initial, problem.system
    return LinearGaussian(system.transition, system.noise_cov, x.mean(0), x.T.cov())


@pytest.mark.parametrize("mda", [False, True])
def test_a_lag_over_all_steps_is_the_kalman_smoother_of_the_sample_moments(mda):
    problem = linear_problem()
    exact = KalmanSmoother().moments(Problem(sample_system(problem), problem.observations, 11))
    states = IEnKS(lag=5, mda=mda).assimilate(problem, MEMBERS, rng.seeded(0)).states
    assert_close(states.mean(0), exact.means, atol=1e-10, rtol=0)
    covs = torch.stack([x.T.cov() for x in states.unbind(1)])
    assert_close(covs, exact.covs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("lag", [2, 3])
def test_states_know_the_observations_of_the_lag_and_no_later_ones(lag):
    """Each step has seen `lag` observed steps after it, also where these count in parts."""
    problem = linear_problem(steps=14)
    (part,) = problem.instruments
    found = [IEnKS(lag=lag, mda=m).assimilate(problem, MEMBERS, 0).states for m in (False, True)]
    for k in range(15):
        known = sum(step <= k for step in part.steps) + lag
        seen = Observations(part.model, part.steps[:known], part.values[:known])
        exact = KalmanSmoother().moments(Problem(sample_system(problem), seen, 14))
        for states in found:
            assert_close(states[:, k].mean(0), exact.means[k], atol=1e-10, rtol=0)
            assert_close(states[:, k].T.cov(), exact.covs[k], atol=1e-10, rtol=0)


def test_model_errors_are_smoothed_with_the_members():
    """Those that a filter draws, with the weights of each later analysis of the ETKF."""
    problem = linear_problem(0.1)
    observed, x, past = problem.observed(), None, []
    key = [rng.key(generator) for generator in [rng.seeded(0)] for _ in range(2)][1]
    for step in range(12):
        x = problem.initial if x is None else problem.system.step(x, rng.at(key, step))
        past.append(x)
        if step in observed:
            mean, transform = symmetric_transform(*white_innovation(x, *observed[step]))
            past = [p + mean @ (p - p.mean(0)) + transform.increment(p - p.mean(0)) for p in past]
            x = past[-1]
    states = IEnKS(lag=9).assimilate(problem, MEMBERS, rng.seeded(0)).states
    assert_close(states, torch.stack(past, 1), atol=1e-10, rtol=0)


def precise_problem():
    """A fifth of a time unit of Lorenz-63, at whose end all is observed with a small error."""
    system = Lorenz63(dt=0.01, noise_std=0.0)
    model = ObservationModel(Select(range(3)), std=1e-3)
    truth = torch.tensor([[1.5, -1.5, 25.5]])
    steps = 20
    y = system.trajectory(truth, steps)[:, -1]
    initial = truth + 0.3 * rng.normal(MEMBERS, (3,), rng.seeded(1))
    return Problem(system, Observations(model, [steps], y), steps, initial)


@pytest.mark.slow
def test_it_ends_in_the_exact_minimum_where_the_analysis_is_narrow():
    """The slopes of the members are then the gradient, to the spread that is left of them.

    The oracle is Gauss-Newton with the exact Jacobian. Errors are in standard deviations of the
    posterior; one iteration, which is the ETKF, is far from it.
    """
    problem = precise_problem()
    x, system, steps = problem.initial, problem.system, problem.steps
    mean, A = x.mean(0), x - x.mean(0)
    y = problem.instruments[0].values[0]

    def predicted(w):
        return system.trajectory((mean + w @ A)[None], steps)[0, -1] / 1e-3

    w, rest = torch.zeros(MEMBERS), MEMBERS - 1
    for _ in range(8):
        slope = torch.func.jacrev(predicted)(w)
        C = torch.linalg.inv(slope.T @ slope + rest * torch.eye(MEMBERS))
        w = w + C @ (slope.T @ (y / 1e-3 - predicted(w)) - rest * w)
    cov = A.T @ C @ A
    unit = cov.diagonal().sqrt()
    first = IEnKS(iterations=30, tolerance=1e-20).assimilate(problem, MEMBERS, 0).states[:, 0]
    assert ((first.mean(0) - (mean + w @ A)).abs() / unit).max() < 0.01
    assert_close(
        first.T.cov() / unit / unit[:, None], cov / unit / unit[:, None], atol=0.02, rtol=0
    )
    once = IEnKS(iterations=1).assimilate(problem, MEMBERS, 0).states[:, 0]
    assert ((once.mean(0) - (mean + w @ A)).abs() / unit).max() > 5


def test_a_model_that_draws_its_own_numbers_repeats_them():
    """A program that is told a seed, and makes no use of it, is the model that it is."""

    def step(x, member=0, step=0, seed=0):
        return x + 0.1 * x.sin()

    space = StateSpace((3,))
    found = []
    for single in (False, True):
        system = FunctionSystem(step, torch.eye(3), space, library="torch", per_member=single)
        problem = linear_problem()
        problem = Problem(system, problem.observations, 11, problem.initial)
        found.append(IEnKS(lag=2).assimilate(problem, MEMBERS, 0).states)
    assert_close(*found, atol=1e-12, rtol=0)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"lag": -1}, {"iterations": 0}, {"tolerance": 0.0}, {"inflation": 0.9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            IEnKS(**wrong)
