"""Weights that go from cycle to cycle, and a training that may only help.

A training starts from the weights of the cycle before, keeps them where no later ones have a lower
loss on the members held back, and leaves the network out where the Gaussian that it corrects has a
lower one still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.training import Levels, Loss, Training, fit, validation_loss
from scorda.observations.problem import Problem
from scorda.priors.network.denoiser import Corrected
from scorda.priors.network.heads import TwoHeads

__all__ = ["Memory", "learn"]


@dataclass
class Memory:
    """What one run hands from analysis to analysis, and what it may be pre-trained on.

    Arguments:
        problem: The run's.
        weights: Of the last training.
        fits: Trainings so far.
    """

    problem: Problem | None = None
    weights: dict[str, Tensor] | None = None
    fits: int = 0

    def knows(self, network: nn.Module) -> bool:
        """Whether its weights are those of a network of this size."""
        # Of a nonlinear observation some values may be absent: another size, another network.
        return self.weights is not None and all(
            name in self.weights and self.weights[name].shape == w.shape
            for name, w in network.state_dict().items()
        )

    def draws(self, members: int, seed: int) -> Float[Tensor, "ensemble ..."]:
        """States of the system as they are at the first observation."""
        assert self.problem is not None
        problem, generator = self.problem, rng.seeded(seed)
        draws = problem.system.prior(members, generator)
        if problem.initial is not None:
            draws = draws.to(problem.initial)
        for _ in range(min(problem.observed(), default=0)):
            draws = problem.system.step(draws, generator)
        return draws

    def load(self, network: nn.Module) -> None:
        """Give a network of this size its weights."""
        assert self.weights is not None
        network.load_state_dict({name: self.weights[name] for name in network.state_dict()})


def learn(
    memory: Memory,
    network: Corrected | TwoHeads,
    members: Float[Tensor, "members points channels"],
    settings: Training,
    steps: int,
    patience: int | None,
    levels: Levels | None,
    loss: Loss,
) -> dict[str, Any]:
    """Train in place from what is remembered; say whether that helped with those held back.

    Arguments:
        memory: Of the run; it takes up the new weights.
        network: Whose `correction` is trained; `corrects` says afterwards whether it is in use.
        members: What `loss` takes; the last are held back.
        settings: Settings of the training.
        steps: Optimiser steps; 0 keeps the weights.
        patience: As in `training.fit`.
        levels: As in `training.fit`.
        loss: As in `training.fit`.

    Returns:
        ``loss`` of those held back, that of the Gaussian, steps taken, and tensors to carry.
    """
    inner, known = network.correction, memory.weights or {}
    if memory.knows(inner):
        memory.load(inner)
    network.corrects = True
    history: list[dict[str, float]] = []
    if steps:
        history = fit(
            network,
            members,
            settings,
            keep=True,
            patience=patience,
            levels=levels,
            loss=loss,
        )
    found = validation_loss(network, members, settings, levels, loss)
    network.corrects = False
    gaussian = validation_loss(network, members, settings, levels, loss)
    network.corrects = found < gaussian
    memory.fits += 1
    learned = {name: w.detach().clone() for name, w in inner.state_dict().items()}
    memory.weights = {**known, **learned}
    return {
        "loss": found,
        "gaussian_loss": gaussian,
        "training_steps": int(history[-1]["step"]) if history else 0,
        "carried": {**memory.weights, "fits": torch.tensor(memory.fits)},
    }
