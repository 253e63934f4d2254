r"""The Kalman filter and the Rauch-Tung-Striebel smoother: exact posteriors of linear systems.

For :math:`x_{k+1} = A x_k + N(0, Q)`, :math:`x_0 \sim N(m, P)` and linear observations with
Gaussian error every posterior is Gaussian. Subscript k|j: step k given the observations up to j.
All moments are computed in double precision, with covariance updates that stay positive
semidefinite (Joseph's form), at any spacing of the observations and with missing values.

Sources: Kalman (1960), J. Basic Eng. 82, 35; Rauch, Tung & Striebel (1965), AIAA J. 3, 1445,
equations 3.29-3.32; the lag-one covariance :math:`P_{k+1|n} J_k^T` follows from their recursion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.assimilation.base import Assimilator, Cost, check_needs
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.gaussian import gaussian_condition, sampling_root, standard_deviations
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.observations.problem import Problem
from scorda.systems.linear import LinearGaussian

__all__ = ["KalmanFilter", "KalmanMoments", "KalmanSmoother"]


@dataclass(frozen=True, eq=False)
class KalmanMoments:
    r"""Exact moments of the posterior at steps 0 to n, in double precision.

    Arguments:
        means: Posterior means, ``(time, state)``.
        covs: Posterior covariances, ``(time, state, state)``.
        lag_one: :math:`\mathrm{Cov}(x_{k+1}, x_k)` of the joint posterior, ``(time - 1, state,
            state)``; None for the filter, whose posteriors at two steps have no joint law.
        log_evidence: Log density of each observed step given those before, ``(cycle,)``; their
            sum is the log evidence of all observations.
    """

    means: Float[Tensor, "time state"]
    covs: Float[Tensor, "time state state"]
    lag_one: Float[Tensor, "lags state state"] | None
    log_evidence: Float[Tensor, "cycle"]


@dataclass(frozen=True)
class KalmanFilter(Assimilator):
    r"""Exact filter of a linear-Gaussian system, :math:`p(x_k \mid y_{0:k})`.

    .. math:: m_{k+1|k} = A m_{k|k}, \quad P_{k+1|k} = A P_{k|k} A^T + Q

    and at observed steps the conditioning of ``core.gaussian.gaussian_condition``. `assimilate`
    draws from the exact marginals, independently at each step.

    Raises:
        ValueError: Before the run, if the system or an operator is not linear.

    Example:
        A damped rotation of two variables, of which one is observed:

        >>> turn, noise = [[0.9, -0.3], [0.3, 0.9]], [[0.1, 0], [0, 0.1]]
        >>> system = sc.systems.LinearGaussian(turn, noise, mean=[1, 0], cov=[[1, 0], [0, 1]])
        >>> seen = sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> truth, problem = sc.twin_experiment(system, seen, steps=20, every=1, generator=0)
        >>> sc.KalmanFilter().assimilate(problem, members=50, generator=0).states.shape
        torch.Size([50, 21, 2])
    """

    needs = ("linear_system", "linear_operator")
    exact = "linear-Gaussian"
    cost = Cost(0, note="d × d matrices, whatever N")

    def memory(self, problem: Problem, members: int) -> int:
        return super().memory(problem, members) + _covariances(problem, 3)

    def moments(self, problem: Problem) -> KalmanMoments:
        """Exact moments of the filter at every step."""
        return _forward(self, problem)[0]

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Draw from the filter's exact marginals, ``(members, steps + 1, state)``."""
        moments = self.moments(problem)
        noise = rng.normal(members, tuple(moments.means.shape), generator, like=moments.means)
        states = moments.means + torch.einsum("ets,tsr->etr", noise, sampling_root(moments.covs))
        return _analysis(self, problem, states, moments)


