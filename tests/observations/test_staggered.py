"""Observations of a state on several grids: the variable of a row says which grid it lies on."""

import numpy as np
import pytest
import torch

from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.spatial import Interpolate, Stride

SIDE = np.arange(4.0)


def c_grid(land=False):
    mask = np.ones((4, 4), dtype=bool)
    mask[3, 3] = not land
    t = StateSpace((4, 4), 0.5, ("t",), {"y": SIDE, "x": SIDE}, mask=mask)
    u = StateSpace((4, 5), 0.5, ("u",), {"y": SIDE, "x_u": np.arange(5.0) - 0.5})
    v = StateSpace((5, 4), 0.5, ("v",), {"y_v": np.arange(5.0) - 0.5, "x": SIDE})
    return StateSpace.of_parts({"u": u, "v": v, "t": t}, {"x_u": "x", "y_v": "y"})


def linear(space):
    """A field that is linear in both coordinates, another one for each variable."""
    y, x = space.positions().T
    slope = space.constant(torch.tensor([1.0, -2.0, 3.0]))
    return (slope + slope * y - 0.5 * slope * x)[None]


def test_interpolation_is_exact_for_linear_fields_on_each_grid():
    space = c_grid()
    where = np.random.default_rng(0).uniform(0, 3, (60, 2))
    names = tuple(space.variables[i % 3] for i in range(60))
    h = Interpolate(where, space, names)
    slope = torch.tensor([1.0, -2.0, 3.0] * 20)
    y, x = torch.from_numpy(where).T
    expected = slope + slope * y - 0.5 * slope * x
    state = linear(space)
    assert torch.allclose(h(state)[0], expected, atol=1e-13)
    assert np.allclose(h.as_matrix(space.shape) @ state[0].numpy(), expected, atol=1e-13)
    assert torch.equal(h.coordinates(space), torch.from_numpy(where))
    assert h.variables(space) == names
    with pytest.raises(ValueError, match="Give `variable`"):
        Interpolate(where, space)
    # x = -0.4 is between the u, and outside of the t.
    assert len(Interpolate([[1.0, -0.4]] @ np.eye(2), space, "u").points) == 1
    with pytest.raises(ValueError, match="outside the domain"):
        Interpolate([[1.0, -0.4]] @ np.eye(2), space, "t")


def table(**more):
    columns = {
        "time": np.array([0.5, 0.5, 1.0, 1.0, 1.0]),
        "variable": np.array(["u", "t", "v", "t", "w"], dtype=object),
        "y": np.array([1.0, 1.0, 0.5, 3.0, 0.0]),
        "x": np.array([-0.5, -0.5, 2.0, 3.0, 0.0]),
        "value": np.arange(5.0),
        "std": np.full(5, 0.1),
    }
    return columns | more


def test_the_variable_of_a_row_says_on_which_grid_it_lies():
    space = c_grid(land=True)
    read = Observations.from_table(table(), space)
    reasons = {row: why for row, why in read.unused}
    assert reasons == {
        2: "position outside the domain", 4: "position on land", 5: "unknown variable 'w'",
    }  # fmt: skip
    # Both others lie on points of their grids: u at row 1, column 0; v at row 1, column 2.
    assert read.model.operator == Select([5, 20 + 4 + 2])
    # Between the grid points of its own grid, a position is interpolated there.
    between = Observations.from_table(table(x=np.array([0.2, 0.5, 2.0, 1.0, 0.0])), space)
    names = between.model.operator.variables(space)
    assert sorted(names) == ["t", "t", "u", "v"]


def test_tables_and_fields_read_back(tmp_path):
    space = c_grid()
    read = Observations.from_table(table(x=np.array([0.2, 0.5, 2.0, 1.0, 0.0])), space)
    read.to_table(tmp_path / "table.csv", space)
    again = Observations.from_table(tmp_path / "table.csv", space)
    assert torch.equal(again.values.nan_to_num(), read.values.nan_to_num())
    assert again.model.operator.variables(space) == read.model.operator.variables(space)
    fields = np.arange(40.0).reshape(2, 5, 4)
    seen = Observations.from_array(fields, space, 0.1, "v")
    assert seen.model.operator == Select(range(20, 40))
    assert torch.equal(seen.values, torch.from_numpy(fields).flatten(1))


def test_parts_of_other_axes_have_columns_of_their_own(tmp_path):
    slow = StateSpace((4,), 0.5, ("X",), {"site": SIDE})
    fast = StateSpace((8,), 0.5, ("Y",), {"small": np.arange(8.0)})
    space = StateSpace.of_parts({"slow": slow, "fast": fast})
    columns = {
        "time": [0.5, 0.5], "variable": ["X", "Y"], "value": [1.0, 2.0], "std": [0.1, 0.1],
        "site": [1.5, np.nan], "small": [np.nan, 6.5],
    }  # fmt: skip
    columns = {name: np.array(c, dtype=object if name == "variable" else float)
               for name, c in columns.items()}  # fmt: skip
    read = Observations.from_table(columns, space)
    x = torch.arange(12.0)[None]
    assert read.unused == ()
    assert torch.equal(read.model.operator(x).sort().values, torch.tensor([[1.5, 10.5]]))
    read.to_table(tmp_path / "table.csv", space)
    again = Observations.from_table(tmp_path / "table.csv", space)
    assert torch.equal(again.model.operator(x), read.model.operator(x))


def test_stations_are_those_of_each_grid():
    space = c_grid()
    chosen = Select.stations(space, every=3, variables=("u", "t"))
    assert chosen.variables(space) == ("u",) * 4 + ("t",) * 4
    assert torch.equal(chosen.coordinates(space)[-4:, 0], torch.tensor([0.0, 0.0, 3.0, 3.0]))
    with pytest.raises(ValueError, match="one grid, and the space has 3"):
        Stride(2).check(space)
