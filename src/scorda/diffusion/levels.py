r"""Noise levels per entry: some entries of a segment have less noise, as if observed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from scorda.core.shapes import Bool, Float, Tensor

__all__ = ["Levels", "levels_for", "observed_levels", "often_observed", "ring_levels"]

# Largest number of points of a ring from one observed point to the next.
FARTHEST = 8

# Makes levels per entry of one level per segment, the shape of a segment and a generator.
Levels = Callable[[Tensor, tuple[int, ...], torch.Generator], Tensor]


def levels_for(network: nn.Module, share: float, levels: Levels | None = None) -> Levels | None:
    """Return the function that makes levels per entry; None for a network with one per segment.

    Arguments:
        network: The network.
        share: Share of segments with observed entries, for the default.
        levels: Another function than the default, `observed_levels`.
    """
    if not getattr(network, "per_entry", False):
        return None
    return levels or (lambda noise, shape, at: observed_levels(noise, shape, share, at))


def observed_levels(
    noise: Float[Tensor, "ensemble"],
    shape: tuple[int, ...],
    share: float,
    generator: torch.Generator,
    seen: Bool[Tensor, "ensemble components"] | None = None,
    farthest: int = 64,
    holes: float = 0.25,
) -> Float[Tensor, "ensemble time ..."]:
    """Lower the noise level of some entries, as observations of them would.

    Each component is observed or not, with an error between 0.01 and 1 standard deviation. Times
    are regular in half of the segments and at random in the others, 1 to 64 steps apart; in half
    of the segments all components share them; in a quarter there is a hole, which may reach an
    end.

    Arguments:
        noise: Level of each segment.
        shape: Shape of a segment.
        share: Share of segments with observed entries.
        generator: Source of randomness.
        seen: Which components are observed where a segment has any (default: each by chance).
        farthest: Largest number of steps from one time to the next, on average where they are at
            random.
        holes: Share of segments with a hole.
    """
    size, states, components = len(noise), shape[0], math.prod(shape[1:])

    def uniform(*axes: int) -> Tensor:
        return torch.rand(*axes, generator=generator)

    time = torch.arange(states)[:, None]
    used = uniform(size, 1) < share
    used = used & (uniform(size, components) < 0.5 if seen is None else seen)
    stride = (farthest ** uniform(size, 1, components)).round()
    offset = (uniform(size, 1, components) * stride).floor()
    regular = (time - offset) % stride == 0
    random = uniform(size, states, components) < 1 / stride
    times = torch.where(uniform(size, 1, 1) < 0.5, regular, random)
    times = torch.where(uniform(size, 1, 1) < 0.5, times, times[..., :1])
    ends = ((2 * uniform(size, 2) - 0.5) * states).sort().values[..., None, None]
    hole = (time >= ends[:, 0]) & (time < ends[:, 1]) & (uniform(size, 1, 1) < holes)
    std = 10 ** (2 * uniform(size, components) - 2)
    precision = (used[:, None] & times & ~hole) / std[:, None].square()
    level = (noise[:, None, None] ** -2 + precision).rsqrt()
    return level.view(size, *shape)


def often_observed(
    noise: Float[Tensor, "ensemble"], shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "ensemble time ..."]:
    """Make levels as `observed_levels` does, where each segment is observed often.

    At least one component is observed, 1 to 16 steps apart, without holes.
    """
    size, components = len(noise), math.prod(shape[1:])
    chance = torch.rand(size, components, generator=generator)
    seen = (chance < 0.5) | (chance == chance.amin(1, keepdim=True))
    return observed_levels(noise, shape, 1.0, generator, seen, farthest=16, holes=0.0)


def ring_levels(
    noise: Float[Tensor, "ensemble"],
    shape: tuple[int, ...],
    share: float,
    generator: torch.Generator,
) -> Float[Tensor, "ensemble time ..."]:
    """Make levels as `observed_levels` does, with dense and sparse networks of a ring's points.

    In half of the segments every first to eighth point is observed, in the others each point
    with a chance that is drawn for the segment. All variables are observed there.
    """
    size, points = len(noise), shape[-1]

    def uniform(*axes: int) -> Tensor:
        return torch.rand(*axes, generator=generator)

    stride = (FARTHEST ** uniform(size, 1)).round()
    offset = (uniform(size, 1) * stride).floor()
    even = (torch.arange(points) - offset) % stride == 0
    scattered = uniform(size, points) < uniform(size, 1)
    seen = torch.where(uniform(size, 1) < 0.5, even, scattered)
    seen = seen.repeat(1, math.prod(shape[1:-1]))
    return observed_levels(noise, shape, share, generator, seen)
