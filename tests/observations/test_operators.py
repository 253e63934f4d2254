"""Operators: matrix form, adjoint, positions, and what they refuse."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.masks import Mask
from scorda.observations.operators import Chain, Function, Linear, Pointwise, Select
from scorda.observations.spatial import Average, Interpolate, Stride

RING = StateSpace((12,), coordinates={"site": np.arange(12.0)}, period={"site": 12.0})
FIELD = StateSpace(
    (2, 4, 6),
    variables=("u", "v"),
    coordinates={"y": np.array([0.0, 1.0, 2.5, 3.0]), "x": np.arange(6.0)},
    period={"x": 6.0},
)
PLANE = StateSpace((4, 6), coordinates={"y": np.arange(4.0), "x": np.arange(6.0)})
THREE = StateSpace((3,), variables=("x", "y", "z"))


def points(space, count=5, seed=1):
    low = np.array([c[0] for c in space.coordinates.values()])
    high = np.array([c[-1] for c in space.coordinates.values()])
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, (count, len(low))))


LINEAR = [
    (RING, Select([3, 0, 11])),
    (FIELD, Select([3, 40, 24])),
    (RING, Mask(np.arange(12) % 3 == 0)),
    (FIELD, Mask(normal(2, (4, 6), seeded(0)) > 0)),
    (RING, Stride(5)),
    (PLANE, Stride((2, 4))),
    (FIELD, Stride(3)),
    (RING, Average(4)),
    (PLANE, Average(2)),
    (FIELD, Average((4, 3))),
    (THREE, Linear(normal(2, (3,), seeded(0), torch.ones(1, dtype=torch.float64)))),
    (RING, Interpolate(points(RING), RING)),
    (PLANE, Interpolate(points(PLANE), PLANE)),
    (FIELD, Interpolate(points(FIELD), FIELD)),
    (FIELD, Interpolate(points(FIELD), FIELD, "v")),
    (FIELD, Interpolate(points(FIELD, 2), FIELD, ("v", "u"))),
    (RING, Chain(Average(2), Stride(2))),
    (FIELD, Chain(Select([1, 0]), Average(2))),
    (
        FIELD,
        Chain(Chain(Mask(np.arange(12).reshape(2, 1, 6) > 3), Average((2, 1))), Stride((2, 1))),
    ),
]


# No positions of their own.
UNPLACED = [operator for _, operator in LINEAR if isinstance(operator, Linear)]


def name(case):
    return type(case).__name__ if not isinstance(case, StateSpace) else str(case.shape)


@pytest.mark.parametrize(("space", "operator"), LINEAR, ids=name)
def test_linear_operators_are_their_matrix_and_the_adjoint_its_transpose(space, operator):
    """Rounding of a few products in double precision: 1e-12."""
    assert operator.linear and operator.differentiable
    operator.check(space)
    basis = torch.eye(space.size, dtype=torch.float64).reshape(-1, *space.shape)
    matrix = operator(basis).flatten(1).T
    x = normal(3, space.shape, seeded(2), basis)
    hx = operator(x)
    torch.testing.assert_close(hx.flatten(1), x.flatten(1) @ matrix.T, atol=1e-12, rtol=0)

    y = normal(3, tuple(hx.shape[1:]), seeded(3), basis)
    back = operator.adjoint(y, space.shape)
    assert back.shape == x.shape
    torch.testing.assert_close(
        (hx * y).flatten(1).sum(1), (x * back).flatten(1).sum(1), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(("space", "operator"), LINEAR, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_members_stay_apart_and_input_is_untouched(space, operator, dtype):
    x = normal(4, space.shape, seeded(0), torch.ones(1, dtype=dtype))
    before = x.clone()
    y = operator(x)
    assert y.dtype == dtype and len(y) == 4
    assert torch.equal(x, before)
    # A product of one row may be summed in another order than one of four.
    torch.testing.assert_close(y[2:3], operator(x[2:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("space", "operator"), LINEAR, ids=name)
def test_coordinates_are_where_the_coordinate_fields_say(space, operator):
    """Observing the coordinate itself gives the position, since every operator averages.

    Single precision of `positions`: 1e-5.
    """
    if not space.axes or operator in UNPLACED:
        with pytest.raises(ValueError, match="does not know where its observations are"):
            operator.coordinates(space)
        return
    mesh = np.meshgrid(*space.coordinates.values(), indexing="ij")
    # On a periodic axis interpolation between the last and first point is not linear in x;
    # the random points lie between the first and the last.
    fields = [torch.from_numpy(m).expand(1, *space.shape) for m in mesh]
    seen = torch.stack([operator(f).flatten() for f in fields], -1)
    found = operator.coordinates(space)
    assert found.shape == (seen.shape[0], len(space.axes))
    torch.testing.assert_close(found.double(), seen, atol=1e-5, rtol=0)


def test_variables_name_each_entry():
    assert Select([0, 23, 24]).variables(FIELD) == ("u", "u", "v")
    assert Select([2, 0]).variables(THREE) == ("z", "x")
    assert Stride(4).variables(FIELD) == ("u",) * 2 + ("v",) * 2
    assert Average(2).variables(FIELD) == ("u",) * 6 + ("v",) * 6
    assert Interpolate(points(FIELD, 2), FIELD).variables(FIELD) == ("u", "u", "v", "v")
    assert Interpolate(points(FIELD, 2), FIELD, ("v", "u")).variables(FIELD) == ("v", "u")
    with pytest.raises(ValueError, match="Pointwise does not observe single variables"):
        Pointwise(torch.atan).variables(FIELD)


def test_mask_is_boolean_indexing():
    mask = normal(2, (4, 6), seeded(5)) > 0.3
    x = normal(3, FIELD.shape, seeded(6))
    assert torch.equal(Mask(mask)(x), x[:, mask])


def test_stations_are_points_on_a_stride_or_drawn_from_them():
    index = np.arange(48).reshape(2, 4, 6)
    every = Select.stations(FIELD, every=2, variables=("v", "u"))
    assert list(every.indices) == index[[1, 0], ::2, ::2].ravel().tolist()
    drawn = np.array(Select.stations(FIELD, 5, seeded(3), every=2).indices).reshape(2, 5)
    assert (np.diff(drawn) > 0).all() and (drawn[1] == drawn[0] + 24).all()
    assert set(drawn[0]) < set(index[0, ::2, ::2].ravel())
    assert Select.stations(FIELD, 5, seeded(3), every=2).indices == tuple(drawn.ravel())
    assert Select.stations(THREE).indices == (0, 1, 2)
    assert Select.stations(RING, 12, seeded(0)).indices == tuple(range(12))
    for settings in ({"number": 7, "every": 2}, {"number": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Select.stations(FIELD, **settings)
    with pytest.raises(ValueError, match="Unknown variable 'w'"):
        Select.stations(FIELD, variables=("w",))


def test_stride_is_slicing_and_average_is_block_means():
    x = normal(3, FIELD.shape, seeded(6), torch.ones(1, dtype=torch.float64))
    assert torch.equal(Stride((3, 2))(x), x[:, :, ::3, ::2])
    expected = torch.empty(3, 2, 2, 2, dtype=torch.float64)
    for i, j in product(range(2), range(2)):
        expected[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((2, 3))
    torch.testing.assert_close(Average((2, 3))(x), expected, atol=1e-14, rtol=0)  # rounding


def test_interpolation_is_exact_for_multilinear_fields_and_on_the_grid():
    """1e-12: rounding."""
    y, x = np.meshgrid(*FIELD.coordinates.values(), indexing="ij")
    field = torch.from_numpy(np.stack([2 + y - 3 * x + 0.5 * x * y, 1 - x * y]))[None]
    p = points(FIELD, 20)
    u = 2 + p[:, 0] - 3 * p[:, 1] + 0.5 * p[:, 0] * p[:, 1]
    expected = torch.stack([u, 1 - p[:, 0] * p[:, 1]])[None]
    torch.testing.assert_close(Interpolate(p, FIELD)(field), expected, atol=1e-12, rtol=0)
    nodes = torch.from_numpy(np.stack([y.ravel(), x.ravel()], -1))
    assert torch.equal(Interpolate(nodes, FIELD)(field), field.flatten(2))


def test_interpolation_goes_round_a_periodic_axis():
    x = torch.arange(12.0, dtype=torch.float64)[None]
    operator = Interpolate(torch.tensor([[11.25], [-0.75], [23.25], [12.0]]), RING)
    # From 11 to 0 the field falls by 11: 11 - 11/4.
    assert operator(x)[0].tolist() == [8.25, 8.25, 8.25, 0.0]


def test_interpolation_takes_numpy_points_and_one_variable_per_point():
    p = np.array([[0.5, 1.0], [2.75, 4.5]])
    x = normal(3, FIELD.shape, seeded(0))
    both = Interpolate(p, FIELD)(x)
    assert both.shape == (3, 2, 2)
    assert torch.equal(Interpolate(p, FIELD, "v")(x), both[:, 1])
    mixed = Interpolate(p, FIELD, ("v", "u"))(x)
    assert torch.equal(mixed, torch.stack([both[:, 1, 0], both[:, 0, 1]], -1))


def test_a_grid_of_one_point_is_that_point():
    column = StateSpace((1, 3), coordinates={"y": np.array([7.0]), "x": np.arange(3.0)})
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    assert Interpolate(np.array([[7.0, 1.5]]), column)(x).tolist() == [[3.0]]


def test_pointwise_and_chain_are_the_composition():
    operator = Chain(Pointwise(torch.atan), Stride(2))
    x = normal(3, (12,), seeded(0)).requires_grad_()
    assert not operator.linear and operator.differentiable
    assert torch.equal(operator(x), torch.atan(x[:, ::2]))
    (gradient,) = torch.autograd.grad(operator(x).sum(), x)
    expected = torch.zeros_like(x)
    expected[:, ::2] = 1 / (1 + x[:, ::2] ** 2)
    torch.testing.assert_close(gradient, expected)
    assert torch.equal(operator.coordinates(RING), Stride(2).coordinates(RING))
    assert Pointwise(torch.atan).coordinates(FIELD).shape == (FIELD.size, 2)


def test_speed_at_stations():
    p = points(FIELD, 3)
    stations = Interpolate(p, FIELD)
    operator = Chain(Function(lambda v: v.square().sum(1).sqrt(), positions=p), stations)
    x = normal(5, FIELD.shape, seeded(0), p)
    u, v = stations(x).unbind(1)
    torch.testing.assert_close(operator(x), (u**2 + v**2).sqrt())
    assert torch.equal(operator.coordinates(FIELD), p)


def test_chain_of_a_selection_places_it_among_the_inner_observations():
    operator = Chain(Select([1, 2]), Stride(3))
    assert operator.coordinates(RING)[:, 0].tolist() == [3.0, 6.0]
    with pytest.raises(ValueError, match="Linear does not know where"):
        Chain(Linear(torch.eye(6)), Stride(2)).coordinates(PLANE)


def test_black_box_passes_no_gradient_and_keeps_dtype():
    operator = Function(lambda x: np.sin(x), differentiable=False)
    x = normal(2, (3,), seeded(0), torch.ones(1, dtype=torch.float32)).requires_grad_()
    y = operator(x)
    assert y.dtype == torch.float32 and not y.requires_grad and not operator.differentiable
    torch.testing.assert_close(y, x.detach().sin())
    assert not Chain(Pointwise(torch.atan), operator).differentiable


def test_channels_are_inferred_and_a_wrong_guess_is_refused():
    pair = StateSpace((2, 8), variables=("u", "v"), coordinates={"x": np.arange(8.0)})
    volume = StateSpace((4, 4, 4))
    for operator in (Stride(2), Average(2)):
        with pytest.raises(ValueError, match="give it channels=True"):
            operator.check(pair)
        with pytest.raises(ValueError, match="give it channels=False"):
            operator.coordinates(volume)
        assert operator(torch.zeros(1, 2, 8)).shape == (1, 1, 4)
    assert Stride(2, channels=True)(torch.zeros(1, 2, 8)).shape == (1, 2, 4)
    assert Average(2, channels=False)(torch.zeros(1, 4, 4, 4)).shape == (1, 2, 2, 2)
    Average(2, channels=True).check(pair)
    Stride(2).check(StateSpace((6,)))  # a variable per entry, no coordinates


def test_nothing_linear_is_claimed_of_nonlinear_operators():
    with pytest.raises(TypeError, match="Pointwise is not linear, so it has no adjoint"):
        Pointwise(torch.atan).adjoint(torch.zeros(1, 3), (3,))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Select([]), "give at least one, each >= 0"),
        (lambda: Select([2, -1]), "give at least one, each >= 0"),
        (lambda: Select([3])(torch.zeros(1, 3)), "indices must be smaller"),
        (lambda: Select([3]).check(THREE), "indices must be smaller"),
        (lambda: Mask(torch.zeros(3)), "give truth values"),
        (lambda: Mask(torch.zeros(3) > 0), "at least one component must be observed"),
        (lambda: Mask(torch.ones(3) > 0)(torch.zeros(1, 4)), "they must be equal"),
        (lambda: Linear(torch.zeros(2, 3))(torch.zeros(1, 4)), "they must be equal"),
        (lambda: Linear(torch.zeros(2, 3)).check(RING), "they must be equal"),
        (lambda: Linear(torch.zeros(2, 3), torch.zeros(3, 1)), "one row per observation"),
        (lambda: Linear(torch.zeros(2, 3)).coordinates(THREE), "does not know where"),
        (lambda: Stride(0), "at least 1"),
        (lambda: Stride((2, 2))(torch.zeros(1, 8)), "one number or one per spatial axis"),
        (lambda: Average(0), "at least 1"),
        (lambda: Average(5)(torch.zeros(1, 12)), "must divide it"),
        (lambda: Pointwise(torch.sum)(torch.zeros(1, 3)), "element by element"),
        (lambda: Function(lambda x: x.sum())(torch.zeros(2, 3)), "first axis, the members"),
        (lambda: Interpolate(torch.zeros(2, 3), PLANE), "one column for each of"),
        (lambda: Interpolate(torch.zeros(0, 2), PLANE), "one column for each of"),
        (lambda: Interpolate(torch.tensor([[0.0, 0.0], [3.5, 1.0]]), PLANE), "point 1 outside"),
        (lambda: Interpolate(torch.tensor([[math.nan, 0.0]]), PLANE), "outside the domain"),
        (lambda: Interpolate(torch.zeros(1, 2), FIELD, "w"), "Unknown variable 'w'"),
        (lambda: Interpolate(torch.zeros(1, 2), FIELD, ("u", "v")), "one for all or one for each"),
        (lambda: Interpolate(torch.zeros(1, 2), FIELD)(torch.zeros(1, 4, 6)), "with the space of"),
        (lambda: Interpolate(torch.zeros(1, 2), FIELD).check(PLANE), "with the space of"),
    ],
)
def test_bad_operators_are_refused(make, match, unchecked):
    with pytest.raises(ValueError, match=match) as error:
        make()
    # One sentence: nothing but its end is a full stop before a space.
    assert str(error.value).endswith(".") and ". " not in str(error.value)


@pytest.mark.parametrize(
    "indices", [[0.7], [True], [np.bool_(False)], [torch.tensor(True)], np.array([1.0]), ["1"]]
)
def test_select_refuses_what_is_no_whole_number(indices):
    with pytest.raises(TypeError, match="give whole numbers"):
        Select(indices)


@pytest.mark.parametrize(
    "indices", [(2, 0), np.array([2, 0], np.int16), torch.tensor([2, 0]), [np.uint8(2), 0]]
)
def test_select_takes_whole_numbers_of_any_library(indices):
    assert Select(indices).indices == (2, 0)


@pytest.mark.parametrize("made", [np.float16, np.float32, np.int32, bool, ">f8"])
def test_a_black_box_gets_a_numpy_copy_and_returns_any_real_type(made):
    def rounded(x):
        assert isinstance(x, np.ndarray)
        x.round(out=x)
        return x.astype(made)

    x = torch.tensor([[0.2, 1.1], [0.9, 0.4]], requires_grad=True)
    y = Function(rounded, differentiable=False)(x)
    assert torch.equal(y, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) and y.dtype == x.dtype
    assert torch.equal(x, torch.tensor([[0.2, 1.1], [0.9, 0.4]]))


@pytest.mark.parametrize(
    "made",
    [lambda x: x.numpy(), lambda x: x.tolist(), lambda x: None, lambda x: x.to(torch.complex128)],
)
def test_a_function_of_torch_returns_a_real_tensor(made, unchecked):
    """The imaginary part of a complex number would be dropped without a word."""
    for operator in (Function(made), Pointwise(made)):
        with pytest.raises(TypeError, match="must be a real torch tensor"):
            operator(torch.ones(4, 3))


def test_a_function_that_changes_its_states_is_refused():
    """These are the members of the ensemble: the analysis would go on with other ones."""
    for operator in (Function(lambda x: x.mul_(2.0)), Pointwise(lambda x: x.mul_(2.0))):
        with pytest.raises(ValueError, match=r"changed the states .* x.clone"):
            operator(torch.ones(4, 3))
    kept = Function(lambda x: x.clone().mul_(2.0))
    assert (kept(torch.ones(4, 3)) == 2.0).all()
    assert torch.func.jacrev(lambda x: kept(x).sum())(torch.ones(4, 3)).tolist() == [[2.0] * 3] * 4


@pytest.mark.parametrize("indices", [1, None, torch.tensor(1), np.array([[0, 1]])])
def test_indices_are_a_list(indices, unchecked):
    with pytest.raises(TypeError, match="indices: give a list of whole numbers"):
        Select(indices)
