"""Batched L-BFGS: every row finds its own minimum and owes nothing to the others."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.methods.variational.minimise import lbfgs


def quadratics(rows, size, condition):
    """Costs x^T A x / 2 - b^T x, one A and b per row, and their minima."""
    noise = rng.normal(rows, (size, size + 1), rng.seeded(0))
    basis = torch.linalg.qr(noise[:, :, :-1])[0]
    A = basis * torch.logspace(0, torch.tensor(condition).log10().item(), size) @ basis.mT
    b = noise[:, :, -1]

    def cost(x, rows):
        return 0.5 * torch.einsum("ri,rij,rj->r", x, A[rows], x) - (b[rows] * x).sum(1)

    return cost, torch.linalg.solve(A, b)


def rosenbrock(x, rows):
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


def test_minimum_of_quadratics():
    """A gradient below 1e-8 leaves at most 1e-8 over the smallest eigenvalue, 1."""
    cost, exact = quadratics(5, 12, 1e3)
    minimum = lbfgs(cost, torch.zeros(5, 12), 500, 1e-8)
    assert minimum.converged.all()
    assert_close(minimum.points, exact, atol=1e-7, rtol=0)
    assert_close(minimum.costs, cost(exact, torch.arange(5)), atol=1e-12, rtol=0)


def test_minimum_of_a_bent_valley():
    start = torch.tensor([-1.2, 1.0, -1.2, 1.0])[None] + torch.arange(4.0)[:, None] / 10
    minimum = lbfgs(rosenbrock, start, 500, 1e-9)
    assert minimum.converged.all()
    # From a start at x_0 < 0 the function has a second minimum in four dimensions.
    assert (minimum.gradients < 1e-9).all()
    assert_close(minimum.points[-1], torch.ones(4), atol=1e-6, rtol=0)


def test_rows_are_independent():
    """Alone or among others: the same iterations, to rounding of batched sums."""
    cost, _ = quadratics(6, 8, 1e2)
    start = rng.normal(6, (8,), rng.seeded(1))
    together = lbfgs(cost, start, 12, 1e-10)
    for i in (0, 3, 5):
        alone = lbfgs(lambda x, rows, i=i: cost(x, rows + i), start[i : i + 1], 12, 1e-10)
        assert_close(alone.points[0], together.points[i], atol=1e-10, rtol=0)
        assert alone.iterations[0] == together.iterations[i] == 12


def test_a_wall_without_values_is_not_crossed():
    """log x has none below 0, where the first step from 8 would land."""
    minimum = lbfgs(
        lambda x, rows: (x - 3 * x.log()).sum(1), torch.tensor([[0.4], [8.0]]), 99, 1e-9
    )
    assert_close(minimum.points, torch.full((2, 1), 3.0), atol=1e-8, rtol=0)


def test_single_precision_ends_at_rounding():
    cost, exact = quadratics(3, 6, 10.0)
    single = lbfgs(lambda x, r: cost(x.double(), r).float(), torch.zeros(3, 6).float(), 999, 1e-30)
    assert single.converged.all() and single.points.dtype == torch.float32
    assert (single.iterations < 100).all()
    # The cost is flat within its rounding, 1e-7, over the root of that.
    assert_close(single.points.double(), exact, atol=3e-3, rtol=0)


def test_ends():
    cost, exact = quadratics(2, 5, 1e3)
    assert not lbfgs(cost, torch.zeros(2, 5), 3, 1e-8).converged.any()
    done = lbfgs(cost, exact, 10, 1e-8)
    assert done.converged.all() and not done.iterations.any() and torch.equal(done.points, exact)
    with pytest.raises(FloatingPointError, match="start of member 1"):
        lbfgs(lambda x, rows: x.log().sum(1), torch.tensor([[1.0], [-1.0]]), 5, 1e-8)
