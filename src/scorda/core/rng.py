"""Random streams that do not depend on how the members are batched.

A `torch.Generator` is the only source of randomness in the public interface. Each call of
`normal` or `uniform` takes one 128-bit key from it, whatever the number of members, and draws
the rows with the counter-based generator Philox: row ``i`` is a function of (key, i) alone. Thus
member ``i`` sees the same noise in an ensemble of 10 or of 10 000, and in whichever chunk or
process it is computed, and the generator advances equally in all of them.

A whole number stands for the generator that starts at this seed, wherever one is taken.

Streams for different purposes (truth, observation error, ensemble, sampler) come from `spawn`.
"""

from __future__ import annotations

from operator import index
from typing import SupportsIndex, TypeAlias

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor

__all__ = [
    "Key",
    "Seed",
    "Stream",
    "as_generator",
    "at",
    "key",
    "normal",
    "normal_rows",
    "seeded",
    "spawn",
    "uniform",
]

# Rows that share one counter block: a few microseconds of set-up serve this many members.
BLOCK = 64

Key = tuple[int, int]

# A source of randomness: a generator, a seed, or None for the global generator of torch.
Seed: TypeAlias = torch.Generator | SupportsIndex | None


def seeded(seed: int) -> torch.Generator:
    """Return a generator that starts at `seed`."""
    return torch.Generator().manual_seed(seed)


def as_generator(source: Seed) -> torch.Generator | None:
    """Return the generator of a seed; a generator and None (the global one of torch) stay.

    Raises:
        TypeError: If it is neither a generator nor a whole number.
    """
    if source is None or isinstance(source, torch.Generator):
        return source
    try:
        return seeded(index(source))
    except TypeError:
        raise TypeError(
            f"Got {source!r} as a source of randomness: give a torch.Generator or a whole number."
        ) from None


def key(generator: Seed = None) -> Key:
    """Take one 128-bit key from the generator (the global one of torch if None)."""
    generator = as_generator(generator)
    device = "cpu" if generator is None else generator.device
    high = torch.iinfo(torch.int64).max
    words = torch.randint(0, high, (2,), generator=generator, device=device).tolist()
    return words[0], words[1]


def spawn(generator: Seed, streams: int) -> list[torch.Generator]:
    """Return distinct new generators and advance the parent.

    Two calls on the same parent give different children; truth, observation error, ensemble and
    sampler each take their own, so that none of them leaks into another.
    """
    generator = as_generator(generator)
    return [seeded(key(generator)[0]) for _ in range(streams)]


def at(key: Key, step: int) -> torch.Generator:
    """Return the generator of one step of a stream.

    It is a function of (key, step) alone, so that a run continued from a stored step sees the
    noise of one that was never interrupted.
    """
    words = np.random.SeedSequence([*key, step]).generate_state(1, np.uint64)
    return seeded(int(words[0]) >> 1)


def normal(
    members: int,
    shape: tuple[int, ...],
    generator: Seed = None,
    like: Tensor | None = None,
) -> Float[Tensor, "members ..."]:
    """Draw standard normal noise, shape ``(members, *shape)``; row i depends on (key, i) only.

    Arguments:
        members: Number of rows.
        shape: Shape of one row.
        generator: Source of the key; advanced by one key whatever the sizes.
        like: Tensor whose dtype and device the result takes (default: torch's default dtype, CPU).
    """
    return normal_rows(key(generator), 0, members, shape, like)


def normal_rows(
    key: Key,
    first: int,
    last: int,
    shape: tuple[int, ...],
    like: Tensor | None = None,
    draw: int = 0,
) -> Float[Tensor, "rows ..."]:
    """Return rows ``first`` to ``last - 1`` of the noise that belongs to a key.

    The noise is drawn in double precision and then cast, so that runs in single and double
    precision see the same numbers.
    """
    rows = np.empty((last - first, *shape))
    start = first
    while start < last:
        block, offset = divmod(start, BLOCK)
        stop = min((block + 1) * BLOCK, last)
        drawn = _block(key, block, draw).standard_normal((stop - block * BLOCK, *shape))
        rows[start - first : stop - first] = drawn[offset:]
        start = stop
    return _as_tensor(rows, like)


class Stream:
    """Successive draws of noise for members `first` to `last` - 1 of one key.

    Draw number n of member i depends on (key, n, i) only: a long computation may go through the
    members in chunks and each member sees the noise that it would see alone.
    """

    def __init__(
        self, key: Key, first: int, last: int, shape: tuple[int, ...], like: Tensor | None = None
    ) -> None:
        self._rows = (key, first, last, shape, like)
        self._draws = 0

    def __call__(self) -> Float[Tensor, "rows ..."]:
        """Return the next draw, shape ``(last - first, *shape)``."""
        self._draws += 1
        return normal_rows(*self._rows, draw=self._draws)


def uniform(
    members: int,
    shape: tuple[int, ...],
    generator: Seed = None,
    like: Tensor | None = None,
) -> Float[Tensor, "members ..."]:
    """Draw uniform numbers in [0, 1), shape ``(members, *shape)``; row i depends on (key, i)."""
    taken = key(generator)
    rows = np.empty((members, *shape))
    for start in range(0, members, BLOCK):
        stop = min(start + BLOCK, members)
        rows[start:stop] = _block(taken, start // BLOCK).random((stop - start, *shape))
    return _as_tensor(rows, like)


def _block(key: Key, block: int, draw: int = 0) -> np.random.Generator:
    # Block and draw are the high words of the counter: they never overlap.
    counter = np.array([0, 0, draw, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=counter))


def _as_tensor(rows: np.ndarray, like: Tensor | None) -> Tensor:
    tensor = torch.from_numpy(rows)
    if like is None:
        return tensor.to(torch.get_default_dtype())
    return tensor.to(device=like.device, dtype=like.dtype)
