r"""Held-back fields choose the radius of the taper and the size of the law's covariance.

A covariance that was learned from few fields is too small for new ones: the directions of the
sample take up its variance, and the mean was estimated from the same fields. How much too small
depends on the record. So blocks of it are held back in turn. The law of all other fields, with
their own mean, tapered covariance and memory, predicts windows of a held-back block from some of
its points, exactly as a posterior of the prior would. With the mean squared error e^2 and the mean
variance v of these predictions, under the law whose covariance is multiplied by a factor f,

.. math:: f : \quad v(f) = e^2(f) ,

and the radius is that whose predictions with its own factor have the lowest CRPS. Of a stationary
record of many days f is near 1, since the law is then that of the new fields too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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

__all__ = ["BLOCKS", "RADII", "Chosen", "chosen_by_blocks", "inflation_of"]

# Candidates for the radius of the taper, in units of the domain's diameter.
RADII = tuple(2.0 ** (k / 2) for k in range(-8, 3))
# Candidates for the factor; between them the errors are interpolated.
FACTORS = tuple(2.0 ** (k / 2) for k in range(-4, 7))
# Blocks that are held back in turn, windows of each, their states, the points that are looked at,
# those that predict (in standardised units with this error), and those that are predicted.
BLOCKS, WINDOWS, STATES, POINTS, PREDICTORS, ERROR, TARGETS = 5, 4, 16, 400, 20, 0.2, 100

# Fields at most that are looked at, and the least number of runs of them.
FIELDS, RUNS = 20_000, 20
# Fields whose pages are in memory at once.
SOME = 500


class Chosen(NamedTuple):
    """A radius and a factor, and the rows (radius, factor, CRPS) of all radii."""

    radius: float
    factor: float
    scores: list[list[float]]


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


def chosen_by_blocks(
    record: Gappy,
    phase: Int[Tensor, "time"],
    samples: float,
    places: Float[Tensor, "points axes"],
    space: StateSpace,
    modes: int,
) -> Chosen:
    """Return the radius and the factor that predict held-back blocks of a record best.

    Arguments:
        record: Standardised anomalies, ``(series * time, points)``.
        phase: Time of the day or of the year of each field, of which each has its own mean.
        samples: Draws that make a mean.
        places: Positions of the points.
        space: Their space.
        modes: Modes of the law.
    """
    generator = torch.Generator().manual_seed(0)
    points = torch.randperm(len(places), generator=generator)[:POINTS]
    places = places[points]
    apart = not lacking(space)
    distance = space.distance(places, places) if apart else torch.zeros(2 * (len(points),))
    diameter = float(distance.max())
    if apart and not diameter > 0:
        return Chosen(math.inf, 1.0, [])
    series = len(record.z) // len(phase)
    looked = _runs(series, len(phase))
    fields, times = looked.flatten(), looked.shape[1]
    z = torch.cat([_values(record, some, points) for some in fields.split(SOME)])
    widest = math.inf if space.sphere is None else HALF_CIRCUMFERENCE
    tapers = [GaspariCohn(share * diameter if apart else math.inf) for share in RADII]
    radii = list(dict.fromkeys(t.radius if t.reach <= widest else math.inf for t in tapers))
    phase, count = phase.repeat(series)[fields], min(modes, len(points))
    block = _blocks(*looked.shape)
    sums = torch.zeros(len(radii), len(FACTORS), 3, dtype=torch.float64)
    for held in range(BLOCKS):
        kept = block != held
        fresh = _centred(z, phase, kept)
        sample = Gappy(fresh[kept])
        cov = sample.covariance(slice(None))
        inflation = inflation_of(max(samples * float(kept.double().mean()), 2.0))
        for i, radius in enumerate(radii):
            law = _law(sample, cov * GaspariCohn(radius)(distance), kept.view(-1, times), count)
            law = law._replace(spectrum=law.spectrum * inflation)
            for number, first in enumerate(_windows(block == held, times)):
                generator.manual_seed(1 + held * WINDOWS + number)
                sums[i] += _errors(law, fresh[first], generator)
    return _best(radii, sums)


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


def _windows(held: Tensor, times: int) -> list[Tensor]:
    """Return the fields of windows that lie in a held-back block, evenly over it."""
    fields = held.view(-1, times).nonzero()
    runs = fields.split(int((fields[:, 0] == fields[0, 0]).sum()))
    states = min(STATES, len(runs[0]))
    firsts = [run[0, 0] * times + run[i, 1] for run in runs for i in range(len(run) - states + 1)]
    picks = np.linspace(0, len(firsts) - 1, WINDOWS).round().astype(int)
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
    coefficients[kept.flatten()], seen[kept] = record.coefficients(basis), record.seen
    memory = memory_of(coefficients.unflatten(0, kept.shape), seen)
    return _Law(basis, torch.cat((spectrum, rest[None])), memory)


def _errors(law: _Law, z: Tensor, generator: torch.Generator) -> Tensor:
    """Return summed squared errors, variances and CRPS of a window's predictions per factor."""
    states, points = z.shape
    order = torch.randperm(points, generator=generator)
    count = min(PREDICTORS, points // 2)
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


def _best(radii: list[float], sums: Tensor) -> Chosen:
    """Return the radius with the lowest CRPS, each with the factor that makes v = e^2."""
    factors = np.log(FACTORS)
    rows = []
    for radius, (squared, var, crps) in zip(radii, sums.mT.numpy(), strict=True):
        factor = float(np.interp(0.0, np.log(var / np.maximum(squared, 1e-30)), factors))
        rows.append([radius, math.exp(factor), float(np.interp(factor, factors, crps))])
    radius, factor, _ = min(rows, key=lambda row: row[2])
    return Chosen(radius, factor, rows)
