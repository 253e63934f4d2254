"""A system in coordinates without bounds, for methods that estimate whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.systems.base import AdditiveNoise, System
from scorda.systems.mapped import unmapped

__all__ = ["Unbounded"]


class Unbounded(AdditiveNoise):
    """The system whose states are what `StateSpace.unbounded` makes of those of another.

    Its model error is the same: that of a bounded variable is additive in these coordinates.

    Arguments:
        system: The other, whose space has transforms.

    Raises:
        TypeError: If its model error is not additive.
    """

    def __init__(self, system: System) -> None:
        additive = unmapped(system)
        if not isinstance(additive, AdditiveNoise):
            raise TypeError(
                f"Variables with bounds need a system with additive model error, and "
                f"{type(system).__name__} is another: make it one, or use a filter."
            )
        self.system, self.name, self.differentiable = system, system.name, system.differentiable
        self.noise_std, self.noise_cov = additive.noise_std, additive.noise_cov
        self.unchanging = additive.unchanging
        parts = system.space.parts
        if parts is None:
            self.space = replace(system.space, transforms={})
        else:
            plain = {name: replace(part, transforms={}) for name, part in parts.items()}
            self.space = type(system.space).of_parts(plain, system.space.same_as)

    @property
    def per_member(self) -> bool:
        """Whether the model is one of single members, which has no `advance` of its own."""
        return getattr(self.system, "per_member", False)

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        states = self.system.prior(members, rng.as_generator(generator))
        self.system.space.check_bounds(states, "the draws of the system")
        return self.system.space.unbounded(states)

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        space = self.system.space
        moved = self.system.step(space.bounded(x), rng.as_generator(generator))
        return self._with_unchanging(space.unbounded(moved), x)

    def at(self, step: int, members: Sequence[int] | None = None) -> Unbounded:
        return Unbounded(self.system.at(step, members))

    def advance(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        space = self.system.space
        moved = space.unbounded(unmapped(self.system).advance(space.bounded(x)))
        return self._with_unchanging(moved, x)

    def _with_unchanging(self, moved: Tensor, x: Tensor) -> Tensor:
        """Hand on what does not change, bit for bit."""
        if self.unchanging is None:
            return moved
        return moved.where(~self.unchanging.view(self.space.shape).to(x.device), x)
