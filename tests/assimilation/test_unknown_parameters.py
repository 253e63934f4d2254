"""Methods that estimate parameters: closed forms, bounds, localization, recovery."""

import math

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.assimilation import tapered
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn, correlation_taper
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.unbounded import unbounded_model
from scorda.priors import Gaussian, LocalGaussian
from scorda.systems import (
    FunctionSystem,
    LinearGaussian,
    LogNormal,
    Lorenz63,
    Lorenz96,
    Normal,
    Uniform,
    WithParameters,
)

STEPS = 6
A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
B = torch.tensor([0.5, -0.3], dtype=torch.float64)


def forced(x, parameters):
    return x @ A.T + parameters["force"][:, None] * B


def start(members, seed):
    return rng.normal(members, (2,), rng.seeded(seed))


def forced_problem(steps=STEPS):
    """A linear system with an unknown constant force, and the same as a LinearGaussian."""
    inner = FunctionSystem(forced, start, StateSpace((2,)), noise_std=0.3, library="torch")
    system = WithParameters(inner, {"force": Normal(1.0, 2.0)})
    truth = system.trajectory(system.prior(1, rng.seeded(5)), steps, rng.seeded(6))[0]
    model = sc.ObservationModel(Select([0]), std=0.5)
    observed = list(range(1, steps + 1))
    y = model.sample(truth[observed], rng.seeded(7))
    observations = sc.Observations(model, observed, y)
    transition = torch.eye(3)
    transition[:2, :2], transition[:2, 2] = A, B
    exact = LinearGaussian(
        transition,
        torch.diag(torch.tensor([0.09, 0.09, 0.0])),
        torch.tensor([0.0, 0.0, 1.0]),
        torch.diag(torch.tensor([1.0, 1.0, 4.0])),
    )
    problem = sc.Problem(system, observations, steps)
    return problem, sc.Problem(exact, observations, steps)


@pytest.mark.slow
def test_a_constant_force_has_the_posterior_of_the_augmented_kalman_filter():
    """ETKF of 6000 members: six standard errors of the sample of the start, which add up."""
    problem, exact = forced_problem()
    states = sc.ETKF().assimilate(problem, 6000, rng.seeded(0)).states[:, -1]
    exact_moments = sc.KalmanFilter().moments(exact)
    expected, expected_cov = exact_moments.means[-1], exact_moments.covs[-1]
    mean, cov = states.mean(0), states.T.cov()
    error = 6 * (expected_cov.diagonal() / 6000).sqrt()
    assert ((mean - expected).abs() < error).all()
    assert torch.allclose(cov, expected_cov, atol=0.06 * float(expected_cov.diagonal().max()))


@pytest.mark.slow
def test_the_mode_with_a_constant_force_is_the_mean_of_the_augmented_smoother():
    """4D-Var, from members with exactly the moments of the prior, to its tolerance."""
    problem, exact = forced_problem()
    system, mean = problem.system, torch.tensor([0.0, 0.0, 1.0])
    sample = rng.normal(200, (3,), rng.seeded(3))
    sample = sample - sample.mean(0)
    sample = sample @ torch.linalg.inv(torch.linalg.cholesky(sample.T.cov())).T
    initial = mean + sample * torch.tensor([1.0, 1.0, 2.0])
    given = sc.Problem(system, problem.observations, problem.steps, initial)
    mode = sc.FourDVar().assimilate(given, 1)
    smoother = sc.KalmanSmoother().moments(exact).means
    assert torch.allclose(mode.states[0], smoother, atol=2e-3)
    assert (mode.states[0, :, 2] == mode.states[0, 0, 2]).all()


def decayed(x, parameters):
    return x * parameters["rate"][:, None]


