"""A recipe of a prior: which network learns trajectories, of which sizes, and on which spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorda.core.space import StateSpace
from scorda.diffusion.training import Training

__all__ = [
    "SIZES",
    "Recipe",
    "architecture_for",
    "check_grid",
    "check_transition",
    "not_a_ring",
    "training_for",
]

# Below the lowest level nothing but the Gaussian law is used, which needs no training.
FIELD_TRAINING: dict[str, Any] = {"min_noise": 2e-2, "max_noise": 50.0, "batch": 32, "rate": 2e-3}
# A step of a field changes all but its largest scales by less than a standard deviation.
STEP_TRAINING = FIELD_TRAINING | {"min_noise": 5e-3, "max_noise": 10.0}
# A segment is whole rows of the network, and one more state. A state has as many examples as
# points: few segments make a batch.
RING_SEGMENT = 33
RING_TRAINING: dict[str, Any] = {"min_noise": 5e-3, "batch": 16, "rate": 2e-3}
# Chosen on Lorenz-96 (benchmarks/NOTES.md).
RING_STEP_TRAINING = RING_TRAINING | {"max_noise": 10.0, "batch": 64}
# Sizes that a recipe takes where it gives none, for each architecture.
SIZES: dict[str, dict[str, int]] = {
    "temporal-conv": {"series": 8192, "length": 1024, "width": 96, "blocks": 5},
    "window-mlp": {"series": 8192, "length": 1024, "width": 96, "blocks": 5, "half_width": 4},
    "unet": {"series": 1024, "length": 64, "width": 48, "blocks": 2, "half_width": 2, "levels": 2},
    "ring-conv": {"series": 2048, "length": 256, "width": 64, "blocks": 5},
}


@dataclass(frozen=True)
class Recipe:
    """The trajectories to simulate, and the network that learns them.

    Arguments:
        series: Trajectories to simulate. None, here and below: as many as `SIZES` has.
        length: States of each.
        architecture: "temporal-conv" (fully convolutional, for half-widths above 4),
            "window-mlp" (fully connected windows, composed), "ring-conv" (convolutional along one
            periodic axis and time; for transitions along the axis alone) or "unet" (windows of
            fields on two periodic axes, composed).
        width: Hidden channels; of "unet" those of the finest level, and twice as many on each
            coarser one.
        blocks: Residual blocks, of "unet" per level and direction; for "temporal-conv" they set
            the half-width: 73 with five, as the second convolution of each reaches twice as far
            as that of the block before.
        half_width: k of "window-mlp" and "unet", whose segments are their windows.
        levels: Levels of "unet".

    Raises:
        ValueError: If the architecture is unknown, or does not have a size that is given.
    """

    series: int | None = None
    length: int | None = None
    architecture: str = "temporal-conv"
    width: int | None = None
    blocks: int | None = None
    half_width: int | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.architecture not in SIZES:
            raise ValueError(
                f"Got architecture = {self.architecture!r}: it is one of {', '.join(SIZES)}."
            )
        for name in ("series", "length", "width", "blocks", "half_width", "levels"):
            default, given = SIZES[self.architecture].get(name), getattr(self, name)
            if default is None and given is not None:
                raise ValueError(f"Got {name} = {given}: {self.architecture} has no {name}.")
            object.__setattr__(self, name, default if given is None else given)
            least = 0 if name in ("blocks", "half_width") else 1
            if default is not None and getattr(self, name) < least:
                raise ValueError(f"Got {name} = {given}: it must be at least {least}.")

    @property
    def window(self) -> int | None:
        """Number of states of a window, which segments are; None where segments are longer."""
        return None if self.half_width is None else 2 * self.half_width + 1


def training_for(recipe: Recipe, transition: bool = False) -> dict[str, Any]:
    """Return the settings of `Training` that belong to an architecture and its trajectories."""
    assert recipe.length is not None
    if transition:
        own = {"unet": STEP_TRAINING, "ring-conv": RING_STEP_TRAINING}
        return {"segment": 2} | own.get(recipe.architecture, {"batch": 512})
    longest = RING_SEGMENT if recipe.architecture == "ring-conv" else Training.segment
    own = {"unet": FIELD_TRAINING, "ring-conv": RING_TRAINING}.get(recipe.architecture, {})
    return {"segment": recipe.window or min(longest, recipe.length)} | own


def architecture_for(space: StateSpace) -> str:
    """Return the network for trajectories, or transitions, of a space where none is named."""
    return "temporal-conv" if not_a_ring(space) else "ring-conv"


def not_a_ring(space: StateSpace) -> str:
    """Return why states are not those of one ring of equal steps; nothing where they are."""
    if len(space.axes) != 1:
        return (
            f"its axes are {', '.join(space.axes)}"
            if space.axes
            else "its variables share no axis"
        )
    if space.axes[0] not in space.period:
        return f"its axis {space.axes[0]} has no period"
    if space.points is not None or space.has_land:
        return "its points have positions of their own or a mask"
    places = (space.coordinates or {})[space.axes[0]]
    if len(places) < 3:
        return f"its ring has fewer than 3 points ({len(places)})"
    step = space.period[space.axes[0]] / len(places)
    if not np.allclose(np.diff(places), step, rtol=1e-3, atol=0):
        return f"its {len(places)} positions do not divide the period into equal steps"
    return ""


def check_grid(recipe: Recipe, space: StateSpace, instead: str = "use temporal-conv") -> None:
    """Check that a network along periodic axes gets states on such axes.

    Arguments:
        recipe: The network.
        space: Space of the states.
        instead: What to do, at the end of the sentence.
    """
    if recipe.architecture == "ring-conv" and (why := not_a_ring(space)):
        raise ValueError(
            f"The architecture ring-conv needs one periodic axis of equal steps, and {why}: "
            f"{instead}."
        )
    if recipe.architecture == "unet" and space.points is not None:
        raise ValueError(
            "The architecture unet needs a grid of equal steps along its axes, and each point of "
            f"this space has a position of its own (`points`): {instead}."
        )
    periodic = [name for name in space.axes if name in space.period]
    if recipe.architecture == "unet" and not (len(space.axes) == len(periodic) == 2):
        raise ValueError(
            f"The architecture unet needs variables on two periodic axes: these states have the "
            f"shape {space.shape} and the periodic axes {periodic}; {instead}."
        )


def check_transition(recipe: Recipe, settings: Training) -> None:
    """Check that a network can learn transitions."""
    known = ("temporal-conv", "ring-conv", "unet")
    if recipe.architecture not in known or settings.segment != 2 or not settings.observed:
        raise ValueError(
            f"Got {recipe.architecture} with segments of {settings.segment}, observed = "
            f"{settings.observed}, for transitions: they are learned by {', '.join(known)}, from "
            "segments of 2, with levels per entry (observed > 0)."
        )
