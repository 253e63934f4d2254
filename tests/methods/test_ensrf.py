"""EnSRF: the Kalman moments in any order, the ETKF, and a slow serial analysis with a taper."""

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF
from scorda.methods.ensrf import EnSRF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem


def case(obs, full=False):
    """Twelve members of five variables, of which `obs` mixtures are observed; R is given."""
    noise = iter(rng.spawn(rng.seeded(0), 5))
    forecast = rng.normal(12, (5,), next(noise)) @ rng.normal(5, (5,), next(noise))
    matrix, y = rng.normal(obs, (5,), next(noise)), rng.normal(1, (obs,), next(noise))[0]
    root = rng.normal(obs, (obs,), next(noise))
    R = torch.eye(obs) + root @ root.T if full else torch.linspace(0.3, 0.9, obs).diag()
    model = ObservationModel(Linear(matrix), **({"cov": R} if full else {"std": R.diag().sqrt()}))
    return forecast, y, matrix, model, R


@pytest.mark.parametrize("full", [False, True], ids=["independent", "correlated"])
@pytest.mark.parametrize("obs", [1, 3, 12, 31])
def test_moments_are_those_of_the_kalman_update_in_any_order(obs, full):
    """Fewer observations than members, as many, and several blocks of more; rounding only."""
    forecast, y, matrix, model, R = case(obs, full)
    mean, cov, _ = gaussian_condition(forecast.mean(0), forecast.T.cov(), matrix, y, R)
    for order in (torch.arange(obs), torch.randperm(obs, generator=rng.seeded(1))):
        error = {"cov": R[order][:, order]} if full else {"std": R.diag().sqrt()[order]}
        ordered = ObservationModel(Linear(matrix[order]), **error)
        analysis = EnSRF().update(forecast, y[order], ordered)
        torch.testing.assert_close(analysis.mean(0), mean, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(analysis.T.cov(), cov, atol=1e-12, rtol=1e-12)
    other = ETKF().update(forecast, y, model)
    torch.testing.assert_close(analysis.mean(0), other.mean(0), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(analysis.T.cov(), other.T.cov(), atol=1e-12, rtol=1e-12)


def test_one_observation_has_the_members_of_the_etkf():
    """The symmetric root moves anomalies along the gain too, so that members agree, not only
    moments."""
    forecast, y, _, model, _ = case(1)
    expected = ETKF().update(forecast, y, model)
    torch.testing.assert_close(EnSRF().update(forecast, y, model), expected, atol=1e-12, rtol=0)


def test_inflation_and_rotation_keep_the_mean():
    forecast, y, _, model, _ = case(3)
    plain = EnSRF().update(forecast, y, model)
    turned = EnSRF(1.3, rotation=True).update(forecast, y, model, rng.seeded(0))
    torch.testing.assert_close(turned.mean(0), plain.mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(turned.T.cov(), 1.69 * plain.T.cov(), atol=1e-12, rtol=1e-12)
    assert (turned - plain).abs().max() > 0.1


def plane(obs=25, members=6):
    """Two variables on a plane, periodic along x, observed at random components."""
    coordinates = {"y": 1.5 * np.arange(7.0), "x": np.arange(6.0)}
    space = StateSpace((2, 7, 6), 1.0, ("u", "v"), coordinates, {"x": 6.0})
    forecast = rng.normal(members, space.shape, rng.seeded(3))
    chosen = torch.randperm(space.size, generator=rng.seeded(0))[:obs].tolist()
    model = ObservationModel(Select(chosen), std=torch.linspace(0.5, 1.0, obs))
    y = model.sample(rng.normal(1, space.shape, rng.seeded(1)), rng.seeded(2))
    system = FunctionSystem(lambda x: x, forecast.numpy(), space, library="torch")
    return forecast, y[0], model, Problem(system, Observations(model, [0], y), 0)


def slow(forecast, y, model, space, radius):
    """Return the joint ensemble of state and predicted values, moved by each observation."""
    taper, where = GaspariCohn(radius), model.operator.coordinates(space)
    x = forecast.flatten(1)
    both = torch.cat((x, model.operator(forecast)), 1)
    positions = torch.cat((space.positions().repeat(2, 1), where))
    for j, std in enumerate(model.std):
        z = both[:, x.shape[1] + j]
        v, r = z.var(), std**2
        K = (both - both.mean(0)).T @ (z - z.mean()) / (len(z) - 1) / (v + r)
        K = K * taper(space.distance(positions, where[j : j + 1]))[:, 0]
        alpha = 1 / (1 + (r / (v + r)).sqrt())
        both = both + torch.outer(y[j] - z.mean() - alpha * (z - z.mean()), K)
    return both[:, : x.shape[1]].reshape(forecast.shape)


@pytest.mark.parametrize("radius", [0.4, 0.9])
def test_localized_analysis_is_the_serial_one_of_state_and_observations(radius):
    """Also where points have no observation in reach: they keep their bits."""
    forecast, y, model, problem = plane()
    filter_ = EnSRF(localization=GaspariCohn(radius))
    analysis = filter_.begin(problem).update(forecast, y, model)
    expected = slow(forecast, y, model, problem.space, radius)
    torch.testing.assert_close(analysis, expected, atol=1e-12, rtol=0)
    assert 0.4 != radius or (analysis == forecast).all(0).any()


def test_an_infinite_radius_is_no_localization():
    forecast, y, model, problem = plane()
    wide = EnSRF(localization=GaspariCohn(float("inf"))).begin(problem)
    assert torch.equal(wide.update(forecast, y, model), EnSRF().update(forecast, y, model))


def test_a_wide_radius_tends_to_no_localization():
    """The taper is 1 up to the square of the distance over the radius, here 1e-8."""
    forecast, y, model, problem = plane()
    wide = EnSRF(localization=GaspariCohn(1e5)).begin(problem)
    expected = EnSRF().update(forecast, y, model)
    torch.testing.assert_close(wide.update(forecast, y, model), expected, atol=1e-6, rtol=0)


def test_a_variable_without_spread_is_observed_without_effect():
    """Its variance is 0, and so is all regression on it."""
    forecast, _, _, _, _ = case(1)
    forecast[:, 1] = 2.0
    model = ObservationModel(Select([1, 0]), std=0.5)
    y = torch.tensor([3.0, 0.0])
    expected = EnSRF().update(forecast, y[1:], ObservationModel(Select([0]), std=0.5))
    torch.testing.assert_close(EnSRF().update(forecast, y, model), expected, atol=1e-14, rtol=0)


def test_correlated_errors_are_refused_with_localization():
    _, _, _, problem = plane(2)
    model = ObservationModel(Select([0, 1]), cov=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    observed = Problem(problem.system, Observations(model, [0], torch.zeros(1, 2)), 0)
    with pytest.raises(ValueError, match="EnSRF needs independent errors"):
        EnSRF(localization=GaspariCohn(1.0)).assimilate(observed, 6, 0)
