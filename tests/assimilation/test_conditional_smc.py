"""Conditional SMC against the exact smoother of a linear-Gaussian system."""

from dataclasses import replace

import pytest
import torch

from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.core import rng
from scorda.methods.kalman import KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.over_time import OverTime
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems import Lorenz63, Uniform, WithParameters
from scorda.systems.linear import LinearGaussian

STEPS = 8


def problem():
    """The first of two variables, at the start, in the middle and before the end."""
    transition = torch.tensor([[0.9, 0.2], [-0.2, 0.8]])
    noise = torch.tensor([[0.2, 0.05], [0.05, 0.1]])
    start = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    values = torch.tensor([[1.5], [0.2], [-0.9]])
    seen = Observations(ObservationModel(Select([0]), std=0.4), (0, 3, 6), values)
    return Problem(LinearGaussian(transition, noise, *start), seen, STEPS)


def posterior(problem, members):
    """Exact draws, as the backward recursion of the smoother makes them."""
    exact = KalmanSmoother().moments(problem)
    size, steps = problem.space.size, problem.steps
    last = torch.distributions.MultivariateNormal(exact.means[-1], exact.covs[-1])
    torch.manual_seed(0)
    path = [last.sample((members,))]
    for k in reversed(range(steps)):
        gain = exact.lag_one[k].mT @ torch.linalg.inv(exact.covs[k + 1])
        cov = exact.covs[k] - gain @ exact.lag_one[k]
        mean = exact.means[k] + (path[-1] - exact.means[k + 1]) @ gain.mT
        noise = torch.randn(members, size)
        path.append(mean + noise @ torch.linalg.cholesky((cov + cov.mT) / 2).mT)
    return torch.stack(path[::-1], 1)


def errors(x, problem):
    """Means, variances and covariances of successive states, in their standard errors."""
    exact, n = KalmanSmoother().moments(problem), len(x)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    z = (x - exact.means) / std
    lagged = torch.einsum("nti,ntj->tij", z[:, 1:], z[:, :-1]) / n
    expected = exact.lag_one / (std[1:, :, None] * std[:-1, None])
    return torch.stack(
        [
            z.mean(0).abs().max() * n**0.5,
            (z.square().mean(0) - 1).abs().max() * (n / 2) ** 0.5,
            ((lagged - expected) / (1 + expected.square()).sqrt()).abs().max() * n**0.5,
        ]
    )


@pytest.mark.parametrize("particles", [2, 16])
def test_a_sweep_leaves_the_posterior_as_it_is(particles):
    """Of exact draws come exact draws: 70 numbers within 4 standard errors of 4000 members."""
    exact = problem()
    x = posterior(exact, 4000)
    assert (errors(x, exact) < 4).all()
    moved = ConditionalSMC(1, particles).improved(x, exact, rng.seeded(1))
    assert (errors(moved, exact) < 4).all()
    # It moves them: even one free particle takes its turn.
    assert (moved != x).any(2).double().mean() > 0.1


def test_sweeps_lead_from_the_prior_to_the_posterior():
    """Trajectories that know of no observation: off by many standard errors, then by none."""
    exact = problem()
    system = exact.system
    x = system.trajectory(system.prior(4000, rng.seeded(3)), STEPS, rng.seeded(4))
    one = ConditionalSMC(1, 16).improved(x, exact, rng.seeded(1))
    many = ConditionalSMC(6, 16).improved(x, exact, rng.seeded(1))
    assert (errors(x, exact) > 20).any()
    assert (errors(one, exact) < errors(x, exact)).all()
    assert (errors(many, exact) < 4).all()


@pytest.mark.slow
def test_sweeps_leave_the_joint_law_of_truths_and_observations_as_it_is():
    """A truth is a draw of the posterior given its observations, also where nothing is Gaussian.

    So are the trajectories that sweeps make of it. Over 150 truths, moments of states, of changes
    and of residuals of y are the same before and after: 18 differences within 4 standard errors.
    """
    steps, every, std = 12, 4, 3.0
    system, model = Lorenz63(spinup=2.0), ObservationModel(Select([1]), std=std)
    before, after = [], []

    def moments(x, y):
        residual = ((x[:, ::every, 1] - y) / std).square()
        change = (x[:, every::every] - x[:, :-every:every]).square()
        numbers = torch.cat([x[:, [0, 6, 12]].flatten(1), change.flatten(1)[:, ::2], residual], 1)
        return numbers.mean(0)

    for number in range(150):
        truth, seen = twin_experiment(system, model, steps, every, rng.at((number, 5), 0), start=0)
        y = seen.instruments[0].values[:, 0]
        swept = ConditionalSMC(2, 32).improved(truth.expand(16, -1, -1), seen, number)
        before.append(moments(truth[None], y))
        after.append(moments(swept, y))
    off = torch.stack(after) - torch.stack(before)
    assert (off.mean(0).abs() < 4 * off.std(0) / len(off) ** 0.5).all()
    # The sweeps do move them: most moments are others.
    assert (off.abs() > 1e-3).double().mean() > 0.8


def test_an_observed_last_step_and_none_at_all():
    system = problem().system
    at_end = Observations(ObservationModel(Select([0]), std=0.4), (STEPS,), torch.tensor([[1.0]]))
    for seen in ([at_end], []):
        exact = Problem(system, seen, STEPS)
        x = system.trajectory(system.prior(4000, rng.seeded(3)), STEPS, rng.seeded(4))
        moved = ConditionalSMC(4, 16).improved(x, exact, rng.seeded(1))
        assert (errors(moved, exact) < 4).all()


def test_what_has_no_density_is_refused():
    system = problem().system
    certain = LinearGaussian(system.transition, torch.zeros(2, 2), system.mean, system.cov)
    with pytest.raises(ValueError, match="a system with model error"):
        ConditionalSMC().check(Problem(certain, [], STEPS))
    for wrong in ({"sweeps": 0}, {"particles": 1}):
        with pytest.raises(ValueError, match="at least 1 sweep"):
            ConditionalSMC(**wrong)


def test_what_it_would_get_wrong_is_refused():
    """First states of its own, means over time, and parameters that walk without model error."""
    exact, sweep = problem(), ConditionalSMC(1, 4)
    x = exact.system.trajectory(exact.system.prior(3, 1), STEPS, 2)
    mean = ObservationModel(OverTime(Select([0])), std=0.4)
    walks = WithParameters(
        Lorenz63(noise_std=0.0), {"rho": Uniform(20, 35)}, evolution="random-walk"
    )
    for wrong, words in (
        (replace(exact, initial=x[:, 0]), "leave `initial` out"),
        (
            Problem(exact.system, Observations(mean, [(1, 2)], [[1.0]]), STEPS),
            "observations of single steps",
        ),
        (Problem(walks, [], STEPS), "no transition density"),
    ):
        with pytest.raises(ValueError, match=words):
            sweep.improved(x, wrong, 1)
