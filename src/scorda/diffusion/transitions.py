"""What the training of a transition needs: segments whose last state alone is noisy."""

from __future__ import annotations

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.training import denoising_loss

__all__ = ["KNOWN", "known_first", "transition_loss"]

# Noise level that stands for a state that is known.
KNOWN = 2e-3


def known_first(
    noise: Float[Tensor, "ensemble"], shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "ensemble time ..."]:
    """Give the last state of each segment its level, and those before the level of known ones."""
    level = torch.full((len(noise), *shape), KNOWN).to(noise)
    level[:, -1] = noise.view(-1, *(1,) * (len(shape) - 1))
    return level


def transition_loss(
    network: nn.Module,
    x0: Float[Tensor, "ensemble time ..."],
    noise: Float[Tensor, "ensemble time ..."],
    eps: Float[Tensor, "ensemble time ..."],
) -> Float[Tensor, "ensemble"]:
    """Return `denoising_loss` of the last state of each segment; those before have no noise.

    Arguments:
        noise: Levels per entry, as `known_first` makes them.
    """
    last = torch.zeros_like(x0)
    last[:, -1] = x0.shape[1]
    return denoising_loss(network, x0, noise, eps * (last > 0), last)
