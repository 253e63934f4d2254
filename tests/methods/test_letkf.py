"""LETKF: one slow analysis per point as the oracle, the ETKF as the limit."""

import numpy as np
import pytest
import torch

from scorda.assimilation import local
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF
from scorda.methods.letkf import LETKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem


class Still:
    """A system that never moves, on any space."""

    def __init__(self, space):
        self.space = space

    def prior(self, members, generator=None):
        return rng.normal(members, self.space.shape, generator)

    def step(self, x, generator=None):
        return x


def case(shape=(2, 7, 6), members=8, obs=9, std=0.5):
    """Two variables on a plane, periodic along x, observed at random components."""
    coordinates = {"y": 1.5 * np.arange(7.0), "x": np.arange(6.0)}
    space = StateSpace(shape, 1.0, ("u", "v"), coordinates, {"x": 6.0})
    system = Still(space)
    indices = torch.randperm(space.size, generator=rng.seeded(0))[:obs].tolist()
    model = ObservationModel(Select(indices), std=torch.linspace(std, 2 * std, obs))
    y = model.sample(system.prior(1, rng.seeded(1)), rng.seeded(2))
    problem = Problem(system, Observations(model, [0], y), 0)
    return system.prior(members, rng.seeded(3)), y[0], model, problem


def analysis_at(row, column, x, forecast, y, model, problem, radius, inflation):
    """Analysis of the variables x ``(ensemble, columns)`` at one position, with a matrix root."""
    members = len(forecast)
    predicted = model.operator(forecast)
    Y, d = predicted - predicted.mean(0), y - predicted.mean(0)
    where = model.operator.coordinates(problem.space)
    gap = (where[:, 1] - column).abs()
    distance = ((where[:, 0] - row) ** 2 + torch.minimum(gap, 6 - gap) ** 2).sqrt()
    near = distance < 2 * 1.82 * radius
    if not near.any():
        return x
    r = torch.diag(GaspariCohn(radius)(distance[near]) / model.std[near] ** 2)
    precision = Y[:, near] @ r @ Y[:, near].T + (members - 1) * torch.eye(members)
    values, vectors = torch.linalg.eigh(torch.linalg.inv(precision))
    root = vectors @ ((members - 1) * values).sqrt().diag() @ vectors.T
    w = torch.linalg.solve(precision, Y[:, near] @ r @ d[near])
    A = x - x.mean(0)
    return x.mean(0) + w @ A + inflation * root @ A


def pointwise(forecast, y, model, problem, radius, inflation):
    """The analysis of each point by itself, one after another."""
    analysis = forecast.clone()
    for i, row in enumerate(problem.space.coordinates["y"]):
        for j, column in enumerate(problem.space.coordinates["x"]):
            at = (float(row), float(column), forecast[:, :, i, j])
            analysis[:, :, i, j] = analysis_at(*at, forecast, y, model, problem, radius, inflation)
    return analysis


