"""Observation operators whose positions differ from step to step: those of moving platforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Operator
from scorda.observations.spatial import Interpolate

__all__ = ["MovingInterpolate"]


@dataclass(frozen=True, eq=False)
class MovingInterpolate(Operator):
    """Observe by `Interpolate` at positions that each step has for itself.

    It is the operator of all steps together and observes no state by itself: `at_step` returns the
    operator of one step, and `Observations` uses that. All steps have equally many positions;
    where a step has fewer values, those of its last positions are absent.

    Arguments:
        steps: Steps, one for each row of `points`.
        points: Positions, ``(cycle, obs, axes)``, in the coordinates of the space.
        variable: Index of the variable that each observes, ``(cycle, obs)``.
        space: Space of the states.
    """

    steps: Sequence[int]
    points: np.ndarray
    variable: np.ndarray
    space: StateSpace
    linear = True

    def __post_init__(self) -> None:
        if self.points.shape[:2] != self.variable.shape or len(self.steps) != len(self.points):
            raise ValueError(
                f"Got points of shape {self.points.shape} and variables of shape "
                f"{self.variable.shape} for {len(self.steps)} steps: give (cycle, obs, axes) and "
                "(cycle, obs)."
            )

    def at_step(self, step: int) -> Interpolate:
        """Return the operator of a step; of one without positions that of the first step."""
        row = self._rows.get(step, 0)
        if row not in self._made:
            names = tuple(self.space.variables[i] for i in self.variable[row].tolist())
            self._made[row] = Interpolate(torch.from_numpy(self.points[row]), self.space, names)
        return self._made[row]

    def check(self, space: StateSpace) -> None:
        self.at_step(self.steps[0]).check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        raise TypeError(
            "MovingInterpolate observes other positions at each step: use `at_step`, or `predict` "
            "of the observations."
        )

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        """Return the positions of the first step."""
        return self.at_step(self.steps[0]).coordinates(space)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {int(step): row for row, step in enumerate(self.steps)}

    @cached_property
    def _made(self) -> dict[int, Interpolate]:
        return {}
