"""Noise levels of segments some of whose entries have been observed."""

from __future__ import annotations

import math

import torch

from scorda.shapes import Float, Tensor

__all__ = ["observed_levels"]


def observed_levels(
    noise: Float[Tensor, "ensemble"],
    shape: tuple[int, ...],
    share: float,
    generator: torch.Generator,
) -> Float[Tensor, "ensemble time ..."]:
    """Lower the noise of some entries as observations of them would.

    Each component is observed or not, with an error between 0.01 and 1 standard deviation. Times
    are regular in half of the segments and at random in the others, 1 to 64 steps apart; in half
    of the segments all components share them; in a quarter there is a hole, which may reach an
    end.
    """
    size, states, components = len(noise), shape[0], math.prod(shape[1:])

    def uniform(*axes: int) -> Tensor:
        return torch.rand(*axes, generator=generator)

    time = torch.arange(states)[:, None]
    used = (uniform(size, 1) < share) & (uniform(size, components) < 0.5)
    stride = (64 ** uniform(size, 1, components)).round()
    offset = (uniform(size, 1, components) * stride).floor()
    regular = (time - offset) % stride == 0
    random = uniform(size, states, components) < 1 / stride
    times = torch.where(uniform(size, 1, 1) < 0.5, regular, random)
    times = torch.where(uniform(size, 1, 1) < 0.5, times, times[..., :1])
    ends = ((2 * uniform(size, 2) - 0.5) * states).sort().values[..., None, None]
    hole = (time >= ends[:, 0]) & (time < ends[:, 1]) & (uniform(size, 1, 1) < 0.25)
    std = 10 ** (2 * uniform(size, components) - 2)
    precision = (used[:, None] & times & ~hole) / std[:, None].square()
    level = (noise[:, None, None] ** -2 + precision).rsqrt()
    return level.view(size, *shape)
