r"""Held-back fields choose the radius of the taper and the size of the law's covariance.

A covariance that was learned from few fields is too small for new ones: the directions of the
sample take up its variance, and the mean was estimated from the same fields. How much too small
depends on the record. So blocks of it are held back in turn. The law of all other fields, with
their own mean, tapered covariance and memory, predicts windows of a held-back block from some of
its points, exactly as a posterior of the prior would. With the mean squared error e^2 and the mean
variance v of these predictions, under the law whose covariance is multiplied by a factor f,

.. math:: f : \quad v(f) = e^2(f) ,

and the radius is that whose predictions with its own factor have the lowest CRPS. It may be
infinite: no taper. Of a stationary record of many days f is near 1, since the law is then that of
the new fields too.

In a state of several variables chance correlations between them are not far: a taper by distance
leaves those at one point as they are. And variables of one law share modes, each with one memory.
So the variables form groups, which are independent of each other. They begin as one. Then one
variable after the other leaves for a group of its own, as long as the CRPS falls; or all do. For
this choice each window is predicted once more: one variable from points of the others alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scorda.core.parts import lacking
from scorda.core.scratch import release
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.sphere import HALF_CIRCUMFERENCE
from scorda.core.tapers import GaspariCohn
from scorda.metrics.accuracy import gaussian_crps
from scorda.nn.spectral import TIMES
from scorda.priors.gaps import Gappy
from scorda.priors.memory import memory_of
from scorda.priors.season import Season, left_by_season

if TYPE_CHECKING:
    from scorda.priors.anomalies import Climatology

__all__ = ["BLOCKS", "RADII", "Chosen", "Points", "chosen_by_blocks", "inflation_of"]

# Candidates for the radius of the taper, in units of the domain's diameter.
RADII = tuple(2.0 ** (k / 2) for k in range(-8, 3))
# Candidates for the factor; between them the errors are interpolated.
FACTORS = tuple(2.0 ** (k / 2) for k in range(-4, 7))
# Blocks that are held back in turn, windows of each, their states, the points that are looked at,
# those that predict (in standardised units with this error), and those that are predicted.
# Of few points there are up to MOST windows for the choice of groups, which are as soon predicted.
BLOCKS, WINDOWS, STATES, POINTS, PREDICTORS, ERROR, TARGETS = 5, 4, 16, 400, 20, 0.2, 100
MOST = 16

# Fields at most that are looked at, and the least number of runs of them.
FIELDS, RUNS = 20_000, 20
# Fields whose pages are in memory at once.
SOME = 500

# The group of each variable.
Groups = tuple[int, ...]


class Chosen(NamedTuple):
    """A radius, a factor, the group of each variable, and the scores of all that was tried."""

    radius: float
    factor: float
    groups: Groups
    radii: list[Score]
    apart: list[Score]


class Score(NamedTuple):
    """The factor of a radius and of groups of variables, and the CRPS with it."""

    radius: float
    groups: Groups
    factor: float
    crps: float


@dataclass(frozen=True, eq=False)
class Points:
    """Where the points of a record are, and of which variable.

    Arguments:
        places: Positions.
        variable: Index of the variable of each.
        space: Their space.
    """

    places: Float[Tensor, "points axes"]
    variable: Int[Tensor, "points"]
    space: StateSpace

    def __len__(self) -> int:
        return len(self.places)

    def some(self, which: Int[Tensor, "some"]) -> Points:
        """Return some of them."""
        return Points(self.places[which], self.variable[which], self.space)

    def distance(self, part: slice) -> Float[Tensor, "part points"]:
        """Return distances of some from all, 0 where they have none."""
        if lacking(self.space) or not self.places.shape[1]:
            return torch.zeros(len(self.places[part]), len(self))
        return self.space.distance(self.places[part], self.places)

    def taper(self, radius: float, groups: Groups, part: slice) -> Tensor:
        """Return the factors of the covariance of some with all."""
        taper = torch.ones((), dtype=torch.float64)
        if not math.isinf(radius):
            taper = GaspariCohn(radius)(self.distance(part))
        if len(set(groups)) == 1:
            return taper
        group = torch.tensor(groups)[self.variable]
        return taper * (group[part, None] == group)


class _Law(NamedTuple):
    """A Gaussian law: modes, their variances and memories, and last those of all else."""

    basis: Tensor
    spectrum: Tensor
    memory: Tensor

    def covariances(self, points: Tensor, states: int) -> Tensor:
        """Return the covariance of some points at each lag, ``(states, points, points)``."""
        rows, eye = self.basis[points], torch.eye(len(points), dtype=torch.float64)
        lags, times = torch.arange(states, dtype=torch.float64), torch.tensor(TIMES)
        weights = self.spectrum * (torch.exp(-lags[:, None] / times) @ self.memory.T)
        rest = weights[:, -1, None, None]
        return (rows * (weights[:, None, :-1] - rest)) @ rows.T + rest * eye


def inflation_of(samples: float) -> float:
    """Return the factor of a covariance for the error of a mean of so many draws."""
    return (samples + 1) / (samples - 1)


def chosen_by_blocks(record: Gappy, mean: Climatology, points: Points, modes: int) -> Chosen:
    """Return the radius, the factor and the groups that predict held-back blocks of a record best.

    Arguments:
        record: Standardised anomalies, ``(series * time, points)``.
        mean: Their mean.
        points: The points.
        modes: Modes of the law.
    """
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(points), generator=generator)[:POINTS]
    together = (0,) * len(points.space.variables)
    inside, points = points.space.inside, points.some(some)
    if len(points) < 2:
        return Chosen(math.inf, 1.0, together, [], [])
    blocks = _Blocks.of(record, mean, inside, some)
    distance = points.distance(slice(None))
    tried = [(radius, together) for radius in _radii(points.space, distance)]
    radii = _scores(blocks, points, tried, modes)
    best = min(radii, key=_crps)
    apart: list[Score] = []
    if len(together) > 1:
        groups, apart = _grouped(blocks, points, best.radius, modes)
        best = best if groups.groups == together else groups
    return Chosen(best.radius, best.factor, best.groups, radii, apart)


def _grouped(
    blocks: _Blocks, points: Points, radius: float, modes: int
) -> tuple[Score, list[Score]]:
    """Return the best groups of variables with this radius, and the scores of all groups."""
    others: list[Groups] = [(0,) * len(points.space.variables)]
    best, scores = None, []
    while others:
        found = _scores(blocks, points, [(radius, each) for each in others], modes, hide=True)
        scores += found
        better = min(found, key=_crps)
        if best is not None and better.crps >= best.crps:
            break
        best, others = better, _apart(better.groups)
    assert best is not None
    return best, scores


def _crps(score: Score) -> float:
    return score.crps


def _apart(groups: Groups) -> list[Groups]:
    """Return groups of which one variable more stands alone, and those of which all do."""
    shared = [i for i, group in enumerate(groups) if groups.count(group) > 1]
    alone = max(groups) + 1
    found = [(*groups[:i], alone, *groups[i + 1 :]) for i in shared]
    # Of two variables, either leaves the other.
    return [*found, tuple(range(len(groups)))] if len(shared) > 2 else found[:1]


def _radii(space: StateSpace, distance: Tensor) -> list[float]:
    """Return the radii to be tried, and last the infinite one."""
    diameter = float(distance.max())
    widest = math.inf if space.sphere is None else HALF_CIRCUMFERENCE
    tapers = [GaspariCohn(share * diameter) for share in RADII if diameter > 0]
    radii = [taper.radius for taper in tapers if taper.reach <= widest]
    return [*dict.fromkeys(radii), math.inf]


class _Blocks(NamedTuple):
    """What is looked at of a record: some fields at some points, and the block of each field."""

    z: Tensor
    phase: Tensor
    season: Season | None
    samples: float
    block: Tensor
    times: int

    @classmethod
    def of(cls, record: Gappy, mean: Climatology, inside: Tensor, points: Tensor) -> _Blocks:
        series = len(record.z) // len(mean.phase)
        looked = _runs(series, len(mean.phase))
        fields = looked.flatten()
        z = torch.cat([_values(record, some, points) for some in fields.split(SOME)])
        time = fields % len(mean.phase)
        season = mean.season
        if season is not None:
            season = Season(season.waves[time], season.used[inside][points])
        block = _blocks(*looked.shape)
        return cls(z, mean.phase[time], season, mean.samples, block, looked.shape[1])


def _scores(
    blocks: _Blocks,
    points: Points,
    tried: list[tuple[float, Groups]],
    modes: int,
    hide: bool = False,
) -> list[Score]:
    """Return the scores of the predictions of all blocks; also of one variable from the others."""
    generator = torch.Generator()
    tapers = [points.taper(*candidate, slice(None)) for candidate in tried]
    count, windows, variables = min(modes, len(points)), WINDOWS, len(points.space.variables)
    if hide:
        windows = max(WINDOWS, min(MOST, POINTS // len(points)))
    sums = torch.zeros(len(tried), len(FACTORS), 3, dtype=torch.float64)
    for held in range(BLOCKS):
        kept = blocks.block != held
        fresh = _centred(blocks.z, blocks.phase, kept)
        if blocks.season is not None:
            fresh = left_by_season(fresh, kept, blocks.season)
        sample = Gappy(fresh[kept])
        cov = sample.covariance(slice(None))
        inflation = inflation_of(max(blocks.samples * float(kept.double().mean()), 2.0))
        for i, taper in enumerate(tapers):
            law = _law(sample, cov * taper, kept.view(-1, blocks.times), count)
            law = law._replace(spectrum=law.spectrum * inflation)
            for number, first in enumerate(_windows(blocks.block == held, blocks.times, windows)):
                generator.manual_seed(1 + held * windows + number)
                sums[i] += _errors(law, fresh[first], generator)
                if hide:
                    hidden = points.variable == (held * windows + number) % variables
                    sums[i] += _errors(law, fresh[first], generator, hidden)
    return [Score(*pair, *row) for pair, row in zip(tried, _best(sums), strict=True)]


def _values(record: Gappy, fields: Tensor, points: Tensor) -> Tensor:
    """Return the values of some fields at some points, NaN where they are missing."""
    at = fields[:, None], points
    found = torch.where(record.present[at], record.z[at].double(), math.nan)
    release(record.z)
    release(record.present)
    return found


def _runs(series: int, times: int) -> Int[Tensor, "runs times"]:
    """Return the fields that are looked at: all, or runs of a long record, evenly over it."""
    fields = torch.arange(series * times).view(series, times)
    if fields.numel() <= FIELDS:
        return fields
    length = min(times, FIELDS // RUNS)
    firsts = fields[:, : times - length + 1].flatten()
    picks = torch.linspace(0, len(firsts) - 1, FIELDS // length).long()
    return firsts[picks][:, None] + torch.arange(length)


def _blocks(series: int, times: int) -> Tensor:
    """Return the block of each field: whole series where there are enough, or else some times."""
    if series >= BLOCKS:
        return (torch.arange(series) * BLOCKS // series).repeat_interleave(times)
    return (torch.arange(times) * BLOCKS // times).repeat(series)


def _windows(held: Tensor, times: int, count: int = WINDOWS) -> list[Tensor]:
    """Return the fields of windows that lie in a held-back block, evenly over it."""
    fields = held.view(-1, times).nonzero()
    runs = fields.split(int((fields[:, 0] == fields[0, 0]).sum()))
    states = min(STATES, len(runs[0]))
    firsts = [run[0, 0] * times + run[i, 1] for run in runs for i in range(len(run) - states + 1)]
    picks = np.linspace(0, len(firsts) - 1, count).round().astype(int)
    return [firsts[i] + torch.arange(states) for i in picks]


def _centred(z: Tensor, phase: Tensor, kept: Tensor) -> Tensor:
    """Return the anomalies from the mean of the kept fields of each phase."""
    total = torch.zeros(int(phase.max()) + 1, z.shape[1], dtype=z.dtype)
    number = torch.zeros_like(total)
    total.index_add_(0, phase[kept], z[kept].nan_to_num())
    number.index_add_(0, phase[kept], z[kept].isfinite().to(z))
    return z - (total / number.clamp_min(1))[phase]


def _law(record: Gappy, cov: Tensor, kept: Tensor, count: int) -> _Law:
    """Return the law of the kept fields of a record."""
    values, vectors = torch.linalg.eigh(cov)
    spectrum, basis = values.flip(0)[:count].clamp(min=1e-8), vectors.flip(1)[:, :count]
    rest = (cov.diagonal().sum() - spectrum.sum()) / max(len(cov) - count, 1)
    rest = rest.clamp(min=1e-8)
    record.fill(basis, spectrum, float(rest))
    coefficients = torch.zeros(kept.numel(), count, dtype=torch.float64)
    seen = torch.zeros_like(kept)
    coefficients[kept.flatten()], seen[kept] = record.coefficients(basis), record.seen_well
    memory = memory_of(coefficients.unflatten(0, kept.shape), seen)
    return _Law(basis, torch.cat((spectrum, rest[None])), memory)


def _errors(
    law: _Law, z: Tensor, generator: torch.Generator, hidden: Tensor | None = None
) -> Tensor:
    """Return summed squared errors, variances and CRPS of a window's predictions per factor.

    Those of the hidden points are made from the others; else of some from others, at random.
    """
    states, points = z.shape
    order = torch.randperm(points, generator=generator)
    count = min(PREDICTORS, points // 2)
    if hidden is not None:
        count = min(PREDICTORS, int((~hidden).sum()))
        order = torch.cat((order[~hidden[order]][:count], order[hidden[order]]))
    order = order[: count + TARGETS]
    values = z[:, order]
    noise = ERROR * torch.randn(states, count, generator=generator, dtype=torch.float64)
    known = values.isfinite()
    seen, fresh = known.clone(), known.clone()
    seen[:, count:], fresh[:, :count] = False, False
    lag = (torch.arange(states)[:, None] - torch.arange(states)).abs()
    cov = law.covariances(order, states)[lag].transpose(1, 2).reshape(2 * (values.numel(),))
    seen, fresh = seen.flatten(), fresh.flatten()
    y = (values[:, :count] + noise)[known[:, :count]]
    variances, vectors = torch.linalg.eigh(cov[seen][:, seen])
    y, cross = vectors.T @ y, vectors.T @ cov[seen][:, fresh]
    factor = torch.tensor(FACTORS, dtype=torch.float64)[:, None]
    weight = factor / (factor * variances.clamp(min=0) + ERROR**2)
    error = values.flatten()[fresh] - (weight * y) @ cross
    var = factor * (cov.diagonal()[fresh] - weight @ cross.square())
    var = var.clamp(min=1e-6)
    crps = gaussian_crps(torch.zeros_like(error), var.sqrt(), error)
    return torch.stack((error.square().sum(1), var.sum(1), crps.sum(1)), 1)


def _best(sums: Tensor) -> list[tuple[float, float]]:
    """Return the factor that makes v = e^2 and the CRPS there, of each candidate."""
    factors, rows = np.log(FACTORS), []
    for squared, var, crps in sums.mT.numpy():
        factor = float(np.interp(0.0, np.log(var / np.maximum(squared, 1e-30)), factors))
        rows.append((math.exp(factor), float(np.interp(factor, factors, crps))))
    return rows
