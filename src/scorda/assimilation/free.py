"""Forecasts: the cycle of a filter without observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.filter import Filter
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["Forecast"]


@dataclass(frozen=True)
class Forecast(Filter):
    """Members that the system advances, with model error and without any analysis.

    It draws the model error that a filter would, so that a forecast from the end of a run has the
    bits of that run going on without observations.
    """

    in_double = False
    least_members = 1

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Refuse: a forecast has no observations."""
        raise ValueError("Got observations for a forecast: verify it with them, or use a filter.")
