r"""Random streams that do not depend on how the members are batched.

A `torch.Generator` is the only source of randomness in the public interface. Each call of
`normal` or `uniform` takes one 128-bit key from it, whatever the number of members, and draws
with the counter-based generator Philox: number ``j`` of row ``i``, in rows of m numbers, is made
of word ``i m + j`` of the key's stream alone. A uniform one is u = (word >> 11) / 2^53, and a
normal one

.. math:: z = \Phi^{-1}(u + 2^{-54}) = \sqrt 2\, \mathrm{erf}^{-1}(2 u - 1 + 2^{-53}).

Thus member ``i`` sees the same noise in an ensemble of 10 or of 10 000, and in whichever chunk,
thread or process it is computed, and the generator advances equally in all of them. The normal
law is cut at 8.29 standard deviations, where the step of u ends.

A whole number stands for the generator that starts at this seed, wherever one is taken.

Streams for different purposes (truth, observation error, ensemble, sampler) come from `spawn`.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from operator import index
from typing import SupportsIndex, TypeAlias

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor

__all__ = [
    "Key",
    "Seed",
    "Steps",
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

# Numbers drawn at once: they stay in the processor's cache.
PART = 2**15
# Numbers that are worth a thread of their own.
SHARE = 8 * PART
# Steps, and numbers of all of them, that are drawn at once ahead of time at most.
AHEAD, NUMBERS = 16, 2**16
# Numbers at whose multiples the draw of a step begins, so that its memory is aligned as ever.
ALIGNED = 16
# A generator of NumPy without left-over words.
EMPTY = (0, 0, 0, 0)
ROOT2 = math.sqrt(2)

# Bytes of the state of a generator of torch that tell its place, and those of one that is new.
PLACE = slice(8, 24)
NEW = torch.Generator().manual_seed(0).get_state().numpy()[PLACE].tobytes()

# The generator of each thread, and the memory in which it draws.
_of_thread = threading.local()

Key = tuple[int, int]

# Makes numbers of a law of uniform ones, in place, and returns them as a tensor.
Law = Callable[[np.ndarray], Tensor]

# A source of randomness: a generator, a seed, or None for the global generator of torch.
Seed: TypeAlias = torch.Generator | SupportsIndex | None


def seeded(seed: int) -> torch.Generator:
    """Return a generator that starts at `seed`."""
    return torch.Generator().manual_seed(seed)


def as_generator(source: Seed) -> torch.Generator | None:
    """Return the generator of a seed; a generator and None (the global one of torch) stay.

    Raises:
        TypeError: If it is neither a generator nor a whole number.
        ValueError: If it is a larger number than torch takes.
    """
    if source is None or isinstance(source, torch.Generator):
        return source
    try:
        return seeded(index(source))
    except TypeError:
        raise TypeError(
            f"Got {source!r} as a source of randomness: give a torch.Generator or a whole number."
        ) from None
    except (ValueError, RuntimeError, OverflowError):
        raise ValueError(f"Got the seed {source}: give one of at most 63 bits.") from None


def key(generator: Seed = None) -> Key:
    """Take one 128-bit key from the generator (the global one of torch if None)."""
    generator = as_generator(generator)
    if isinstance(generator, _OfStep):
        generator.steps = None
    high, low = _words(generator).tolist()
    return high, low


def _words(generator: torch.Generator | None) -> Tensor:
    """Take the two words of a key from a generator."""
    device = "cpu" if generator is None else generator.device
    words = torch.empty(2, dtype=torch.int64, device=device)
    return words.random_(0, torch.iinfo(torch.int64).max, generator=generator)


def _place(generator: torch.Generator) -> bytes:
    """Return where in its sequence a generator is."""
    return generator.get_state().numpy()[PLACE].tobytes()


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
    return seeded(_seed_at(key, step))


def _seed_at(key: Key, step: int) -> int:
    told = (key[0] | key[1] << 64 | step << 128).to_bytes(24, "little")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little") >> 1


class _OfStep(torch.Generator):
    """Generator of one of `Steps`, which it names until a key is taken from it."""

    steps: Steps | None = None
    step = seed_of_step = 0


class Steps:
    """Generators of some steps of a stream, which draw for several steps at once.

    Each returns the numbers that those of the generator of `at` are. A draw of few numbers is
    mostly its preparation. So where the first that is taken from the generator of a step is a draw
    of `normal`, it is made for the next steps as well, for twice as many each time, as long as
    they ask for the same shape.

    Arguments:
        key: Key of the stream.
        steps: Steps that may be asked for, increasing.
    """

    def __init__(self, key: Key, steps: Sequence[int]) -> None:
        self._key, self._steps = key, steps
        self._asked: tuple[int, tuple[int, ...], torch.dtype] | None = None
        self._count, self._drawn = 1, dict[int, Tensor]()
        self._generator = torch.Generator()

    def at(self, step: int) -> torch.Generator:
        """Return the generator of a step."""
        generator = _OfStep()
        generator.seed_of_step = _seed_at(self._key, step)
        generator.manual_seed(generator.seed_of_step)
        generator.steps, generator.step = self, step
        return generator

    def first(
        self, step: int, members: int, shape: tuple[int, ...], like: Tensor | None
    ) -> Float[Tensor, "members ..."]:
        """Return the first draw of `normal` from the generator of a step."""
        dtype = torch.get_default_dtype() if like is None else like.dtype
        asked = members, shape, dtype
        if asked != self._asked:
            self._asked, self._count, self._drawn = asked, 1, {}
        if step not in self._drawn:
            size = members * math.prod(shape)
            if 2 * size > NUMBERS:
                return normal(members, shape, at(self._key, step), like)
            self._drawn = self._ahead(step, size, dtype)
            self._count = min(2 * self._count, AHEAD, NUMBERS // max(size, 1))
        rows = self._drawn.pop(step).view(members, *shape)
        return rows if like is None else rows.to(like.device)

    def _ahead(self, step: int, size: int, dtype: torch.dtype) -> dict[int, Tensor]:
        """Draw for a step and those after it."""
        first = bisect_left(self._steps, step)
        steps = [step, *self._steps[first + 1 : first + self._count]]
        drawn = torch.zeros(len(steps), -(-size // ALIGNED) * ALIGNED, dtype=torch.float64)
        numbers = drawn.numpy()
        for row, one in zip(numbers, steps, strict=True):
            taken = key(self._generator.manual_seed(_seed_at(self._key, one)))
            _stream_at(taken, 0, 0).random(out=row[:size])
        _normal(numbers)
        rows = drawn.to(dtype)[:, :size]
        return dict(zip(steps, rows, strict=True))


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
    if isinstance(generator, _OfStep) and generator.steps is not None:
        steps, generator.steps = generator.steps, None
        # Unless it was used, or seeded anew.
        if _place(generator) == NEW and generator.initial_seed() == generator.seed_of_step:
            _words(generator)
            return steps.first(generator.step, members, shape, like)
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
    return _rows(_normal, key, first, last, shape, like, draw)


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
    return _rows(_uniform, key(generator), 0, members, shape, like, 0)


def _rows(
    law: Law,
    key: Key,
    first: int,
    last: int,
    shape: tuple[int, ...],
    like: Tensor | None,
    draw: int,
) -> Tensor:
    dtype = torch.get_default_dtype() if like is None else like.dtype
    size = math.prod(shape)
    begin, count = first * size, (last - first) * size
    if count <= PART:
        drawn = _drawn(_stream_at(key, draw, begin), law, count, (last - first, *shape))
        # Memory of torch is aligned alike in every run, and products round by its alignment.
        made = drawn.clone() if dtype == torch.float64 else drawn.to(dtype)
        return made if like is None or like.is_cpu else made.to(like.device)
    rows = torch.empty(last - first, *shape, dtype=dtype)
    numbers = rows.view(-1)

    def fill(start: int) -> None:
        _fill(numbers[start : start + SHARE], law, key, draw, begin + start)

    shares, threads = range(0, count, SHARE), torch.get_num_threads()
    if len(shares) < 2 or threads < 2:
        for start in shares:
            fill(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, shares))
    return rows if like is None else rows.to(like.device)


def _fill(numbers: Tensor, law: Law, key: Key, draw: int, position: int) -> None:
    """Write the numbers of a draw from a position on."""
    stream = _stream_at(key, draw, position)
    for part in numbers.split(PART):
        part.copy_(_drawn(stream, law, len(part), (len(part),)))


def _drawn(stream: np.random.Generator, law: Law, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return the next numbers of a stream, in memory that the next draw of this thread changes."""
    if not hasattr(_of_thread, "room"):
        # Of torch, so that it is aligned. New memory would cost more than a few numbers.
        _of_thread.room = torch.empty(PART, dtype=torch.float64).numpy()
    numbers: np.ndarray = _of_thread.room[:count]
    stream.random(out=numbers)
    return law(numbers.reshape(shape))


def _stream_at(key: Key, draw: int, position: int) -> np.random.Generator:
    """Return the generator of this thread, set to a place; a new one would draw a seed first."""
    if not hasattr(_of_thread, "stream"):
        _of_thread.stream = np.random.Generator(np.random.Philox(0))
    # A step of the counter makes four words.
    block, skipped = divmod(position, 4)
    stream: np.random.Generator = _of_thread.stream
    # The draw is a high word of the counter: draws never overlap.
    stream.bit_generator.state = {
        "bit_generator": "Philox", "state": {"counter": (block, 0, draw, 0), "key": key},
        "buffer": EMPTY, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0,
    }  # fmt: skip
    if skipped:
        stream.random(skipped)
    return stream


def _uniform(drawn: np.ndarray) -> Tensor:
    """Keep uniform numbers below 1 when they are rounded to single precision, in place."""
    return torch.from_numpy(np.minimum(drawn, 1 - 2**-24, out=drawn))


def _normal(drawn: np.ndarray) -> Tensor:
    """Make normal numbers of uniform ones, in place."""
    # NumPy begins an operation sooner than torch does.
    drawn *= 2
    drawn -= 1 - 2**-53
    made = torch.from_numpy(drawn).erfinv_()
    drawn *= ROOT2
    return made