@dataclass(frozen=True)
class KalmanSmoother(Assimilator):
    r"""Exact smoother of a linear-Gaussian system, :math:`p(x_{0:n} \mid y_{0:n})`.

    .. math:: J_k = P_{k|k} A^T P_{k+1|k}^{-1}, \quad
        m_{k|n} = m_{k|k} + J_k (m_{k+1|n} - m_{k+1|k}), \quad
        P_{k|n} = C_k + J_k P_{k+1|n} J_k^T

    with :math:`C_k = (I - J_k A) P_{k|k} (I - J_k A)^T + J_k Q J_k^T`, the covariance of
    :math:`x_k` given :math:`x_{k+1}` and the observations up to k. `assimilate` draws whole
    trajectories of the joint posterior, backwards: :math:`x_k \sim N(m_{k|k} + J_k (x_{k+1} -
    m_{k+1|k}), C_k)`.

    Raises:
        ValueError: Before the run, if the system or an operator is not linear.

    Example:
        A damped rotation of two variables, of which one is observed:

        >>> turn, noise = [[0.9, -0.3], [0.3, 0.9]], [[0.1, 0], [0, 0.1]]
        >>> system = sc.systems.LinearGaussian(turn, noise, mean=[1, 0], cov=[[1, 0], [0, 1]])
        >>> seen = sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> truth, problem = sc.twin_experiment(system, seen, steps=20, every=1, generator=0)
        >>> sc.KalmanSmoother().assimilate(problem, members=50, generator=0).states.shape
        torch.Size([50, 21, 2])
    """

    smoother = True
    needs = ("linear_system", "linear_operator")
    exact = "linear-Gaussian"
    cost = Cost(0, note="d × d matrices, whatever N")

    def memory(self, problem: Problem, members: int) -> int:
        # Gains, what is left of the covariances, and the pseudo-inverses are of all steps at once.
        return super().memory(problem, members) + _covariances(problem, 8)

    def moments(self, problem: Problem) -> KalmanMoments:
        """Exact moments of the smoother at every step, with lag-one covariances."""
        filtered, forecasts = _forward(self, problem)
        gains, rests = _backward(problem.system, filtered)
        means, covs, lagged = [filtered.means[-1]], [filtered.covs[-1]], []
        for k in reversed(range(problem.steps)):
            lagged.append(covs[-1] @ gains[k].mT)
            means.append(filtered.means[k] + gains[k] @ (means[-1] - forecasts[k + 1]))
            covs.append(rests[k] + gains[k] @ covs[-1] @ gains[k].mT)
        return KalmanMoments(
            torch.stack(means[::-1]),
            torch.stack(covs[::-1]),
            torch.stack(lagged[::-1]) if lagged else filtered.covs[:0],
            filtered.log_evidence,
        )

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Draw trajectories of the exact joint posterior, ``(members, steps + 1, state)``."""
        filtered, forecasts = _forward(self, problem)
        gains, rests = _backward(problem.system, filtered)
        noise = rng.normal(members, tuple(filtered.means.shape), generator, like=forecasts)
        roots = sampling_root(torch.cat([rests, filtered.covs[-1:]]))
        states = [filtered.means[-1] + noise[:, -1] @ roots[-1]]
        for k in reversed(range(problem.steps)):
            mean = filtered.means[k] + (states[-1] - forecasts[k + 1]) @ gains[k].mT
            states.append(mean + noise[:, k] @ roots[k])
        return _analysis(self, problem, torch.stack(states[::-1], 1), filtered)


def _forward(
    method: Assimilator, problem: Problem
) -> tuple[KalmanMoments, Float[Tensor, "time state"]]:
    """Moments of the filter and means of the forecasts."""
    _check(method, problem)
    observed, system = problem.observed(), problem.system
    A, Q = system.transition.double(), system.noise_cov.double()
    mean, cov = system.mean.double(), system.cov.double()
    forecasts, means, covs, evidence = [], [], [], []
    for k in range(problem.steps + 1):
        if k:
            mean, cov = A @ mean, A @ cov @ A.mT + Q
        forecasts.append(mean)
        if k in observed:
            y, model = observed[k]
            y = y.to(mean)
            matrix = model.operator(torch.eye(len(mean), dtype=mean.dtype, device=mean.device)).mT
            noise_cov = model.error_cov(tuple(y.shape), y)
            mean, cov, log_density = gaussian_condition(mean, cov, matrix, y, noise_cov)
            evidence.append(log_density)
        means.append(mean)
        covs.append(cov)
    log_evidence = torch.stack(evidence) if evidence else mean.new_zeros(0)
    moments = KalmanMoments(torch.stack(means), torch.stack(covs), None, log_evidence)
    return moments, torch.stack(forecasts)


def _backward(
    system: LinearGaussian, filtered: KalmanMoments
) -> tuple[Float[Tensor, "lags state state"], Float[Tensor, "lags state state"]]:
    """Gains J and covariances C of all steps but the last."""
    A, Q = system.transition.double(), system.noise_cov.double()
    cov = filtered.covs[:-1]
    forecast = A @ cov @ A.mT + Q
    # A pseudo-inverse, because a deterministic system can make the forecast singular; of its
    # correlations, so that a variable of small numbers is none of the directions left out.
    unit = standard_deviations(forecast)
    inverse = torch.linalg.pinv(forecast / unit[..., None] / unit[..., None, :], hermitian=True)
    J = cov @ A.mT @ (inverse / unit[..., None] / unit[..., None, :])
    rest = torch.eye(len(A), dtype=A.dtype, device=A.device) - J @ A
    return J, rest @ cov @ rest.mT + J @ Q @ J.mT


def _analysis(
    method: Assimilator, problem: Problem, states: Tensor, moments: KalmanMoments
) -> Analysis:
    name = type(method).__name__
    info = {"log_evidence": moments.log_evidence}
    states = states.to(problem.system.mean)
    return Analysis(states, problem.space, None, info, name, start=problem.start)


def _covariances(problem: Problem, each: int) -> int:
    """Return the bytes of so many matrices of each step, and of what they are made of."""
    return 8 * problem.space.size**2 * (each * (problem.steps + 1) + 5)


def _check(method: Assimilator, problem: Problem) -> None:
    check_needs(method, problem)
    check_memory(method, problem, 1)
    if problem.initial is not None:
        raise ValueError(
            f"{type(method).__name__} starts from the Gaussian of the system, not from an "
            "ensemble: leave `initial` out."
        )
