r"""An emulator of fields is learned from one record: the law of a field given the last one.

Mean, standard deviations and modes are those of the prior of the record (`from_fields`). Of the
coefficients c of the modes a linear step is estimated,

.. math:: c_{k+1} = A c_k + \varepsilon, \qquad \varepsilon \sim N(0, Q),

where A is full for the first r modes and diagonal beyond, and r is the one of `RANKS` whose steps
have the least squared error in blocks of the record that they were not fitted to. These very
errors give Q, so that the spread of a forecast counts the error of A: full for the leading modes,
diagonal beyond. A network then corrects the step of the leading modes, and stays where it helps on
held-back fields (`nn.steps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scorda.core.shapes import Float, Int, Tensor
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.samplers import Multistep, VarianceExploding
from scorda.diffusion.training import Training, fit
from scorda.diffusion.transitions import known_first, transition_loss
from scorda.nn import build
from scorda.nn.steps import StepModes
from scorda.priors.from_fields import Law, law_of, prepared
from scorda.priors.from_system import kept_states
from scorda.priors.trajectory import Standardisation, TrainedTrajectory
from scorda.reading.records import Fields

__all__ = ["linear_step", "starts_of", "step_training_for", "train_step_on_fields"]

# Candidates for the number of modes that pass into each other.
RANKS = (0, 5, 10, 20, 40, 80, 160)
# Blocks that are held back in turn.
BLOCKS = 5
# Of the noise levels, the lowest and the least highest.
MIN_NOISE, MAX_NOISE = 1e-2, 20.0
# Largest modulus of an eigenvalue of A: a forecast of any length stays bounded.
LARGEST = 0.999


class LinearStep(NamedTuple):
    """A linear step of coefficients and the covariance of its error, as `StepModes` has them.

    `advance` is A; `turn` V has the directions of the error as columns, `spectrum` its variances.
    """

    advance: Float[Tensor, "modes modes"]
    turn: Float[Tensor, "modes modes"]
    spectrum: Float[Tensor, "modes"]
    rank: int
    errors: list[list[float]]


def train_step_on_fields(
    fields: Fields,
    modes: int = 300,
    corrected: int = 20,
    width: int = 64,
    blocks: int = 2,
    settings: Training | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    fill: bool = True,
) -> TrainedTrajectory:
    """Learn the law of a field given the one before, for `Emulator`, from a record of fields.

    Approximate: Markov of order one, stationary but for the daily cycle of its mean, and
    linear-Gaussian but for the correction.

    Arguments:
        fields: As in `train_on_fields`, like all that follow.
        modes: Spatial modes.
        corrected: Leading modes whose step the network corrects.
        width: Hidden channels of the network.
        blocks: Residual blocks of the network.
        settings: Settings of the training (default: `step_training_for` the record).
        checkpoint: As in `training.fit`, like `report`.
        fill: Whether missing values are filled by the record's own Gaussian law.

    Raises:
        ValueError: As `train_on_fields` does, or if segments have another length than 2.
    """
    settings = settings or step_training_for(fields)
    if settings.segment != 2 or not settings.observed:
        raise ValueError(
            f"Got segments of {settings.segment}, observed = {settings.observed}: steps are "
            "learned from segments of 2, with levels per entry (observed > 0)."
        )
    fields = prepared(fields, modes, corrected, settings, fill)
    law = law_of(fields, modes, seasons=False)
    # As they are in the record: the law of trajectories makes them larger.
    coefficients = law.coefficients / math.sqrt(law.larger)
    count = coefficients.shape[2]
    step = linear_step(coefficients, min(corrected, count))
    architecture = {
        "name": "step-modes", "size": fields.space.size, "modes": count,
        "corrected": min(corrected, count), "width": width, "blocks": blocks,
        "min_noise": settings.min_noise, "max_noise": settings.max_noise,
    }  # fmt: skip
    network = _network(architecture, law, coefficients, step, settings.seed)
    history = _correct(network, coefficients, settings, checkpoint, report)
    daily, center = len(law.cycle) > 1, law.cycle[0]
    provenance: dict[str, Any] = {
        "fields": len(fields), "series": len(fields.states), "start": fields.start,
        "filled": fields.missing, **law.found, "rank": step.rank, "ranks": step.errors,
        "training": asdict(settings), "history": history,
    }  # fmt: skip
    max_noise = max(10 * math.sqrt(float(step.spectrum[0])), MAX_NOISE)
    standardisation = Standardisation(torch.zeros_like(center) if daily else center, law.std)
    return TrainedTrajectory(
        architecture,
        network,
        fields.space,
        standardisation,
        VarianceExploding(1e-3, max_noise),
        Multistep(noise_levels=24, corrections=0, min_noise=MIN_NOISE, max_noise=max_noise),
        provenance,
        law.cycle if daily else None,
        start=starts_of(fields, law.cycle, law.phase),
    )


def step_training_for(fields: Fields) -> Training:
    """Return settings for the steps of a record: short, since they are soon learned by heart."""
    return Training(
        training_steps=1000, batch=128, segment=2, rate=3e-4, validation=0.2, every=100,
        min_noise=0.05, max_noise=100.0,
    )  # fmt: skip


def linear_step(c: Float[Tensor, "series time modes"], full: int) -> LinearStep:
    """Estimate a linear step and the covariance of its error, `full` for so many modes.

    Raises:
        ValueError: If the record is too short.
    """
    before, after = c[:, :-1].flatten(0, 1).double(), c[:, 1:].flatten(0, 1).double()
    pairs, modes = before.shape
    # Blocks of each series, so that few pairs of two blocks are neighbours.
    block = (torch.arange(c.shape[1] - 1) * BLOCKS // (c.shape[1] - 1)).repeat(len(c))
    ranks = sorted({min(r, modes) for r in RANKS if r <= max(pairs // 8, 1)})
    errors = {}
    for rank in ranks:
        error = torch.empty_like(before)
        for held in range(BLOCKS):
            kept, own = block != held, block == held
            error[own] = after[own] - before[own] @ _fitted(before[kept], after[kept], rank).T
        errors[rank] = error
    tried = {rank: float(error.square().sum(1).mean()) for rank, error in errors.items()}
    rank = min(tried, key=lambda r: tried[r])
    advance, error = _fitted(before, after, rank), errors[rank]
    radius = float(torch.linalg.eigvals(advance).abs().max())
    spectrum, turn = error.square().mean(0), torch.eye(modes, dtype=error.dtype)
    values, vectors = torch.linalg.eigh(error[:, :full].T @ error[:, :full] / pairs)
    spectrum[:full], turn[:full, :full] = values.flip(0), vectors.flip(1)
    return LinearStep(
        advance * min(1.0, LARGEST / max(radius, 1e-30)), turn, spectrum.clamp(min=1e-8), rank,
        [[r, e] for r, e in tried.items()],
    )  # fmt: skip


def _fitted(before: Tensor, after: Tensor, rank: int) -> Tensor:
    """Return the least-squares step, full for so many modes and diagonal beyond."""
    own = (before * after).sum(0) / before.square().sum(0).clamp(min=1e-30)
    advance = own.diag()
    if rank:
        some = before[:, :rank], after[:, :rank]
        advance[:rank, :rank] = torch.linalg.lstsq(*some, driver="gelsd").solution.T
    return advance


def _network(
    architecture: dict[str, Any], law: Law, coefficients: Tensor, step: LinearStep, seed: int
) -> StepModes:
    """Build the network of a linear step, whose correction is still zero."""
    torch.manual_seed(seed)
    network = build(architecture)
    assert isinstance(network, StepModes)
    # The directions outside of the modes have the memory of the last modes, the smallest scales.
    last = max(1, coefficients.shape[2] // 10)
    rest = step.advance.diagonal()[-last:].mean().clamp(0, LARGEST)
    left = law.spectrum[-1] / law.larger * (1 - rest.square())
    with torch.no_grad():
        network.basis.copy_(law.basis)
        network.variance.copy_(coefficients.square().mean((0, 1)).clamp(min=1e-8))
        network.advance.copy_(step.advance)
        network.turn.copy_(step.turn)
        network.spectrum.copy_(torch.cat((step.spectrum, left[None])))
        network.rest.copy_(rest)
    return network


def _correct(
    network: StepModes,
    coefficients: Tensor,
    settings: Training,
    checkpoint: Checkpoint | str | Path | None,
    report: Callable[[dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Train the correction on the coefficients alone; it stays zero where nothing is better."""
    modes = coefficients.shape[2]
    core = StepModes(modes, modes, network.corrected)
    core.correction = network.correction
    core.load_state_dict(network.state_dict() | {"basis": torch.eye(modes)})
    how: dict[str, Any] = {"levels": known_first, "loss": transition_loss, "keep": True}
    history = fit(core, coefficients.float(), settings, checkpoint, report, **how)
    # JSON has no NaN, the loss before the first step.
    return [e if e["step"] else {**e, "loss": e["validation"]} for e in history]


def starts_of(
    fields: Fields, cycle: Float[Tensor, "phases *state"], phase: Int[Tensor, "time"]
) -> Float[Tensor, "states *state"]:
    """Return states that stand for the climate, as those of the first time of day.

    Arguments:
        fields: The record, without bounds.
        cycle: Mean of each time of day.
        phase: Time of day of each field.
    """
    space, states = fields.space, fields.states
    if len(cycle) > 1:
        states = states - (cycle - cycle[0])[phase].to(states)
    # Where values are missing nothing can start.
    whole = space.filled(states).flatten(0, 1)
    whole = whole[whole.flatten(1).isfinite().all(1)]
    if not len(whole):
        whole = space.filled(cycle[:1]).to(states)
    return kept_states(whole[None], space)
