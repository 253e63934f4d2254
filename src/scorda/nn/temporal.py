r"""The networks of SDA work along the physical time of a trajectory, of any length.

`WindowMLP` is fully connected. It sees a window of 2k + 1 states and returns as many. On a longer
trajectory it is applied to every window and the outputs are composed (algorithm 2): the centre of
each window, and the outer halves of the first and the last. Each composed state is the expectation
of the exact one given its window, and exact where 2k + 1 is at least the length.

`TemporalConv` is fully convolutional: its receptive field, not the length of the input, is the
window. The ends are zero-padded, and a constant channel marks them, so that the first and last
states are learned rather than composed.

They, the U-Net of fields and the network of a ring know the noise level from a `NoiseEmbedding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.modulated import ModulatedBlock, channels_last

__all__ = ["NoiseEmbedding", "TemporalConv", "WindowMLP", "compose", "differences_of"]

# Sizes of the embedding of the noise level.
WINDOW_FEATURES = 64
CONV_FEATURES = 128
# States that one convolution sees.
KERNEL = 5


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


class WindowMLP(nn.Module):
    """Residual fully connected network on a flattened window, composed over longer trajectories.

    Source: Rozet & Louppe (2023), appendix D: width 256, five residual layers, SiLU, LayerNorm
    without learned parameters. Deviation: conditioned on the log of the noise level.

    Arguments:
        channels: Components of one state.
        k: Half-width of the window.
        width: Hidden features.
        depth: Residual layers.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
    """

    def __init__(
        self,
        channels: int,
        k: int = 4,
        width: int = 256,
        depth: int = 5,
        min_noise: float = 2e-3,
        max_noise: float = 20.0,
    ) -> None:
        super().__init__()
        self.half_width = k
        self.embed = NoiseEmbedding(WINDOW_FEATURES, min_noise, max_noise)
        window = (2 * k + 1) * channels
        self.first = nn.Linear(window + WINDOW_FEATURES, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, elementwise_affine=False),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
            for _ in range(depth)
        )
        self.last = nn.Linear(width, window)
        nn.init.zeros_(self.last.weight)

    def forward(
        self, x: Float[Tensor, "ensemble time ..."], noise: Float[Tensor, "ensemble"]
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate the network at noisy states, in units of the data, and their noise levels."""
        flat = x.flatten(2) / (1 + noise.square()).sqrt()[:, None, None]
        return compose(flat, self.half_width, lambda w: self._window(w, noise)).view_as(x)

    def _window(self, windows: Tensor, noise: Tensor) -> Tensor:
        # The noise level's part of the first layer is the same for all windows of a member.
        flat = windows.flatten(2)
        states, level = self.first.weight.split((flat.shape[-1], WINDOW_FEATURES), 1)
        shift = F.linear(self.embed(noise), level, self.first.bias)
        h = _product(flat, states) + shift[:, None]
        for block in self.blocks:
            norm, inner, activation, outer = cast(Any, block)
            z = activation(_product(norm(h), inner.weight, inner.bias))
            h = h + _product(z, outer.weight, outer.bias)
        return _product(h, self.last.weight, self.last.bias).view_as(windows)