@pytest.mark.slow
def test_a_rate_has_the_posterior_of_quadrature():
    """A decay from 1, x_k = rate^k, with a uniform prior of the rate, seen four times.

    Quadrature on 20001 points. The particle filter is exact to the sampling error of what is left
    of 20000 draws of the prior, some thousand: 3 % of the spread.
    """
    law, steps, std = Uniform(0.5, 1.0), 4, 0.05
    inner = FunctionSystem(decayed, lambda n, seed: np.ones((n, 1)), StateSpace((1,)))
    system = WithParameters(inner, {"rate": law})
    y = 0.8 ** torch.arange(1, steps + 1) + std * torch.tensor([0.4, -1.0, 0.7, 0.1])
    model = sc.ObservationModel(Select([0]), std=std)
    observations = sc.Observations(model, range(1, steps + 1), y[:, None])
    problem = sc.Problem(system, observations, steps)
    states = sc.ParticleFilter().assimilate(problem, 20_000, rng.seeded(0))
    rate = states.states[:, -1, 1]
    weights = states.weights[:, -1] if states.weights is not None else torch.ones(len(rate))
    weights = weights / weights.sum()
    grid = torch.linspace(0.5, 1.0, 20_001)
    powers = grid[:, None] ** torch.arange(1, steps + 1)
    density = (-0.5 * ((y - powers) / std).square().sum(1)).exp()
    density = density / density.sum()
    mean = float((density * grid).sum())
    spread = float((density * (grid - mean).square()).sum().sqrt())
    found = float((weights * rate).sum())
    found_spread = float((weights * (rate - found).square()).sum().sqrt())
    assert abs(found - mean) < 0.06 * spread
    assert abs(found_spread / spread - 1) < 0.06


def test_a_lognormal_parameter_whose_log_is_seen_is_updated_exactly():
    """The Kalman update of its log with the sample's moments, to rounding."""
    system = WithParameters(Lorenz96(dim=8, spinup=1), {"forcing": LogNormal(8.0, 0.3)})
    forecast = system.prior(50, rng.seeded(0))
    model = sc.ObservationModel(Function(lambda x: x[:, 8:].log()), std=0.1)
    problem = sc.Problem(system, sc.Observations(model, [0], [[2.3]]), 0, forecast)
    z, found = forecast[:, 8].log(), analysed(sc.ETKF(), problem)[:, 8].log()
    gain = z.var() / (z.var() + 0.01)
    assert torch.allclose(found.mean(), z.mean() + gain * (2.3 - z.mean()), rtol=1e-10)
    assert torch.allclose(found.var(), (1 - gain) * z.var(), rtol=1e-10)


METHODS = [
    sc.EnKF(1.2),
    sc.ETKF(1.2),
    sc.DEnKF(1.2),
    sc.EnKS(1.2),
    sc.EnSRF(1.2),
    sc.EnSRF(1.2, localization=GaspariCohn(2)),
    sc.EnKFN(),
    sc.EnKF(sc.RTPS(0.9)),
    sc.ETKF(sc.Adaptive()),
    sc.IEnKS(1.2),
    sc.ESMDA(),
    sc.NormalScoreEnKF(),
    sc.RankHistogramFilter(),
    sc.ThreeDVar(),
    sc.OptimalInterpolation(),
    sc.LETKF(1.2, localization=GaspariCohn(2)),
    sc.EnKF(1.2, localization=GaspariCohn(2)),
    sc.ParticleFilter(),
    sc.GaussianMixtureFilter(),
    sc.MASF(LocalGaussian(GaspariCohn(2)), inflation=1.2),
    sc.MASF(Gaussian(GaspariCohn(2))),
    sc.ScoreFilter(),
    sc.EnSF(),
    sc.SSLS(),
    sc.SF(),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: repr(method)[:40])
def test_no_method_leaves_the_bounds(method, single):
    """The force of the truth, 12, is beyond those of the prior, 6 to 9, and all is observed."""
    model = sc.ObservationModel(Select(range(8)), std=0.2)
    _, twin = sc.twin_experiment(Lorenz96(dim=8, forcing=12.0), model, 16, 4, rng.seeded(1))
    # Model error lets particles live on.
    inner = Lorenz96(dim=8, noise_std=0.5)
    walk = WithParameters(inner, {"forcing": Uniform(6.0, 9.0)}, "random-walk", walk=0.1)
    states = method.assimilate(sc.Problem(walk, twin.observations, 16), 20, rng.seeded(0)).states
    forcing = states[..., 8]
    assert ((forcing > 6) & (forcing < 9)).all()
    if isinstance(method, sc.EnKF | sc.ETKF | sc.LETKF | sc.MASF):
        assert float(forcing[:, -1].mean()) > 7.8


@pytest.mark.slow
def test_4dvar_stays_inside_of_the_bounds():
    model = sc.ObservationModel(Select(range(8)), std=0.2)
    _, twin = sc.twin_experiment(Lorenz96(dim=8, forcing=12.0), model, 4, 2, rng.seeded(1))
    system = WithParameters(Lorenz96(dim=8), {"forcing": Uniform(6.0, 9.0)})
    problem = sc.Problem(system, twin.observations, 4)
    forcing = sc.FourDVar(climatology=100).assimilate(problem, 2, rng.seeded(0)).states[..., 8]
    assert ((forcing > 6) & (forcing < 9)).all()
    assert (forcing == forcing[:, :1]).all()


