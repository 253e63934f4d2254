"""Ensemble Kalman filters and smoother against the Kalman update, exactly and in the limit."""

from dataclasses import replace

import pytest
import torch

from scorda.assimilation.diagnostics import innovation_statistics
from scorda.assimilation.kalman_algebra import (
    kalman_transform,
    mean_preserving_rotation,
    perturbed_transform,
    symmetric_transform,
)
from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz96

MEMBERS = 20_000


def update_case(members=12, dim=5, obs=3, full=True):
    """Forecast, y, matrix, model, R; more or fewer observations than members, R full or not."""
    noise = iter(rng.spawn(rng.seeded(0), 5))
    forecast = rng.normal(members, (dim,), next(noise)) @ rng.normal(dim, (dim,), next(noise))
    matrix = rng.normal(obs, (dim,), next(noise))
    root = rng.normal(obs, (obs,), next(noise))
    cov = root @ root.mT / obs + torch.eye(obs) if full else torch.linspace(0.5, 2, obs).diag()
    y = rng.normal(1, (obs,), next(noise))[0]
    operator = Linear(matrix)
    if full:
        model = ObservationModel(operator, cov=cov)
    else:
        model = ObservationModel(operator, std=cov.diagonal().sqrt())
    return forecast, y, matrix, model, cov


def linear_problem(steps=8, dim=2):
    angle = torch.tensor(0.5)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    system = LinearGaussian(
        0.95 * turn, torch.tensor([[0.2, 0.05], [0.05, 0.1]]), torch.ones(2), torch.eye(2)
    )
    model = ObservationModel(Select([0]), std=0.5)
    _, problem = twin_experiment(system, model, steps, 2, rng.seeded(7))
    return problem


@pytest.mark.parametrize("obs", [3, 30])
@pytest.mark.parametrize("full", [False, True])
def test_etkf_is_the_kalman_update_of_the_sample_moments(obs, full):
    forecast, y, matrix, model, cov = update_case(obs=obs, full=full)
    mean, posterior, _ = gaussian_condition(forecast.mean(0), forecast.T.cov(), matrix, y, cov)
    for method in (ETKF(), ETKF(rotation=True)):
        analysis = method.update(forecast, y, model, rng.seeded(1))
        torch.testing.assert_close(analysis.mean(0), mean, atol=1e-10, rtol=0)
        torch.testing.assert_close(analysis.T.cov(), posterior, atol=1e-10, rtol=0)


@pytest.mark.parametrize("obs", [3, 30])
@pytest.mark.parametrize("full", [False, True])
def test_enkf_moves_each_member_by_the_gain(obs, full):
    """The explicit gain, with the centred perturbations that the stream gives."""
    forecast, y, matrix, model, cov = update_case(obs=obs, full=full)
    P = forecast.T.cov()
    gain = P @ matrix.T @ torch.linalg.inv(matrix @ P @ matrix.T + cov)
    noise = rng.normal(len(forecast), (obs,), rng.seeded(1)) @ torch.linalg.cholesky(cov).T
    expected = forecast + (y + noise - noise.mean(0) - forecast @ matrix.T) @ gain.T
    analysis = EnKF().update(forecast, y, model, rng.seeded(1))
    torch.testing.assert_close(analysis, expected, atol=1e-10, rtol=0)
    # Centred: the mean is that of the Kalman update whatever the draw.
    mean = forecast.mean(0) + gain @ (y - matrix @ forecast.mean(0))
    torch.testing.assert_close(analysis.mean(0), mean, atol=1e-10, rtol=0)


def test_perturbations_differ_between_cycles():
    """Two cycles with the same forecast and observation give different members."""
    forecast, y, _, model, _ = update_case()
    start = rng.at((1, 2), 1)
    a = EnKF().update(forecast, y, model, start)
    b = EnKF().update(forecast, y, model, rng.at((1, 2), 2))
    assert (a - b).abs().max() > 1e-3


def test_both_sizes_of_the_kalman_system_agree():
    """Over observations (12 of them, 12 members) and, with 5 that see nothing, over members."""
    anomalies = rng.normal(12, (12,), rng.seeded(0))
    residuals = rng.normal(12, (12,), rng.seeded(1))
    direct = kalman_transform(anomalies, residuals)
    woodbury = kalman_transform(
        torch.cat([anomalies, torch.zeros(12, 5)], 1), torch.cat([residuals, torch.ones(12, 5)], 1)
    )
    assert direct.right is not None and woodbury.right is None
    torch.testing.assert_close(direct.left @ direct.right, woodbury.left, atol=1e-12, rtol=0)


