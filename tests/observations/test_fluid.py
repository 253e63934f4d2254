"""Vorticity, speed and differences: closed forms, identities, and what they refuse."""

import math

import numpy as np
import pytest
import torch

from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.fluid import Difference, Speed, Vorticity
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Operator, Pointwise, Select
from scorda.observations.spatial import Average, Interpolate, Stride
from scorda.testing.physics import check_operator

DOUBLE = torch.ones(1, dtype=torch.float64)
SOFTSIGN = Pointwise(torch.nn.functional.softsign)


def flow(ny=8, nx=12, length=2 * math.pi):
    y, x = (length * np.arange(n) / n for n in (ny, nx))
    period = {"y": length, "x": length}
    return StateSpace((2, ny, nx), 0.2, ("u", "v"), {"y": y, "x": x}, period)


FLOW = flow()
LINEAR = [
    Vorticity(),
    Vorticity(derivative="spectral"),
    Vorticity(period=(8.0, 12.0)),
    Chain(Vorticity(), Average(2)),
    Chain(Average((2, 3)), Vorticity()),
    Chain(Mask.ring(FLOW.grid, 0.3, 0.8), Vorticity()),
    Chain(Select([3, 17]), Vorticity(derivative="spectral")),
]
COARSE = Average(2)
NONLINEAR = [
    Speed(),
    Chain(SOFTSIGN, Chain(Vorticity(), Average(2))),
    Chain(Mask.centre((4, 6), hole=False), Chain(SOFTSIGN, Chain(Vorticity(), Average(2)))),
    Chain(Pointwise(torch.sigmoid), Speed()),
    Chain(Pointwise(torch.sigmoid), Mask.centre(FLOW)),
]


def waves(a, b, c, d, ny=32, nx=32):
    """u = sin(a x + b y), v = cos(c x + d y), and the exact vorticity."""
    y, x = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in (ny, nx)), indexing="ij")
    state = np.stack([np.sin(a * x + b * y), np.cos(c * x + d * y)])
    vorticity = -c * np.sin(c * x + d * y) - b * np.cos(a * x + b * y)
    return torch.from_numpy(state)[None], torch.from_numpy(vorticity)[None]


def named(value):
    """Names of the operators from outside in, without what differs from process to process."""
    if isinstance(value, Chain):
        return f"{named(value.outer)} of {named(value.inner)}"
    if not isinstance(value, Operator):
        return str(value)
    return type(value).__name__ + "".join(
        f" {v}" for v in vars(value).values() if isinstance(v, int | float | str)
    )


@pytest.mark.parametrize("operator", LINEAR + NONLINEAR, ids=named)
def test_operators_of_flows_keep_the_contract(operator):
    operator.check(FLOW)
    check_operator(operator, FLOW.shape)
    assert operator.linear == (operator in LINEAR)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (Difference(), (2, 3)),
        (Chain(Average(2), Difference()), (2, 2, 4, 6)),
        (Chain(Difference(), Vorticity()), (2, 2, 4, 6)),
        (Vorticity(), (3, 2, 4, 6)),
        (Speed(), (3, 2, 4, 6)),
    ],
    ids=named,
)
def test_operators_of_several_steps_keep_the_contract(operator, shape):
    check_operator(operator, shape)


@pytest.mark.parametrize("operator", LINEAR, ids=named)
def test_the_matrix_and_the_adjoint_are_those_of_the_operator(operator):
    """Rounding: 1e-12."""
    x = normal(3, FLOW.shape, seeded(0), DOUBLE)
    hx = operator(x)
    matrix = torch.from_numpy(operator.as_matrix(FLOW.shape).toarray())
    torch.testing.assert_close(x.flatten(1) @ matrix.T, hx.flatten(1), atol=1e-12, rtol=0)
    y = normal(3, tuple(hx.shape[1:]), seeded(1), DOUBLE)
    left = (hx * y).flatten(1).sum(1)
    right = (x * operator.adjoint(y, FLOW.shape)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)


@pytest.mark.parametrize("numbers", [(0, 4, 3, 0), (2, 1, 5, -3), (15, 7, 1, 14)])
@pytest.mark.parametrize("shape", [(32, 32), (33, 36)])
def test_spectral_vorticity_is_exact_for_resolved_waves(numbers, shape):
    """Rounding of transforms of size 32, times the wavenumber: 1e-12."""
    state, exact = waves(*numbers, *shape)
    found = Vorticity(derivative="spectral")(state)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


def test_central_vorticity_damps_a_wave_as_stated():
    """Along one axis each, exactly sin(k h) / (k h) times the vorticity; 1e-13 is rounding."""
    h = 2 * math.pi / 32
    state, exact = waves(0, 4, 0, 0)
    expected = exact * math.sin(4 * h) / (4 * h)
    torch.testing.assert_close(Vorticity()(state), expected, atol=1e-13, rtol=0)


