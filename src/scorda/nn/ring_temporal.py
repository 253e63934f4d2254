r"""Convolutions along a ring and along time, for systems on one periodic axis.

Some states in a row make one point of the hidden grid: convolutions along time then reach far and
cost little. Along the ring nothing is gathered, so that turning the ring by any number of points
turns the output. The law of a Gaussian field (`homogeneous`) does not stand before this network:
its exact denoiser is diagonal in Fourier modes only where all entries have one noise level, and
here each entry has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.modulated import ModulatedBlock, channels_last, zeroed
from scorda.nn.temporal import NoiseEmbedding, differences_of

__all__ = ["FAR", "FEATURES", "Around", "RingTemporalConv", "ring_of"]

# Size of the embedding of the noise level.
FEATURES = 128
# States that make one point of the hidden grid.
ROW = 4
# Points on either side that the two convolutions of a block see along the ring.
NEAR, FAR = 1, 2


class RingTemporalConv(nn.Module):
    """Residual convolutions, circular along a ring and ordinary along time.

    It sees the features of `TemporalConv`, and fields along the ring that stay the same, such as
    the height of the ground: with these, turning the ring no longer turns the output.

    A trajectory begins with whole rows of 4 states and ends with one more state; one of another
    length is taken in two parts of such a length, which leave out at most three states at either
    end, and each half is that of one part.

    Memory and time are linear in members, states and points.

    Arguments:
        channels: Variables of a state.
        grid: Number of points of the ring.
        width: Hidden channels.
        blocks: Residual blocks of a convolution along the ring, of 5 points, and one along ring
            and time, of 3 points and 12 states.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
        differences: As for `TemporalConv`.
        per_entry: As for `TemporalConv`.
        context: Number of constant fields.

    Raises:
        ValueError: If the grid is no ring of at least 3 points.
    """

    context: Tensor

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        width: int = 64,
        blocks: int = 5,
        min_noise: float = 2e-3,
        max_noise: float = 20.0,
        differences: Sequence[float] = (1.0, 1.0),
        per_entry: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        first, second = differences
        self.differences, self.per_entry = (first, second), per_entry
        self.points = ring_of(grid)
        self.embed = NoiseEmbedding(FEATURES, min_noise, max_noise)
        # A file of a network without such fields does not hold any.
        self.register_buffer("context", torch.zeros(context, self.points), persistent=context > 0)
        inputs = ROW * ((5 if per_entry else 3) * channels + 1)
        self.first = Around(inputs + context, width, FAR, 1)
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                FEATURES,
                width,
                lambda: (Around(width, width, FAR, 0), Around(width, width, NEAR, 1)),
            )
            for _ in range(blocks)
        )
        self.last = zeroed(nn.Conv2d(width, ROW * channels, 1))
        channels_last(self)

    @property
    def half_width(self) -> int:
        """Return the largest number of states on either side that one output depends on."""
        return ROW * (len(self.blocks) + 2)

    @property
    def least_states(self) -> int:
        """Return the least number of states that it takes."""
        return ROW + 1

    def forward(
        self, x: Float[Tensor, "ensemble time ..."], noise: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate the network at noisy states, in units of the data, and their noise levels.

        Arguments:
            x: Noisy states.
            noise: Noise level of each member, or of each entry of x.

        Raises:
            ValueError: If there are fewer than 5 states.
        """
        length = x.shape[1]
        if length < self.least_states:
            raise ValueError(
                f"Got a trajectory of {length} states: a network along a ring takes at least "
                f"{self.least_states}. Give it longer ones, and in training segments as "
                "long, or train temporal-conv."
            )
        rest = (length - 1) % ROW
        if not rest:
            return self._whole(x, noise)
        per_entry, half = noise.ndim > 1, length // 2
        levels = noise.expand_as(x) if per_entry else noise
        before, after = (
            self._whole(x[:, part], levels[:, part] if per_entry else levels)
            for part in (slice(0, length - rest), slice(rest, length))
        )
        return torch.cat((before[:, :half], after[:, half - rest :]), 1)

    def _whole(self, x: Tensor, noise: Tensor) -> Tensor:
        """Evaluate whole rows and one more state."""
        parts, base = differences_of(x.flatten(2), noise, self.differences, self.per_entry)
        parts.append(torch.ones_like(parts[0][..., : self.points]))
        z = torch.cat([part.unflatten(2, (-1, self.points)) for part in parts], 2)
        z = F.pad(z, (0, 0, 0, 0, 0, ROW - 1)).unflatten(1, (-1, ROW)).flatten(2, 3)
        z = z.transpose(1, 2)
        if len(self.context):
            beside = self.context.to(z)[:, None].expand(len(z), -1, z.shape[2], -1)
            z = torch.cat((z, beside), 1)
        z = self.first(z.contiguous(memory_format=torch.channels_last))
        embedding = self.embed(base.sqrt())
        for block in self.blocks:
            z = block(z, embedding)
        out = self.last(F.silu(z)).transpose(1, 2).unflatten(2, (ROW, -1)).flatten(1, 2)
        return out[:, : x.shape[1]].reshape(x.shape)


def ring_of(grid: Sequence[int]) -> int:
    """Return the number of points of a ring.

    Raises:
        ValueError: If the grid is no ring of at least 3 points.
    """
    if len(grid) != 1 or grid[0] <= FAR:
        raise ValueError(f"Got a grid of {tuple(grid)}: it is one ring of at least 3 points.")
    return int(grid[0])


class Around(nn.Conv2d):
    """Convolution on (time, ring): zeros before and after in time, the other side on the ring."""

    def __init__(self, inputs: int, outputs: int, reach: int, rows: int) -> None:
        super().__init__(inputs, outputs, (2 * rows + 1, 2 * reach + 1), padding=(rows, 0))
        self.reach = reach

    def forward(self, z: Tensor) -> Tensor:
        z = torch.cat((z[..., -self.reach :], z, z[..., : self.reach]), -1)
        return super().forward(z)
