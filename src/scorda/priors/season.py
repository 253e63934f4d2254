r"""The yearly cycle of a record of days or hours: harmonics beside the mean of each time of day.

.. math:: m(t) = m_0(h) + \sum_{k=1}^{K} a_k \cos 2 \pi k \tau + b_k \sin 2 \pi k \tau

with the time of day h and the share :math:`\tau` of the year that has passed, by least squares at
each point. Each variable has the K from 0 to `HARMONICS` with the least squared error when blocks
of the record are held back in turn and predicted with the coefficients of the others. So a
variable whose years differ more than its seasons has none. A point that was seen in some seasons
only has as many of them as these tell apart, so that its mean does not run away in the others.

Approximate: the daily cycle is the same in all seasons. Records of months have a mean of each
month instead (`anomalies`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace

__all__ = ["HARMONICS", "Season", "Sums", "left_by_season"]

# Harmonics at most: as many as a season of some weeks needs.
HARMONICS = 3
# Least eigenvalue of the mean products of the waves at the times of a point's values, which is 0.5
# for whole years. The variance of a mean that was not seen grows with its inverse.
CLEAR = 0.05


class Season(NamedTuple):
    """The waves of a record, and which of them each point has.

    Arguments:
        waves: A constant, cosines and sines at each time.
        used: Which of them each point has.
    """

    waves: Float[Tensor, "time waves"]
    used: Bool[Tensor, "points waves"]


class Sums:
    """Sums of the normal equations of each point, for each block of times.

    Arguments:
        waves: A constant, cosines and sines at each time, ``(time, 1 + 2 K)``.
        block: Block of each time.
        points: Points of a field.
    """

    def __init__(
        self, waves: Float[Tensor, "time waves"], block: Int[Tensor, "time"], points: int
    ) -> None:
        count, width = int(block.max()) + 1, waves.shape[1]
        self.waves, self.block = waves, block
        self.products = waves.new_zeros(count, points, width, width)
        self.given = waves.new_zeros(count, points, width)
        self.squares = waves.new_zeros(count, points)

    def add(self, times: slice | Tensor, values: Float[Tensor, "series time points"]) -> None:
        """Add the values of some times, NaN where one is missing."""
        number = values.isfinite().sum(0).to(self.waves)
        values = values.nan_to_num()
        total, square = values.sum(0), values.square().sum(0)
        waves, block = self.waves[times], self.block[times]
        for b in block.unique().tolist():
            here = block == b
            own = waves[here]
            pairs = (own[:, :, None] * own[:, None]).flatten(1)
            self.products[b] += (number[here].mT @ pairs).view_as(self.products[b])
            self.given[b] += total[here].mT @ own
            self.squares[b] += square[here].sum(0)

    def coefficients(
        self, used: Bool[Tensor, "points waves"], without: int | None = None
    ) -> Float[Tensor, "points waves"]:
        """Return the coefficients of the waves in use, of all blocks or without one.

        They are 0 for waves that the values of a point do not tell apart.
        """
        products, given = self.products.sum(0), self.given.sum(0)
        if without is not None:
            products, given = products - self.products[without], given - self.given[without]
        used = _clear(products, used)
        both = used[:, :, None] & used[:, None]
        # A point without values, and a wave that is not in use, have the coefficient 0.
        matrix = torch.where(both, products, 0.0)
        matrix = matrix + 1e-9 * len(self.waves) * torch.eye(used.shape[1], dtype=given.dtype)
        return torch.linalg.solve(matrix, torch.where(used, given, 0.0))

    def errors(self, used: Bool[Tensor, "points waves"]) -> Float[Tensor, "points"]:
        """Return the squared errors of all blocks, each predicted from the others."""
        total = torch.zeros_like(self.squares[0])
        for b in range(len(self.squares)):
            c = self.coefficients(used, b)
            fitted = torch.einsum("pq,pqr,pr->p", c, self.products[b], c)
            total += self.squares[b] - 2 * (c * self.given[b]).sum(1) + fitted
        return total

    def chosen(self, space: StateSpace) -> Bool[Tensor, "points waves"]:
        """Return which waves each point has: as many harmonics as predict its variable best."""
        points, width = self.given.shape[1:]
        counts = torch.arange(0, width, 2)
        tried = [(torch.arange(width) <= n).expand(points, width) for n in counts.tolist()]
        errors = torch.stack([self.errors(used) for used in tried])
        chosen = torch.zeros(points, width, dtype=torch.bool)
        for name in space.variables:
            own = space.entries(name)
            best = int(errors[:, own].sum(1).argmin())
            if best:
                chosen[own] = tried[best][own]
        return chosen


def _clear(
    products: Float[Tensor, "points waves waves"], used: Bool[Tensor, "points waves"]
) -> Bool[Tensor, "points waves"]:
    """Return the waves in use without the highest harmonics that a point's values do not tell."""
    number = products[:, 0, 0]
    # Points without gaps were seen in all seasons.
    gappy = ((number > 0) & (number < number.max())).nonzero()[:, 0]
    means, some = products[gappy] / number[gappy, None, None], used[gappy]
    identity = torch.eye(used.shape[1], dtype=products.dtype)
    for first in range(used.shape[1] - 2, 0, -2):
        own = torch.where(some[:, :, None] & some[:, None], means, identity)
        unclear = torch.linalg.eigvalsh(own)[:, 0] < CLEAR
        some[unclear, first:] = False
    used = used.clone()
    used[gappy] = some
    return used


def left_by_season(
    z: Float[Tensor, "fields points"], kept: Bool[Tensor, "fields"], season: Season
) -> Float[Tensor, "fields points"]:
    """Return what the season of the kept fields leaves of all of them."""
    sums = Sums(season.waves, torch.zeros(len(z), dtype=torch.long), z.shape[1])
    sums.add(kept, z[kept][None])
    return z - season.waves @ sums.coefficients(season.used).mT
