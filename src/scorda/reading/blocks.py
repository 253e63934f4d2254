"""Data sets are read some times at once, so that what is larger than memory can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scorda.reading.roles import roles

if TYPE_CHECKING:
    import xarray

__all__ = ["NUMBERS", "in_blocks", "time_blocks"]

# Numbers that are read together: 1 MB in single precision. A chunk of the file is read whole that
# has up to `LARGER` times as many.
NUMBERS, LARGER = 2**18, 8


def time_blocks(data: xarray.Dataset, numbers: int = NUMBERS, first: int = 0) -> Iterator[slice]:
    """Give slices of the times of about so many numbers, in whole chunks of the file if possible.

    Arguments:
        data: Variables on the axis ``time``.
        numbers: Numbers of a slice.
        first: Position in the file of the first of these times.
    """
    times, size = data.sizes["time"], _size(data, "time", numbers)
    for end in range(size - first % size, times + size, size):
        yield slice(max(0, end - size), min(end, times))


def in_blocks(data: xarray.Dataset) -> xarray.Dataset:
    """Let what is computed of a data set be computed when it is read, some times at once."""
    if data.chunks:
        return data
    time = roles(data).get("time")
    axis = str(data[time].dims[0]) if time in data.variables and data[time].ndim else "time"
    return data.chunk({axis: _size(data, axis, NUMBERS)} if data.sizes.get(axis) else {})


def _size(data: xarray.Dataset, axis: str, numbers: int) -> int:
    """Return how many times are read together."""
    timed = [v for v in data.values() if axis in v.dims]
    each = sum(v.size for v in timed) // max(data.sizes[axis], 1)
    times = max(1, numbers // max(each, 1))
    chunk = max([v.encoding.get("preferred_chunks", {}).get(axis, 1) for v in timed], default=1)
    return times - times % chunk if chunk <= times else min(int(chunk), LARGER * times)
