"""Arrays that may be larger than memory: they lie in a file that nobody else sees.

An array beyond `IN_MEMORY` bytes is mapped from a temporary file, which goes with the array; the
folder is that of Python's `tempfile` (`TMPDIR`). It is an ordinary tensor. Whoever passes over it
does so in blocks, after each of which its pages leave the memory of the process.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator
from weakref import WeakValueDictionary

import torch

from scorda.core.shapes import Tensor

__all__ = ["blocks", "release", "scratch"]

# Bytes up to which an array lies in memory.
IN_MEMORY = 2**28
# Numbers that are looked at together: 16 MB in double precision.
NUMBERS = 2**21

_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an array to be written to; a large one lies in a temporary file."""
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        mapped = mmap.mmap(file.fileno(), size)
    made = torch.frombuffer(mapped, dtype=dtype).view(shape)
    _maps[made.data_ptr()] = mapped
    return made


def release(x: Tensor) -> None:
    """Let the pages of an array of `scratch` leave memory; the file keeps what is in them."""
    mapped = _maps.get(x.untyped_storage().data_ptr())
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def blocks(x: Tensor, numbers: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Give some times at once, as a slice and the part of an array, which is left to the file.

    Arguments:
        x: The array ``(series, time, ...)``, from `scratch` if it is large.
        numbers: Numbers of a block (default: `NUMBERS`).
    """
    each = max(1, math.prod(x.shape[:1] + x.shape[2:]))
    size = max(1, (numbers or NUMBERS) // each)
    for first in range(0, x.shape[1], size):
        rows = slice(first, min(first + size, x.shape[1]))
        yield rows, x[:, rows]
        release(x)
