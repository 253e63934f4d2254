r"""Small networks correct a denoiser of states whose entries have noise levels of their own.

They see three numbers per entry, each of order 1 at every noise level: the noisy state, its
denoised value, and the log of the noise level; a caller may add more. They return one number per
entry, and start from zero.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.ring import RingConv

__all__ = ["DenseCorrection", "GridCorrection", "RingCorrection", "correction"]

# Numbers per entry that a correction sees at least.
FEATURES = 3
KERNEL = 5
# Points along each axis of a grid that make one point of the convolutions, at least.
PATCH = 2


def correction(
    size: int,
    grid: tuple[int, ...],
    width: int,
    blocks: int,
    features: int = FEATURES,
    seed: int = 0,
    patch: int = PATCH,
) -> nn.Module:
    """Build the network for states of that size: along the axes of a grid, or dense without one.

    Its first weights, in single precision, are a function of the seed. On a grid of two axes a
    patch that does not divide them is one of 2 x 2.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module
        if not grid:
            network = DenseCorrection(size, width, blocks, features)
        elif len(grid) == 1:
            network = RingCorrection(size // grid[0], width, blocks, features)
        else:
            channels = size // math.prod(grid)
            patch = patch if patch > PATCH and not any(n % patch for n in grid) else PATCH
            network = GridCorrection(channels, grid, width, blocks, features, patch)
    return network.to(torch.float32)


class DenseCorrection(nn.Module):
    """Fully connected network on the flattened state.

    Arguments:
        size: Entries of a state.
        width: Hidden features.
        blocks: Residual blocks of two layers.
        features: Numbers per entry that it sees.
    """

    def __init__(
        self, size: int, width: int = 64, blocks: int = 2, features: int = FEATURES
    ) -> None:
        super().__init__()
        self.first = nn.Linear(features * size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, elementwise_affine=False),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
            for _ in range(blocks)
        )
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, features: Float[Tensor, "ensemble points channels features"]
    ) -> Float[Tensor, "ensemble points channels"]:
        h = self.first(features.flatten(1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(F.silu(h)).reshape(features.shape[:-1])


class RingCorrection(nn.Module):
    """Convolutions along a ring: the last point is the neighbour of the first.

    Equivariant: a state turned by some points gives the output turned by as many.

    Arguments:
        channels: Entries per point.
        width: Hidden channels.
        blocks: Residual blocks of two convolutions with kernel 5; one output depends on
            4 * blocks + 2 points on either side.
        features: Numbers per entry that it sees.
    """

    def __init__(
        self, channels: int, width: int = 32, blocks: int = 2, features: int = FEATURES
    ) -> None:
        super().__init__()
        self.first = nn.Conv1d(features * channels, width, KERNEL)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(width, width, KERNEL) for _ in range(2)) for _ in range(blocks)
        )
        self.last = nn.Conv1d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(
        self, features: Float[Tensor, "ensemble points channels features"]
    ) -> Float[Tensor, "ensemble points channels"]:
        z = _around(self.first, features.flatten(2).mT)
        for block in self.blocks:
            inner, outer = cast(nn.ModuleList, block)
            h = _around(cast(nn.Conv1d, inner), F.silu(z))
            z = z + _around(cast(nn.Conv1d, outer), F.silu(h))
        return self.last(F.silu(z)).mT.reshape(features.shape[:-1])


class GridCorrection(nn.Module):
    """Convolutions on a grid of two periodic axes, whose points are patches of it.

    Equivariant: a state moved by some patches gives the output moved by as many.

    Arguments:
        channels: Entries per point.
        grid: Points along each axis.
        width: Hidden channels.
        blocks: Residual blocks of two convolutions with kernel 3; one output depends on the
            patch that it is in and 2 * blocks + 1 patches on either side.
        features: Numbers per entry that it sees.
        patch: Points along each axis of a patch.

    Raises:
        ValueError: If patches do not fill the grid.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, ...],
        width: int = 64,
        blocks: int = 2,
        features: int = FEATURES,
        patch: int = PATCH,
    ) -> None:
        super().__init__()
        if any(n % patch for n in grid):
            raise ValueError(
                f"Got a grid of {grid} points: a network along two axes needs multiples of "
                f"{patch}."
            )
        self.grid, self.patch = grid, patch
        self.first = RingConv(features * channels * patch**2, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList(RingConv(width, width) for _ in range(2)) for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, channels * patch**2, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(
        self, features: Float[Tensor, "ensemble points channels features"]
    ) -> Float[Tensor, "ensemble points channels"]:
        fields = features.flatten(2).mT.unflatten(2, self.grid)
        z = self.first(F.pixel_unshuffle(fields, self.patch))
        for block in self.blocks:
            inner, outer = cast(nn.ModuleList, block)
            z = z + outer(F.silu(inner(F.silu(z))))
        out = F.pixel_shuffle(self.last(F.silu(z)), self.patch)
        return out.flatten(2).mT.reshape(features.shape[:-1])


def _around(layer: nn.Conv1d, z: Tensor) -> Tensor:
    """Apply a convolution on a ring, which may have fewer points than the kernel."""
    reach = KERNEL // 2
    # A ring of one point is its own neighbour on both sides.
    ends = z if z.shape[-1] >= reach else z.expand(*z.shape[:-1], reach)
    return layer(torch.cat((ends[..., -reach:], z, ends[..., :reach]), -1))
