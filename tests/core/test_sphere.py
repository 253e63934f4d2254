"""Distances on the globe, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core.space import StateSpace
from scorda.core.sphere import HALF_CIRCUMFERENCE, great_circle
from scorda.observations.augmentation import augment
from scorda.observations.spatial import Interpolate

DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}
DEGREE = 6371 * math.pi / 180


def globe(longitudes, latitudes=(-60.0, -20.0, 20.0, 60.0), units=DEGREES):
    axes = {"latitude": np.array(latitudes), "longitude": np.asarray(longitudes, float)}
    shape = tuple(map(len, axes.values()))
    return StateSpace(shape, 1.0, ("t",), axes, {"longitude": 360.0}, units)


@pytest.mark.parametrize(
    ("a", "b", "kilometres"),
    [
        ((0, 0), (0, 1), DEGREE),
        ((0, 0), (1, 0), DEGREE),
        ((0, 359.5), (0, 0.5), DEGREE),
        ((0, -0.5), (0, 359.5), 0.0),
        ((0, 170), (0, -170), 20 * DEGREE),
        ((90, 0), (90, 123), 0.0),
        ((90, 10), (0, 77), 90 * DEGREE),
        ((89, 0), (89, 180), 2 * DEGREE),
        ((-90, 0), (90, 0), 180 * DEGREE),
        ((10, 20), (-10, 200), 180 * DEGREE),
        # From the north pole's side: cos c = sin 60 sin 60 + cos 60 cos 60 cos 90 = 3/4.
        ((60, 0), (60, 90), 6371 * math.acos(0.75)),
        # A metre: the haversine formula keeps what the cosine loses.
        ((45, 0), (45 + 1e-3 / DEGREE, 0), 1e-3),
    ],
)
def test_distance_is_the_great_circle_in_km(a, b, kilometres):
    space = globe([0.0, 90.0, 180.0, 270.0])
    far = space.distance(torch.tensor([a], dtype=torch.float64), torch.tensor([b]).double())
    # Sines are rounded by 1e-16, which is 1e-12 km; at the opposite point 1 - h loses half of its
    # digits, which is 10 cm.
    rtol = 1e-12 if kilometres < 20000 else 1e-8
    assert_close(far, torch.tensor([[kilometres]]), rtol=rtol, atol=1e-11)


def test_axes_count_by_their_units_in_any_order_and_levels_do_not():
    axes = {"level": np.arange(2.0), "x": np.array([0.0, 1.0]), "y": np.array([0.0, 1.0])}
    units = {"x": "degree_E", "y": "degreesN", "level": "hPa"}
    space = StateSpace((2, 2, 2), 1.0, ("t",), axes, units=units)
    far = space.distance(torch.tensor([[0.0, 0.0, 60.0]]), torch.tensor([[1.0, 1.0, 60.0]]))
    assert_close(far[0, 0], great_circle(*torch.tensor([60.0, 0.0, 60.0, 1.0])))
    axes = {"x": np.arange(2.0), "y": np.arange(2.0)}
    plane = StateSpace((2, 2), 1.0, ("t",), axes, units={"x": "km", "y": "degrees_north"})
    assert_close(
        plane.distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]])).item(), 5.0
    )


def test_the_pairs_of_an_augmented_state_are_as_far_apart_as_the_states():
    space = globe(np.arange(0.0, 360, 60))
    model = sc.ObservationModel(
        sc.observations.Chain(sc.Select(range(24)), sc.observations.Pointwise(torch.exp)), std=1.0
    )
    made = augment(torch.randn(5, *space.shape), torch.zeros(24), model, space, on_grid=True)
    where = space.positions()
    pairs = made.space
    assert pairs.shape == (2, 4, 6)
    assert_close(pairs.distance(where, where), space.distance(where, where))


@pytest.mark.parametrize("widest", [HALF_CIRCUMFERENCE / 3.64])
def test_a_taper_within_half_of_the_circumference_is_a_correlation(widest):
    """Gneiting (2013): its matrices have no negative eigenvalue; one twice as wide has."""
    space = globe(np.arange(0.0, 360, 20), np.arange(-80.0, 90, 20))
    where = space.positions()
    far = space.distance(where, where)
    lowest = [float(torch.linalg.eigvalsh(sc.GaspariCohn(k * widest)(far))[0]) for k in (1, 2)]
    assert lowest[0] > -1e-12 and lowest[1] < -0.1


def turned(fields, columns):
    return fields.roll(columns, -1)


@pytest.mark.parametrize(
    "method",
    [
        sc.LETKF(1.02, localization=sc.GaspariCohn(2500)),
        sc.LETKF(1.02, localization=sc.GaspariCohn(3500), block=2),
        sc.EnKF(localization=sc.GaspariCohn(2500)),
    ],
    ids=["LETKF", "LETKF in blocks", "EnKF"],
)
@pytest.mark.parametrize("turn", ["by 180 degrees", "to -180"])
def test_an_analysis_does_not_depend_on_how_longitudes_are_counted(method, turn):
    """The globe has no seam: a turn by half of it, and longitudes from -180, change nothing."""
    east = np.arange(0.0, 360, 30)
    first = globe(east)
    second = globe(east + 180 if turn == "by 180 degrees" else east - 180)
    generator = torch.Generator().manual_seed(1)
    members = torch.randn(8, *first.shape, generator=generator)
    y = torch.randn(1, 5, generator=generator)
    # Off the grid, at the seam, near a pole and by the equator; counted as the space counts.
    places = torch.tensor([[10.0, 355.0], [59, 2], [-60, 180], [-3, 100], [45, 275]])
    moved = places.clone()
    if turn == "by 180 degrees":
        moved[:, 1] += 180
        columns = 0
    else:
        moved[:, 1] = (moved[:, 1] + 180) % 360 - 180
        columns = 6
    found = []
    cases = (first, places, members), (second, moved, turned(members, columns))
    for space, where, states in cases:
        system = sc.systems.FunctionSystem(lambda x: x, states, space, library="torch")
        data = sc.Observations(sc.ObservationModel(Interpolate(where, space), std=0.5), [0], y)
        problem = sc.Problem(system, data, 0, initial=states)
        analysis = method.assimilate(problem, 8, torch.Generator().manual_seed(2))
        found.append(analysis.states[:, 0])
    assert (found[0] - members).abs().max() > 0.1
    assert_close(turned(found[0], columns), found[1], rtol=0, atol=1e-10)