def test_both_sizes_of_the_symmetric_root_agree():
    """Over 7 observations and, with 9 that see nothing, over the 12 members."""
    anomalies = rng.normal(12, (7,), rng.seeded(0))
    anomalies[:, 3] = anomalies[:, 2]  # a zero eigenvalue
    innovation = rng.normal(1, (7,), rng.seeded(1))[0]
    few_mean, few = symmetric_transform(anomalies, innovation)
    mean, many = symmetric_transform(
        torch.cat([anomalies, torch.zeros(12, 9)], 1), torch.cat([innovation, torch.ones(9)])
    )
    assert few.left.shape == (12, 7) and many.left.shape == (12, 12)
    torch.testing.assert_close(few_mean, mean, atol=1e-12, rtol=0)
    whole = many.left @ many.right
    one, eye = torch.eye(12, 1), torch.eye(12).repeat(1, 2)  # fewer columns than members, and more
    torch.testing.assert_close(few.increment(one), whole @ one, atol=1e-12, rtol=0)
    torch.testing.assert_close(few.increment(eye), whole @ eye, atol=1e-12, rtol=0)


def test_enkf_tends_to_the_kalman_filter():
    """Mean and covariance at the last step within 5 standard errors; the gain's own sampling
    error is of the same order, hence the factor 2."""
    problem = linear_problem()
    exact = KalmanFilter().moments(problem)
    states = EnKF().assimilate(problem, MEMBERS, rng.seeded(0)).states[:, -1]
    mean, cov = exact.means[-1], exact.covs[-1]
    error = (cov.diagonal() / MEMBERS).sqrt()
    assert ((states.mean(0) - mean).abs() < 2 * 5 * error).all()
    variances = cov.diagonal()
    error = ((torch.outer(variances, variances) + cov**2) / MEMBERS).sqrt()
    assert ((states.T.cov() - cov).abs() < 2 * 5 * error).all()


def test_enks_tends_to_the_rts_smoother():
    """Means, variances and lag-one covariances of all steps; tolerances as for the filter."""
    problem = linear_problem()
    exact = KalmanSmoother().moments(problem)
    states = EnKS().assimilate(problem, MEMBERS, rng.seeded(0)).states
    variances = exact.covs.diagonal(dim1=-2, dim2=-1)
    assert ((states.mean(0) - exact.means).abs() < 10 * (variances / MEMBERS).sqrt()).all()
    torch.testing.assert_close(states.var(0), variances, rtol=10 * (2 / MEMBERS) ** 0.5, atol=0)
    anomalies = states - states.mean(0)
    lagged = torch.einsum("nti,ntj->tij", anomalies[:, 1:], anomalies[:, :-1]) / (MEMBERS - 1)
    scale = (variances[1:, :, None] * variances[:-1, None]).sqrt()
    assert ((lagged - exact.lag_one).abs() < 10 * (2 / MEMBERS) ** 0.5 * scale).all()


def test_enks_leaves_the_past_alone_where_all_values_are_gross_errors():
    """A row of gross errors is as good as none."""
    problem = linear_problem()
    (part,) = problem.instruments
    values = part.values.clone()
    values[1] = 1e6
    wild = replace(problem, observations=replace(part, values=values))
    kept = [0, *range(2, len(part))]
    there = replace(part, values=values[kept], steps=[part.steps[k] for k in kept])
    method = EnKS(gross_error_check=50.0)
    found = method.assimilate(wild, 9, rng.seeded(0))
    expected = method.assimilate(replace(problem, observations=there), 9, rng.seeded(0))
    assert torch.equal(found.states, expected.states)
    assert found.info["rejected"].tolist() == [0, values.shape[1], *[0] * (len(part) - 2)]


def test_enks_ends_where_the_enkf_does():
    """Same seed, same last state, bit for bit; with lag 0 the same run."""
    problem = linear_problem()
    forward = EnKF(1.05).assimilate(problem, 9, rng.seeded(0))
    smoothed = EnKS(1.05).assimilate(problem, 9, rng.seeded(0))
    assert torch.equal(forward.states[:, -1], smoothed.states[:, -1])
    assert not torch.equal(forward.states[:, 3], smoothed.states[:, 3])
    assert torch.equal(
        EnKS(1.05, lag=0).assimilate(problem, 9, rng.seeded(0)).states, forward.states
    )
    lagged = EnKS(1.05, lag=2).assimilate(problem, 9, rng.seeded(0)).states
    # Rounding: the products have other numbers of columns.
    torch.testing.assert_close(lagged[:, -3:], smoothed.states[:, -3:], atol=1e-12, rtol=0)
    assert not torch.equal(lagged[:, 0], smoothed.states[:, 0])
    assert smoothed.info["step"].tolist() == [2, 4, 6, 8]


def test_rotation_is_orthogonal_and_keeps_the_mean():
    for members in (2, 3, 20):
        Q = mean_preserving_rotation(members, torch.zeros(1), rng.seeded(members))
        torch.testing.assert_close(Q @ Q.T, torch.eye(members), atol=1e-12, rtol=0)
        torch.testing.assert_close(Q.sum(1), torch.ones(members), atol=1e-12, rtol=0)
    other = mean_preserving_rotation(20, torch.zeros(1), rng.seeded(1))
    assert (Q - other).abs().max() > 0.1


