import json
import math

import numpy as np
import pytest
import torch

from scorda.core.space import StateSpace
from scorda.core.transforms import Log, Logit

TRANSFORMS = [Log(), Log(-2.0), Logit(20.0, 35.0)]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_inverse_undoes_a_transform(transform):
    """Rounding near a bound is that of x, so the values here are some way inside."""
    x = transform.lower + torch.linspace(0.5, 14.5, 50)
    assert torch.allclose(transform.inverse(transform.forward(x)), x, rtol=1e-13)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_slope_is_the_derivative(transform):
    x = transform.lower + torch.linspace(0.5, 14.5, 50).requires_grad_()
    (slope,) = torch.autograd.grad(transform.forward(x).sum(), x)
    assert torch.allclose(transform.log_slope(x.detach()), slope.log(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_finite_number_maps_to_a_bound_or_beyond(transform, dtype):
    z = torch.tensor([-1e30, -1e3, -30.0, 0.0, 30.0, 1e3, 1e30], dtype=dtype)
    x = transform.inverse(z)
    assert (x > transform.lower).all() and x.isfinite().all()
    assert (x < getattr(transform, "upper", math.inf)).all()
    assert transform.forward(x).isfinite().all()


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_bounds_are_two_finite_numbers_in_order(bounds):
    with pytest.raises(ValueError, match="two finite numbers"):
        Logit(*bounds)


def space_with_bounds(parts=False):
    bounded = {"transforms": {"q": Logit(0.0, 1.0)}}
    if not parts:
        return StateSpace((2, 3), 1.0, ("q", "t"), {"site": np.arange(3)}, **bounded)
    fields = StateSpace((2, 3), 1.0, ("q", "t"), {"site": np.arange(3)}, **bounded)
    number = StateSpace((1,), 1.0, ("rate",), transforms={"rate": Log()}, parameters=("rate",))
    return StateSpace.of_parts({"fields": fields, "rate": number})


@pytest.mark.parametrize("parts", [False, True])
def test_a_space_maps_its_bounded_variables_alone(parts):
    space = space_with_bounds(parts)
    x = torch.rand(4, *space.shape)
    z = space.unbounded(x)
    assert torch.equal(space.field(z, "t"), space.field(x, "t"))
    assert torch.allclose(space.field(z, "q"), torch.logit(space.field(x, "q")))
    if parts:
        assert torch.allclose(space.field(z, "rate"), space.field(x, "rate").log())
    assert torch.allclose(space.bounded(z), x)


def test_what_moves_by_nothing_keeps_its_bits():
    space = space_with_bounds(parts=True)
    x = torch.rand(4, 7).float()
    change = torch.zeros_like(x)
    change[:, 0] = 0.1
    moved = space.moved(x, change)
    assert torch.equal(moved[:, 1:], x[:, 1:])
    assert torch.allclose(torch.logit(moved[:, 0]), torch.logit(x[:, 0]) + 0.1, atol=1e-5)


@pytest.mark.parametrize("parts", [False, True])
def test_a_space_with_bounds_and_parameters_is_read_back_from_json(parts):
    space = space_with_bounds(parts)
    again = StateSpace.from_json(json.loads(json.dumps(space.as_json())))
    assert again == space
    assert again.transforms == space.transforms and again.parameters == space.parameters
    assert again != StateSpace((2, 3), 1.0, ("q", "t"), {"site": np.arange(3)})


def test_a_space_without_bounds_is_described_as_before():
    content = StateSpace((3,)).as_json()
    assert "transforms" not in content and "parameters" not in content


@pytest.mark.parametrize(
    "entry", [[], ["exp", 1.0], ["log"], ["logit", 1.0], ["logit", "a", "b"], ["logit", 2.0, 1.0]]
)
def test_a_header_with_another_transform_is_refused(entry):
    content = StateSpace((1,), variables=("q",)).as_json() | {"transforms": {"q": entry}}
    with pytest.raises(ValueError, match=r"transform|bounds"):
        StateSpace.from_json(content)


def test_a_transform_or_a_parameter_is_of_a_variable():
    with pytest.raises(ValueError, match="transform of 'q'"):
        StateSpace((1,), transforms={"q": Log()})
    with pytest.raises(ValueError, match="parameter of 'q'"):
        StateSpace((1,), parameters=("q",))


def test_what_has_no_position_is_next_to_everything():
    """A parameter has distance 0 from each point, and is among the pairs of every reach."""
    from scorda.core.near import Near

    space = space_with_bounds(parts=True)
    where = space.places(space.positions())
    distance = space.distance(where, where)
    fields = torch.arange(3.0).repeat(2)
    assert torch.equal(distance[:6, :6], (fields[:, None] - fields).abs())
    assert not distance[6].any() and not distance[:, 6].any()
    tree = Near(where.numpy(), space)
    i, j = tree.pairs(tree, 0.5)
    expected = {(a, b) for a in range(7) for b in range(7) if distance[a, b] <= 0.5}
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert len(i) == tree.count(tree, 0.5) == len(expected)
