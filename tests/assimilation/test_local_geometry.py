"""Blocks of a grid and the observations near them: the lists against all distances."""

import math
import weakref

import numpy as np
import pytest
import torch

from scorda.assimilation import local
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem

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


def _near(space, centres, where, taper):
    """Return the weight of each observation for each block, from all distances."""
    return taper(space.distance(centres, where))


def _as_matrix(geometry, where, taper=0):
    """Return the weights that a geometry holds, a row for each block."""
    found = torch.zeros(len(geometry.centres), len(where))
    for lists in geometry.lists(where):
        for near in lists:
            weights = near.root_weights[taper].square()
            rows = near.blocks[:, None].expand_as(weights)
            found.index_put_((rows, near.observations.long()), weights, accumulate=True)
    return found


@pytest.mark.parametrize("radius", [1.0, 4.0, math.inf])
@pytest.mark.parametrize("tile", [None, 6])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPACES)
def test_the_neighbours_are_those_of_all_distances(name, precision, tile, radius, monkeypatch):
    """Also where the reach is beyond half of the period, or of the globe."""
    space, usual = SPACES[name]
    monkeypatch.setattr(local, "PAIRS", 2**9)
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        positions = space.positions()
        where = torch.cat((positions[::3], positions[5::17] + 0.01, positions[:2]))
        tapers = GaspariCohn(radius * usual), GaspariCohn(0.5 * radius * usual)
        geometry = local.Geometry(space, tapers, 2, tile)
        assert sum(map(len, geometry.lists(where))) > 1
        for index, taper in enumerate(tapers):
            found = _as_matrix(geometry, where, index)
            expected = _near(space, geometry.centres, where, taper)
            # A root and its square round; the last digit of a sine depends on its place.
            digits = 2e-6 if precision == torch.float32 else 1e-13
            torch.testing.assert_close(found, expected, rtol=digits, atol=digits)
            if space.sphere is None:
                assert torch.equal(found > 0, expected > 0)
    finally:
        torch.set_default_dtype(before)


def test_neighbours_of_parts_on_several_grids_are_those_of_all_distances():
    axis = {"y": np.arange(6.0), "x": np.arange(8.0)}
    between = {"y": np.arange(6.0), "x_u": np.arange(8.0) + 0.5}
    parts = {
        "flow": StateSpace((2, 6, 8), 1.0, ("h", "v"), axis, {"x": 8.0}),
        "faces": StateSpace((6, 8), 1.0, ("u",), between, {"x_u": 8.0}),
    }
    space = StateSpace.of_parts(parts, {"x_u": "x"})
    geometry = local.Geometry(space, (GaspariCohn(1.0),), 2)
    where = space.positions()[::5]
    expected = _near(space, geometry.centres, where, GaspariCohn(1.0))
    torch.testing.assert_close(_as_matrix(geometry, where), expected, rtol=1e-12, atol=1e-12)


def test_batches_of_tiles_hold_each_block_once_and_like_lengths(monkeypatch):
    space, radius = SPACES["periodic plane"]
    monkeypatch.setattr(local, "BATCH", 2**14)
    where = space.positions()[::4]
    for tile in (None, 4):
        geometry = local.Geometry(space, (GaspariCohn(radius),), 2, tile)
        batches = list(geometry.local(where, 8))
        points = torch.cat([batch.points[batch.exists] for batch in batches])
        seen = (_as_matrix(geometry, where) > 0).any(1)
        assert sorted(points.tolist()) == sorted(
            geometry.members[seen][geometry.exists[seen]].tolist()
        )
        for batch in batches:
            longest = (batch.root_weights[0] > 0).sum(1)
            assert longest.max() == batch.observations.shape[1] and (longest.diff() >= 0).all()


def test_a_geometry_is_kept_for_all_runs_of_a_problem_and_freed_with_it():
    def problem():
        space = SPACES["grid"][0]
        model = ObservationModel(Select(range(3)), std=1.0)
        return Problem(Box(space), Observations(model, [0], torch.zeros(1, 3)), 0)

    class Box:
        def __init__(self, space):
            self.space = space

    first, tapers = problem(), (GaspariCohn(9.0),)
    kept = weakref.ref(local.Geometry.of(first, tapers, 1))
    assert local.Geometry.of(first, tapers, 1) is kept()
    assert local.Geometry.of(first, tapers, 2) is not kept()
    kept = weakref.ref(local.Geometry.of(first, tapers, 2))
    assert kept() is not None
    del first
    assert kept() is None


@pytest.mark.parametrize("name", ["globe", "plane", "periodic plane"])
def test_blocks_of_points_are_near_each_other_and_hold_each_point_once(name):
    space, _ = SPACES[name]
    geometry = local.Geometry(space, (GaspariCohn(1.0),), 3)
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
    centre = local.Geometry(space, (GaspariCohn(100.0),), 2).centres
    expected = torch.tensor([[10.5, 0.0]], dtype=centre.dtype)
    # The middle of two points on a parallel lies 0.1 m poleward of it.
    assert space.separation(centre, expected).max() < 0.01
    flat = StateSpace((2, 2), coordinates=axes, points=places, period={"longitude": 360.0})
    centre = local.Geometry(flat, (GaspariCohn(100.0),), 2).centres
    assert flat.separation(centre, expected).max() < 1e-4
