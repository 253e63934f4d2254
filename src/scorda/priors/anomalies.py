"""Anomalies of a record in units of their spread, made of some of its fields at once.

A record in single precision may fill half of the memory, and one copy of it in double would not
fit. So each pass over it takes some fields, in double.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from scorda.core.scratch import blocks, release, scratch
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import MONTHS, SECONDS, phases, phases_of, time_unit, waves_of_year
from scorda.priors.held_back import BLOCKS
from scorda.priors.season import HARMONICS, Season, Sums
from scorda.reading.records import Fields
from scorda.reading.roles import role_of_name

__all__ = ["Climatology", "harmonics_of", "mean_of", "spread_of", "standardised"]

# Days of record without which there is no daily cycle, or years without which there is no yearly.
CYCLES = 3
# Steps a year that the harmonics need.
STEPS_OF_YEAR = 12
YEAR = 365.25 * 86400
# Numbers of a record that are looked at together (64 MB).
NUMBERS = 2**23


@dataclass(frozen=True, eq=False)
class Climatology:
    """The mean of each field of a record.

    Arguments:
        phase: Phase of each field: its time of the day, or its month.
        cycle: Mean of each phase, ``(phases, *state)``.
        samples: Draws that make a mean.
        season: The waves of its yearly cycle, if it has one.
        annual: Their coefficients, without the constant: cosines and sines in turn.
    """

    phase: Int[Tensor, "time"]
    cycle: Float[Tensor, "phases ..."]
    samples: float
    season: Season | None = None
    annual: Float[Tensor, "waves ..."] | None = None

    def harmonics(self, space: StateSpace) -> dict[str, int]:
        """Return the number of harmonics of each variable that has some."""
        if self.season is None:
            return {}
        counts = {
            n: int(self.season.used[space.entries(n)][0].sum()) // 2 for n in space.variables
        }
        return {name: count for name, count in counts.items() if count}

    def at(self, rows: slice) -> Float[Tensor, "time ..."]:
        """Return the mean of some fields."""
        mean = self.cycle[self.phase[rows]]
        if self.season is None or self.annual is None:
            return mean
        return mean + torch.tensordot(self.season.waves[rows, 1:], self.annual, 1)


def mean_of(fields: Fields, seasons: bool = True) -> Climatology:
    """Return the mean of each time of day or month, with a yearly cycle where that helps."""
    found = _cycle_of(fields)
    return _with_season(fields, found) if seasons and harmonics_of(fields) else found


def harmonics_of(fields: Fields) -> int:
    """Return the harmonics of a yearly cycle that are tried: none of months, or of few years."""
    space = fields.space
    if fields.start is None or "time" not in space.units or time_unit(space) in MONTHS:
        return 0
    seconds = space.dt * SECONDS[time_unit(space)]
    short = len(fields) * seconds < CYCLES * YEAR or seconds * STEPS_OF_YEAR > YEAR
    return 0 if short else HARMONICS


def _with_season(fields: Fields, found: Climatology) -> Climatology:
    """Add a yearly cycle to a mean, if one predicts held-back blocks of any variable better."""
    space, times = fields.space, len(fields)
    waves = waves_of_year(str(fields.start), times, space, HARMONICS)
    waves = torch.cat((waves.new_ones(times, 1), waves), 1)
    sums = Sums(waves, torch.arange(times) * BLOCKS // times, space.size)
    for rows, block in _blocks(fields):
        sums.add(rows, (block - found.at(rows)).flatten(2))
    used = sums.chosen(space)
    width = int(used.any(0).sum())
    if width == 0:
        return found
    coefficients = sums.coefficients(used)[:, :width].mT.reshape(width, *space.shape)
    return replace(
        found,
        cycle=found.cycle + coefficients[0],
        season=Season(waves[:, :width], used[:, :width]),
        annual=coefficients[1:],
    )


def _cycle_of(fields: Fields) -> Climatology:
    """Return the mean of each phase."""
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
    return Climatology(phase, torch.where(cycle.isnan(), cycle.nanmean(0), cycle), samples)


def spread_of(fields: Fields, mean: Climatology) -> Tensor:
    """Return the standard deviation of each variable, and of each of its levels, as one state.

    Raises:
        ValueError: If a variable does not vary.
    """
    space = fields.space
    squares: list[Tensor] = [torch.zeros(())] * len(space.pieces)
    numbers = squares[:]
    for rows, block in _blocks(fields):
        anomalies = space.split(block - mean.at(rows))
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


def standardised(fields: Fields, mean: Climatology, std: Tensor) -> Tensor:
    """Return the anomalies of each field in units of `std`, in the precision of the record."""
    inside, (series, times) = fields.space.inside, fields.states.shape[:2]
    z = scratch((series, times, int(inside.sum())), fields.states.dtype)
    for rows, block in _blocks(fields):
        z[:, rows] = ((block - mean.at(rows)) / std).flatten(2)[..., inside].to(z)
        release(z)
    return z.flatten(0, 1)


def _blocks(fields: Fields) -> Iterator[tuple[slice, Tensor]]:
    """Return the states in double precision, some times at once: a record may be large."""
    for rows, block in blocks(fields.states, NUMBERS):
        yield rows, fields.space.masked(block.double())
