"""Spaces of several grids: where the variables lie, positions, masks, and what is refused."""

import json

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace, variable_std

SIDE = np.arange(4.0)


def staggered():
    """A C-grid, periodic along x, with a point of land in the middle of the cells."""
    mask = np.ones((3, 4), dtype=bool)
    mask[1, 2] = False
    u = StateSpace((3, 4), 0.5, ("u",), {"y": SIDE[:3], "x_u": SIDE + 0.5}, {"x_u": 4.0})
    v = StateSpace((2, 4), 0.5, ("v",), {"y_v": SIDE[:2] + 0.5, "x": SIDE}, {"x": 4.0})
    t = StateSpace(
        (2, 3, 4), 0.5, ("t", "q"), {"y": SIDE[:3], "x": SIDE}, {"x": 4.0},
        {"t": "K", "q": "kg/kg", "time": "hours"}, mask=mask,
    )  # fmt: skip
    hours = {"time": "hours"}
    u, v = (StateSpace.from_json(s.as_json() | {"units": hours}) for s in (u, v))
    return StateSpace.of_parts({"u": u, "v": v, "cell": t}, {"x_u": "x", "y_v": "y"})


def test_parts_lie_one_after_the_other_each_in_c_order():
    space = staggered()
    assert space.shape == (12 + 8 + 24,) and space.variables == ("u", "v", "t", "q")
    x = torch.arange(44.0)
    assert torch.equal(space.field(x, "v"), torch.arange(12.0, 20.0).view(2, 4))
    assert torch.equal(space.field(x, "q"), torch.arange(32.0, 44.0).view(3, 4))
    assert space.entries("q") == slice(32, 44)
    names = np.array(space.variables)[space.variable_of(np.array([0, 11, 12, 20, 31, 32, 43]))]
    assert names.tolist() == ["u", "u", "v", "t", "t", "q", "q"]


def test_fields_and_states_are_inverse_of_each_other():
    space = staggered()
    x = rng.normal(30, (44,), rng.seeded(0)).unflatten(0, (5, 6))
    fields = {name: space.field(x, name) for name in reversed(space.variables)}
    assert torch.equal(space.joined(fields), x)
    arrays = {name: values.numpy() for name, values in fields.items()}
    assert np.array_equal(space.joined(arrays), x.numpy())
    for name, values in fields.items():
        assert space.only(name).grid == values.shape[2:] == space.piece_of(name).grid
    with pytest.raises(ValueError, match="fields of"):
        space.joined({"u": x})


@pytest.mark.parametrize(
    "space",
    [
        StateSpace((3,)),
        StateSpace((4,), variables=("x",)),
        StateSpace((2, 3, 4), variables=("a", "b")),
        StateSpace((1, 4), variables=("a",), coordinates={"x": SIDE}),
    ],
)
def test_fields_by_name_on_one_grid(space):
    x = rng.normal(5, space.shape, rng.seeded(0))
    fields = {name: space.field(x, name) for name in space.variables}
    assert torch.equal(space.joined(fields), x)
    flat = torch.cat([x.flatten(1)[:, space.entries(n)] for n in space.variables], 1)
    assert torch.equal(flat, x.flatten(1))
    for name, values in fields.items():
        assert values.shape[1:] == space.grid == space.only(name).grid
    values = torch.arange(1.0, len(space.variables) + 1)
    constant = space.constant(values).expand(space.shape)
    assert all((space.field(constant, n) == v).all() for n, v in zip(fields, values, strict=True))


def test_positions_have_a_column_for_each_kind_of_axis():
    space = staggered()
    assert space.axes == () and space.position_names == ("y", "x")
    positions = space.positions()
    assert positions.shape == (44, 2)
    assert positions[[1, 12, 20]].tolist() == [[0.0, 1.5], [0.5, 0.0], [0.0, 0.0]]
    far = space.distance(positions[:1], positions[[3, 12, 20, 23]])
    # u at (0, .5): from u at 3.5 the short way round 1; v (.5, 0); t (0, 0); t (0, 3).
    assert torch.allclose(far, torch.tensor([[1.0, 0.5**0.5, 0.5, 1.5]]))


