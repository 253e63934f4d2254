r"""A fully connected network sees windows of a trajectory, and is composed over any length.

The local network of SDA: it sees a window of 2k + 1 states and returns as many. On a longer
trajectory it is applied to every window and the outputs are composed (algorithm 2): the centre of
each window, and the outer halves of the first and the last. Each composed state is the expectation
of the exact one given its window, and exact where 2k + 1 is at least the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.embed import NoiseEmbedding

__all__ = ["WindowMLP", "compose"]

# Size of the embedding of the noise level.
FEATURES = 64


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
        self.embed = NoiseEmbedding(FEATURES, min_noise, max_noise)
        window = (2 * k + 1) * channels
        self.first = nn.Linear(window + FEATURES, width)
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
        states, level = self.first.weight.split((flat.shape[-1], FEATURES), 1)
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
