"""Anomalies of a record in units of their spread, made of some of its fields at once.

A record in single precision may fill half of the memory, and one copy of it in double would not
fit. So each pass over it takes some fields, in double.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from scorda.core.scratch import blocks, release, scratch
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.core.times import phases, phases_of
from scorda.reading.records import Fields
from scorda.reading.roles import role_of_name

__all__ = ["mean_of", "spread_of", "standardised"]

# Days of record without which there is no daily cycle, or years where steps are months.
CYCLES = 3
# Numbers of a record that are looked at together (64 MB).
NUMBERS = 2**23


def mean_of(fields: Fields) -> tuple[Tensor, Tensor, float]:
    """Return the phase of each field, the mean of each phase, and how many draws make a mean."""
    count = phases(fields.space)
    series, times = fields.states.shape[:2]
    if fields.start is None or count == 1 or times < CYCLES * count:
        # The fields of a day are about one draw of the mean.
        drawn = series * times / count
        samples = max(drawn, 3.0) if count > 1 else drawn
        phase, count = torch.zeros(times, dtype=torch.long), 1
    else:
        phase, samples = phases_of(fields.start, times, fields.space), series * times / count
    total = torch.zeros(count, *fields.space.shape, dtype=torch.float64)
    number = torch.zeros_like(total)
    for rows, block in _blocks(fields):
        total.index_add_(0, phase[rows], block.nansum(0))
        number.index_add_(0, phase[rows], block.isfinite().sum(0).double())
    cycle = total / number
    # A point that is never seen at some time of the day has the mean of its other times.
    return phase, torch.where(cycle.isnan(), cycle.nanmean(0), cycle), samples


def spread_of(fields: Fields, cycle: Tensor, phase: Tensor) -> Tensor:
    """Return the standard deviation of each variable, and of each of its levels, as one state.

    Raises:
        ValueError: If a variable does not vary.
    """
    space = fields.space
    squares: list[Tensor] = [torch.zeros(())] * len(space.pieces)
    numbers = squares[:]
    for rows, block in _blocks(fields):
        anomalies = space.split(block - cycle[phase[rows]])
        for i, (piece, values) in enumerate(zip(space.pieces, anomalies, strict=True)):
            over = _pooled(piece)
            squares[i] = squares[i] + values.square().nansum(over, keepdim=True)[0, 0]
            numbers[i] = numbers[i] + values.isfinite().sum(over, keepdim=True)[0, 0]
    # A level that is all land has no values, and needs none.
    pairs = zip(squares, numbers, strict=True)
    each = [(square / number).sqrt().nan_to_num(1.0) for square, number in pairs]
    if not all((std > 0).all() for std in each):
        raise ValueError("Got a record with a variable that does not vary: check the data.")
    full = [std.expand(piece.shape) for std, piece in zip(each, space.pieces, strict=True)]
    return full[0] if space.parts is None else torch.cat([std.flatten() for std in full])


def _pooled(space: StateSpace) -> list[int]:
    """Return the axes of states ``(series, time, *state)`` other than variables and levels."""
    first = 2 + space.has_channels
    levels = [first + i for i, axis in enumerate(space.axes) if role_of_name(axis) == "level"]
    kept = [2] * space.has_channels + levels
    return [axis for axis in range(2 + len(space.shape)) if axis not in kept]


def standardised(fields: Fields, cycle: Tensor, phase: Tensor, std: Tensor) -> Tensor:
    """Return the anomalies of each field in units of `std`, in the precision of the record."""
    inside, (series, times) = fields.space.inside, fields.states.shape[:2]
    z = scratch((series, times, int(inside.sum())), fields.states.dtype)
    for rows, block in _blocks(fields):
        z[:, rows] = ((block - cycle[phase[rows]]) / std).flatten(2)[..., inside].to(z)
        release(z)
    return z.flatten(0, 1)


def _blocks(fields: Fields) -> Iterator[tuple[slice, Tensor]]:
    """Return the states in double precision, some times at once: a record may be large."""
    for rows, block in blocks(fields.states, NUMBERS):
        yield rows, fields.space.masked(block.double())
