"""4D-Var on linear-Gaussian problems, where mode and sample are known, and on Lorenz-63."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enks import EnKS
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.variational.cost import TrajectoryCost
from scorda.methods.variational.filter import FourDVar
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63
from scorda.testing.methods import check_assimilator

NAN = float("nan")
TIGHT = FourDVar(tolerance=1e-9)
A, Q, COV = (
    torch.tensor(rows, dtype=torch.float64)
    for rows in (
        [[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, -0.1, 0.8]],
        [[0.1, 0.02, 0.0], [0.02, 0.2, 0.0], [0.0, 0.0, 0.05]],
        [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]],
    )
)
MEAN = torch.tensor([5.0, -1.0, 0.5], dtype=torch.float64)


def two_instruments(noise=Q, cov=COV):
    """Irregular steps, missing values, an empty row, correlated errors, an error per value."""
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]])
    correlated = ObservationModel(Linear(matrix), cov=torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
    values = torch.tensor([[4.4, 1.0], [NAN, -0.7], [1.5, NAN], [NAN, NAN]])
    first = Observations(correlated, (0, 1, 6, 7), values)
    model, std = ObservationModel(Select([0, 2]), std=0.3), torch.tensor([[0.3, 0.1], [0.2, 0.6]])
    second = Observations(model, (6, 10), torch.tensor([[0.3, NAN], [-0.8, 0.2]]), std)
    return Problem(LinearGaussian(A, noise, MEAN, cov), [first, second], 10)


LINEAR = {
    "weak": two_instruments,
    "strong": lambda: two_instruments(torch.zeros(3, 3)),
    "singular background": lambda: two_instruments(cov=torch.diag(torch.tensor([1.0, 0.0, 2.0]))),
    "vague background": lambda: two_instruments(cov=1e6 * COV),
}


def errors(states, moments):
    std = moments.covs.diagonal(dim1=1, dim2=2).sqrt()
    return ((states - moments.means) / std.clamp_min(1e-12)).abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("growth", [1, 3, None])
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
def test_the_mode_is_the_mean_of_the_kalman_smoother(make, growth):
    """Within 1e-6 posterior standard deviations: the root of the rounding of J is 1e-7."""
    analysis = replace(TIGHT, growth=growth).assimilate(make(), 1)
    moments = KalmanSmoother().moments(make())
    if make is LINEAR["singular background"]:
        # Known without error: nothing to divide by.
        assert_close(analysis.states[0, 0, 1], MEAN[1], atol=1e-12, rtol=0)
        moments.covs[0, 1, 1] = 1.0
    assert errors(analysis.states[0], moments) < 1e-6
    assert analysis.info["converged"].all() and analysis.method == "FourDVar"


@pytest.mark.slow
@pytest.mark.parametrize("make", [LINEAR["weak"], LINEAR["strong"]], ids=["weak", "strong"])
def test_members_are_draws_of_the_smoother(make):
    """2000 members: 5 standard errors of means, covariances and lag-one covariances."""
    n, moments = 2000, KalmanSmoother().moments(make())
    states = FourDVar(tolerance=1e-6).assimilate(make(), n, rng.seeded(0)).states
    variance = moments.covs.diagonal(dim1=-2, dim2=-1)
    assert ((states.mean(0) - moments.means).abs() < 5 * (variance / n).sqrt() + 1e-6).all()
    centred = states - moments.means
    for lag, exact in ((0, moments.covs), (1, moments.lag_one)):
        found = torch.einsum("eti,etj->tij", centred[:, lag:], centred[:, : 11 - lag]) / n
        product = variance[lag:, :, None] * variance[: 11 - lag, None, :]
        standard_error = ((product + exact.square()) / n).sqrt()
        assert ((found - exact).abs() < 5 * standard_error).all()


@pytest.mark.slow
def test_chi2_of_the_mode_is_one():
    """2 J at the minimum is chi-squared with as many degrees of freedom as observations."""
    system, total, runs = LinearGaussian(A, Q, MEAN, COV), 0.0, 15
    model = ObservationModel(Select([0, 1]), std=0.4)
    for seed in range(runs):
        problem = twin_experiment(system, model, 8, 2, rng.seeded(seed))[1]
        total += FourDVar(growth=None).assimilate(problem, 1).info["chi2"]
    # 8 observations each: standard error of the mean (2 / (8 * 15))^(1/2) = 0.13.
    assert abs(total / runs - 1) < 4 * math.sqrt(2 / (8 * runs))


@pytest.mark.slow
def test_a_member_does_not_depend_on_how_many_there_are():
    few, more = (FourDVar().assimilate(two_instruments(), n, rng.seeded(3)) for n in (2, 5))
    # Sums over batches of another size round differently, and an iteration may be one more.
    assert_close(few.states, more.states[:2], atol=1e-3, rtol=0)


def test_an_observation_of_several_steps():
    """The mean of three successive states, against conditioning of the joint Gaussian."""
    system = LinearGaussian(A, Q, MEAN, COV)
    model = ObservationModel(Function(lambda x: x.mean(1)), std=0.2)
    value = torch.tensor([[1.0, -1.0, NAN]])
    problem = Problem(system, Observations(model, [(1, 2, 3)], value), 4)
    mean, cov = system.trajectory_moments(4)
    matrix = torch.zeros(2, 5, 3)
    matrix[0, 1:4, 0] = matrix[1, 1:4, 1] = 1 / 3
    exact = gaussian_condition(mean, cov, matrix.flatten(1), value[0, :2], 0.04 * torch.eye(2))[0]
    states = TIGHT.assimilate(problem, 1).states
    assert_close(states.flatten(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("taper", [None, GaspariCohn(2.0)], ids=["low rank", "localized"])
def test_background_of_an_ensemble(taper):
    """One state and a linear observation: the Kalman update with the (tapered) sample moments."""
    space = StateSpace((2, 4), variables=("u", "v"), coordinates={"x": np.arange(4.0)})
    system = FunctionSystem(torch.sin, torch.zeros(1, 2, 4), space, library="torch")
    ensemble = rng.normal(5, (2, 4), rng.seeded(0)).cumsum(2)
    y = torch.tensor([[1.0, -2.0]])
    problem = Problem(
        system, Observations(ObservationModel(Select([1, 6]), std=0.5), (0,), y), 0, ensemble
    )
    cov = ensemble.flatten(1).T.cov()
    if taper is not None:
        distance = (torch.arange(4.0)[:, None] - torch.arange(4.0)).abs()
        cov = cov * taper(distance).repeat(2, 2)
    exact = gaussian_condition(
        ensemble.mean(0).flatten(), cov, torch.eye(8)[[1, 6]], y[0], 0.25 * torch.eye(2)
    )[0]
    states = replace(TIGHT, localization=taper).assimilate(problem, 1).states
    assert_close(states.flatten(), exact, atol=1e-6, rtol=0)


def lorenz(noise_std=0.025**0.5, seed=0, observed=(0,), every=8, steps=16):
    model = ObservationModel(Select(list(observed)), std=0.5)
    return twin_experiment(Lorenz63(noise_std=noise_std), model, steps, every, rng.seeded(seed))


def cost_near(problem, states, members=1, perturbed=False):
    background = FourDVar()._background(problem)
    cost = TrajectoryCost(problem, background, members, rng.seeded(4), perturbed)
    return cost, cost.begin(states.expand(members, *states.shape))


@pytest.mark.slow
def test_the_cost_is_minus_the_log_posterior():
    """Up to a constant, from the densities of the system and the observations."""
    truth, problem = lorenz()
    cost, _ = cost_near(problem, truth)
    x = truth + rng.normal(4, tuple(truth.shape), rng.seeded(1))
    prior = Lorenz63().prior(1000, rng.seeded(0))
    start = torch.distributions.MultivariateNormal(prior.mean(0), prior.T.cov())
    log_posterior = start.log_prob(x[:, 0]) + problem.instruments[0].log_likelihood(x)
    log_posterior += Lorenz63().log_transition(x[:, :-1], x[:, 1:]).sum(1)
    J = torch.stack([cost(cost.begin(one[None]), torch.tensor([0]))[0] for one in x])
    assert_close(J + log_posterior, (J + log_posterior)[:1].expand(4), rtol=1e-10, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("noise_std", [0.025**0.5, 0.0], ids=["weak", "strong"])
@pytest.mark.parametrize("perturbed", [False, True])
def test_gradient_against_finite_differences(noise_std, perturbed):
    """Central differences of step 1e-5: errors of 1e-10 of the third derivative, and rounding of
    1e-16 J / 1e-5, together below 1e-6 of the gradient."""
    truth, problem = lorenz(noise_std)
    cost, controls = cost_near(problem, truth, 2, perturbed)
    rows = torch.arange(2)
    controls = controls + 0.1 * rng.normal(2, (controls.shape[1],), rng.seeded(2))
    x = controls.clone().requires_grad_()
    gradient = torch.autograd.grad(cost(x, rows).sum(), x)[0]
    for i in range(controls.shape[1]):
        step = torch.zeros_like(controls)
        step[:, i] = 1e-5
        slope = (cost(controls + step, rows) - cost(controls - step, rows)) / 2e-5
        assert_close(slope, gradient[:, i], rtol=1e-6, atol=float(1e-6 * gradient.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_lorenz63_twin_experiment(seed):
    """Below the cost of the truth; as near to it as the EnKS, where that does well."""
    truth, problem = lorenz(seed=seed, observed=(0, 1, 2), every=2, steps=40)
    analysis = FourDVar().assimilate(problem, 1)
    cost, controls = cost_near(problem, truth)
    assert analysis.info["converged"].all()
    assert analysis.info["cost"][0] < 0.5 * cost(controls, torch.tensor([0]))[0]
    rmse = (analysis.states[0] - truth).square().mean().sqrt()
    smoothed = EnKS().assimilate(problem, 1000, rng.seeded(1)).mean
    assert rmse < 1.1 * (smoothed - truth).square().mean().sqrt()


@pytest.mark.slow
def test_the_growing_window_avoids_a_local_minimum():
    """x alone each 8 steps, a case where the whole window at once ends in a local minimum."""
    truth, problem = lorenz(seed=3, steps=64)
    at_once = FourDVar(growth=None).assimilate(problem, 1)
    grown = FourDVar().assimilate(problem, 1)
    from_truth = FourDVar().assimilate(problem, 1, start=truth)
    assert at_once.info["cost"][0] > 100 * grown.info["cost"][0]
    assert_close(grown.states, from_truth.states, atol=0.02, rtol=0)


@pytest.mark.slow
def test_start():
    """From any start of a linear problem to the same mode; a start per member is possible."""
    problem, exact = two_instruments(), KalmanSmoother().moments(two_instruments())
    far = exact.means + rng.normal(1, (11, 3), rng.seeded(0))[0]
    assert errors(TIGHT.assimilate(problem, 1, start=far).states[0], exact) < 1e-6
    one = TIGHT.assimilate(problem, 3, rng.seeded(1), start=far)
    each = TIGHT.assimilate(problem, 3, rng.seeded(1), start=far.expand(3, 11, 3) + 1)
    assert_close(one.states, each.states, atol=1e-5, rtol=0)
    assert TIGHT.assimilate(problem, 1, start=exact.means).info["iterations"][0] <= 10
    with pytest.raises(ValueError, match=r"one trajectory, \(11, 3\), or one per member"):
        TIGHT.assimilate(problem, 2, start=far[:4])


@pytest.mark.slow
def test_without_observations_members_are_draws_of_the_prior():
    """The perturbed forecast is then the minimum itself, however chaotic the system."""
    problem = Problem(Lorenz63(), [], 20)
    analysis = FourDVar(climatology=50).assimilate(problem, 3, rng.seeded(0))
    assert (analysis.info["cost"] < 1e-18).all() and not analysis.info["iterations"].any()
    assert "chi2" not in FourDVar().assimilate(problem, 1).info


@pytest.mark.slow
@pytest.mark.parametrize("noise_std", [0.3, 0.0], ids=["weak", "strong"])
def test_contract_on_a_nonlinear_system(noise_std):
    """In both precisions, with an own torch model and nonlinear observations of fields."""
    space = StateSpace((2, 3), variables=("q",))
    for dtype in (torch.float32, torch.float64):
        system = FunctionSystem(
            lambda x: 0.9 * x.roll(1, -1) + 0.1 * x.sin(),
            rng.normal(40, (2, 3), rng.seeded(1)).to(dtype),
            space,
            noise_std,
            library="torch",
        )
        model = ObservationModel(Pointwise(torch.atan), std=0.3)
        values = torch.full((2, 2, 3), 0.2, dtype=dtype)
        values[0, 1] = NAN
        check_assimilator(
            FourDVar(climatology=40), Problem(system, Observations(model, (1, 3), values), 4)
        )


@pytest.mark.slow
def test_what_it_cannot_do_is_refused_before_the_run():
    model = ObservationModel(Select([0]), std=1.0)
    observations = Observations(model, (1,), torch.zeros(1, 1))
    space, states = StateSpace((3,)), rng.normal(20, (3,), rng.seeded(0))
    method = FourDVar(climatology=20)
    numpy = FunctionSystem(np.sin, states, space, 0.1)
    with pytest.raises(ValueError, match=r"FourDVar needs a system whose model has a gradient"):
        method.assimilate(Problem(numpy, observations, 2), 1)
    box = ObservationModel(Function(lambda x: x[:, :1], differentiable=False), std=1.0)
    with pytest.raises(ValueError, match="FourDVar needs an observation operator with a gradient"):
        problem = Problem(Lorenz63(), Observations(box, (1,), torch.zeros(1, 1)), 2)
        method.assimilate(problem, 1)
    cut = FunctionSystem(lambda x: x.detach().sin(), states, space, 0.1, library="torch")
    with pytest.raises(ValueError, match="the system function returns values without one"):
        method.assimilate(Problem(cut, observations, 2), 1)
    severed = ObservationModel(Function(lambda x: x.detach()[:, :1]), std=1.0)
    with pytest.raises(ValueError, match="Function returns values without one"):
        problem = Problem(Lorenz63(), Observations(severed, (1,), torch.zeros(1, 1)), 2)
        method.assimilate(problem, 1)
    singular = LinearGaussian(A, torch.diag(torch.tensor([1.0, 0.0, 1.0])), MEAN, COV)
    with pytest.raises(ValueError, match="is singular"):
        method.assimilate(Problem(singular, observations, 2), 1)
    for initial in (torch.ones(1, 3), torch.ones(4, 3)):
        with pytest.raises(ValueError, match="a background with spread"):
            method.assimilate(Problem(Lorenz63(), observations, 2, initial), 1)
    with pytest.raises(ValueError, match="a space with coordinates"):
        replace(method, localization=GaspariCohn(1.0)).assimilate(
            Problem(Lorenz63(), observations, 2), 1
        )
    for setting in ({"iterations": 0}, {"tolerance": 0.0}, {"growth": 0}, {"climatology": 1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            FourDVar(**setting)
