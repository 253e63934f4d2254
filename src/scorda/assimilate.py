"""Assimilators: from a problem to samples of its posterior; the forecast/analysis cycle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from scorda.observe import ObservationModel
from scorda.problem import Analysis, Problem
from scorda.shapes import Float, Tensor

__all__ = ["Assimilator", "Filter"]


class Assimilator(ABC):
    """A method of data assimilation.

    `smoother` says whether states are conditioned on all observations (True) or on past ones
    (False); `needs` lists what the method asks of a problem, each a key of `requirements`.
    """

    smoother: bool = False
    needs: tuple[str, ...] = ()

    @abstractmethod
    def assimilate(
        self, problem: Problem, members: int, generator: torch.Generator | None = None
    ) -> Analysis:
        """Draw `members` samples of the posterior."""


class Filter(Assimilator):
    """A method that alternates forecasts and analyses; subclasses write `analyse` alone."""

    def begin(self, problem: Problem) -> Filter:
        """Return self, or a copy that owns what one run needs (weights, geometry, network)."""
        return self

    @abstractmethod
    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis ensemble and what is to be reported of this cycle.

        Arguments:
            forecast: Ensemble ``(ensemble, *state)``; must not be changed.
            y: Observation, flat, complete.
            model: Its model, whose operator returns ``(ensemble, obs)``.
            generator: Source of randomness.
        """

    def update(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """The members of `analyse` alone [final]."""
        return self.analyse(forecast, y, model, generator)[0]