def lorenz96(members=12, **settings):
    """Members of a Lorenz-96 with a parameter, and an observation of every second site."""
    laws = {"forcing": Uniform(4.0, 12.0)}
    system = WithParameters(Lorenz96(dim=20, spinup=2), laws, **settings)
    forecast = system.prior(members, rng.seeded(0))
    model = sc.ObservationModel(Select(range(0, 20, 2)), std=0.7)
    y = model.sample(system.prior(1, rng.seeded(9)), rng.seeded(1))
    problem = sc.Problem(system, sc.Observations(model, [0], y), 0, forecast)
    return problem, forecast


def analysed(method, problem):
    return method.assimilate(problem, len(problem.initial), rng.seeded(0)).states[:, 0]


def test_the_letkf_moves_a_parameter_as_the_etkf_does():
    """All observations count, untapered: to rounding."""
    problem, _ = lorenz96()
    local = analysed(sc.LETKF(localization=GaspariCohn(2)), problem)
    whole = analysed(sc.ETKF(), problem)
    assert torch.allclose(local[:, -1], whole[:, -1], rtol=1e-9)
    assert not torch.allclose(local[:, 0], whole[:, 0], rtol=1e-3)


def test_a_parameter_with_a_position_is_tapered_as_a_field_there():
    """A field of one more site at the position, whose values are those of the coordinate."""
    problem, forecast = lorenz96(positions={"forcing": (5.0,)})
    moved = analysed(sc.LETKF(localization=GaspariCohn(1)), problem)
    part = StateSpace((20,), 0.05, ("x",), {"site": np.arange(20)}, {"site": 20.0})
    other = StateSpace((1,), 0.05, ("q",), {"site": np.array([5.0])}, {"site": 20.0})
    space = StateSpace.of_parts({"x": part, "q": other})
    z = problem.space.unbounded(forecast)

    class Still:
        pass

    still = Still()
    still.space, still.step, still.prior = space, None, None
    plain = sc.Problem(still, problem.observations, 0, z)
    expected = problem.space.bounded(analysed(sc.LETKF(localization=GaspariCohn(1)), plain))
    assert torch.allclose(moved, expected, rtol=1e-10)
    everywhere = lorenz96()[0]
    assert not torch.allclose(
        moved[:, -1], analysed(sc.LETKF(localization=GaspariCohn(1)), everywhere)[:, -1]
    )


def test_tapers_with_a_parameter_are_those_of_a_covariance():
    """On a ring all sums of tapers are equal: the factor is the root of their mean."""
    problem, _ = lorenz96()
    near = correlation_taper(GaspariCohn(2), problem.space)
    assert torch.linalg.eigvalsh(near).min() > -1e-12
    factor = near[:20, :20].mean().sqrt()
    assert torch.allclose(near[20, :20], factor.expand(20)) and near[20, 20] == 1
    larger = near.clone()
    larger[20, :20] *= 1.01
    larger[:20, 20] *= 1.01
    assert torch.linalg.eigvalsh(larger).min() < -1e-4


@pytest.mark.parametrize("full", [False, True])
def test_sparse_tapers_move_a_parameter_as_matrices_do(full, monkeypatch):
    problem, _ = lorenz96()
    enkf = sc.EnKF(localization=GaspariCohn(1.2))
    dense = analysed(enkf, problem)
    monkeypatch.setattr(tapered, "DENSE", 0)
    sparse = analysed(enkf, sc.Problem(problem.system, problem.observations, 0, problem.initial))
    assert torch.allclose(sparse, dense, rtol=1e-8)


def test_any_localization_by_positions_takes_a_parameter_as_gaspari_cohn_does():
    """A user's taper that is that of Gaspari and Cohn: to rounding; also of what is observed."""
    plain, _ = lorenz96()
    space, near = plain.space, GaspariCohn(1.2)
    same = sc.assimilation.Taper(lambda a, b: near(space.distance(a, b)))
    seen = sc.Observations(sc.ObservationModel(Select([4, 20]), std=1.0), [0], [[3.0, 9.0]])
    observed = sc.Problem(plain.system, seen, 0, plain.initial)
    for problem in (plain, observed):
        for kind in (sc.LETKF, sc.EnKF):
            expected = analysed(kind(localization=near), problem)
            found = analysed(kind(localization=same), problem)
            assert torch.allclose(found, expected, rtol=1e-6), kind


