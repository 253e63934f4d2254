"""Blocks of a grid and the observations near them: the k-d tree against all distances."""

import math

import numpy as np
import pytest
import torch

from scorda.assimilation import local
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn

DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}


def _globe(points: int) -> StateSpace:
    """Return points all over the globe, with a pole and the seam."""
    rng = np.random.default_rng(0)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, points)))
    longitude = rng.uniform(-180, 180, points)
    latitude[0], longitude[1:3] = 90.0, (179.999, -179.999)
    places = {"latitude": latitude, "longitude": longitude}
    return StateSpace(
        (points,), coordinates={"cell": np.arange(points)}, points=places, units=DEGREES
    )


def _plane(points: int, period: float | None) -> StateSpace:
    rng = np.random.default_rng(1)
    places = {name: rng.uniform(0, 10, points) for name in ("y", "x")}
    periods = {} if period is None else {"x": period}
    axis = {"cell": np.arange(points)}
    return StateSpace((points,), coordinates=axis, points=places, period=periods)


def _grid(units: dict[str, str], period: dict[str, float]) -> StateSpace:
    axes = {"latitude": np.linspace(-30, 30, 16), "longitude": np.arange(0.0, 360.0, 15.0)}
    return StateSpace((16, 24), coordinates=axes, units=units, period=period)


# On a grid many observations are equally far from a point: their order is part of the test.
SPACES = {
    "grid": (_grid({}, {}), 12.0),
    "periodic": (_grid({}, {"longitude": 360.0}), 12.0),
    "sphere": (_grid(DEGREES, {"longitude": 360.0}), 900.0),
    "globe": (_globe(400), 700.0),
    "plane": (_plane(300, None), 0.6),
    "periodic plane": (_plane(300, 10.001), 0.6),
}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPACES)
def test_the_tree_gives_the_observations_of_all_distances(name, precision, monkeypatch):
    space, radius = SPACES[name]
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        positions = space.positions()
        where = torch.cat((positions[::3], positions[5::17] + 0.01))
        found = {}
        for label, most in {"dense": math.inf, "tree": 0}.items():
            monkeypatch.setattr(local, "DENSE", most)
            # Several batches.
            monkeypatch.setattr(local, "BATCH", 2**14)
            geometry = local.Geometry(space, GaspariCohn(radius), 1)
            assert (geometry._tree(where) is not None) == (label == "tree")
            found[label] = geometry.local(where, 8)
    finally:
        torch.set_default_dtype(before)
    assert len(found["tree"]) == len(found["dense"]) > 1
    for tree, dense in zip(found["tree"], found["dense"], strict=True):
        assert torch.equal(tree.points, dense.points) and torch.equal(tree.exists, dense.exists)
        if space.sphere is not None:
            # The last digit of a sine depends on its place in an array, and so does the order of
            # equal distances.
            both = [_spread(part, len(where)) for part in (tree, dense)]
            digits = 1e-6 if precision == torch.float32 else 1e-13
            torch.testing.assert_close(*both, rtol=digits, atol=1e-14)
            continue
        for part in ("observations", "root_weights", "distances"):
            assert torch.equal(getattr(tree, part), getattr(dense, part)), part


def _spread(batch: local.Local, observations: int) -> torch.Tensor:
    """Return the weight and the distance of each observation for each block."""
    weight = batch.root_weights.square()
    full = torch.zeros(2, len(weight), observations, dtype=weight.dtype)
    full[0].scatter_(1, batch.observations, weight)
    full[1].scatter_(1, batch.observations, torch.where(weight > 0, batch.distances, 0))
    return full


def test_all_distances_are_taken_where_the_taper_has_no_end():
    geometry = local.Geometry(SPACES["globe"][0], GaspariCohn(math.inf), 1)
    assert geometry._tree(SPACES["globe"][0].positions()) is None


@pytest.mark.parametrize("name", ["globe", "plane", "periodic plane"])
def test_blocks_of_points_are_near_each_other_and_hold_each_point_once(name):
    space, _ = SPACES[name]
    geometry = local.Geometry(space, GaspariCohn(1.0), 3)
    held = geometry.members[geometry.exists]
    assert held.sort().values.tolist() == list(range(space.size))
    assert geometry.members.shape[1] <= 9
    corners = space.positions()[geometry.members]
    far = space.separation(corners, geometry.centres[:, None])[geometry.exists]
    area = 4 * math.pi * 6371.0**2 if name == "globe" else 100.0
    # A square of 9 points has its corner 0.71 sides from its centre; halved blocks are up to
    # four times as long as wide, and points at random leave gaps.
    assert far.max() < 2.5 * math.sqrt(9 * area / space.size)


def test_the_centre_of_a_block_across_the_seam_is_on_the_seam():
    latitude, longitude = np.meshgrid([10.0, 11.0], [359.9, 0.1], indexing="ij")
    axes = {"y": np.arange(2), "x": np.arange(2)}
    places = {"latitude": latitude, "longitude": longitude}
    space = StateSpace((2, 2), coordinates=axes, points=places, units=DEGREES)
    centre = local.Geometry(space, GaspariCohn(100.0), 2).centres
    expected = torch.tensor([[10.5, 0.0]], dtype=centre.dtype)
    # The middle of two points on a parallel lies 0.1 m poleward of it.
    assert space.separation(centre, expected).max() < 0.01
    flat = StateSpace((2, 2), coordinates=axes, points=places, period={"longitude": 360.0})
    centre = local.Geometry(flat, GaspariCohn(100.0), 2).centres
    assert flat.separation(centre, expected).max() < 1e-4
