import json

import numpy as np
import pytest
import torch

from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis


def test_flat_state_names_each_component():
    space = StateSpace((3,))
    assert space.variables == ("x0", "x1", "x2")
    assert space.axes == ()
    assert space.has_channels
    assert space.size == 3


def test_spaces_are_equal_by_what_they_say():
    def space(step=0.5, name="x"):
        axes = {"y": np.arange(3.0), name: step * np.arange(4)}
        return StateSpace((3, 4), 0.2, ("t",), axes)

    assert space() == space()
    assert space() != space(step=0.6)
    assert space() != space(name="z")
    assert space() != "space"
    turned = StateSpace((4, 4), 1.0, ("t",), {"y": np.arange(4), "x": np.arange(4)})
    assert turned != StateSpace((4, 4), 1.0, ("t",), {"x": np.arange(4), "y": np.arange(4)})


def test_grid_of_two_variables():
    axis = np.arange(4) * 0.5
    space = StateSpace((2, 4, 4), 0.2, ("u", "v"), {"y": axis, "x": axis}, {"y": 2.0, "x": 2.0})
    assert space.grid == (4, 4)
    assert space.has_channels
    assert space.variable("v") == 1
    positions = space.positions()
    assert positions.shape == (16, 2)
    assert torch.equal(positions[1], torch.tensor([0.0, 0.5]))


def test_default_coordinates_are_indices():
    space = StateSpace((3, 5), variables=("t",))
    assert space.axes == ("y", "x")
    assert space.grid == (3, 5)
    assert not space.has_channels


@pytest.mark.parametrize(
    ("arguments", "variables", "axes"),
    [
        ({"shape": (3,)}, ("x0", "x1", "x2"), ()),
        ({"shape": (3,), "variables": ("site",)}, ("site",), ("site_index",)),
        ({"shape": (8, 8)}, ("field",), ("y", "x")),
        ({"shape": (2, 3, 4)}, ("field",), ("z", "y", "x")),
        ({"shape": (2, 3, 4), "variables": ("u", "x")}, ("u", "x"), ("y", "x_index")),
        ({"shape": (3,), "coordinates": {"x": np.arange(3)}}, ("field",), ("x",)),
        ({"shape": (3,), "coordinates": {"site": np.arange(3)}}, ("x",), ("site",)),
    ],
)
def test_default_names_never_collide(arguments, variables, axes):
    space = StateSpace(**arguments)
    assert (space.variables, space.axes) == (variables, axes)
    dataset = Analysis(torch.zeros(1, 1, *space.shape), space).to_xarray()
    assert set(variables) == set(dataset.data_vars) and set(axes) <= set(dataset.coords)


def test_distance_is_the_shortest_way_round():
    space = StateSpace((10,), 1.0, ("x",), {"site": np.arange(10)}, {"site": 10.0})
    a, b = torch.tensor([[0.0]]), torch.tensor([[1.0], [5.0], [9.0], [11.0]])
    assert torch.equal(space.distance(a, b), torch.tensor([[1.0, 5.0, 1.0, 1.0]]))


def test_distance_on_a_torus_is_pythagoras_per_axis():
    axis = np.arange(8.0)
    space = StateSpace((8, 8), 1.0, ("t",), {"y": axis, "x": axis}, {"x": 8.0})
    got = space.distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[7.0, 7.0]]))
    # The y axis is not periodic: 7; the x axis is: 1.
    assert torch.allclose(got, torch.tensor([[50.0]]).sqrt())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": ()}, "at least one axis"),
        ({"shape": (0,)}, "at least one axis"),
        ({"shape": (3,), "dt": 0.0}, "positive"),
        ({"shape": (3,), "variables": ("a", "b")}, "does not fit"),
        ({"shape": (3,), "variables": "a", "coordinates": {"x": np.arange(4)}}, "does not fit"),
        (
            {"shape": (3,), "variables": "a", "coordinates": {"x": np.array([0, 2, 1])}},
            "not increasing",
        ),
        ({"shape": (3,), "variables": "a", "period": {"lon": 360.0}}, "coordinates are"),
        ({"shape": (3,), "variables": "a", "period": {"site": 2.0}}, "longer"),
        ({"shape": (3,), "variables": "a", "coordinates": {"a": np.arange(3)}}, "an axis or pos"),
        ({"shape": (2, 3), "variables": ("a", "a")}, "'a' and another variable"),
    ],
)
def test_bad_spaces_are_refused(unchecked, arguments, words):
    with pytest.raises(ValueError, match=words):
        StateSpace(**arguments)


