import math

import numpy as np
import pytest
import torch
from scipy import stats

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition, gaussian_log_density, psd_root
from scorda.systems.linear import LinearGaussian


def linear(dim=3, noise=True, seed=0):
    """A stable random system."""
    A, Q, P = (rng.normal(dim, (dim,), rng.seeded(seed + i)) for i in range(3))
    A = 0.9 * A / torch.linalg.matrix_norm(A, 2)
    return LinearGaussian(A, Q @ Q.T * float(noise), torch.arange(1.0, dim + 1), P @ P.T)


def test_trajectory_moments_are_the_inverse_of_the_joint_precision():
    """The precision of a Markov chain is block-tridiagonal: shares no code with the recursion."""
    system, steps, d = linear(), 5, 3
    mean, cov = system.trajectory_moments(steps)
    # Row k maps the trajectory to its k-th innovation, x_k - A x_{k-1}.
    D = torch.eye(d * (steps + 1))
    for k in range(1, steps + 1):
        D[k * d : (k + 1) * d, (k - 1) * d : k * d] = -system.transition
    innovations = torch.block_diag(system.cov, *[system.noise_cov] * steps)
    precision = D.T @ torch.linalg.inv(innovations) @ D
    assert torch.allclose(precision @ cov, torch.eye(len(cov)), atol=1e-8)
    first = torch.cat([system.mean, torch.zeros(d * steps)])
    assert torch.allclose(mean, torch.linalg.solve(D, first), atol=1e-12)


def test_draws_follow_trajectory_moments():
    """20 000 trajectories: 5 standard errors, Var(sample cov) = (C_ii C_jj + C_ij^2) / n."""
    system, n = linear(2), 20_000
    start, error = rng.spawn(rng.seeded(1), 2)
    draws = system.trajectory(system.prior(n, start), 3, error).flatten(1)
    mean, cov = system.trajectory_moments(3)
    assert ((draws.mean(0) - mean).abs() < 5 * (cov.diagonal() / n).sqrt()).all()
    variances = cov.diagonal()
    standard_error = ((variances[:, None] * variances + cov.square()) / n).sqrt()
    assert ((draws.T.cov() - cov).abs() < 5 * standard_error).all()


def test_log_transition_is_the_normal_density():
    system = linear()
    x = system.prior(4, rng.seeded(0))
    x_next = system.step(x, rng.seeded(1))
    got = system.log_transition(x, x_next)
    for i in range(4):
        law = stats.multivariate_normal(
            (system.transition @ x[i]).numpy(), system.noise_cov.numpy()
        )
        assert math.isclose(float(got[i]), law.logpdf(x_next[i].numpy()), rel_tol=1e-9)
    assert torch.allclose(system.log_transition(x[0], x_next[0]), got[0])


def test_singular_model_error_steps_but_has_no_density():
    system = LinearGaussian(
        torch.eye(2), torch.diag(torch.tensor([1.0, 0.0])), torch.zeros(2), torch.zeros(2, 2)
    )
    x = system.trajectory(system.prior(3, rng.seeded(0)), 4, rng.seeded(1))
    assert (x[:, -1, 0] != 0).all() and (x[..., 1] == 0).all()
    with pytest.raises(TypeError, match="no transition density"):
        system.log_transition(x[:, 0], x[:, 1])


def test_deterministic_system_draws_nothing():
    system, generator = linear(noise=False), rng.seeded(0)
    before = generator.get_state()
    x = torch.ones(3)
    assert not system.stochastic
    assert torch.equal(system.step(x, generator), system.transition @ x)
    assert torch.equal(generator.get_state(), before)


def test_members_do_not_depend_on_the_ensemble_size():
    system = linear()
    few, many = (system.step(system.prior(n, rng.seeded(0)), rng.seeded(1)) for n in (10, 100))
    assert torch.allclose(few, many[:10], atol=1e-12)


def test_bad_matrices_are_refused(unchecked):
    eye, zero = torch.eye(2), torch.zeros(2)
    with pytest.raises(ValueError, match="transition"):
        LinearGaussian(torch.eye(3), eye, zero, eye)
    with pytest.raises(ValueError, match="not symmetric"):
        LinearGaussian(eye, torch.tensor([[1.0, 1.0], [0.0, 1.0]]), zero, eye)
    with pytest.raises(ValueError, match="positive semidefinite"):
        LinearGaussian(eye, -eye, zero, eye)


def test_psd_root_squares_to_singular_matrices():
    factor = rng.normal(4, (2,), rng.seeded(0))
    cov = factor @ factor.T
    root = psd_root(torch.stack([cov, torch.zeros(4, 4)]))
    assert torch.allclose(root[0] @ root[0], cov, atol=1e-12)
    assert torch.equal(root, root.mT) or torch.allclose(root, root.mT, atol=1e-14)


def test_gaussian_condition_agrees_with_the_joint_gaussian():
    """Condition the joint law of (x, y) by block inversion."""
    P, R, H = (rng.normal(n, (m,), rng.seeded(n)) for n, m in ((3, 3), (2, 2), (2, 3)))
    P, R = P @ P.T, R @ R.T
    m, y = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -1.0])
    mean, cov, evidence = gaussian_condition(m, P, H, y, R)
    precision = torch.linalg.inv(P) + H.T @ torch.linalg.inv(R) @ H
    exact = torch.linalg.inv(precision)
    assert torch.allclose(cov, exact, atol=1e-10)
    shift = torch.linalg.inv(P) @ m + H.T @ torch.linalg.inv(R) @ y
    assert torch.allclose(mean, exact @ shift, atol=1e-10)
    law = stats.multivariate_normal((H @ m).numpy(), (H @ P @ H.T + R).numpy())
    assert math.isclose(float(evidence), law.logpdf(y.numpy()), rel_tol=1e-10)
    batch = torch.stack([y, 2 * y])
    density = gaussian_log_density(batch, H @ m, H @ P @ H.T + R)
    assert np.allclose(density, law.logpdf(batch.numpy()), rtol=1e-10)


def test_matrices_of_different_precision_become_the_wider_one():
    system = LinearGaussian(torch.eye(2).float(), torch.eye(2), [0, 0], torch.eye(2).int())
    wide = LinearGaussian(torch.eye(2), torch.eye(2), torch.zeros(2), torch.eye(2))
    assert torch.equal(
        system.trajectory(system.prior(3, 1), 2, 2), wide.trajectory(wide.prior(3, 1), 2, 2)
    )