def test_vorticity_and_divergence_tell_rotation_from_strain():
    """The curl is positive anticlockwise: (u, v) = (-y, x) turns at 2; inside, away from seams."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    turning = Vorticity(period=6.0)(torch.stack([-y, x])[None])
    strain = Vorticity(period=6.0)(torch.stack([y, x])[None])
    assert torch.equal(turning[0, 1:-1, 1:-1], torch.full((4, 4), 2.0))
    assert not strain[0, 1:-1, 1:-1].any()


@pytest.mark.parametrize("derivative", ["central", "spectral"])
def test_vorticity_is_periodic_and_of_no_potential_flow(derivative):
    """Translations commute with it, and a gradient has none; 1e-12 is rounding."""
    operator = Vorticity(derivative=derivative)
    x = normal(2, FLOW.shape, seeded(0), DOUBLE)
    moved = operator(x.roll((3, 5), (-2, -1)))
    torch.testing.assert_close(moved, operator(x).roll((3, 5), (-2, -1)), atol=1e-12, rtol=0)
    # The derivatives of a potential are those of the operator itself: along x that of (0, p),
    # along y the negative of that of (p, 0).
    p = normal(2, FLOW.grid, seeded(1), DOUBLE)
    along_x = operator(torch.stack([0 * p, p], 1))
    along_y = -operator(torch.stack([p, 0 * p], 1))
    curl = operator(torch.stack([along_x, along_y], 1))
    torch.testing.assert_close(curl, 0 * curl, atol=1e-12, rtol=0)


def test_a_period_of_the_number_of_points_gives_unit_spacing():
    x = normal(2, (2, 16, 16), seeded(0), DOUBLE)
    u, v = x.unbind(1)
    expected = (v.roll(-1, -1) - v.roll(1, -1) - u.roll(-1, -2) + u.roll(1, -2)) / 2
    torch.testing.assert_close(Vorticity(period=16.0)(x), expected)


def test_speed_is_the_norm_and_its_gradient_at_rest_is_zero():
    x = torch.tensor([3.0, 4.0])[None, :, None, None].repeat(1, 1, 2, 2)
    x[..., 1, 1] = 0.0
    x.requires_grad_()
    speed = Speed()(x)
    assert speed.tolist() == [[[5.0, 5.0], [5.0, 0.0]]]
    (gradient,) = torch.autograd.grad(speed.sum(), x)
    torch.testing.assert_close(gradient[0, :, 0, 0], torch.tensor([0.6, 0.8]))
    assert not gradient[0, :, 1, 1].any()


def test_the_difference_of_two_steps_closes_a_loop():
    model = ObservationModel(Difference(), std=0.1)
    loop = Observations(model, [(1, 4)], torch.zeros(1, 3))
    states = normal(5, (6, 3), seeded(0))
    assert torch.equal(loop.predict(states)[:, 0], states[:, 1] - states[:, 4])
    states[:, 4] = states[:, 1]
    best = -3 * math.log(0.1 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(loop.log_likelihood(states), torch.full((5,), best))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Vorticity(), FLOW.positions()),
        (Speed(), FLOW.positions()),
        (Chain(Vorticity(), Average(2)), COARSE.coordinates(FLOW)[:24]),
        (Chain(SOFTSIGN, Chain(Select([14]), Vorticity())), FLOW.positions()[[14]]),
        (Chain(Stride(2), Speed()), FLOW.positions()[Stride(2).entries((8, 12))]),
    ],
    ids=lambda value: named(value) if isinstance(value, Operator) else "positions",
)
def test_observations_of_flows_are_where_their_grid_points_are(operator, expected):
    # Single precision: positions made outside of a test are.
    torch.testing.assert_close(operator.coordinates(FLOW), expected.double(), atol=1e-5, rtol=0)


def test_vorticity_at_a_place_off_the_grid():
    field = StateSpace(FLOW.grid, coordinates=FLOW.coordinates, period=FLOW.period)
    places = np.array([[0.1, 0.2], [6.0, 6.1]])
    operator = Chain(Interpolate(places, field), Vorticity())
    check_operator(operator, FLOW.shape)
    torch.testing.assert_close(operator.coordinates(FLOW), torch.from_numpy(places))


def test_velocities_on_other_grids_are_refused(unchecked):
    line = StateSpace((2, 8), variables=("u", "v"), coordinates={"x": np.arange(8.0)})
    wall = StateSpace((2, 4, 4), variables=("u", "v"))
    cases = [
        (lambda: Vorticity(derivative="upwind"), "choose 'central' or 'spectral'"),
        (lambda: Vorticity(period=0.0), "lengths must be positive"),
        (lambda: Vorticity().check(line), "two velocities on two axes"),
        (lambda: Speed().check(line), "two velocities on two axes"),
        (lambda: Vorticity().check(wall), "not periodic with equal spacing"),
        (lambda: Vorticity().check(flow(length=1.0)), "give it `period`"),
        (lambda: Vorticity()(torch.zeros(1, 3, 4, 4)), "velocities \\(2, y, x\\) on at least"),
        (lambda: Vorticity()(torch.zeros(1, 2, 2, 4)), "velocities \\(2, y, x\\) on at least"),
        (lambda: Speed()(torch.zeros(1, 4, 4)), "shape \\(2, y, x\\)"),
        (lambda: Difference()(torch.zeros(1, 3, 4)), "a pair of steps"),
    ]
    for make, match in cases:
        with pytest.raises(ValueError, match=match) as error:
            make()
        assert str(error.value).endswith(".") and ". " not in str(error.value)
    Vorticity(period=1.0).check(flow(length=1.0))
