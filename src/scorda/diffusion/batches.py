"""Batches of members in which the numbers of a member do not depend on those beside it.

Products of matrices and convolutions take other paths through their libraries for few rows than
for many, and round differently there. From 16 rows on, and in multiples of 8, every row has the
same bits (measured with MKL and oneDNN, in single and double precision). So batches have such
sizes and begin at multiples of 8 in the ensemble: rows that nobody asked for are computed as well
and left out. Of large states fewer are computed at once, and then always equally many.
"""

import math
from collections.abc import Iterator

__all__ = ["at_once", "batches"]

# Fewest rows of a batch of small states, and what its size is a multiple of.
LEAST, MULTIPLE = 16, 8
# Members computed at once: small enough to stay in the cache, large enough for the kernels.
MOST = 128
# Numbers of the samples that are computed at once, where these are large: a gradient keeps some
# hundred times as many.
NUMBERS = 2**18


def at_once(shape: tuple[int, ...]) -> int:
    """Members of the shape of a sample that are computed at once: a power of two."""
    return 1 << (max(1, min(MOST, NUMBERS // math.prod(shape))).bit_length() - 1)


def batches(
    shape: tuple[int, ...], first: int, last: int, chunk: int
) -> Iterator[tuple[int, int]]:
    """Yield first and last row (excluded) of batches that hold members `first` to `last` - 1.

    Arguments:
        shape: Shape of one sample.
        first: First member.
        last: The one after the last.
        chunk: Members at once, rounded up to a size at which bits do not depend on it; for large
            states it is that of `at_once`.
    """
    step = size = at_once(shape)
    if size >= LEAST:
        step, size = MULTIPLE, max(LEAST, _up(chunk, MULTIPLE))
    low = first - first % step
    while low < last:
        high = min(low + size, max(_up(last, step), low + min(LEAST, size)))
        yield low, high
        low = high


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