def test_latitudes_and_longitudes_in_degrees_are_one_kind_each():
    def globe(name, lat, lon, count, **more):
        axes = {lat: np.linspace(-60, 60, 3), lon: np.arange(count) * 360 / count}
        units = {lat: "degrees_north", lon: "degrees_east"}
        shape = (*(len(c) for c in more.values()), 3, count)
        return StateSpace(shape, 1.0, (name,), more | axes, {lon: 360.0}, units)

    air = globe("t", "lat", "lon", 4, level=np.array([500.0, 850.0]))
    space = StateSpace.of_parts({"air": air, "sea": globe("sst", "y", "x", 8)})
    assert space.position_names == ("level", "lat", "lon")
    positions = space.positions()
    assert positions[24:, 0].isnan().all() and not positions[:, 1:].isnan().any()
    # Levels do not count: the first point of both is at the same place.
    assert space.distance(positions[:1], positions[[0, 12, 24]]).abs().max() < 1e-9
    quarter = float(space.distance(positions[4:5], positions[28 + 4 : 28 + 5]))
    flat = np.pi / 2 * 6371.0
    assert abs(float(space.distance(positions[4:5], positions[24 + 8 + 2 :][:1])) - flat) < 1e-6
    assert quarter < flat


def test_axes_of_one_name_at_other_positions_are_renamed():
    fine = StateSpace((8,), variables=("b",), coordinates={"x": np.arange(8.0) / 2})
    coarse = StateSpace((4,), variables=("a",), coordinates={"x": SIDE})
    space = StateSpace.of_parts({"coarse": coarse, "fine": fine})
    assert space.only("b").axes == ("x_fine",) and space.position_names == ("x",)
    assert StateSpace.from_json(space.as_json()) == space


def test_json_keeps_everything():
    space = staggered()
    again = StateSpace.from_json(json.loads(json.dumps(space.as_json(), sort_keys=True)))
    assert again == space and again.same_as == space.same_as
    assert list(again.parts) == ["u", "v", "cell"] and again.has_land
    assert "parts" not in StateSpace((3,)).as_json()


def test_each_part_has_its_own_mask():
    space = staggered()
    assert int(space.inside.sum()) == 42 and space.has_land
    x = space.masked(torch.ones(3, 44))
    assert torch.equal(x.isnan()[0].nonzero()[:, 0], torch.tensor([20 + 6, 32 + 6]))
    assert space.filled(x).sum() == 3 * 42
    space.check(x)


def test_spread_is_that_of_each_variable():
    space = staggered()
    x = space.constant(torch.tensor([1.0, 10.0, 100.0, 0.0])) * rng.normal(
        2000, (44,), rng.seeded(0)
    )
    std = variable_std(x, space)
    # The error of a std of 2000 members and 8 points at least is 0.6 %.
    for name, expected in zip(space.variables, (1.0, 10.0, 100.0, 0.0), strict=True):
        assert torch.allclose(space.field(std, name), torch.tensor(expected), rtol=0.03)


def line(name, axis="x", dt=1.0, calendar="standard", length=0.0, unit="", time=""):
    units = {k: v for k, v in ((axis, unit), ("time", time)) if v}
    period = {axis: length} if length else {}
    return StateSpace((4,), dt, (name,), {axis: SIDE}, period, units, calendar)


@pytest.mark.parametrize(
    ("parts", "same_as", "words"),
    [
        ({}, {}, "no parts"),
        ({"a": line("u"), "b": line("t", dt=2.0)}, {}, "dt 1.0 and 2.0"),
        ({"a": line("u"), "b": line("t", calendar="noleap")}, {}, "calendar"),
        ({"a": line("u"), "b": line("t", time="hours")}, {}, "times in None and hours"),
        ({"a": line("u"), "b": line("u")}, {}, "rename one of them, such as to 'u_b'"),
        ({"a": line("u"), "b": line("x", "z")}, {}, "variable and as an axis"),
        (
            {"a": line("u"), "b": line("t", length=4.0), "c": line("v", length=5.0)},
            {},
            "period is 5.0 instead of 4.0",
        ),
        ({"a": line("u", unit="m"), "b": line("t", unit="km")}, {}, "unit is km instead of m"),
        ({"a": line("u"), "b": line("t")}, {"k": "x"}, "axes of the parts are"),
        ({"a": StateSpace((2, 3), 1.0, ("u",))}, {"y": "x"}, "several axes of the same kind"),
        ({"a": StateSpace.of_parts({"b": line("u")})}, {}, "has parts itself"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, same_as, words):
    with pytest.raises(ValueError, match=words):
        StateSpace.of_parts(parts, same_as)


def test_an_unknown_variable_is_refused():
    for ask in (staggered().only, staggered().entries, staggered().piece_of):
        with pytest.raises(ValueError, match="Unknown variable 'w'"):
            ask("w")
    with pytest.raises(ValueError, match="Unknown variable 'w'"):
        staggered().field(torch.zeros(44), "w")
