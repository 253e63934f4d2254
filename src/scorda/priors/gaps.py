r"""Records with gaps: their covariance, and their missing values by their own Gaussian law.

The covariance of two components is the mean over the fields that have both. It is without bias
where the gaps do not depend on the values, and the gaps need not be filled for it. The missing
values are then those that the law expects, given the present ones of the same field. With
orthonormal modes E of the variances :math:`\lambda_j` and the variance :math:`\lambda_0` of all
other directions, and :math:`E_p` the rows of the present values :math:`z_p`,

.. math:: E[z \mid z_p] = E D^{1/2} (\lambda_0 + D^{1/2} E_p^T E_p D^{1/2})^{-1} D^{1/2} E_p^T z_p,
    \quad D = \mathrm{diag}(\lambda_j - \lambda_0) .

A field without any value gets the coefficients between those of the fields before and after.

What is filled in knows nothing of the fields before and after, and jumps: a variable that is
missing for an hour would lose its memory. So the memory is that of the fields with the fewest gaps
(`Gappy.seen_well`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from scorda.core.scratch import blocks, release, scratch
from scorda.core.shapes import Bool, Float, Tensor

__all__ = ["Gappy", "interpolated"]

# Numbers that are in double precision together (64 MB).
NUMBERS = 2**23


class Gappy:
    """Standardised anomalies of a record, of which some may be missing.

    They may be in single precision, for a large record; sums are in double.

    Arguments:
        z: ``(fields, points)``, NaN where a value is missing; it becomes 0 there.
    """

    def __init__(self, z: Float[Tensor, "fields points"]) -> None:
        self.present: Bool[Tensor, "fields points"] = scratch(tuple(z.shape), torch.bool)
        self.missing = 0
        for rows, part in _split(z):
            self.present[rows] = part.isfinite()
            missing = int((~self.present[rows]).sum())
            if missing:
                part.nan_to_num_(0.0)
            self.missing += missing
            release(self.present)
        self.z = z
        # What is missing has the mean until the law is known.
        self.filled = self.z

    @property
    def seen(self) -> Bool[Tensor, "fields"]:
        """Return which fields have a value."""
        return torch.cat([part.any(1) for _, part in _split(self.present)])

    @property
    def seen_well(self) -> Bool[Tensor, "fields"]:
        """Return which fields have at least as many values as the median of those with some."""
        number = torch.cat([part.sum(1) for _, part in _split(self.present)])
        some = number > 0
        return some & (number >= number[some].median()) if some.any() else some

    def covariance(self, part: slice) -> Float[Tensor, "part points"]:
        """Return rows of the sample covariance."""
        products = _products(self.z, part)
        if not self.missing:
            return products / len(self.z)
        return products / _products(self.present, part).clamp_min(1)

    def variance(self) -> Float[Tensor, "points"]:
        """Return the diagonal of the sample covariance."""
        square, number = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.long)
        for rows, part in _split(self.z):
            square = square + part.double().square().sum(0)
            number = number + self.present[rows].sum(0)
            release(self.present)
        return square / number.clamp_min(1)

    def coefficients(self, basis: Float[Tensor, "points modes"]) -> Float[Tensor, "fields modes"]:
        """Return the coefficients of the filled fields."""
        found = scratch((len(self.z), basis.shape[1]), torch.float64)
        for rows, part in _split(self.filled):
            found[rows] = part.double() @ basis
            release(found)
        return found

    def fill(
        self, basis: Float[Tensor, "points modes"], spectrum: Float[Tensor, "modes"], rest: float
    ) -> None:
        """Fill in the mean of the missing values, given the present ones of their field."""
        if not self.missing:
            return
        root = (spectrum - rest).clamp_min(0).sqrt()
        filled = scratch(tuple(self.z.shape), self.z.dtype)
        for some, part in _split(self.z):
            filled[some] = self._completed(part, self.present[some], basis * root, rest)
            release(self.present)
            release(filled)
        self.filled = filled

    @staticmethod
    def _completed(z: Tensor, present: Tensor, scaled: Tensor, rest: float) -> Tensor:
        """Return fields with the means of their missing values; `scaled` are modes times root."""
        patterns, of = present.unique(dim=0, return_inverse=True)
        filled = z.clone()
        for number, known in enumerate(patterns):
            if known.all():
                continue
            rows = of == number
            seen = scaled[known]
            inner = seen.T @ seen
            inner.diagonal().add_(rest)
            given = z[rows].double()
            found = torch.linalg.solve(inner, seen.T @ given[:, known].T)
            filled[rows] = torch.where(known, given, (scaled @ found).T).to(filled)
        return filled


def _split(z: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Give fields in parts of some size."""
    return ((rows, part[0]) for rows, part in blocks(z[None], NUMBERS))


def _products(z: Tensor, part: slice) -> Tensor:
    """Return rows of :math:`z^T z`."""
    found = z.new_zeros((), dtype=torch.float64)
    for _, some in _split(z):
        double = some.double()
        found = found + double[:, part].T @ double
    return found


def interpolated(
    coefficients: Float[Tensor, "series time modes"], seen: Bool[Tensor, "series time"]
) -> Float[Tensor, "series time modes"]:
    """Return the coefficients, those of fields that were not seen now between their neighbours."""
    size = max(1, NUMBERS // coefficients.shape[2])
    for own, known in zip(coefficients, seen.numpy(), strict=True):
        times = np.flatnonzero(known)
        for gaps in torch.from_numpy(np.flatnonzero(~known)).split(size) if len(times) else ():
            after = np.searchsorted(times, gaps.numpy())
            low = torch.from_numpy(times[np.maximum(after - 1, 0)])
            high = torch.from_numpy(times[np.minimum(after, len(times) - 1)])
            slope = (own[high] - own[low]) / (high - low).clamp_min(1)[:, None]
            own[gaps] = slope * (gaps - low)[:, None] + own[low]
            release(coefficients)
    return coefficients
