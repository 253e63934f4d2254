"""Convolution on a grid of two periodic axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scorda.core.shapes import Tensor

__all__ = ["Ring", "RingConv"]


class RingConv(nn.Conv2d):
    """Convolution with kernel 3 on a grid whose both axes are rings."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(Ring.apply(z))


class Ring(torch.autograd.Function):
    """Pad both axes of a grid with one point from the other side, in one copy each way.

    The gradient of concatenated slices takes several passes over the grid.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        n, c, y, x = z.shape
        layout = torch.channels_last
        out = torch.empty(
            (n, c, y + 2, x + 2), dtype=z.dtype, device=z.device, memory_format=layout
        )
        out[..., 1:-1, 1:-1] = z
        out[..., 1:-1, 0], out[..., 1:-1, -1] = z[..., -1], z[..., 0]
        out[..., 0, :], out[..., -1, :] = out[..., -2, :], out[..., 1, :]
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        g = gradient[..., 1:-1, 1:-1].clone(memory_format=torch.channels_last)
        for inside, outside in ((0, -1), (-1, 0)):
            g[..., inside, :] += gradient[..., outside, 1:-1]
            g[..., inside] += gradient[..., 1:-1, outside]
            for along, beyond in ((0, -1), (-1, 0)):
                g[..., inside, along] += gradient[..., outside, beyond]
        return g
