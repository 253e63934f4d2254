"""Exactness against the joint Gaussian of the whole trajectory, which shares no code."""

import math

import pytest
import torch
from scipy import stats

from scorda.core import rng
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.problem import Problem
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

D, STEPS = 3, 7
NAN = float("nan")


def linear(noise=1.0):
    A, Q, P = (rng.normal(D, (D,), rng.seeded(i)) for i in range(3))
    A = 0.9 * A / torch.linalg.matrix_norm(A, 2)
    return LinearGaussian(A, noise * Q @ Q.T, torch.tensor([1.0, -1.0, 2.0]), P @ P.T)


def problem(system=None):
    """Two instruments, irregular steps, gaps, a full covariance, an all-NaN row."""
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]])
    correlated = ObservationModel(Linear(matrix), cov=torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
    values = torch.tensor([[0.4, 1.0], [NAN, -0.7], [1.5, NAN], [NAN, NAN]])
    first = Observations(correlated, (0, 1, 4, 5), values)
    second = Observations(
        ObservationModel(Select([0]), std=0.4), (4, 7), torch.tensor([[0.3], [-0.2]])
    )
    return Problem(system or linear(), [first, second], STEPS)


def joint(problem, until=STEPS):
    """Posterior of the flattened trajectory from its block-tridiagonal precision.

    Returns mean, covariance, and the matrix, values and covariance of all observations used.
    """
    system = problem.system
    size = D * (STEPS + 1)
    innovation = torch.eye(size)
    for k in range(1, STEPS + 1):
        innovation[k * D : (k + 1) * D, (k - 1) * D : k * D] = -system.transition
    inverse_cov = torch.block_diag(
        torch.linalg.inv(system.cov), *[torch.linalg.inv(system.noise_cov)] * STEPS
    )
    precision = innovation.T @ inverse_cov @ innovation
    start = torch.cat([system.mean, torch.zeros(D * STEPS)])
    shift = innovation.T @ inverse_cov @ start
    matrix, values, cov = torch.zeros(0, size), torch.zeros(0), torch.zeros(0, 0)
    # By hand, so that the bookkeeping of NaN and of several instruments is checked too.
    a, b = problem.observations
    for k, row in zip(a.steps, a.values, strict=True):
        for j in range(2):
            if not row[j].isnan() and k <= until:
                line = torch.zeros(1, size)
                line[0, k * D : (k + 1) * D] = a.model.operator.matrix[j]
                matrix, values = torch.cat([matrix, line]), torch.cat([values, row[j : j + 1]])
                cov = torch.block_diag(cov, a.model.cov[j, j])
    if until >= 0:  # The only complete row is that of step 0: correlated errors.
        cov[0, 1] = cov[1, 0] = a.model.cov[0, 1]
    for k, row in zip(b.steps, b.values, strict=True):
        if k <= until:
            line = torch.zeros(1, size)
            line[0, k * D] = 1
            matrix, values = torch.cat([matrix, line]), torch.cat([values, row])
            cov = torch.block_diag(cov, torch.tensor(0.16))
    prior_mean, prior_cov = torch.linalg.solve(precision, shift), torch.linalg.inv(precision)
    precision = precision + matrix.T @ torch.linalg.inv(cov) @ matrix
    shift = shift + matrix.T @ torch.linalg.inv(cov) @ values
    posterior = torch.linalg.inv(precision)
    evidence = stats.multivariate_normal(
        (matrix @ prior_mean).numpy(), (matrix @ prior_cov @ matrix.T + cov).numpy()
    ).logpdf(values.numpy())
    return posterior @ shift, posterior, evidence


def test_smoother_is_the_joint_posterior():
    """Tolerance 1e-8: two inversions of matrices with condition numbers up to 1e4."""
    exact_mean, exact_cov, evidence = joint(problem())
    moments = KalmanSmoother().moments(problem())
    blocks = exact_cov.reshape(STEPS + 1, D, STEPS + 1, D)
    assert torch.allclose(moments.means.flatten(), exact_mean, atol=1e-8)
    for k in range(STEPS + 1):
        assert torch.allclose(moments.covs[k], blocks[k, :, k], atol=1e-8)
    for k in range(STEPS):
        assert torch.allclose(moments.lag_one[k], blocks[k + 1, :, k], atol=1e-8)
    assert math.isclose(float(moments.log_evidence.sum()), evidence, rel_tol=1e-10)


def test_filter_is_the_joint_posterior_of_the_past():
    moments = KalmanFilter().moments(problem())
    for k in range(STEPS + 1):
        mean, cov, _ = joint(problem(), until=k)
        part = slice(k * D, (k + 1) * D)
        assert torch.allclose(moments.means[k], mean[part], atol=1e-8)
        assert torch.allclose(moments.covs[k], cov[part, part], atol=1e-8)
    assert len(moments.log_evidence) == 4


def test_deterministic_system_is_smoothed_exactly():
    """Without model error every state is a linear map of the first, here conditioned directly."""
    system = linear(noise=0.0)
    model = ObservationModel(Select([0]), std=0.5)
    observations = Observations(model, (2, 5), torch.tensor([[0.3], [0.1]]))
    moments = KalmanSmoother().moments(Problem(system, observations, 5))
    powers = [torch.linalg.matrix_power(system.transition, k) for k in range(6)]
    H = torch.stack([powers[2][0], powers[5][0]])
    gain = system.cov @ H.T @ torch.linalg.inv(H @ system.cov @ H.T + 0.25 * torch.eye(2))
    mean = system.mean + gain @ (observations.values[:, 0] - H @ system.mean)
    cov = system.cov - gain @ H @ system.cov
    for k, power in enumerate(powers):
        assert torch.allclose(moments.means[k], power @ mean, atol=1e-8)
        assert torch.allclose(moments.covs[k], power @ cov @ power.T, atol=1e-8)


@pytest.mark.parametrize("method", [KalmanFilter(), KalmanSmoother()])
def test_draws_follow_the_moments(method):
    """20 000 draws, 5 standard errors of mean, variance and lag-one covariance."""
    n, moments = 20_000, method.moments(problem())
    analysis = method.assimilate(problem(), n, rng.seeded(0))
    states = analysis.states
    variance = moments.covs.diagonal(dim1=-2, dim2=-1)
    assert states.shape == (n, STEPS + 1, D)
    assert ((analysis.mean - moments.means).abs() < 5 * (variance / n).sqrt()).all()
    assert ((states.var(0) - variance).abs() < 5 * variance * (2 / n) ** 0.5).all()
    if moments.lag_one is not None:
        centred = states - moments.means
        lagged = torch.einsum("eti,etj->tij", centred[:, 1:], centred[:, :-1]) / n
        product = variance[1:, :, None] * variance[:-1, None, :]
        standard_error = ((product + moments.lag_one.square()) / n).sqrt()
        assert ((lagged - moments.lag_one).abs() < 5 * standard_error).all()


def test_no_observation_is_the_prior():
    system = linear()
    model = ObservationModel(Select([0]), std=1.0)
    empty = Problem(system, Observations(model, (2,), torch.tensor([[NAN]])), 3)
    mean, cov = system.trajectory_moments(3)
    moments = KalmanSmoother().moments(empty)
    assert torch.allclose(moments.means.flatten(), mean, atol=1e-12)
    assert torch.allclose(moments.covs[3], cov[-D:, -D:], atol=1e-12)
    assert len(moments.log_evidence) == 0


@pytest.mark.parametrize("method", [KalmanFilter(), KalmanSmoother()])
def test_what_is_not_linear_is_refused_before_the_run(method):
    name = type(method).__name__
    model = ObservationModel(Select([0]), std=1.0)
    observations = Observations(model, (1,), torch.zeros(1, 1))
    with pytest.raises(ValueError, match=f"{name} needs a LinearGaussian system"):
        method.assimilate(Problem(Lorenz63(), observations, 2), 3)
    square = Observations(ObservationModel(Function(torch.square), 1.0), (1,), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=f"{name} needs a linear observation operator"):
        method.moments(Problem(linear(), square, 2))
    with pytest.raises(ValueError, match="leave `initial` out"):
        method.moments(Problem(linear(), observations, 2, torch.zeros(4, D)))
