"""A training of a network that may only help.

It starts from the weights that the network has, keeps them where no later ones have a lower loss
on the members held back, and leaves the network out where the Gaussian that it corrects has a
lower one still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.training import fit, validation_loss

if TYPE_CHECKING:
    from scorda.priors.network.dataset import Pool
    from scorda.priors.network.denoiser import Corrected
    from scorda.priors.network.heads import HeadsPool, TwoHeads
    from scorda.priors.network.prior import NetworkTraining

__all__ = ["learn"]


def learn(
    network: Corrected | TwoHeads,
    pool: Pool | HeadsPool,
    training: NetworkTraining,
    steps: int,
    fits: int = 0,
    patience: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train the correction of a network in place.

    Arguments:
        network: Its `corrects` says afterwards whether the correction is in use.
        pool: Samples to train on, of which the last are held back.
        training: Settings.
        steps: Optimiser steps; 0 keeps the weights.
        fits: Trainings before this one.
        patience: Validations without improvement that stop it, or None.
        report: Called at every validation with step, loss and validation loss.
        checkpoint: As in `training.fit`.

    Returns:
        ``loss`` of the members held back, ``gaussian_loss`` without the correction, and
        ``training_steps`` taken.
    """
    settings = training.settings(steps, pool.members.shape[1], pool.group, fits)
    levels = pool.levels(training.observed)
    network.corrects = True
    history: list[dict[str, float]] = []
    if steps:
        history = fit(
            network,
            pool.members,
            settings,
            checkpoint,
            report,
            keep=True,
            patience=patience,
            levels=levels,
            loss=pool.loss,
        )
    found = validation_loss(network, pool.members, settings, levels, pool.loss)
    network.corrects = False
    gaussian = validation_loss(network, pool.members, settings, levels, pool.loss)
    network.corrects = found < gaussian
    taken = int(history[-1]["step"]) if history else 0
    return {"loss": found, "gaussian_loss": gaussian, "training_steps": taken}
