"""What convolutional networks of noisy states share: blocks that see the noise level, a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Tensor

__all__ = ["ModulatedBlock", "channels_last", "zeroed"]


class ModulatedBlock(nn.Module):
    """Two convolutions with a residual connection; the noise level scales and shifts.

    It starts as the identity but for the bias of the second convolution.

    Arguments:
        features: Size of the embedding of the noise level.
        width: Hidden channels.
        convolutions: Makes the two convolutions.
    """

    def __init__(
        self, features: int, width: int, convolutions: Callable[[], tuple[nn.Conv2d, nn.Conv2d]]
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(features, 2 * width)
        self.conv1, self.conv2 = convolutions()
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, z: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        h = self.conv1(F.silu(z))
        return z + self.conv2(F.silu(torch.addcmul(shift, h, 1 + scale)))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution that starts from zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions channels last: they take them as they are."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