def test_check_names_shape_and_non_finite_values():
    space = StateSpace((3,))
    space.check(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be"):
        space.check(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="1 values"):
        space.check(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(ValueError, match="Unknown variable 'q'"):
        space.variable("q")


def test_a_space_keeps_its_mask_in_json():
    """Runs of points inside and outside, by turns; axes in an order that is not that of names."""
    for mask in ([[1, 1, 0], [0, 0, 1]], [[0, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 0]]):
        mask = np.array(mask, dtype=bool)
        axes = {"y": np.arange(2.0), "x": np.arange(3.0)}
        space = StateSpace((2, 2, 3), 0.5, ("b", "a"), axes, {"x": 4.0}, {"x": "km"}, mask=mask)
        content = json.loads(json.dumps(space.as_json(), sort_keys=True))
        again = StateSpace.from_json(content)
        assert again == space and (again.mask == mask).all() and again.axes == ("y", "x")
        assert again != StateSpace(space.shape, 0.5, ("b", "a"), axes, {"x": 4.0}, {"x": "km"})
        assert torch.equal(space.inside.view(2, 2, 3), torch.from_numpy(mask).expand(2, 2, 3))
    assert content["mask"] == [5, 1]


def test_points_outside_of_a_mask_are_nan_outside_and_0_inside():
    mask = np.array([True, False, True])
    space = StateSpace((3,), 1.0, ("x",), mask=mask)
    x = torch.tensor([[1.0, np.nan, 2.0]])
    space.check(x)
    assert space.filled(x).tolist() == [[1.0, 0.0, 2.0]]
    assert space.masked(torch.ones(1, 3)).isnan().tolist() == [[False, True, False]]
    with pytest.raises(ValueError, match="1 values"):
        space.check(torch.tensor([np.nan, 0.0, 1.0]))
    whole = StateSpace((3,), 1.0, ("x",), mask=np.ones(3, dtype=bool))
    assert whole.mask is None and whole.masked(x) is x


@pytest.mark.parametrize("mask", [np.zeros(3, bool), np.ones(4, bool), np.ones(3)])
def test_masks_that_do_not_fit_are_refused(mask):
    with pytest.raises(ValueError, match=r"Got a mask of"):
        StateSpace((3,), 1.0, ("x",), mask=mask)


def _points(**changes):
    y, x = np.meshgrid(np.arange(2.0), np.arange(3.0), indexing="ij")
    axes = {"j": np.arange(2), "i": np.arange(3)}
    return StateSpace(
        (2, 3), coordinates=axes, **({"points": {"y": y + 0.1 * x, "x": x}} | changes)
    )


def test_points_have_positions_of_their_own():
    space = _points(period={"x": 3.0}, units={"x": "m"})
    assert space.axes == ("j", "i") and space.position_names == ("y", "x")
    assert space.positions()[4].tolist() == pytest.approx([1.1, 1.0])
    near = space.distance(space.positions()[:1], space.positions()[2:3])
    assert float(near) == pytest.approx(np.hypot(0.2, 1.0))
    again = StateSpace.from_json(json.loads(json.dumps(space.as_json(), sort_keys=True)))
    assert again == space and again.position_names == ("y", "x")
    assert space != _points(
        period={"x": 3.0},
        units={"x": "m"},
        points={"y": space.points["y"], "x": space.points["x"] + 1e-9},
    )
    assert space.only("field") == space


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": {"y": np.arange(6.0)}}, "of shape .6,.*for each point of the grid .2, 3."),
        ({"points": {"y": np.full((2, 3), np.nan)}}, "6 of them not finite"),
        ({"points": {"y": np.ones((2, 3)), "x": np.ones((2, 3))}}, "all at one position"),
        ({"points": {"i": np.arange(6.0).reshape(2, 3)}}, "an axis with other positions"),
        ({"points": {}}, "needs a name"),
        ({"period": {"i": 3.0}}, "period for .'i'."),
        ({"period": {"x": 2.0}}, "must be longer"),
    ],
)
def test_points_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        _points(**changes)


def test_parts_with_points_are_refused():
    with pytest.raises(ValueError, match="has a position per point"):
        StateSpace.of_parts({"a": _points()})
