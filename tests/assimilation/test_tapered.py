"""The gain with tapered covariances: matrices as the oracle of what is sparse."""

import numpy as np
import pytest
import torch

from scorda.assimilation import tapered
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import EnKF
from scorda.methods.gaussian_mixture import GaussianMixtureFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem

DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}


class Still:
    """A system that never moves, on any space."""

    def __init__(self, space):
        self.space = space


def case(units, full=False, members=10, observations=60):
    """Two variables on a periodic grid or on the globe."""
    if units:
        axes = {"latitude": np.linspace(-80, 80, 12), "longitude": np.arange(0.0, 360.0, 22.5)}
        period, radius = {"longitude": 360.0}, 800.0
    else:
        axes = {"y": 1.5 * np.arange(12.0), "x": np.arange(16.0)}
        period, radius = {"x": 16.0}, 1.7
    space = StateSpace((2, 12, 16), 1.0, ("u", "v"), axes, period, units)
    indices = torch.randperm(space.size, generator=rng.seeded(0))[:observations].tolist()
    std = torch.linspace(0.2, 2.0, observations)
    error = {"std": std}
    if full:
        root = 0.2 * rng.normal(observations, (observations,), rng.seeded(5))
        error = {"cov": std.diag().square() + root @ root.T}
    model = ObservationModel(Select(indices), **error)
    forecast, truth = rng.normal(members, space.shape, 1), rng.normal(1, space.shape, 2)
    y = model.sample(truth, 3)
    problem = Problem(Still(space), Observations(model, [0], y), 0)
    return forecast, y[0], model, problem, GaspariCohn(radius)


def explicit(forecast, y, model, problem, taper):
    """The analysis with matrices of all observations, and of these with the state."""
    space, members = problem.space, len(forecast)
    where, points = model.operator.coordinates(space), space.positions()
    predicted = model.operator(forecast)
    Y, A = predicted - predicted.mean(0), (forecast - forecast.mean(0)).flatten(1)
    noise = model.error(members, tuple(y.shape), predicted, rng.seeded(7))
    R = model.error_cov(tuple(y.shape), predicted)
    S = taper(space.distance(where, where)) * (Y.T @ Y) + (members - 1) * R
    cross = taper(space.distance(where, points)).repeat(1, 2) * (Y.T @ A)
    moved = (y + noise - noise.mean(0) - predicted) @ torch.linalg.solve(S, cross)
    return forecast + moved.reshape(forecast.shape)


@pytest.mark.parametrize("dense", [0, 2**30])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("units", [{}, DEGREES])
def test_the_analysis_is_that_of_matrices(units, full, dense, monkeypatch):
    """Sparse or not, several batches of pairs."""
    monkeypatch.setattr(tapered, "DENSE", dense)
    monkeypatch.setattr(tapered, "PAIRS", 100)
    forecast, y, model, problem, taper = case(units, full)
    run = EnKF(localization=taper).begin(problem)
    expected = explicit(forecast, y, model, problem, taper)
    for _ in range(2):
        analysis, _ = run.analyse(forecast, y, model, rng.seeded(7))
        # Residuals of 1e-10 times the condition of S, some hundreds.
        torch.testing.assert_close(analysis, expected, atol=1e-7, rtol=0)
    assert (run.tapered._latest.cross is None) == (dense == 0)


def test_all_variables_of_a_part_are_moved_whether_tapers_are_sparse_or_not(monkeypatch):
    axes = {"y": np.arange(10.0), "x": np.arange(12.0)}
    coarse = {"y": 2 * np.arange(5.0), "x": 2 * np.arange(6.0)}
    air = StateSpace((2, 10, 12), 1.0, ("u", "v"), axes, {"x": 12.0})
    sea = StateSpace((5, 6), 1.0, ("t",), coarse, {"x": 12.0})
    space = StateSpace.of_parts({"air": air, "sea": sea})
    indices = torch.randperm(space.size, generator=rng.seeded(0))[:40].tolist()
    model = ObservationModel(Select(indices), std=0.5)
    y = model.sample(rng.normal(1, space.shape, 2), 3)
    problem = Problem(Still(space), Observations(model, [0], y), 0)
    forecast, found = rng.normal(8, space.shape, 1), []
    for dense in (0, 2**30):
        monkeypatch.setattr(tapered, "DENSE", dense)
        run = EnKF(localization=GaspariCohn(1.5)).begin(problem)
        run.tapered._latest = None
        found.append(run.analyse(forecast, y[0], model, rng.seeded(7))[0])
    # Residuals of 1e-10 times the condition of S, some hundreds.
    torch.testing.assert_close(*found, atol=1e-7, rtol=0)
    # The members are moved where the observations reach, in each variable.
    mixture = GaussianMixtureFilter(localization=GaspariCohn(1.5)).begin(problem)
    moved, _ = mixture.analyse(forecast, y[0], model, rng.seeded(7))
    for name in space.variables:
        entries = space.entries(name)
        for analysis in (found[0], moved):
            change = (analysis - forecast)[:, entries].abs().amax(0)
            assert (change > 1e-3).double().mean() > 0.9


def test_tapers_are_kept_until_the_observations_move_and_for_all_runs_of_a_problem():
    forecast, y, model, problem, taper = case({})
    run = EnKF(localization=taper).begin(problem)
    run.analyse(forecast, y, model, rng.seeded(7))
    kept = run.tapered._latest
    again = EnKF(1.2, taper).begin(problem)
    again.analyse(forecast, y, model, rng.seeded(8))
    assert again.tapered._latest is kept
    few = ObservationModel(Select([3, 40]), std=0.5)
    moved, _ = run.analyse(forecast, y[:2], few, rng.seeded(7))
    expected = explicit(forecast, y[:2], few, problem, taper)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=0)


def test_conjugate_gradients_solve_each_column_and_tell_what_they_cannot():
    matrix = rng.normal(30, (30,), 0)
    matrix = (matrix @ matrix.T + torch.eye(30)).numpy()
    right = rng.normal(30, (4,), 1).numpy() * np.array([1.0, 1e-8, 1e8, 0.0])
    found = tapered.conjugate_gradients(lambda x: matrix @ x, matrix.diagonal(), right)
    # Relative residuals of 1e-10 times a condition of some 1e2.
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-6)
    indefinite = matrix - 20 * np.eye(30)
    with pytest.raises(DivergenceError, match="not positive definite"):
        tapered.conjugate_gradients(lambda x: indefinite @ x, np.ones(30), right)
