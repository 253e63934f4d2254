"""The present values of an instrument one by one, with the operators that observed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from scorda.observations.combined import Present
from scorda.observations.moving import MovingInterpolate
from scorda.observations.operators import Operator

if TYPE_CHECKING:
    from scorda.observations.observations import Observations

__all__ = ["PresentValues", "present_values"]


class PresentValues(NamedTuple):
    """Present values that one operator observed, in the order of their rows.

    Arguments:
        operator: What observed them, of all entries of a row.
        row: Row of each value, ``(values,)``.
        entry: Entry of the flattened row, ``(values,)``.
        value: The values.
        std: Standard deviations of their errors.
    """

    operator: Operator
    row: np.ndarray
    entry: np.ndarray
    value: Tensor
    std: Tensor


def present_values(observations: Observations) -> Iterator[PresentValues]:
    """Yield all present values at once; those of moving platforms row by row.

    Rows that share an operator are one piece, so that a long record costs a few calls.
    """
    flat, std = observations.flat, observations.flat_std
    rows, entries = np.nonzero(~flat.isnan().numpy(force=True))
    moving = isinstance(observations.model.operator, MovingInterpolate)
    cuts = np.flatnonzero(np.diff(rows)) + 1 if moving else np.empty(0, dtype=int)
    for row, entry in zip(np.split(rows, cuts), np.split(entries, cuts), strict=True):
        if len(row):
            place = row, entry
            operator = Present(observations.operator(int(row[0])), size=flat.shape[1])
            yield PresentValues(operator, row, entry, flat[place], std[place])
