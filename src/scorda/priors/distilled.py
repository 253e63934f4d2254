"""A prior of few evaluations is made of a trained one."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.distillation import WalkLoss
from scorda.diffusion.levels import often_observed
from scorda.diffusion.samplers import Sampler
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.training import Training, fit
from scorda.priors.trajectory import TrainedTrajectory

__all__ = ["DISTILLING", "FEW", "check_levels", "distilled"]

# Chosen on other test cases than `scorda bench lorenz63-sda` has (benchmarks/NOTES.md).
FEW = StochasticMultistep(16, corrections=0, min_noise=6e-3, max_noise=15.0)
# Settings of `Training`. What an energy score tells of one segment is mostly noise: many segments
# make a batch, and its validation.
DISTILLING: dict[str, Any] = {
    "training_steps": 400,
    "batch": 96,
    "segment": 97,
    "rate": 2e-4,
    "average": 0.98,
    "validation": 0.05,
    "every": 50,
    "observed": 1.0,
}


def distilled(
    prior: TrainedTrajectory,
    states: Float[Tensor, "series time *state"],
    settings: Training,
    sampler: Sampler = FEW,
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    device: torch.device | str = "cpu",
    slice_seconds: float = math.inf,
) -> TrainedTrajectory:
    """Train the network of a prior through the steps of a sampler (`WalkLoss`).

    Approximate, as every learned prior; where the walk's score is least its members have the law
    of the training at the noise level where it ends. The segments are observed often
    (``levels.often_observed``): of others the score is mostly the noise of chaos. Other samplers
    are not better with the new prior than with the old one.

    Arguments:
        prior: Prior of trajectories; it stays as it is.
        states: Trajectories of the law that it was trained on.
        settings: Settings of the training (`DISTILLING`).
        sampler: Sampler that the new prior has by default, without corrections.
        checkpoint: As in `training.fit`, like `report` and `slice_seconds`.
        device: Device on which the network is trained; the prior is on the CPU.

    Returns:
        The prior with other weights and this sampler; where no weights have a lower validation
        loss, those of the prior.

    Raises:
        ValueError: As `check_levels`; if the prior has no law of trajectories without a date, the
            states do not fit its space, or the sampler or the settings do not fit.
    """
    check_levels(prior)
    prior.denoiser(settings.segment)
    prior.space.check(states, "trajectories")
    prior.space.check_bounds(states, "trajectories")
    z = prior.standardisation.forward(prior.space.unbounded(states))
    loss = WalkLoss(sampler, limit=prior.limit)
    network = deepcopy(prior.network).requires_grad_(True).to(device)
    history = fit(
        network,
        z,
        settings,
        checkpoint,
        report,
        keep=True,
        levels=often_observed,
        loss=loss,
        slice_seconds=slice_seconds,
    )
    walk = {f.name: getattr(loss, f.name) for f in fields(loss) if f.name != "sampler"}
    before = {name: prior.provenance.get(name) for name in ("training", "history")}
    provenance = {
        **prior.provenance,
        "training": asdict(settings),
        # JSON has no NaN, the loss before the first step.
        "history": [{**e, "loss": e["loss"] if e["step"] else None} for e in history],
        "distilled": {**walk, "windows": list(loss.windows), "from": before},
    }
    return replace(prior, network=network.to("cpu"), sampler=sampler, provenance=provenance)


def check_levels(prior: TrainedTrajectory) -> None:
    """Check that a network takes a noise level per entry, without which no walk can merge.

    Raises:
        ValueError: If it takes one for all.
    """
    if not prior.per_entry:
        raise ValueError(
            f"The network of this prior, {prior.architecture['name']}, takes one noise level for "
            "all entries, and a walk of few steps is learned with levels per entry: give a prior "
            "of temporal-conv or ring-conv."
        )
