"""A system in coordinates without bounds, for methods that need a gradient of whole runs."""

from __future__ import annotations

from dataclasses import replace

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.systems.base import AdditiveNoise

__all__ = ["Unbounded"]


class Unbounded(AdditiveNoise):
    """The system whose states are what `StateSpace.unbounded` makes of those of another.

    Its model error is the same: that of a bounded variable is additive in these coordinates.

    Arguments:
        system: The other, whose space has transforms.

    Raises:
        TypeError: If its model error is not additive.
    """

    def __init__(self, system: AdditiveNoise) -> None:
        if not isinstance(system, AdditiveNoise):
            raise TypeError(
                f"Variables with bounds need a system with additive model error, and "
                f"{type(system).__name__} is another: make it one, or use a filter."
            )
        self.system, self.name, self.differentiable = system, system.name, system.differentiable
        self.noise_std, self.noise_cov = system.noise_std, system.noise_cov
        self.unchanging = system.unchanging
        parts = system.space.parts
        if parts is None:
            self.space = replace(system.space, transforms={})
        else:
            plain = {name: replace(part, transforms={}) for name, part in parts.items()}
            self.space = type(system.space).of_parts(plain, system.space.same_as)

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        return self.system.space.unbounded(self.system.prior(members, rng.as_generator(generator)))

    def advance(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        space = self.system.space
        moved = space.unbounded(self.system.advance(space.bounded(x)))
        if self.unchanging is None:
            return moved
        # What does not change is handed on bit for bit.
        return moved.where(~self.unchanging.view(space.shape).to(x.device), x)