@pytest.mark.parametrize(("obs", "members"), [(9, 8), (30, 8), (9, 30)])
@pytest.mark.parametrize("radius", [0.6, 1.0, 3.0])
def test_letkf_is_one_analysis_per_point(obs, members, radius):
    """Also where points have fewer observations than members, and none."""
    forecast, y, model, problem = case(members=members, obs=obs)
    expected = pointwise(forecast, y, model, problem, radius, 1.1)
    analysis = (
        LETKF(1.1, localization=GaspariCohn(radius)).begin(problem).update(forecast, y, model)
    )
    torch.testing.assert_close(analysis, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_letkf_with_infinite_radius_is_the_etkf(block):
    forecast, y, model, problem = case(obs=30)
    method = LETKF(1.05, localization=GaspariCohn(float("inf")), block=block).begin(problem)
    expected = ETKF(1.05).update(forecast, y, model)
    torch.testing.assert_close(method.update(forecast, y, model), expected, atol=1e-8, rtol=0)


def test_points_without_observations_keep_the_forecast_bit_for_bit():
    forecast, y, model, problem = case(obs=1)
    analysis = LETKF(1.3, localization=GaspariCohn(0.5)).begin(problem).update(forecast, y, model)
    distance = problem.space.distance(
        problem.space.positions(), model.operator.coordinates(problem.space)
    ).reshape(7, 6)
    far = distance >= 2 * 1.82 * 0.5
    assert far.any() and not far.all()
    assert torch.equal(analysis[..., far], forecast[..., far])
    assert (analysis[..., ~far] != forecast[..., ~far]).all()


def test_small_batches_change_nothing(monkeypatch):
    forecast, y, model, problem = case()
    whole = LETKF(localization=GaspariCohn(1.5)).begin(problem).update(forecast, y, model)
    monkeypatch.setattr(local, "BATCH", 700)
    method = LETKF(localization=GaspariCohn(1.5)).begin(problem)
    torch.testing.assert_close(method.update(forecast, y, model), whole, atol=1e-12, rtol=0)
    assert len(list(method.geometry.local(model.operator.coordinates(problem.space), 8))) > 5


def test_tiles_change_nothing_but_the_last_digit(monkeypatch):
    forecast, y, model, problem = case(obs=30)
    whole = LETKF(localization=GaspariCohn(1.0), block=2).begin(problem)
    expected = whole.update(forecast, y, model)
    tiled = LETKF(localization=GaspariCohn(1.0), block=2, tile=4).begin(problem)
    assert len(tiled.geometry.tiles) == 4
    torch.testing.assert_close(
        tiled.update(forecast, y, model), expected, atol=1e-12, rtol=0
    )  # Rounding.


def test_tiles_have_the_same_bits_however_many_are_analysed_at_once(monkeypatch):
    forecast, y, model, problem = case(obs=30)
    method = LETKF(localization=GaspariCohn(1.0), tile=2)
    expected = method.begin(problem).update(forecast, y, model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(method.begin(problem).update(forecast, y, model), expected)
    with pytest.raises(ValueError, match="whole blocks"):
        LETKF(localization=GaspariCohn(1.0), block=2, tile=3)


def test_geometry_follows_the_observations():
    """One run sees different observations in turn, and other sizes of the ensemble."""
    forecast, y, model, problem = case()
    method = LETKF(localization=GaspariCohn(1.5)).begin(problem)
    other = ObservationModel(Select([3, 20, 41]), std=0.5)
    for m, v in ((model, y), (other, y[:3]), (model, y)):
        fresh = LETKF(localization=GaspariCohn(1.5)).begin(problem).update(forecast, v, m)
        assert torch.equal(method.update(forecast, v, m), fresh)
    fresh = LETKF(localization=GaspariCohn(1.5)).begin(problem).update(forecast[:5], y, model)
    assert torch.equal(method.update(forecast[:5], y, model), fresh)


def test_blocks_share_the_analysis_of_their_centre():
    """Also the blocks that the border cuts off: 7 rows make 4 blocks, the last of one row."""
    forecast, y, model, problem = case(obs=30)
    analysis = (
        LETKF(1.1, localization=GaspariCohn(1.5), block=2)
        .begin(problem)
        .update(forecast, y, model)
    )
    for rows, columns in (((2, 3), (4, 5)), ((6,), (0, 1))):
        row, column = 1.5 * sum(rows) / len(rows), sum(columns) / len(columns)
        for i in rows:
            for j in columns:
                expected = analysis_at(
                    row, column, forecast[:, :, i, j], forecast, y, model, problem, 1.5, 1.1
                )
                torch.testing.assert_close(analysis[:, :, i, j], expected, atol=1e-10, rtol=0)


def test_blocks_are_close_to_points_where_the_radius_is_wide():
    """Recorded, not promised: 2 x 2 points at radius 6 change few percent of the step."""
    forecast, y, model, problem = case(obs=30)
    one, four = (
        LETKF(localization=GaspariCohn(6.0), block=b).begin(problem).update(forecast, y, model)
        for b in (1, 2)
    )
    assert (one - four).norm() < 0.1 * (one - forecast).norm()


def test_letkf_does_not_depend_on_the_order_of_members():
    forecast, y, model, problem = case()
    order = torch.randperm(len(forecast), generator=rng.seeded(0))
    method = LETKF(localization=GaspariCohn(1.5)).begin(problem)
    a = method.update(forecast, y, model)[order]
    torch.testing.assert_close(method.update(forecast[order], y, model), a, atol=1e-12, rtol=0)


def test_single_precision_is_kept_and_close():
    """Within 1e-4 of double precision: the local systems are well conditioned (shift N - 1)."""
    forecast, y, model, problem = case(obs=30, std=0.05)
    method = LETKF(localization=GaspariCohn(1.5)).begin(problem)
    single = method.update(forecast.float(), y.float(), model)
    assert single.dtype == torch.float32
    double = method.update(forecast, y, model)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)


def test_bad_settings_and_missing_geometry_are_refused():
    forecast, y, model, problem = case()
    with pytest.raises(ValueError, match="begin"):
        LETKF(localization=GaspariCohn(1.0)).update(forecast, y, model)
    with pytest.raises(ValueError, match="block"):
        LETKF(localization=GaspariCohn(1.0), block=0)
    with pytest.raises(ValueError, match="radius"):
        LETKF(localization=GaspariCohn(-1.0))
    correlated = ObservationModel(model.operator, cov=torch.eye(9))
    with pytest.raises(ValueError, match="independent"):
        LETKF(localization=GaspariCohn(1.0)).begin(problem).update(forecast, y, correlated)
