"""Masks of parts of a grid: against their definitions."""

import math

import numpy as np
import pytest
import torch

from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.masks import Mask
from scorda.observations.spatial import Stride
from scorda.testing.physics import check_operator

PAIR = StateSpace((2, 8, 12), variables=("u", "v"))
LINE = StateSpace((40,), coordinates={"site": np.arange(40.0)}, period={"site": 40.0})


@pytest.mark.parametrize("space", [PAIR, LINE], ids=["plane", "line"])
def test_a_grid_mask_is_a_stride(space):
    x = normal(3, space.shape, seeded(0))
    mask = Mask.grid(space, 3)
    assert torch.equal(mask(x), Stride(3)(x).flatten(1))
    assert torch.equal(mask.coordinates(space), Stride(3).coordinates(space))
    check_operator(mask, space.shape)


def test_the_hole_in_the_middle_is_what_the_square_is():
    hole, square = Mask.centre(PAIR), Mask.centre(PAIR, hole=False)
    assert torch.equal(hole.mask, ~square.mask)
    rows, columns = square.mask[1].any(1).nonzero()[:, 0], square.mask[1].any(0).nonzero()[:, 0]
    assert rows.tolist() == [2, 3, 4, 5] and columns.tolist() == [3, 4, 5, 6, 7, 8]
    assert int(square.mask.sum()) == 2 * 4 * 6
    # The inner 12 x 12 of 16 x 16.
    inner = Mask.centre((16, 16), share=0.75, hole=False).mask
    assert inner[2:14, 2:14].all() and int(inner.sum()) == 144
    check_operator(hole, PAIR.shape)


def test_a_ring_has_its_area_and_the_symmetry_of_its_centre():
    """2574 points in the ring by area; those at its two edges make it some tens more or less."""
    mask = Mask.ring((128, 128), math.sqrt(0.4), math.sqrt(0.6)).mask
    assert float(mask.double().mean()) == pytest.approx(math.pi * 0.2 / 4, rel=0.02)
    assert torch.equal(mask, mask.flip(0)) and torch.equal(mask, mask.T)
    places = (2 * torch.arange(128) + 1 - 128) / 128
    assert torch.equal(mask[40], (places**2 + places[40] ** 2 - 0.5).abs() < 0.1)


def test_a_ring_goes_round_the_domain():
    middle = Mask.ring(PAIR, 0.3, 0.8).mask
    moved = Mask.ring(PAIR, 0.3, 0.8, centre=(2 * 3 / 8, 2 * 7 / 12)).mask
    assert torch.equal(moved, middle.roll((3, 7), (1, 2)))
    assert torch.equal(Mask.ring(PAIR, -1.0, 0.3).mask[0], Mask.ring(PAIR.grid, -1.0, 0.3).mask)


def test_masks_of_nothing_are_refused():
    flat = StateSpace((3,))
    cases = [
        (lambda: Mask.grid(PAIR, 0), "at least 1"),
        (lambda: Mask.grid(flat, 2), "without a grid"),
        (lambda: Mask.grid((4,), 2), "without a grid"),
        (lambda: Mask.centre(PAIR, share=1.0), "between 0 and 1"),
        (lambda: Mask.centre(PAIR, share=0.01, hole=False), "without a true entry"),
        (lambda: Mask.ring(PAIR, 0.5, 0.4), "without a true entry"),
        (lambda: Mask.ring(PAIR, 0.3, 0.4, centre=(0.0,)), "one number per axis"),
    ]
    for make, match in cases:
        with pytest.raises(ValueError, match=match):
            make()