def _product(
    h: Float[Tensor, "ensemble windows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None = None,
) -> Float[Tensor, "ensemble windows outputs"]:
    """A linear layer, as a convolution with a kernel of 1 where there are several windows.

    The numbers are those of a matrix product, to rounding. On processors where the library of
    matrix products does without the widest instructions the convolutions are twice as fast.
    """
    if h.shape[1] == 1:
        return F.linear(h, weight, bias)
    kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    # (ensemble, inputs, 1, windows) in channels-last memory: a view.
    return F.conv2d(h.mT.unsqueeze(2), kernel, bias).squeeze(2).mT


def compose(
    x: Float[Tensor, "ensemble time channels"], k: int, local: Callable[[Tensor], Tensor]
) -> Float[Tensor, "ensemble time channels"]:
    """Apply a function of windows ``(ensemble, windows, 2k + 1, channels)`` to a trajectory.

    Source: Rozet & Louppe (2023), algorithm 2, over all windows at once.

    Raises:
        ValueError: If the trajectory is shorter than one window.
    """
    if x.shape[1] < 2 * k + 1:
        raise ValueError(
            f"Got a trajectory of {x.shape[1]} states for windows of {2 * k + 1}: "
            "assimilate at least that many states, or use a prior with a smaller window."
        )
    out = local(x.unfold(1, 2 * k + 1, 1).mT)
    return torch.cat((out[:, 0, :k], out[:, :, k], out[:, -1, k + 1 :]), 1)


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
        first, second = differences
        self.differences, self.per_entry = (first, second), per_entry
        self.embed = NoiseEmbedding(CONV_FEATURES, min_noise, max_noise)
        self.first = nn.Conv2d((5 if per_entry else 3) * channels + 1, width, 1)
        self.dilations = [dilation**i for i in range(blocks)]
        self.blocks = nn.ModuleList(_Block(width, CONV_FEATURES, far) for far in self.dilations)
        self.last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        channels_last(self)

    @property
    def half_width(self) -> int:
        """Return the number of states on either side that one output depends on."""
        return 1 + sum(KERNEL // 2 * (1 + dilation) for dilation in self.dilations)

    def forward(
        self,
        x: Float[Tensor, "ensemble time ..."],
        noise: Float[Tensor, "ensemble ..."],
        more: Float[Tensor, "*ensemble time width"] | None = None,
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate the network at noisy states, in units of the data, and their noise levels.

        Arguments:
            x: Noisy states.
            noise: Noise level of each member, or of each entry of x.
            more: What is added to the hidden channels of each state, if anything.
        """
        state = x.shape[2:]
        parts, base = differences_of(x.flatten(2), noise, self.differences, self.per_entry)
        parts.insert(3, torch.ones_like(parts[0][..., :1]))
        # (ensemble, channels, 1, time) in channels-last memory: the fast layout of convolutions.
        z = torch.cat(parts, -1)
        z = self.first(z.mT.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        if more is not None:
            z = z + more.mT.unsqueeze(-2)
        embedding = self.embed(base.sqrt())
        for block in self.blocks:
            z = block(z, embedding)
        return self.last(F.silu(z)).squeeze(2).mT.unflatten(2, state)


def differences_of(
    x: Float[Tensor, "ensemble time size"],
    noise: Float[Tensor, "ensemble ..."],
    scale: tuple[float, float],
    per_entry: bool,
) -> tuple[list[Tensor], Float[Tensor, "ensemble"]]:
    """Return what `TemporalConv` sees of each entry, and the squared level of each member.

    Arguments:
        x: Noisy states.
        noise: Noise level of each member, or of each entry.
        scale: s_1, s_2 of `TemporalConv`.
        per_entry: Whether levels may differ between entries.
    """
    nu2 = noise[:, None, None].square() if noise.ndim == 1 else noise.flatten(2).square()
    nu2 = nu2.expand_as(x)
    base = nu2.amax((1, 2))
    s1, s2 = scale
    d1 = (x[:, 1:] - x[:, :-1]) / (s1**2 + nu2[:, 1:] + nu2[:, :-1]).sqrt()
    d2 = x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]
    d2 = d2 / (s2**2 + nu2[:, 2:] + 4 * nu2[:, 1:-1] + nu2[:, :-2]).sqrt()
    d1, d2 = F.pad(d1, (0, 0, 0, 1)), F.pad(d2, (0, 0, 1, 1))[:, : x.shape[1]]
    parts = [x / (1 + nu2).sqrt(), d1, d2]
    if per_entry:
        ratio = nu2 / base[:, None, None]
        parts += [ratio.log() / 4, (1 - ratio) * parts[0]]
    return parts, base


class _Block(ModulatedBlock):
    """Convolutions along time; priors in files have the rounding of this order of operations."""

    def __init__(self, width: int, features: int, dilation: int) -> None:
        def along(dilation: int) -> nn.Conv2d:
            padding = (0, KERNEL // 2 * dilation)
            return nn.Conv2d(width, width, (1, KERNEL), padding=padding, dilation=(1, dilation))

        super().__init__(features, width, lambda: (along(1), along(dilation)))

    def forward(self, z: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        h = self.conv1(F.silu(z))
        h = self.conv2(F.silu(h * (1 + scale) + shift))
        return z + h