def test_factors_of_pairs_of_variables_hold_for_a_parameter():
    """A factor of 0 between field and parameter: what sees the field leaves the parameter."""
    problem, _ = lorenz96()
    space = problem.space
    apart = sc.assimilation.ByVariable(GaspariCohn(1.2), {space.variables: 0.0})
    for kind in (sc.LETKF, sc.EnKF):
        found = analysed(kind(localization=apart), problem)
        assert torch.equal(found[:, 20], problem.initial[:, 20]), kind
        assert not torch.equal(found[:, :20], problem.initial[:, :20])


def test_operators_that_see_no_bounded_variable_stay_as_they_are():
    space = lorenz96()[0].space
    plain = sc.ObservationModel(Select([0, 3]), std=1.0)
    assert unbounded_model(plain, space) is plain
    weights = torch.zeros(1, 21)
    weights[0, 2] = 1.0
    assert unbounded_model(sc.ObservationModel(Linear(weights), std=1.0), space).operator.linear
    weights[0, 20] = 1.0
    seen = unbounded_model(sc.ObservationModel(Linear(weights), std=1.0), space)
    assert not seen.operator.linear
    x = space.constant(torch.tensor([1.0, 8.0]))[None]
    assert torch.allclose(seen.operator(space.unbounded(x)), torch.tensor([[9.0]]))
    mean = sc.ObservationModel(Function(lambda x: x.mean(1, keepdim=True)), std=1.0)
    assert unbounded_model(mean, space).operator.differentiable


def test_a_parameter_may_be_observed():
    """A scalar Kalman update of a normal parameter that no bound changes."""
    laws = {"forcing": Normal(8.0, 2.0)}
    system = WithParameters(Lorenz96(dim=8, spinup=1), laws)
    forecast = system.prior(400, rng.seeded(0))
    model = sc.ObservationModel(Select([8]), std=1.0)
    problem = sc.Problem(system, sc.Observations(model, [0], [[11.0]]), 0, forecast)
    analysis = analysed(sc.ETKF(), problem)[:, 8]
    var = forecast[:, 8].var()
    assert math.isclose(
        float(analysis.mean()), float((forecast[:, 8].mean() + var * 11) / (1 + var)), rel_tol=1e-9
    )
    local = analysed(sc.LETKF(localization=GaspariCohn(1)), problem)
    assert torch.allclose(local[:, 8], analysis, rtol=1e-9)


@pytest.mark.slow
def test_rho_of_lorenz63_is_found_with_an_honest_spread(single):
    """20 truths: the root mean square error of the mean is about its standard deviation."""
    inner = Lorenz63(noise_std=0)
    system = WithParameters(inner, {"rho": Uniform(20, 35)})
    model = sc.ObservationModel(Select([0, 1, 2]), std=1.0)
    errors, spreads = [], []
    for seed in range(20):
        truth, problem = sc.twin_experiment(system, model, 400, 8, rng.seeded(seed))
        states = sc.ETKF(1.02, rotation=True).assimilate(problem, 40, rng.seeded(seed)).states
        rho = states[:, -1, 3]
        errors.append(float(rho.mean() - truth[0, 3]))
        spreads.append(float(rho.std()))
    assert np.sqrt(np.square(errors).mean()) < 0.3
    ratio = np.sqrt(np.square(np.array(errors) / spreads).mean())
    assert 0.5 < ratio < 1.6, (errors, spreads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        sc.LETKF(1.03, localization=GaspariCohn(4)),
        sc.EnKF(1.04, localization=GaspariCohn(4)),
    ],
    ids=["LETKF", "EnKF"],
)
def test_the_forcing_of_lorenz96_is_found_with_an_honest_spread(method, single):
    """Eight truths of 40 sites, every second observed; the prior has a spread of 1.6."""
    system = WithParameters(Lorenz96(), {"forcing": LogNormal(8, 0.2)})
    model = sc.ObservationModel(Select(range(0, 40, 2)), std=1.0)
    errors, spreads = [], []
    for seed in range(8):
        truth, problem = sc.twin_experiment(system, model, 200, 1, rng.seeded(seed))
        forcing = method.assimilate(problem, 40, rng.seeded(seed)).states[:, -1, 40]
        errors.append(float(forcing.mean() - truth[0, 40]))
        spreads.append(float(forcing.std()))
    assert np.sqrt(np.square(errors).mean()) < 0.25
    ratio = np.sqrt(np.square(np.array(errors) / spreads).mean())
    assert 0.5 < ratio < 1.6, (errors, spreads)
