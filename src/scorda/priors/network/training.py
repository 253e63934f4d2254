"""A training of a network that may only help.

It starts from the weights that the network has, keeps them where no later ones have a lower loss
on the members held back, and leaves the network out where the Gaussian that it corrects has a
lower one still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.training import Levels, Loss, fit, validation_loss
from scorda.priors.network.denoiser import Corrected
from scorda.priors.network.heads import TwoHeads
from scorda.priors.network.prior import NetworkTraining

__all__ = ["TrainingPool", "learn", "match"]


@runtime_checkable
class TrainingPool(Protocol):
    """Samples to train on, and their loss."""

    @property
    def members(self) -> Float[Tensor, "items points channels"]:
        """Items that the loss takes; the last are held back."""

    @property
    def group(self) -> int:
        """Members of an item, which share a noise level."""

    @property
    def loss(self) -> Loss:
        """Loss per item, as in `diffusion.training.fit`."""

    def levels(self, share: float) -> Levels | None:
        """Return levels for a share of samples with observed entries, as in `fit`."""


def learn(
    network: Corrected | TwoHeads,
    pool: TrainingPool,
    training: NetworkTraining,
    steps: int,
    fits: int = 0,
    patience: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train the correction of a network in place.

    Arguments:
        network: Its `corrects` says afterwards whether the correction is in use.
        pool: Samples to train on.
        training: Settings.
        steps: Optimiser steps; 0 keeps the weights.
        fits: Trainings before this one.
        patience: Validations without improvement that stop it, or None.
        report: Called at every validation with step, loss and validation loss.

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
            report=report,
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


def match(weights: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Return whether weights by name are those of a network of this size."""
    return all(
        name in weights and weights[name].shape == w.shape
        for name, w in network.state_dict().items()
    )
