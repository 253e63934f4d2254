"""A prior learned from simulated trajectories of a system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scorda import rng
from scorda.nn import build
from scorda.prior import TrajectoryPrior
from scorda.process import VarianceExploding
from scorda.sample import Ancestral
from scorda.shapes import Float, Tensor
from scorda.space import Standardisation
from scorda.systems import System
from scorda.train import Training, fit

# How far beyond the largest simulated value a denoised one may lie.
MARGIN = 1.25
# 61 evaluations. Chosen on Lorenz-63, on other test cases than `scorda bench lorenz63-sda` has.
SAMPLER = Ancestral(steps=16, corrections=3, tau=0.5, low=8e-3, high=20.0)

__all__ = ["Recipe", "train_on_system"]


@dataclass(frozen=True)
class Recipe:
    """What to simulate, and which network learns it.

    Arguments:
        series: Trajectories to simulate.
        length: States of each.
        architecture: "temporal-conv" (fully convolutional, for half-widths above 4) or
            "window-mlp" (fully connected windows, composed).
        width: Hidden channels.
        blocks: Residual blocks; for "temporal-conv" they set the half-width: 73 with five, as the
            second convolution of each reaches twice as far as that of the block before.
        half_width: k of "window-mlp", whose segments are its windows.
    """

    series: int = 8192
    length: int = 1024
    architecture: str = "temporal-conv"
    width: int = 96
    blocks: int = 5
    half_width: int = 4


def train_on_system(
    system: System,
    recipe: Recipe,
    settings: Training,
    checkpoint: str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    states: Float[Tensor, "series time *state"] | None = None,
) -> TrajectoryPrior:
    """Simulate a system, train a network on its trajectories, and return the prior.

    Trajectories start from the system's own prior. Everything is a function of the settings (their
    seed included) and of the number of threads.

    Arguments:
        system: The system.
        recipe: What to simulate, and the network.
        settings: Settings of the training.
        checkpoint: As in `train.fit`, like the next one.
        report: Called at every validation.
        states: Trajectories to learn from, in place of simulated ones.

    Raises:
        ValueError: If the trajectories are too short for the segments.
    """
    if states is None:
        start, error = rng.spawn(rng.seeded(settings.seed), 2)
        states = system.trajectory(system.prior(recipe.series, start), recipe.length - 1, error)
    standardisation = Standardisation.of(states, system.space)
    z = standardisation.forward(states)
    del states
    architecture = _architecture(recipe, settings, z)
    torch.manual_seed(settings.seed)
    network = build(architecture)
    history = fit(network, z, settings, checkpoint, report)
    provenance: dict[str, Any] = {
        "system": {"name": system.name, "settings": _plain(system)},
        "recipe": asdict(recipe),
        "training": asdict(settings),
        "threads": torch.get_num_threads(),
        "history": history,
    }
    return TrajectoryPrior(
        architecture,
        network,
        system.space,
        standardisation,
        process=VarianceExploding(1e-3, 1e3),
        sampler=SAMPLER,
        provenance=provenance,
        limit=MARGIN * float(z.abs().max()),
    )


def _architecture(
    recipe: Recipe, settings: Training, z: Float[Tensor, "series time ..."]
) -> dict[str, Any]:
    channels = z[0, 0].numel()
    common = {"channels": channels, "low": settings.low, "high": settings.high}
    if recipe.architecture == "window-mlp":
        sizes = {"k": recipe.half_width, "width": recipe.width, "depth": recipe.blocks}
        return {"name": "window-mlp"} | common | sizes
    first = z[:, 1:] - z[:, :-1]
    second = first[:, 1:] - first[:, :-1]
    differences = [float(first.square().mean().sqrt()), float(second.square().mean().sqrt())]
    sizes = {"width": recipe.width, "blocks": recipe.blocks}
    features = {"differences": differences, "per_entry": settings.observed > 0, "dilation": 2}
    return {"name": recipe.architecture} | common | sizes | features


def _plain(system: System) -> dict[str, Any]:
    """Settings of a system that are plain numbers and names."""
    return {k: v for k, v in vars(system).items() if isinstance(v, int | float | str | bool)}
