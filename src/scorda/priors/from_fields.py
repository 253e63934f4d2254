r"""A prior is learned from one record of gridded fields: some hundred fields of a few weeks.

Such a record resolves a few dozen patterns, while a field has thousands of components. So the
prior is a Gaussian law, estimated and regularised, and a network that corrects its leading modes.
The correction is kept only where it helps on fields that it was not fitted to (`nn.spectral`). The
parts of the law:

* mean: the daily cycle where the record has one, else the time mean, and of records of several
  years their yearly cycle (`season`);
* covariance: the sample covariance S of the anomalies, tapered, :math:`S \circ G` with Gaspari and
  Cohn's function G of the distance. It keeps what the sample resolves nearby and drops the chance
  correlations of far points. Its radius is the one of `held_back.RADII` with the lowest CRPS when
  windows of held-back blocks of the record are predicted from some of their points. On the globe,
  G of the great circle is a correlation function only while it ends within half of the
  circumference. The last candidate is no taper, :math:`S` itself. Of several variables, those
  that the others do not help to predict are independent of them (`held_back`);
* inflation :math:`(n + 1) / (n - 1)` of the covariance, for n days in the record: the mean was
  estimated from the same record, and will be off by as much again;
* a factor of the covariance, with which the errors of these predictions are as large as their
  spread (`held_back`);
* memory: the autocorrelation of each mode, as a non-negative mixture of exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from scorda.core import rng
from scorda.core.headers import RANGES
from scorda.core.scratch import blocks as in_blocks, release, scratch
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.core.times import phases, waves_of_year
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Multistep, VarianceExploding
from scorda.diffusion.training import Training, denoising_loss, fit
from scorda.nn import build
from scorda.nn.spectral import AtTimes, ModeNetwork
from scorda.priors.anomalies import harmonics_of, mean_of, spread_of, standardised
from scorda.priors.gaps import Gappy, interpolated
from scorda.priors.held_back import BLOCKS, Chosen, Points, chosen_by_blocks, inflation_of
from scorda.priors.memory import memory_of
from scorda.priors.trajectory import Standardisation, TrainedTrajectory
from scorda.reading.records import Fields

__all__ = ["Law", "law_of", "prepared", "train_on_fields", "training_for", "unbounded"]

# Rows of a square matrix, by their places.
Rows = Callable[[slice], Tensor]
# Segments at most that judge the correction.
SEGMENTS = 20_000
# Of few observations the paper's guidance loses most. This one is exact for the law with as many
# iterations as there are observations; with more than some, or with conjugate gradients, single
# members diverge, since the Jacobian of a network is not symmetric. The bound holds the rest.
GUIDANCE = MMPS(iterations=12, solver="gmres", bound=3.0)
# Above this many components the modes come from subspace iteration instead of all eigenvectors.
DENSE = 4096


def train_on_fields(
    fields: Fields,
    modes: int = 300,
    corrected: int = 20,
    width: int = 64,
    blocks: int = 2,
    settings: Training | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    fill: bool = True,
    clock: int = 0,
) -> TrainedTrajectory:
    """Learn a prior of windows of any length from a record of fields.

    The prior is approximate: stationary but for the cycles of its mean, and Gaussian but for the
    correction. It is the joint law of all variables and levels.

    Arguments:
        fields: The record; of datetimes over three days or more, for a daily cycle.
        modes: Spatial modes kept; fewer where the fields are smaller.
        corrected: Leading modes that the network corrects.
        width: Hidden channels of the network.
        blocks: Residual blocks of the network.
        settings: Settings of the training (default: `training_for` the record).
        checkpoint: As in `training.fit`, like `report`.
        fill: Whether missing values are filled by the record's own Gaussian law (`priors.gaps`).
        clock: Harmonics of the year that the network sees beside each state, up to 12, so that it
            may learn a spread that has seasons.

    Raises:
        ValueError: If the record is too short, does not vary, is beyond its bounds, or lacks
            values without `fill`; or has no three years of dates for a clock.
    """
    most = int(RANGES["clock"][1])
    if clock not in range(most + 1):
        raise ValueError(f"Got clock = {clock}: give a whole number of harmonics, 0 to {most}.")
    if clock and not harmonics_of(fields):
        raise ValueError(
            f"Got clock = {clock} for a record that has no yearly cycle: it needs dates, steps of "
            "hours or days that are at most a month, and three years; else train it without."
        )
    settings = settings or training_for(fields)
    fields = prepared(fields, modes, corrected, settings, fill)
    law = law_of(fields, modes)
    count = len(law.spectrum) - 1
    architecture = {
        "name": "modes", "size": fields.space.size, "modes": count,
        "corrected": min(corrected, count), "width": width, "blocks": blocks,
        "min_noise": settings.min_noise, "max_noise": settings.max_noise,
    }  # fmt: skip
    waves = None
    if clock:
        architecture["clock"] = clock
        waves = waves_of_year(str(fields.start), len(fields), fields.space, clock)
    network = _network(architecture, law, settings.seed)
    history = _correct(network, law.coefficients, settings, checkpoint, report, waves)
    cyclic = len(law.cycle) > 1 or law.annual is not None or clock > 0
    center = law.cycle[0]
    provenance: dict[str, Any] = {
        "fields": len(fields), "series": len(fields.states), "start": fields.start,
        "filled": fields.missing, **law.found, "training": asdict(settings), "history": history,
    }  # fmt: skip
    max_noise = max(10 * math.sqrt(law.largest), 20.0)
    return TrainedTrajectory(
        architecture,
        network,
        fields.space,
        Standardisation(torch.zeros_like(center) if cyclic else center, law.std),
        VarianceExploding(1e-2, max_noise),
        Multistep(noise_levels=24, corrections=0, min_noise=2e-2, max_noise=max_noise),
        provenance,
        law.cycle if cyclic else None,
        guidance=GUIDANCE,
        annual=law.annual,
    )


def training_for(fields: Fields) -> Training:
    """Return settings for a record: short, since some hundred fields are soon learned by heart."""
    day = phases(fields.space)
    segment = min(day if day > 1 else 24, len(fields) // 5)
    return Training(
        training_steps=1000, batch=32, segment=segment, rate=3e-4, validation=0.2, every=100,
        min_noise=0.05, max_noise=100.0,
    )  # fmt: skip


def prepared(fields: Fields, modes: int, corrected: int, settings: Training, fill: bool) -> Fields:
    """Check a record and settings, and return the record in coordinates without bounds.

    Raises:
        ValueError: As `train_on_fields` does.
    """
    if modes < 1 or corrected < 1:
        raise ValueError(f"Got modes = {modes}, corrected = {corrected}: give at least 1 of each.")
    if fields.static:
        raise ValueError(
            f"Got the static fields {', '.join(fields.static)} for patterns, which know every "
            "place already, so that a field of places tells them nothing: name a network of the "
            "grid (architecture ring-conv or unet), or leave them out."
        )
    fields = unbounded(fields, settings.segment)
    if fields.missing and not fill:
        raise ValueError(
            f"Got a record of which {fields.missing} values are missing: have them filled (no "
            "--no-fill in the shell), or leave these fields or points out."
        )
    return fields


def unbounded(fields: Fields, segment: int) -> Fields:
    """Check a record against the segments of a training, and return it without bounds.

    Raises:
        ValueError: If it is too short, beyond its bounds, or has circular variables.
    """
    fields.space.check_no_circles("A trained prior")
    if fields.space.transforms:
        fields.space.check_bounds(fields.states, "the record")
        fields = replace(fields, states=fields.space.unbounded(fields.states))
    count = len(fields)
    if count < 4 * BLOCKS:
        raise ValueError(f"Got a record of {count} fields: give {4 * BLOCKS} at least.")
    if segment > count:
        raise ValueError(
            f"Got segments of {segment} fields of a record of {count}: give shorter ones."
        )
    return fields


class Law(NamedTuple):
    """The Gaussian law of a record, in units of the standard deviations of its anomalies.

    `phase` has the time of day of each field, `std` the shape of a state, `coefficients` the shape
    ``(series, time, modes)``.

    The last entries of `spectrum` and `memory` are those of all directions outside of the modes.
    """

    phase: Tensor
    cycle: Tensor
    annual: Tensor | None
    std: Tensor
    basis: Tensor
    spectrum: Tensor
    memory: Tensor
    coefficients: Tensor
    largest: float
    found: dict[str, Any]

    @property
    def larger(self) -> float:
        """Factor by which variances are larger than those of the record."""
        return float(self.found["inflation"] * self.found["factor"])


def law_of(fields: Fields, modes: int, seasons: bool = True) -> Law:
    """Estimate the law of a record with at most so many modes, with a yearly cycle or without.

    Raises:
        ValueError: If the record does not vary.
    """
    space, series = fields.space, fields.states.shape[:2]
    mean = mean_of(fields, seasons)
    std, inside = spread_of(fields, mean), space.inside
    record = Gappy(standardised(fields, mean, std))
    places, modes = _places(space)[inside], min(modes, int(inside.sum()))
    variable = torch.from_numpy(space.variable_of(np.arange(space.size)))[inside]
    points = Points(places, variable, space)
    chosen = chosen_by_blocks(record, mean, points, modes)
    spectrum, found = _modes(record, points, chosen, modes)
    left = (record.variance().sum() - spectrum.sum()).clamp(min=0)
    left = (left / max(len(places) - modes, 1)).clamp(min=1e-8)
    record.fill(found, spectrum, float(left))
    inflation, factor = inflation_of(mean.samples), chosen.factor
    coefficients, seen = record.coefficients(found).unflatten(0, series), record.seen.view(series)
    basis = found.new_zeros(space.size, modes)
    basis[inside] = found
    return Law(
        mean.phase,
        space.filled(mean.cycle),
        None if mean.annual is None else space.filled(mean.annual),
        std,
        basis,
        torch.cat((spectrum, left[None])) * inflation * factor,
        memory_of(coefficients, record.seen_well.view(series)),
        _scaled(interpolated(coefficients, seen), math.sqrt(inflation * factor)),
        float(spectrum[0]) * inflation * factor,
        {
            "radius": _written(chosen.radius),
            "groups": _named(chosen.groups, space),
            "radii": [[_written(s.radius), s.factor, s.crps] for s in chosen.radii],
            "apart": [[_named(s.groups, space), s.factor, s.crps] for s in chosen.apart],
            "harmonics": mean.harmonics(space),
            "inflation": inflation,
            "factor": factor,
        },
    )


def _written(radius: float) -> float | None:
    """Return a radius as JSON has it: None stands for no taper."""
    return None if math.isinf(radius) else radius


def _named(groups: Sequence[int], space: StateSpace) -> list[list[str]]:
    """Return the variables of each group."""
    pairs = list(zip(groups, space.variables, strict=True))
    return [[name for g, name in pairs if g == group] for group in dict.fromkeys(groups)]


def _network(architecture: dict[str, Any], law: Law, seed: int) -> ModeNetwork:
    """Build the network of a law, whose correction is still zero."""
    torch.manual_seed(seed)
    network = build(architecture)
    assert isinstance(network, ModeNetwork)
    with torch.no_grad():
        network.basis.copy_(law.basis)
        network.spectrum.copy_(law.spectrum)
        network.memory.copy_(law.memory)
    return network


def _scaled(coefficients: Tensor, factor: float) -> Tensor:
    """Return coefficients of the law's own size, from which the correction is learned."""
    for _, block in in_blocks(coefficients):
        block *= factor
    return coefficients


