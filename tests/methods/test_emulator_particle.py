"""EmulatorParticleFilter against the Kalman filter: evidence, moments, and its limits."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.samplers import Multistep
from scorda.methods.emulator_particle import EmulatorParticleFilter
from scorda.methods.kalman import KalmanFilter
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.emulator import Emulator
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian


def rotating(dim=2, error=0.25):
    """A = .9 times a random rotation, Q = .25 I: the set-up of its table."""
    Q, _ = torch.linalg.qr(rng.normal(dim, (dim,), rng.seeded(7)))
    one = torch.eye(dim)
    return LinearGaussian(0.9 * Q, error * one, torch.zeros(dim), one)


def problem_of(dim=2, cycles=10, error=0.25, seed=0):
    model = ObservationModel(Select(range(max(1, dim // 2))), std=0.3)
    return twin_experiment(rotating(dim, error), model, cycles, 1, seed)[1]


def evidence(analysis):
    return float(torch.as_tensor(analysis.info["log_evidence"]).sum())


@pytest.mark.slow
def test_the_estimate_of_the_evidence_is_unbiased():
    """mean exp(log Z - exact) is 1: 400 runs of 64 members, 3 standard errors."""
    problem = problem_of()
    exact = float(KalmanFilter().moments(problem).log_evidence.sum())
    method = EmulatorParticleFilter(draws=4)
    ratios = torch.tensor(
        [evidence(method.assimilate(problem, 64, seed)) - exact for seed in range(400)]
    ).exp()
    assert abs(float(ratios.mean()) - 1) < 3 * float(ratios.std()) / 20


@pytest.mark.slow
@pytest.mark.parametrize("emulated", [False, True], ids=["system", "emulator"])
def test_moments_are_those_of_the_kalman_filter(emulated):
    """8000 members; errors of cycles pass on, so 6 standard errors of one."""
    problem = problem_of(cycles=5)
    exact = KalmanFilter().moments(problem)
    if emulated:
        fine = Multistep(40, 0, min_noise=1e-3, max_noise=1e2)
        system = Emulator(GaussianTrajectory.of(problem.system, 1), fine)
        problem = Problem(system, problem.observations, 5)
    analysis = EmulatorParticleFilter(draws=4).assimilate(problem, 8000, 1)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    bound = 6 / 8000**0.5
    assert ((analysis.states.mean(0) - exact.means).abs() / std).max() < bound
    assert (analysis.states.std(0) / std - 1).abs().max() < bound
    assert abs(evidence(analysis) - float(exact.log_evidence.sum())) < 0.1


@pytest.mark.slow
def test_it_degenerates_later_than_the_bootstrap_filter():
    """Ten dimensions, five observed, 30 cycles of 256 members: the table of the derivation."""
    problem = problem_of(10, 30)
    exact = KalmanFilter().moments(problem)

    def error(method):
        states = method.assimilate(problem, 256, 1)
        return float((states.mean - exact.means).square().mean().sqrt()), states

    adapted, analysis = error(EmulatorParticleFilter(draws=64))
    bootstrap, _ = error(ParticleFilter(1.0))
    assert adapted < 0.15 < 0.3 < bootstrap
    assert 0.2 < float(torch.as_tensor(analysis.info["ess"]).mean()) / 256 < 0.45


def test_without_model_error_the_ancestors_are_weighed_by_the_likelihood_of_their_forecasts():
    """Q = 0: nothing is adapted; evidence of the bootstrap filter, children are forecasts."""
    problem = problem_of(error=0.0, cycles=1)
    analysis = EmulatorParticleFilter().assimilate(problem, 50, 1)
    x = problem.system.step(analysis.states[:, 0])
    y, model = problem.observed()[1]
    expected = model.log_likelihood(y, x).logsumexp(0) - torch.tensor(50.0).log()
    assert_close(torch.as_tensor(analysis.info["log_evidence"])[0], expected, rtol=1e-6, atol=1e-6)
    nearest = torch.cdist(analysis.states[:, 1], x).min(1).values
    assert_close(nearest, torch.zeros(50), rtol=0, atol=1e-6)


def test_a_huge_error_leaves_the_forecast():
    """omega is flat: as many children of each ancestor as of any other."""
    system = rotating()
    model = ObservationModel(Select([0]), std=1e6)
    problem = twin_experiment(system, model, 1, 1, 0)[1]
    analysis = EmulatorParticleFilter().assimilate(problem, 300, 1)
    assert float(torch.as_tensor(analysis.info["ess"])[0]) > 299.9


def test_a_share_of_effective_ancestors_is_kept():
    """At a share of one half two thirds of 300 ancestors or so have children; alone few have."""
    problem = problem_of(40, 1)
    few, many = (
        EmulatorParticleFilter(least_effective=share).assimilate(problem, 300, 1)
        for share in (0.0, 0.5)
    )
    assert float(torch.as_tensor(few.info["ess"])[0]) < 60
    truth = KalmanFilter().moments(problem)
    spread = truth.covs[1].diagonal().sqrt().mean()
    assert many.states[:, 1].std(0).mean() > few.states[:, 1].std(0).mean() > 0.5 * spread


@pytest.mark.slow
def test_looking_several_steps_ahead_is_exact_too():
    """Every 3 steps: moments and evidence of Kalman; and fewer ancestors are lost than by 1."""
    model = ObservationModel(Select([0]), std=0.1)
    problem = twin_experiment(rotating(), model, 9, 3, 0)[1]
    exact = KalmanFilter().moments(problem)
    analysis = EmulatorParticleFilter(draws=4, ahead=5).assimilate(problem, 8000, 1)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    bound = 6 / 8000**0.5
    assert ((analysis.states.mean(0) - exact.means).abs() / std).max() < bound
    assert (analysis.states.std(0) / std - 1).abs().max() < bound
    assert abs(evidence(analysis) - float(exact.log_evidence.sum())) < 0.1
    near = EmulatorParticleFilter(draws=4).assimilate(problem, 8000, 1)
    assert torch.as_tensor(analysis.info["ess"]).mean() > torch.as_tensor(near.info["ess"]).mean()


def test_roots_leave_more_ancestors_and_the_filter_exact():
    """300 members of 30 roots each: moments of Kalman, evidence of 9000 at the first step."""
    problem = problem_of(cycles=3)
    exact = KalmanFilter().moments(problem)
    one, many = (
        EmulatorParticleFilter(roots=roots).assimilate(problem, 300, 1) for roots in (1, 30)
    )
    assert many.states.shape == one.states.shape == (300, 4, 2)
    ess = [torch.as_tensor(analysis.info["ess"]) for analysis in (one, many)]
    # Of the second observation on both have 300 ancestors.
    assert 20 < ess[1][0] / ess[0][0] < 45 and bool((ess[1][1:] <= 300).all())
    first = torch.as_tensor(many.info["log_evidence"])[0]
    assert abs(float(first - exact.log_evidence[0])) < 0.05
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    bound = 5 / 300**0.5
    assert ((many.states.mean(0) - exact.means).abs() / std).max() < bound
    assert (many.states.std(0) / std - 1).abs().max() < bound


def test_roots_are_kept_for_as_many_steps_as_it_looks_ahead(monkeypatch):
    """Of 19 steps before the first observation the last two, and those that are at work."""
    model = ObservationModel(Select([0]), std=0.1)
    problem = twin_experiment(rotating(), model, 20, 20, 0)[1]
    made, alive, step = [], [], LinearGaussian.step

    def counted(system, x, generator=None):
        moved = step(system, x, generator)
        made.append(weakref.ref(moved))
        alive.append(sum(ref() is not None for ref in made))
        return moved

    monkeypatch.setattr(LinearGaussian, "step", counted)
    EmulatorParticleFilter(ahead=2, roots=3).assimilate(problem, 5, 0)
    assert max(alive) < 8


def test_the_least_effective_number_is_a_share_of_the_members():
    """100 of 3000 roots are effective, enough for 50 members: the weights stay as they are."""
    problem = problem_of(cycles=1)
    exact, least = (
        EmulatorParticleFilter(roots=60, least_effective=share).assimilate(problem, 50, 1)
        for share in (0.0, 0.9)
    )
    assert 45 < float(torch.as_tensor(exact.info["ess"])[0]) < 0.9 * 60 * 50
    assert torch.equal(exact.states, least.states)


@pytest.mark.parametrize(
    "options", [{"draws": 1}, {"least_effective": 1.0}, {"ahead": 0}, {"roots": 0}]
)
def test_a_setting_out_of_range_is_refused(unchecked, options):
    with pytest.raises(ValueError, match="at least 2 draws"):
        EmulatorParticleFilter(**options)


def test_roots_of_an_ensemble_that_is_given_are_refused():
    problem = problem_of(cycles=1)
    given = replace(problem, initial=problem.system.prior(20, 0))
    with pytest.raises(ValueError, match="no more states can be drawn"):
        EmulatorParticleFilter(roots=2).assimilate(given, 20, 0)


def test_members_that_predict_nothing_of_the_observation_are_named():
    def step(x, generator=None):
        return x

    problem = problem_of(cycles=1, error=0.0)
    system = FunctionSystem(step, lambda n, s: torch.full((n, 2), 1e200), problem.space)
    with pytest.raises((ArithmeticError, ValueError)):
        EmulatorParticleFilter().assimilate(Problem(system, problem.observations, 1), 5, 1)
