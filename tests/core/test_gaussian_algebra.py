"""Gaussian algebra that is the same in any units."""

import torch

from scorda.core import rng
from scorda.core.gaussian import component_std, sampling_root, symmetric_map
from scorda.core.space import StateSpace, variable_std

UNITS = torch.tensor([1e8, 1e-8, 1.0, 3e-3])


def covariance():
    root = rng.normal(4, (4,), rng.seeded(0))
    return root @ root.mT


def test_a_sampling_root_draws_the_same_numbers_in_any_units():
    cov = covariance()
    root, scaled = sampling_root(cov), sampling_root(cov * UNITS[:, None] * UNITS)
    assert torch.allclose(root.mT @ root, cov)
    assert torch.allclose(scaled / UNITS, root)


def test_a_sampling_root_of_a_singular_covariance_has_no_rounding_in_it():
    direction = rng.normal(1, (4,), rng.seeded(1))
    root = sampling_root(direction.mT @ direction)
    assert torch.linalg.matrix_rank(root) == 1


def test_the_symmetric_map_has_the_digits_of_roots():
    """Covariances of precise observations: variances of 1e-10 beside those of 1."""
    small = torch.tensor([1e-5, 1.0, 1e-5, 1.0])
    source = covariance() * small[:, None] * small
    target = torch.diag(small.square())
    mapped = symmetric_map(source, target)
    found = mapped @ source @ mapped
    # Rounding of eigenvalues, 2e-16, over the smallest, 1e-10 times 4e-2: 5e-5.
    assert torch.allclose(found / small[:, None] / small, torch.eye(4), atol=1e-4)


def test_members_that_agree_within_rounding_have_no_spread():
    x = torch.tensor([[0.1, 1.0, 1e5], [0.1, 2.0, 1e5 * (1 + 1e-16)], [0.1, 3.0, 1e5]])
    assert component_std(x).tolist() == [0.0, 1.0, 0.0]


def test_the_spread_of_a_variable_is_that_of_its_grid():
    x = rng.normal(9, (2, 3), rng.seeded(0)) * torch.tensor([1e8, 1e-8])[:, None]
    space = StateSpace((2, 3), variables=("p", "q"))
    expected = x.var(0).mean(1, keepdim=True).sqrt().expand(2, 3)
    assert torch.allclose(variable_std(x, space), expected)
    assert torch.equal(variable_std(x, None), x.std(0))
