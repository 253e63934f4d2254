"""Rows of moving platforms: the same results as one column for each distinct place."""

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import EnKF
from scorda.methods.letkf import LETKF
from scorda.methods.sda import SDA
from scorda.methods.variational.filter import FourDVar
from scorda.observations.model import ObservationModel
from scorda.observations.moving import MovingInterpolate
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.observations.spatial import Interpolate
from scorda.store.groups import observation_table
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian

SPACE = StateSpace(
    (2, 3, 4), 1.0, ("t", "u"), {"y": np.arange(3.0), "x": np.array([0.0, 1.0, 2.5, 3.0])}
)


@pytest.fixture(scope="module")
def table():
    """Rows of 4 steps, with 3 to 7 places each, of which one is visited twice in a step."""
    draw, columns = np.random.default_rng(0), {"time": [], "variable": [], "y": [], "x": []}
    for step, count in ((0, 7), (1, 5), (3, 3), (4, 6)):
        for row in range(count):
            place = draw.uniform([0, 0], [2, 3]) if row != 1 else place
            entries = (step, ("t", "u")[row // 2 % 2], *place)
            for column, entry in zip(columns.values(), entries, strict=True):
                column.append(entry)
    columns = {name: np.array(column) for name, column in columns.items()}
    rows = len(columns["time"])
    return columns | {"value": draw.normal(size=rows), "std": draw.uniform(0.2, 1.0, rows)}


def pair(table, space=SPACE):
    """The observations as they are read, and as one column for each distinct place."""
    moving = Observations.from_table(table, space)
    rows = [moving.at(k) for k in range(len(moving))]
    points = torch.cat([model.operator.coordinates(space) for _, model in rows])
    names = sum((model.operator.variables(space) for _, model in rows), ())
    values = torch.full((len(moving), len(points)), torch.nan)
    std, first = torch.ones_like(values), 0
    for k, (y, model) in enumerate(rows):
        part = slice(first, first + len(y))
        values[k, part], std[k, part] = y, model.error_std(tuple(y.shape), y)
        first = part.stop
    model = ObservationModel(Interpolate(points, space, names), std=1.0)
    return moving, Observations(model, moving.steps, values, std)


def system(size):
    draw, eye = rng.seeded(1), torch.eye(size)
    step = 0.3 * eye + 0.05 * rng.normal(size, (size,), draw)
    return LinearGaussian(step, 0.1 * eye, torch.zeros(size), eye)


def problems(table):
    """Problems of a space with two variables, whose states a linear system moves."""
    flat = system(SPACE.size)
    whole = FunctionSystem(
        lambda x: flat.advance(x.flatten(1)).reshape(x.shape),
        lambda members, seed: rng.normal(members, SPACE.shape, rng.seeded(seed)),
        SPACE,
        0.3,
        "torch",
    )
    return [Problem(whole, observations, 5) for observations in pair(table)]


def test_rows_are_packed_and_hold_the_values_of_the_table(table):
    moving = Observations.from_table(table, SPACE)
    assert isinstance(moving.model.operator, MovingInterpolate)
    # Two reports of one place and step are one value; the most of a step is 6 of 7.
    assert moving.values.shape == (4, 6) and "2 reports" not in moving.summary()
    rows = observation_table([moving], SPACE)
    for step in (0, 1, 3, 4):
        here, there = rows["step"] == step, table["time"] == step
        weight = table["std"][there] ** -2.0
        given = (weight * table["value"][there]).sum()
        found = (rows["std"][here] ** -2.0 * rows["value"][here]).sum()
        assert found == pytest.approx(given, rel=1e-12)
        names = {(n, x) for n, x in zip(rows["variable"][here], rows["x"][here], strict=True)}
        assert names == set(zip(table["variable"][there], table["x"][there], strict=True))


def test_likelihood_is_that_of_the_dense_matrix(table):
    moving, dense = pair(table)
    x = rng.normal(5, (6, *SPACE.shape), rng.seeded(2))
    torch.testing.assert_close(
        moving.log_likelihood(x), dense.log_likelihood(x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "method",
    [EnKF(), LETKF(localization=GaspariCohn(1.5)), FourDVar(iterations=30)],
    ids=["EnKF", "LETKF", "4DVar"],
)
def test_an_analysis_is_that_of_the_dense_matrix(table, method):
    found = [
        method.assimilate(problem, max(20, method.least_members), rng.seeded(3)).states
        if not isinstance(method, FourDVar)
        else method.assimilate(problem, 1, rng.seeded(3)).states
        for problem in problems(table)
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_the_posterior_of_sda_is_that_of_the_dense_matrix(table):
    chain = system(8)
    space = StateSpace((8,), coordinates={"x": np.arange(8.0)})
    object.__setattr__(chain, "space", space)
    rows = {name: table[name] for name in ("time", "x", "value", "std")}
    rows["x"] = 2 * rows["x"]
    problems = [Problem(chain, o, 5) for o in pair(rows, space)]
    assert isinstance(problems[0].instruments[0].model.operator, MovingInterpolate)
    found = [
        SDA.example(problem).assimilate(problem, 4, rng.seeded(4)).states for problem in problems
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_table_that_is_written_is_read_again(table, tmp_path):
    moving, _ = pair(table)
    moving.to_table(tmp_path / "a.csv", SPACE)
    again = Observations.from_table(tmp_path / "a.csv", SPACE)
    torch.testing.assert_close(again.values, moving.values, equal_nan=True, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again.model.operator.points, moving.model.operator.points)


def test_places_that_repeat_stay_one_column_each():
    step = np.repeat(np.arange(6), 2)
    rows = {"time": step, "y": np.tile([0.5, 1.5], 6), "x": np.tile([0.5, 0.7], 6)}
    rows |= {"variable": np.full(12, "t"), "value": np.arange(12.0), "std": np.ones(12)}
    fixed = Observations.from_table(rows, SPACE)
    assert isinstance(fixed.model.operator, Interpolate) and fixed.values.shape == (6, 2)
