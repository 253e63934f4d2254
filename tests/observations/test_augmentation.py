"""State augmentation: what is linear in (x, h(x)) against direct formulas."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import BridgeODE
from scorda.methods.masf.bridge import MASF
from scorda.observations.augmentation import AugmentedSpace, augment
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import Problem
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.systems.lorenz import Lorenz96


def ensemble(members=30, size=3, seed=0):
    mix = torch.randn(size, size, generator=rng.seeded(9), dtype=torch.float64)
    return rng.normal(members, (size,), rng.seeded(seed), like=mix) @ mix


def radial(x):
    """Two values of three components."""
    return torch.stack((x[:, 0].square() + x[:, 1], (x[:, 1] * x[:, 2]).sin()), 1)


def regression(x, h, y, cov):
    """Mean and covariance of x after a linear update with the sample covariances of the pairs."""
    A, B = x - x.mean(0), h - h.mean(0)
    n = len(x) - 1
    gain = (A.T @ B / n) @ torch.linalg.inv(B.T @ B / n + cov)
    return x.mean(0) + gain @ (y - h.mean(0)), (A.T @ A - gain @ (B.T @ A)) / n


@pytest.mark.slow
@pytest.mark.parametrize("black_box", [True, False])
@pytest.mark.parametrize("units", [1.0, 1e4])
def test_bridge_with_a_gaussian_is_the_statistical_linearisation(black_box, units):
    x, y = ensemble(), units * torch.tensor([0.5, -0.3])
    cov = units**2 * torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    operator = Function(lambda v: units * radial(torch.as_tensor(v)), differentiable=not black_box)
    analysis = MASF(sampler=BridgeODE(noise_levels=30)).update(
        x, y, ObservationModel(operator, cov=cov)
    )
    mean, covariance = regression(x, units * radial(x), y, cov.double())
    # What 30 steps of the Runge-Kutta method leave.
    assert_close(analysis.mean(0), mean, rtol=0, atol=2e-3)
    assert_close(analysis.T.cov(), covariance, rtol=0, atol=5e-3)


@pytest.mark.slow
def test_a_linear_function_is_the_linear_operator():
    x, y = ensemble(), torch.tensor([0.5])
    matrix = torch.tensor([[1.0, -0.5, 2.0]])
    direct, box = (
        MASF(sampler=BridgeODE(noise_levels=30)).update(x, y, ObservationModel(operator, std=0.7))
        for operator in (Linear(matrix), Function(lambda v: v @ matrix.to(v).T))
    )
    # The two have the same mean and covariance, and agree on the members to the steps' error.
    assert_close(direct.mean(0), box.mean(0), rtol=0, atol=2e-3)
    assert_close(direct.T.cov(), box.T.cov(), rtol=0, atol=5e-3)


def test_values_without_spread_are_left_out_and_their_errors_are_not():
    x, y = ensemble(), torch.tensor([0.4, 1.5])
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    operator = Function(lambda v: torch.stack((v[:, 0], torch.ones_like(v[:, 0])), 1))
    joint = augment(x, y.double(), ObservationModel(operator, cov=cov))
    assert joint.ensemble.shape == (30, 4) and joint.used.tolist() == [0]
    unit = x[:, 0].std() / x.var(0).mean().sqrt()
    # The error of the second value is known: 1.5 - 1.
    assert_close(joint.y * unit, torch.tensor([0.4 - 0.3 / 0.4 * 0.5]).double())
    assert_close(joint.model.cov * unit**2, torch.tensor([[0.5 - 0.09 / 0.4]]).double())
    blind = ObservationModel(Function(lambda v: torch.ones_like(v[:, :2])), std=1.0)
    assert augment(x, y.double(), blind) is None
    assert torch.equal(MASF().update(x, y, blind), x)


def test_states_come_back_in_their_shape():
    x = ensemble(5, 6).view(5, 2, 3)
    joint = augment(x, torch.zeros(6).double(), ObservationModel(Pointwise(torch.sin), std=1.0))
    assert torch.equal(joint.states(joint.ensemble), x)
    spread = joint.ensemble[:, 6:].var(0)
    assert_close(spread, x.flatten(1).var(0).mean().expand(6))


def test_localization_tapers_the_pairs():
    system = Lorenz96(dim=6)
    x, y = ensemble(4, 6), torch.tensor([0.5, -1.0], dtype=torch.float64)
    places = Select([1, 4])
    operator = Function(lambda v: v[:, [1, 4]].sin(), positions=places.coordinates(system.space))
    model, taper = ObservationModel(operator, std=0.5), GaspariCohn(1.0)
    problem = Problem(system, Observations(model, [1], y[None]), steps=1, initial=x)
    method = MASF(Gaussian(taper), sampler=BridgeODE(noise_levels=40)).begin(problem)
    analysis, _ = method.analyse(x, y, model, rng.seeded(0))
    h = x[:, [1, 4]].sin()
    joint = torch.cat((x, h), 1)
    joint = joint - joint.mean(0)
    points = torch.cat((system.space.positions(), places.coordinates(system.space)))
    weights = taper(system.space.distance(points, points)).double()
    P = weights * (joint.T @ joint) / 3
    values, vectors = torch.linalg.eigh(P)
    P = vectors * values.clamp_min(0) @ vectors.T
    gain = P[:6, 6:] @ torch.linalg.inv(P[6:, 6:] + 0.25 * torch.eye(2))
    assert_close(analysis.mean(0), x.mean(0) + gain @ (y - h.mean(0)), rtol=0, atol=5e-3)
    space = AugmentedSpace(system.space, operator, torch.tensor([0, 1]))
    assert space.size == 8 and space.axes == system.space.axes


@pytest.mark.slow
def test_bridge_finds_both_modes_of_a_squared_observation():
    """Kernel density on the pairs against its own posterior, member by member."""
    x = rng.normal(2000, (1,), rng.seeded(1), like=torch.zeros(1, dtype=torch.float64)) + 0.3
    model = ObservationModel(Function(torch.square), std=0.3)
    y = torch.tensor([1.0], dtype=torch.float64)
    prior = Kernel(0.1)
    analysis = MASF(prior, sampler=BridgeODE(coupled=False)).update(x, y, model, rng.seeded(2))
    h = x.square()
    # The kernel is as wide for h, in units of its spread.
    var = 0.3**2 + (0.1 * h.std() / x.std()) ** 2
    weights = (-0.5 * (y - h).square() / var).softmax(0)
    right = float((weights * (x > 0)).sum())
    share = float((analysis > 0).double().mean())
    # 4 standard errors of 2000 draws.
    assert abs(share - right) < 4 * (right * (1 - right) / 2000) ** 0.5
    mean = float((weights * x.abs()).sum())
    assert abs(float(analysis.abs().mean()) - mean) < 0.02


def test_only_values_that_vary_are_left():
    """Any of them, in their order: each with its own unit, error and position."""
    space = StateSpace((2, 3), variables=("u", "v"))
    x = ensemble(30, 6).view(30, 2, 3)

    def h(s):
        still = torch.full_like(s[:, 0, 0], 0.2)
        return torch.stack((still, s[:, 0, 1], 2 * still, 5 * s[:, 1, 2].square()), 1)

    operator = Function(h, positions=torch.tensor([[0.0], [1.0], [0.0], [2.0]]))
    y = torch.tensor([0.5, 1.0, -0.3, 2.0], dtype=torch.float64)
    root = torch.eye(4).double() + 0.3 * ensemble(4, 4, seed=2)
    cov, std = root @ root.T, torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    correlated, independent = (
        augment(x, y, ObservationModel(operator, **errors))
        for errors in ({"cov": cov}, {"std": std})
    )
    unit = h(x)[:, [1, 3]].std(0) / x.flatten(1).var(0).mean().sqrt()
    for joint in (correlated, independent):
        assert joint.used.tolist() == [1, 3]
        assert_close(joint.ensemble[:, 6:] * unit, h(x)[:, [1, 3]])
    assert_close(independent.y * unit, y[[1, 3]])
    assert_close(independent.model.error_std((2,), y) * unit, std[[1, 3]])
    # The law of two errors, given the two that are known.
    known = torch.tensor([0, 2])
    precision = torch.linalg.inv(cov)[[1, 3]]
    conditional = torch.linalg.inv(precision[:, [1, 3]])
    expected = -conditional @ precision[:, known] @ (y[known] - h(x)[0, known])
    assert_close(correlated.y * unit, y[[1, 3]] - expected)
    assert_close(correlated.model.cov * unit[:, None] * unit, conditional)
    places = AugmentedSpace(space, operator, independent.used).positions()
    assert places[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 1, 2]