@pytest.mark.slow
def test_rotations_have_the_moments_of_the_uniform_distribution():
    r"""For Haar rotations of the complement, :math:`E Q = 1 1^T / N` and E (tr O)^2 = 1."""
    draws = torch.stack(
        [mean_preserving_rotation(4, torch.zeros(1), rng.at((0, 1), k)) for k in range(4000)]
    )
    # Entries have a variance of at most 1: five standard errors are 0.08.
    torch.testing.assert_close(draws.mean(0), torch.full((4, 4), 0.25), atol=0.08, rtol=0)
    trace = draws.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    # (tr O)^2 has mean 1 and variance 2: five standard errors are 0.11.
    assert abs(trace.square().mean() - 1) < 0.11


def test_etkf_does_not_depend_on_the_order_of_members():
    forecast, y, _, model, _ = update_case()
    order = torch.randperm(len(forecast), generator=rng.seeded(0))
    a = ETKF().update(forecast, y, model)[order]
    torch.testing.assert_close(ETKF().update(forecast[order], y, model), a, atol=1e-12, rtol=0)


def test_inflation_multiplies_the_anomalies_of_the_analysis():
    forecast, y, _, model, _ = update_case()
    for make in (EnKF, ETKF):
        plain, inflated = (make(f).update(forecast, y, model, rng.seeded(0)) for f in (1.0, 1.2))
        mean = plain.mean(0)
        torch.testing.assert_close(inflated, mean + 1.2 * (plain - mean), atol=1e-12, rtol=0)


def lorenz_case(members=9, full=False):
    system = Lorenz96(12, spinup=1.0)
    cov = torch.diag(torch.linspace(0.5, 2.0, 6)) + 0.1
    error = {"cov": cov} if full else {"std": 0.8}
    model = ObservationModel(Select(range(0, 12, 2)), **error)
    forecast = system.prior(members, rng.seeded(1))
    y = model.sample(system.prior(1, rng.seeded(2)), rng.seeded(3))
    problem = Problem(system, Observations(model, [0], y), 0)
    return forecast, y[0], model, problem


@pytest.mark.parametrize("full", [False, True])
def test_localization_with_infinite_radius_changes_nothing(full):
    forecast, y, model, problem = lorenz_case(full=full)
    plain = EnKF(1.1).update(forecast, y, model, rng.seeded(0))
    wide = EnKF(1.1, GaspariCohn(float("inf"))).begin(problem)
    analysis = wide.update(forecast, y, model, rng.seeded(0))
    torch.testing.assert_close(analysis, plain, atol=1e-10, rtol=0)


def test_localized_enkf_is_the_tapered_gain():
    """The explicit gain of the tapered sample covariance, with distances round the circle."""
    forecast, y, model, problem = lorenz_case()
    taper = GaspariCohn(1.5)
    sites = torch.arange(12.0)
    gap = (sites[:, None] - sites).abs()
    rho = taper(torch.minimum(gap, 12 - gap))
    H = torch.eye(12)[::2]
    P = rho * forecast.T.cov()
    gain = P @ H.T @ torch.linalg.inv(H @ P @ H.T + 0.64 * torch.eye(6))
    noise = 0.8 * rng.normal(9, (6,), rng.seeded(0))
    expected = forecast + (y + noise - noise.mean(0) - forecast @ H.T) @ gain.T
    analysis = EnKF(1.0, taper).begin(problem).update(forecast, y, model, rng.seeded(0))
    torch.testing.assert_close(analysis, expected, atol=1e-10, rtol=0)


def test_localization_needs_begin():
    forecast, y, model, _ = lorenz_case()
    with pytest.raises(ValueError, match="begin"):
        EnKF(localization=GaspariCohn(1.0)).update(forecast, y, model)


def test_statistics_of_the_innovation_are_about_one_where_spread_and_error_are_right():
    """y drawn from the forecast's own distribution plus R: chi2 has mean 1 over many draws."""
    members, draws = 400, 2000
    forecast = rng.normal(members, (draws,), rng.seeded(0))
    truth = rng.normal(1, (draws,), rng.seeded(1))
    model = ObservationModel(Select(range(draws)), std=0.7)
    y = model.sample(truth, rng.seeded(2))[0]
    _, white = perturbed_transform(forecast, y, model, rng.seeded(3))
    innovation, chi2 = innovation_statistics(*(one[None] for one in white))
    # The mean of 2000 squares has a standard error of (2 / 2000)^(1/2) = 0.03.
    assert abs(chi2 - 1) < 0.15
    assert abs(innovation**2 - (1 + 1 / 0.49)) < 0.5
