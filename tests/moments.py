"""Moments without sampling error, of methods that are affine maps of their noise."""

import math

import torch

from scorda.core import rng


class UnitNoise(rng.Stream):
    """Instead of noise: member 0 sees zeros, each other one a single unit in a single draw."""

    def __init__(self, key, first, last, shape, like=None):
        self.members, self.shape, self.draws = torch.arange(first, last), shape, 0

    def __call__(self):
        inputs = 1 + self.draws * math.prod(self.shape) + torch.arange(math.prod(self.shape))
        self.draws += 1
        return (self.members[:, None] == inputs).double().view(-1, *self.shape)


def forecast(members, cov, mean=0.3):
    """Members with exactly this covariance and mean."""
    cov = cov.double()
    x = rng.normal(members, (len(cov),), rng.seeded(1))
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (members - 1))
    white = torch.linalg.solve_triangular(root, x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(cov).T
