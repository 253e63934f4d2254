"""Means, sums and other weighted sums over time of what is observed of each state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Operator

__all__ = ["OverTime"]


@dataclass(frozen=True, eq=False)
class OverTime(Operator):
    r"""Weighted sum over time of what an operator observes of each state, a mean by default.

    .. math:: h(x_1, \dots, x_n) = \sum_j w_j \, h(x_j)

    Arguments:
        operator: Operator of single states.
        weights: One for each step of a row: 1 for each is a sum, such as accumulated rain;
            ``(1, 0)`` observes the first of two steps when the second has come. Default: 1 / n.
    """

    operator: Operator
    weights: Sequence[float] | None = None

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def __call__(self, x: Float[Tensor, "ensemble len ..."]) -> Float[Tensor, "ensemble ..."]:
        steps = x.shape[1]
        if self.weights is not None and len(self.weights) != steps:
            raise ValueError(
                f"Got rows of {steps} steps for {len(self.weights)} weights: give one for each."
            )
        weights = [1 / steps] * steps if self.weights is None else list(self.weights)
        seen = self.operator(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.einsum("en...,n->e...", seen, torch.tensor(weights).to(seen))

    def check(self, space: StateSpace) -> None:
        self.operator.check(space)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return self.operator.coordinates(space)

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        return self.operator.variables(space)
