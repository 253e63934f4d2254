r"""A fully convolutional network works along the physical time of a trajectory.

One network serves trajectories of any length: its receptive field, not the length of the input,
is the window of SDA. The ends are zero-padded, and a constant channel marks them, so that the
first and last states are learned rather than composed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.embed import NoiseEmbedding

__all__ = ["TemporalConv"]

KERNEL = 5


class TemporalConv(nn.Module):
    r"""Residual convolutions along time, modulated by the noise level.

    Beside the states the network sees their first and second differences in time,
    each scaled to unit variance at every noise level:

    .. math:: (x_{i+1} - x_i) / \sqrt{s_1^2 + \nu_{i+1}^2 + \nu_i^2}, \quad
        (x_{i+1} - 2 x_i + x_{i-1}) / \sqrt{s_2^2 + \nu_{i+1}^2 + 4 \nu_i^2 + \nu_{i-1}^2}.

    At low noise a trajectory is much smoother than its size suggests; without these features the
    network would have to find differences of nearly equal numbers.

    Arguments:
        channels: Components of one state.
        width: Hidden channels.
        blocks: Residual blocks of two convolutions with kernel 5.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
        differences: s_1, s_2: standard deviation of first and second differences of the
            standardised data.
        per_entry: Whether the noise level may differ between the entries of a trajectory. The
            network then also sees the log of each level relative to the largest, which modulates
            it, and the entries that have less noise than that apart from the others.
        dilation: The second convolution of block i takes every ``dilation**i``-th state.
    """

    def __init__(
        self,
        channels: int,
        width: int = 96,
        blocks: int = 4,
        min_noise: float = 2e-3,
        max_noise: float = 20.0,
        differences: Sequence[float] = (1.0, 1.0),
        per_entry: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.differences, self.per_entry = differences, per_entry
        self.embed = NoiseEmbedding(128, min_noise, max_noise)
        self.first = nn.Conv2d((5 if per_entry else 3) * channels + 1, width, 1)
        self.dilations = [dilation**i for i in range(blocks)]
        self.blocks = nn.ModuleList(_Block(width, 128, far) for far in self.dilations)
        self.last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        # Channels-last weights: the convolutions take them as they are.
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    @property
    def half_width(self) -> int:
        """Return the number of states on either side that one output depends on."""
        return 1 + sum(KERNEL // 2 * (1 + dilation) for dilation in self.dilations)

    def forward(
        self, x: Float[Tensor, "ensemble time ..."], noise: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate the network at noisy states, in units of the data, and their noise levels.

        Arguments:
            x: Noisy states.
            noise: Noise level of each member, or of each entry of x.
        """
        state, x = x.shape[2:], x.flatten(2)
        nu2 = noise[:, None, None].square() if noise.ndim == 1 else noise.flatten(2).square()
        nu2 = nu2.expand_as(x)
        base = nu2.amax((1, 2))
        s1, s2 = self.differences
        d1 = (x[:, 1:] - x[:, :-1]) / (s1**2 + nu2[:, 1:] + nu2[:, :-1]).sqrt()
        d2 = x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]
        d2 = d2 / (s2**2 + nu2[:, 2:] + 4 * nu2[:, 1:-1] + nu2[:, :-2]).sqrt()
        d1, d2 = F.pad(d1, (0, 0, 0, 1)), F.pad(d2, (0, 0, 1, 1))[:, : x.shape[1]]
        parts = [x / (1 + nu2).sqrt(), d1, d2, torch.ones_like(x[..., :1])]
        if self.per_entry:
            ratio = nu2 / base[:, None, None]
            parts += [ratio.log() / 4, (1 - ratio) * parts[0]]
        # (ensemble, channels, 1, time) in channels-last memory: the fast layout of convolutions.
        z = torch.cat(parts, -1)
        z = self.first(z.mT.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        embedding = self.embed(base.sqrt())
        for block in self.blocks:
            z = block(z, embedding)
        return self.last(F.silu(z)).squeeze(2).mT.unflatten(2, state)


class _Block(nn.Module):
    """Two convolutions with a residual connection; the noise level scales and shifts."""

    def __init__(self, width: int, features: int, dilation: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(features, 2 * width)
        padding = (0, KERNEL // 2)
        self.conv1 = nn.Conv2d(width, width, (1, KERNEL), padding=padding)
        far, padding = (1, dilation), (0, KERNEL // 2 * dilation)
        self.conv2 = nn.Conv2d(width, width, (1, KERNEL), padding=padding, dilation=far)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, z: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        h = self.conv1(F.silu(z))
        h = self.conv2(F.silu(h * (1 + scale) + shift))
        return z + h
