"""Modes of an observation against the dense matrices that are never formed."""

import math

import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Function, Linear, Select
from scorda.observations.spatial import Average, Blur, Interpolate, Stride


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=rng.seeded(seed), dtype=torch.float64)


def cov(size, seed=1):
    root = matrix(size, size, seed=seed)
    return root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


GRID = StateSpace((4, 6), variables=("q",))
CASES = {
    "mask": (ObservationModel(Mask(matrix(3, 4) > 0), std=0.3), (3, 4)),
    "stride": (ObservationModel(Stride(2), std=0.3), (4, 6)),
    "entry seen twice": (
        ObservationModel(Select([1, 3, 1]), std=torch.tensor([0.1, 1.0, 2.0])),
        (5,),
    ),
    "average": (ObservationModel(Average(2), std=0.3), (4, 6)),
    "average of channels": (ObservationModel(Average(2), std=0.3), (3, 2, 4)),
    "some averages": (ObservationModel(Chain(Select([1, 4]), Average(2)), std=0.3), (4, 6)),
    "interpolate": (
        ObservationModel(
            Interpolate(torch.tensor([[0.5, 1.2], [1.0, 2.5], [2.2, 4.0]]), GRID), 0.2
        ),
        (4, 6),
    ),
    "blur": (ObservationModel(Blur(matrix(6)), std=0.3), (6,)),
    "blur of channels": (ObservationModel(Blur(matrix(3, 4)), std=0.3), (2, 3, 4)),
    "blur, errors differ": (
        ObservationModel(Blur(matrix(5)), std=torch.tensor([0.1, 1.0, 2.0, 0.3, 0.2])),
        (5,),
    ),
    "wide": (ObservationModel(Linear(5 * matrix(2, 6)), std=0.5), (6,)),
    "tall": (ObservationModel(Linear(matrix(9, 6)), std=0.5), (2, 3)),
    "rank-deficient": (ObservationModel(Linear(matrix(6, 2) @ matrix(2, 6)), std=0.5), (6,)),
    "correlated errors": (ObservationModel(Linear(matrix(3, 6)), cov=cov(3)), (6,)),
    "correlated mask": (ObservationModel(Select([0, 4, 2]), cov=cov(3)), (6,)),
    "correlated pairs": (
        ObservationModel(
            Stride(1),
            cov=torch.block_diag(cov(2), cov(2, 5), 2 * torch.eye(2, dtype=torch.float64)),
        ),
        (6,),
    ),
}


@pytest.mark.parametrize(("model", "shape"), CASES.values(), ids=CASES.keys())
def test_modes_diagonalise_the_precision(model, shape):
    size = math.prod(shape)
    H = torch.from_numpy(model.operator.as_matrix(shape).toarray())
    x = matrix(7, *shape, seed=2)
    assert torch.allclose(model.operator(x).flatten(1), x.flatten(1) @ H.T)

    R = model.error_cov(
        (len(H),) if model.cov is not None else tuple(model.operator(x).shape[1:]), x
    )
    modes = model.modes(shape)
    V = modes.inverse(torch.eye(size).reshape(-1, *shape)).flatten(1).T
    assert torch.allclose(V.T @ V, torch.eye(size), atol=1e-13)
    precision = H.T @ torch.linalg.solve(R, H)
    spectral = V @ torch.diag(modes.precision.flatten()) @ V.T
    assert torch.allclose(spectral, precision, atol=1e-12 * float(precision.abs().max()))
    assert torch.allclose(modes.inverse(modes.forward(x)), x)
    assert torch.allclose(modes.forward(x).flatten(1), x.flatten(1) @ V)

    y = matrix(len(H), seed=3)
    expected = V.T @ H.T @ torch.linalg.solve(R, y)
    assert torch.allclose(modes.information(y).flatten(), expected, atol=1e-11)
    seen = modes.precision > 0
    assert int(seen.sum()) == torch.linalg.matrix_rank(H)
    assert torch.allclose((modes.precision * modes.observe(y))[seen], modes.information(y)[seen])


def test_modes_of_masks_are_the_entries_themselves():
    """Nothing of the size of a matrix: a million entries in single precision."""
    model = ObservationModel(Stride(2), std=0.5)
    modes = model.modes((1_000_000,))
    x = torch.ones(2, 1_000_000)
    assert modes.trivial and modes.forward(x) is x
    assert torch.equal(modes.precision[:4], torch.tensor([4.0, 0, 4, 0]))
    assert model.modes((1_000_000,)) is modes


def test_absent_observations_are_no_modes():
    values = torch.tensor([[1.0, math.nan, 3.0]])
    observations = Observations(ObservationModel(Average(2), std=0.5), (0,), values)
    y, model = observations.at(0)
    modes = model.modes((6,))
    assert modes.precision.tolist() == pytest.approx([2, 0, 0, 0, 2, 0])
    # A block of two with the mean 1 has the length sqrt(2) along its mode.
    assert modes.observe(y)[[0, 4]].abs().tolist() == pytest.approx([2**0.5, 3 * 2**0.5])


def test_modes_do_not_depend_on_how_an_observation_is_written():
    H, R, y, L = matrix(3, 5), cov(3), matrix(3, seed=4), matrix(3, 3, seed=5)
    one = ObservationModel(Linear(H), cov=R).modes((5,))
    other = ObservationModel(Linear(L @ H), cov=L @ R @ L.T).modes((5,))
    assert torch.allclose(one.precision, other.precision)
    assert torch.allclose(
        one.inverse(one.information(y)[None]), other.inverse(other.information(L @ y)[None])
    )


def test_modes_ask_for_a_linear_operator():
    model = ObservationModel(Function(lambda x: x**2), std=1.0)
    with pytest.raises(TypeError, match="not linear"):
        model.modes((3,))