def _places(space: StateSpace) -> Tensor:
    """Return the positions of all components."""
    positions = space.positions().double()
    return positions.repeat(space.size // len(positions), 1)


def _modes(record: Gappy, points: Points, chosen: Chosen, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading variances and orthonormal modes of the tapered sample covariance."""
    size, dtype = len(points.places), points.places.dtype

    def rows(part: slice) -> Tensor:
        return record.covariance(part) * points.taper(chosen.radius, chosen.groups, part)

    if size <= DENSE:
        values, vectors = torch.linalg.eigh(rows(slice(None)))
        return values.flip(0)[:count].clamp(min=1e-8), vectors.flip(1)[:, :count]
    chunks = [slice(i, i + 1024) for i in range(0, size, 1024)]
    # The matrix is kept where it is no larger than the record.
    known = _kept(rows, chunks, size) if size**2 <= record.z.numel() else rows
    generator = torch.Generator().manual_seed(0)
    width = min(count + 20, size)
    basis = torch.randn(size, width, generator=generator, dtype=dtype)
    for _ in range(4):
        basis = torch.linalg.qr(basis).Q
        basis = torch.cat([known(part) @ basis for part in chunks])
    basis = torch.linalg.qr(basis).Q
    small = basis.T @ torch.cat([known(part) @ basis for part in chunks])
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    return values.flip(0)[:count].clamp(min=1e-8), basis @ vectors.flip(1)[:, :count]


def _kept(rows: Rows, chunks: list[slice], size: int) -> Rows:
    """Return the function of rows of a square matrix as one that has computed all of them."""
    kept = scratch((size, size), torch.float64)
    for part in chunks:
        kept[part] = rows(part)
        release(kept)

    def found(part: slice) -> Tensor:
        release(kept)
        return kept[part]

    return found


def _correct(
    network: ModeNetwork,
    coefficients: Tensor,
    settings: Training,
    checkpoint: Checkpoint | str | Path | None,
    report: Callable[[dict[str, float]], None] | None,
    waves: Tensor | None = None,
) -> list[dict[str, float]]:
    """Train the correction on the leading modes alone; undo it where it does not help."""
    lead = network.corrected
    core = ModeNetwork(lead, lead, lead, times=network.times)
    core.correction, core.clock = network.correction, network.clock
    with torch.no_grad():
        core.basis.copy_(torch.eye(lead))
        core.spectrum.copy_(torch.cat((network.spectrum[:lead], network.spectrum[-1:])))
        core.memory.copy_(torch.cat((network.memory[:lead], network.memory[-1:])))
    series = torch.cat([block[..., :lead].float() for _, block in in_blocks(coefficients)], 1)
    if waves is not None:
        # The waves of each state beside it, which `_clocked_loss` takes apart.
        series = torch.cat((series, waves.float().expand(len(series), -1, -1)), 2)
    held = max(settings.segment, round(settings.validation * series.shape[1]))
    before = _loss(core, series[:, -held:], settings)
    history = fit(core, series, settings, checkpoint, report, loss=_clocked_loss)
    after = _loss(core, series[:, -held:], settings)
    if not after < before:
        # The first guess, zero, is also that of the Gaussian law.
        torch.nn.init.zeros_(network.correction.last.weight)
        assert network.correction.last.bias is not None
        torch.nn.init.zeros_(network.correction.last.bias)
    return [{"step": 0, "gaussian": before, "corrected": after}, *history]


def _clocked_loss(network: nn.Module, x0: Tensor, noise: Tensor, eps: Tensor) -> Tensor:
    """Return the loss of segments, beside whose states stand the waves of a clock, if any."""
    assert isinstance(network, ModeNetwork)
    size = network.corrected
    if x0.shape[2] > size:
        placed = AtTimes(network, x0[..., size:])
        return denoising_loss(placed, x0[..., :size], noise, eps[..., :size])
    return denoising_loss(network, x0, noise, eps)


def _loss(network: ModeNetwork, series: Tensor, settings: Training) -> float:
    """Return the loss over all segments of held-back series, at all noise levels."""
    segments = series.unfold(1, settings.segment, 1)
    x0 = segments[:, :: -(-segments.shape[1] // SEGMENTS)].mT.flatten(0, 1)
    levels = torch.linspace(math.log(settings.min_noise), math.log(settings.max_noise), 8).exp()
    key = rng.key(rng.seeded(settings.seed + 2))
    with torch.no_grad():
        losses = []
        for i, level in enumerate(levels):
            eps = torch.randn(x0.shape, generator=rng.at(key, i), dtype=x0.dtype)
            losses.append(_clocked_loss(network, x0, level.expand(len(x0)), eps).mean())
    return float(torch.stack(losses).mean())
