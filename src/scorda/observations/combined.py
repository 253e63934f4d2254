"""Operators of the entries that are present, and of several observations at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import csr_array, vstack

from scorda.core.errors import ShapeError
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Operator

__all__ = ["Present", "Stacked"]


@dataclass(frozen=True, eq=False)
class Present(Operator):
    """The present entries of the flattened observation of another operator.

    Arguments:
        operator: The other operator.
        present: Which entries of its flattened observation are kept; None keeps all.
        size: Number of entries of the flattened observation, where it is known.
    """

    operator: Operator
    present: Bool[Tensor, "obs"] | None = None
    size: int | None = None

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        rows = self.operator.as_matrix(shape)
        return rows if self.present is None else rows[self.present.numpy(force=True)]

    def transfer(self, shape: tuple[int, ...]) -> Tensor | None:
        return self.operator.transfer(shape) if self.present is None else None

    def check(self, space: StateSpace) -> None:
        self.operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble present"]:
        y = self.operator(x)
        y = y.flatten(1) if y.ndim > 1 else y[:, None]
        if self.size not in (None, y.shape[1]):
            # The difference to the observation would be broadcast.
            raise ShapeError(
                f"The operator made {y.shape[1]} values of a state where {self.size} are "
                "observed: the numbers must be equal."
            )
        return y if self.present is None else y[:, self.present.to(y.device)]

    def coordinates(self, space: StateSpace) -> Float[Tensor, "present axes"]:
        positions = self.operator.coordinates(space)
        return positions if self.present is None else positions[self.present.to(positions.device)]

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        names = self.operator.variables(space)
        if self.present is None:
            return names
        return tuple(n for n, kept in zip(names, self.present.tolist(), strict=True) if kept)


@dataclass(frozen=True)
class Stacked(Operator):
    """The flattened observations of several operators, one after another."""

    operators: tuple[Operator, ...]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return all(operator.linear for operator in self.operators)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(operator.differentiable for operator in self.operators)

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        return vstack([o.as_matrix(shape) for o in self.operators], format="csr")

    def check(self, space: StateSpace) -> None:
        for operator in self.operators:
            operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return torch.cat([operator.coordinates(space) for operator in self.operators])

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        return sum((operator.variables(space) for operator in self.operators), ())
