"""Observations that are kept back, to score with them what the others tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from scorda.core import rng
from scorda.observations.observations import Observations

__all__ = ["withhold"]


def withhold(
    observations: Sequence[Observations], share: float, seed: rng.Seed = 0
) -> tuple[list[Observations], list[Observations]]:
    """Split the present values at random into those to assimilate and those to score with.

    Arguments:
        observations: The instruments.
        share: Probability of each value to be kept back, between 0 and 1.
        seed: Which ones: a seed or a generator.

    Raises:
        ValueError: If nothing is kept back, or nothing is left.
    """
    generator = rng.as_generator(seed)
    kept, held = [], []
    for instrument in observations:
        draw = torch.rand(instrument.values.shape, generator=generator) < share
        nothing = torch.full_like(instrument.values, float("nan"))
        kept.append(replace(instrument, values=torch.where(draw, nothing, instrument.values)))
        held.append(replace(instrument, values=torch.where(draw, instrument.values, nothing)))
    if all(bool(one.values.isnan().all()) for one in kept):
        raise ValueError(f"Withholding {share:g} leaves nothing to assimilate: lower it.")
    if all(bool(one.values.isnan().all()) for one in held):
        raise ValueError(f"Withholding {share:g} keeps back nothing of so few values: raise it.")
    return kept, held
