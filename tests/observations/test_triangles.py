"""Interpolation between points that have positions of their own."""

import numpy as np
import pytest
import torch
from scipy.interpolate import LinearNDInterpolator

from scorda.core.space import StateSpace
from scorda.core.sphere import great_circle, unit_vectors
from scorda.observations.operators import Select
from scorda.observations.positions import snapped
from scorda.observations.spatial import Interpolate
from scorda.observations.triangles import triangles_of
from scorda.testing import check_operator

DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}


def _cells(units=None, period=None, mask=None, **points) -> StateSpace:
    size = len(next(iter(points.values())))
    axis = {"cell": np.arange(size)}
    return StateSpace(
        (size,), coordinates=axis, points=points, units=units or {}, period=period or {}, mask=mask
    )


def _fibonacci(size: int) -> StateSpace:
    """Return points spread evenly over the globe, none of them at a pole."""
    k = np.arange(size) + 0.5
    latitude = np.degrees(np.arcsin(1 - 2 * k / size))
    longitude = np.degrees(np.pi * (1 + 5**0.5) * k) % 360
    return _cells(DEGREES, latitude=latitude, longitude=longitude)


def _vectors(positions: np.ndarray) -> np.ndarray:
    return unit_vectors(*torch.from_numpy(positions).T).numpy()


def _observed(positions: np.ndarray, space: StateSpace, field: np.ndarray, **how) -> np.ndarray:
    operator = Interpolate(torch.from_numpy(positions), space, **how)
    return operator(torch.from_numpy(field)[None])[0].numpy()


def test_plane_weights_are_those_of_an_independent_triangulation():
    rng = np.random.default_rng(0)
    space = _cells(y=rng.uniform(0, 3, 200), x=rng.uniform(0, 2, 200))
    places = np.stack(list(space.points.values()), -1)
    positions = rng.uniform([0.3, 0.3], [2.7, 1.7], (500, 2))
    field = rng.normal(size=200)
    expected = LinearNDInterpolator(places, field)(positions)
    np.testing.assert_allclose(_observed(positions, space, field), expected, atol=1e-12)


def test_tetrahedra_are_exact_for_linear_fields():
    rng = np.random.default_rng(0)
    space = _cells(**{name: rng.uniform(0, 1, 300) for name in "zyx"})
    places = np.stack(list(space.points.values()), -1)
    positions = rng.uniform(0.3, 0.7, (50, 3))
    found = _observed(positions, space, places @ [1.0, -2.0, 0.5] + 3)
    np.testing.assert_allclose(found, positions @ [1.0, -2.0, 0.5] + 3, atol=1e-12)


@pytest.mark.parametrize("columns", [("x",), ("y", "x")])
def test_periodic_triangles_close_the_domain(columns):
    """A periodic triangulation is that of the points repeated, seen from any origin."""
    rng = np.random.default_rng(0)
    y, x = rng.uniform(0, 1, (2, 150))
    period = dict.fromkeys(columns, 1.0)
    moved = {"y": (y + 0.5 * ("y" in columns)) % 1.0, "x": (x + 0.4) % 1.0}
    field = rng.normal(size=150)
    positions = np.column_stack([rng.uniform(0.2, 0.8, 300), rng.uniform(-0.9, 1.9, 300)])
    first = _observed(positions, _cells(period=period, y=y, x=x), field)
    offset = [0.5 * ("y" in columns), 0.4]
    other = _observed(positions + offset, _cells(period=period, **moved), field)
    np.testing.assert_allclose(first, other, atol=1e-9)


def test_weights_on_the_globe_are_exact_in_the_plane_of_the_triangle():
    """Weights w have sum 1, and sum_i w_i v_i is the position, shortened to the triangle."""
    space = _fibonacci(500)
    rng = np.random.default_rng(0)
    positions = np.column_stack([rng.uniform(-90, 90, 1000), rng.uniform(-180, 540, 1000)])
    found, weights, inside = triangles_of(space).corners(positions)
    assert inside.all() and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-14)
    corners = _vectors(triangles_of(space).positions)[found]
    there = np.einsum("pc,pcx->px", weights, corners)
    length = np.linalg.norm(there, axis=1, keepdims=True)
    np.testing.assert_allclose(there / length, _vectors(positions), atol=1e-12)
    # The plane of a triangle lies below the sphere by at most 1 - cos of its circumscribed cap.
    assert length.max() <= 1 + 1e-12 and length.min() > np.cos(np.radians(9))


