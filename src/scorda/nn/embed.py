"""Embedding of the noise level."""

from __future__ import annotations

import math

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor

__all__ = ["NoiseEmbedding"]


class NoiseEmbedding(nn.Module):
    r"""Fourier features of :math:`\log \nu`, then a small network.

    The features are sines and cosines of :math:`\log \nu` at frequencies up to about one period
    per factor of e: smooth in the noise level, which is all that the denoiser needs.

    Arguments:
        features: Size of the embedding.
        min_noise: Smallest noise level seen in training; the embedding is constant below.
        max_noise: Largest one; constant above.
    """

    frequencies: Tensor

    def __init__(self, features: int, min_noise: float, max_noise: float) -> None:
        super().__init__()
        self.min_noise, self.max_noise = min_noise, max_noise
        span = math.log(max_noise / min_noise)
        cycles = torch.arange(1, 17, dtype=torch.float32) / 2
        self.register_buffer("frequencies", 2 * math.pi * cycles / span, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(33, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, noise: Float[Tensor, "ensemble"]) -> Float[Tensor, "ensemble features"]:
        log_noise = noise.clamp(self.min_noise, self.max_noise).log() - math.log(self.min_noise)
        phase = log_noise[:, None] * self.frequencies
        scaled = log_noise[:, None] / math.log(self.max_noise / self.min_noise) * 2 - 1
        return self.layers(torch.cat((scaled, phase.sin(), phase.cos()), -1))