def test_triangles_on_the_globe_are_those_of_delaunay():
    """No point lies in the cap around a triangle, whichever projection found it."""
    space = _fibonacci(500)
    rng = np.random.default_rng(1)
    positions = np.column_stack([rng.uniform(-90, 90, 400), rng.uniform(0, 360, 400)])
    found, _, _ = triangles_of(space).corners(positions)
    v = _vectors(triangles_of(space).positions)
    a, b, c = (v[found[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal *= np.sign((normal * a).sum(1, keepdims=True))
    over = normal @ v.T - (normal * a).sum(1, keepdims=True)
    proper = np.array([len(set(row)) == 3 for row in found])
    assert proper.sum() > 390 and over[proper].max() < 1e-12


def test_a_global_mesh_holds_every_position_and_interpolates_to_second_order():
    errors = []
    rng = np.random.default_rng(0)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    positions = np.column_stack([latitude, rng.uniform(-180, 360, 2000)])
    special = [[90, 0], [-90, 12], [89.999, 5], [-89.99, 200], [0, 359.9999], [12, 0], [-3, 180]]
    positions = np.concatenate((positions, special))
    for size in (2000, 8000):
        space = _fibonacci(size)
        v = _vectors(triangles_of(space).positions)
        field = v[:, 0] * v[:, 1] + 0.5 * v[:, 2] ** 2 - v[:, 0]
        p = _vectors(positions)
        truth = p[:, 0] * p[:, 1] + 0.5 * p[:, 2] ** 2 - p[:, 0]
        errors.append(np.abs(_observed(positions, space, field) - truth).max())
    # A side is at most h = 1.6 (4 pi / 2000)^(1/2) = .127, and the second derivatives, with the
    # curvature of the globe, are below 4: the error is at most 4 h^2 / 3 / 2 = .0107.
    assert errors[0] < 0.0107
    assert 3 < errors[0] / errors[1] < 5


def test_grid_points_take_their_own_value():
    for space in (_fibonacci(300), _cells(y=np.arange(9.0) % 3, x=np.arange(9.0) // 3)):
        places = triangles_of(space).positions
        field = np.random.default_rng(0).normal(size=len(places))
        near = places + 1e-5
        assert (_observed(places, space, field) == field).all()
        moved, index, on_grid = snapped(near, space)
        assert on_grid.all() and (index == np.arange(len(places))).all()
        assert (moved == places).all()


def test_a_region_ends_at_its_hull():
    y, x = np.meshgrid(np.linspace(40, 60, 11), np.linspace(350, 380, 16), indexing="ij")
    axes = {"y": np.arange(11), "x": np.arange(16)}
    points = {"latitude": y, "longitude": x}
    space = StateSpace((11, 16), coordinates=axes, points=points, units=DEGREES)
    Interpolate(torch.tensor([[50.0, 0.0], [50.0, -9.9], [40.005, 371.0]]), space)
    # Between points of a parallel the arc of a side lies poleward, by .004 degrees here.
    Interpolate(torch.tensor([[60.005, 351.0], [39.9999, 350.0]]), space)
    for outside in (
        [61.0, 0.0],
        [40.0, 371.0],
        [-50.0, 180.0],
        [50.0, 21.0],
        [50.0, 348.0],
        [95.0, 0.0],
    ):
        with pytest.raises(ValueError, match="outside the domain latitude in"):
            Interpolate(torch.tensor([outside]), space)
    with pytest.raises(ValueError, match="outside the domain"):
        Interpolate(torch.tensor([[float("nan"), 0.0]]), space)


def test_levels_are_an_axis_beside_triangles():
    rng = np.random.default_rng(0)
    level = np.array([0.0, 10.0, 50.0])
    y, x = rng.uniform(0, 1, (2, 60))
    points = {"level": level[:, None] + 0 * y, "y": np.tile(y, (3, 1)), "x": np.tile(x, (3, 1))}
    axes = {"level": level, "cell": np.arange(60)}
    space = StateSpace((3, 60), coordinates=axes, points=points)
    field = 2 * points["level"] + 3 * points["y"] - points["x"] * (1 + points["level"])
    positions = rng.uniform([0, 0.3, 0.3], [50, 0.7, 0.7], (40, 3))
    z, y, x = positions.T
    expected = 2 * z + 3 * y - x * (1 + z)
    np.testing.assert_allclose(_observed(positions, space, field), expected, atol=1e-10)
    _, index, on_grid = snapped(np.array([[10.0, points["y"][0, 7], points["x"][0, 7]]]), space)
    assert on_grid.all() and index.tolist() == [67]


def test_nearest_is_that_of_brute_force():
    space = _fibonacci(400)
    rng = np.random.default_rng(0)
    positions = np.column_stack([rng.uniform(-90, 90, 200), rng.uniform(-180, 360, 200)])
    places = torch.from_numpy(triangles_of(space).positions)
    there = torch.from_numpy(positions)
    far = great_circle(there[:, None, 0], there[:, None, 1], places[:, 0], places[:, 1])
    field = np.arange(400.0)
    found = _observed(positions, space, field, nearest=2000.0)
    assert (found == far.argmin(1).numpy()).all()
    limit = float(far.min(1).values.median())
    inside = far.min(1).values < limit - 1e-6
    _observed(positions[inside.numpy()], space, field, nearest=limit)
    with pytest.raises(ValueError, match=r"farther than .* from all points of the grid"):
        _observed(positions, space, field, nearest=limit)
    with pytest.raises(ValueError, match="positive distance"):
        _observed(positions, space, field, nearest=0.0)


def test_nearest_is_for_grids_too_and_takes_no_land():
    mask = np.array([[True, False, True]] * 2)
    axes = {"y": np.arange(2.0), "x": np.arange(3.0)}
    space = StateSpace((2, 3), coordinates=axes, mask=mask, period={"x": 3.0})
    operator = Interpolate(torch.tensor([[0.1, 0.9], [0.9, 1.2], [0.0, -0.8]]), space, nearest=1.3)
    assert operator(torch.arange(6.0)[None].view(1, 2, 3)).tolist() == [[0.0, 5.0, 2.0]]


def test_triangles_next_to_land_are_refused():
    y, x = np.meshgrid(np.arange(3.0), np.arange(3.0), indexing="ij")
    mask = np.ones(9, dtype=bool)
    mask[8] = False
    space = _cells(mask=mask, y=y.ravel(), x=x.ravel())
    Interpolate(torch.tensor([[0.5, 0.4], [2.0, 1.0], [1.5, 1.0]]), space)
    for wet in ([1.9, 1.9], [2.0, 1.5]):
        with pytest.raises(ValueError, match="on land, or next to it"):
            Interpolate(torch.tensor([wet]), space)


def test_interpolation_in_triangles_is_a_linear_operator():
    space = _fibonacci(60)
    operator = Interpolate(torch.tensor([[12.0, 33.0], [-80.0, 359.0], [89.0, 1.0]]), space)
    check_operator(operator, space.shape)
    assert torch.equal(operator.coordinates(space)[2], torch.tensor([89.0, 1.0]).double())


def test_positions_that_span_no_triangle_say_so():
    line = _cells(y=np.zeros(5), x=np.arange(5.0))
    with pytest.raises(ValueError, match="span no triangle: give `nearest`"):
        Interpolate(torch.tensor([[0.0, 1.5]]), line)
    single = _cells(x=np.array([3.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="triangles need two names"):
        Interpolate(torch.tensor([[1.5]]), single)
    assert Interpolate(torch.tensor([[1.2]]), single, nearest=0.3)(torch.eye(3))[
        :, 0
    ].tolist() == [
        0.0,
        1.0,
        0.0,
    ]
    depth = {"y": np.zeros(4), "latitude": np.arange(4.0), "longitude": np.arange(4.0) ** 2}
    with pytest.raises(ValueError, match="two names on the globe"):
        Interpolate(torch.tensor([[0.0, 1.0, 1.0]]), _cells(DEGREES, **depth))


def test_selected_points_have_their_positions():
    space = _fibonacci(50)
    assert torch.equal(Select([7, 3]).coordinates(space), space.positions()[[7, 3]])
