"""Where the variables of a state lie in it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.shown import as_html
from scorda.core.transforms import Circular, Transform

if TYPE_CHECKING:
    from scorda.core.space import StateSpace

__all__ = ["Layout"]

# Variables that a notebook lists.
SHOWN = 8

Array = TypeVar("Array", Tensor, np.ndarray)


class Layout(ABC):
    """Base of `StateSpace`: the fields of a state by name, on one grid or on several.

    In a flattened state the variables lie one after the other, each in C order.
    """

    shape: tuple[int, ...]
    variables: tuple[str, ...]
    units: Mapping[str, str]
    parts: Mapping[str, StateSpace] | None
    dt: float
    period: Mapping[str, float]
    transforms: Mapping[str, Transform]
    parameters: tuple[str, ...]

    def _repr_html_(self) -> str:
        names = [f"{n} ({u})" if (u := self.units.get(n)) else n for n in self.variables]
        shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
        facts = {"shape": str(self.shape), "variables": shown}
        facts["step"] = f"{self.dt:g} {self.units.get('time', '')}".strip()
        for name, (low, high) in self.ranges.items():
            unit = self.units.get(name, "")
            facts[name] = f"{low:g} to {high:g} {unit}".strip()
            facts[name] += f", period {self.period[name]:g}" if name in self.period else ""
        parts = {name: part._repr_html_() for name, part in (self.parts or {}).items()}
        return as_html("StateSpace", facts, parts)

    @property
    def size(self) -> int:
        """Return the number of components of one state."""
        return math.prod(self.shape)

    @property
    def several_units(self) -> bool:
        """Say whether variables differ in their units, so that their values are never pooled.

        Parameters differ from fields, and from each other.
        """
        units = {self.units.get(name, "") for name in self.variables}
        return len(units) > 1 or (bool(self.parameters) and len(self.variables) > 1)

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Return the shape of the spatial axes."""

    @property
    @abstractmethod
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest position by the name of its column."""

    @property
    @abstractmethod
    def has_channels(self) -> bool:
        """Say whether the first axis enumerates the variables."""

    @property
    @abstractmethod
    def pieces(self) -> tuple[StateSpace, ...]:
        """Return the spaces of one grid each that make up the state: its parts, or itself."""

    def variable(self, name: str) -> int:
        """Return the index of a variable.

        Raises:
            ValueError: If there is no such variable.
        """
        if name not in self.variables:
            raise ValueError(f"Unknown variable {name!r}: this space has {list(self.variables)}.")
        return self.variables.index(name)

    @property
    def offsets(self) -> np.ndarray:
        """Return the index of the first entry of each variable in a flattened state."""
        if self.parts is None:
            return math.prod(self.grid) * np.arange(len(self.variables))
        starts = np.cumsum([0, *(part.size for part in self.parts.values())])
        return np.concatenate(
            [start + part.offsets for start, part in zip(starts, self.pieces, strict=False)]
        )

    def entries(self, name: str) -> slice:
        """Return which entries of a flattened state are a variable: its field in C order.

        Raises:
            ValueError: If there is no such variable.
        """
        first = int(self.offsets[self.variable(name)])
        return slice(first, first + math.prod(self.piece_of(name).grid))

    def variable_of(self, entries: np.ndarray) -> np.ndarray:
        """Return the index of the variable of each of some entries of a flattened state."""
        return np.searchsorted(self.offsets, entries, side="right") - 1

    def piece_of(self, name: str) -> StateSpace:
        """Return the one of the `pieces` that has a variable.

        Raises:
            ValueError: If there is no such variable.
        """
        self.variable(name)
        return next(piece for piece in self.pieces if name in piece.variables)

    def split(self, x: Array) -> list[Array]:
        """Return the states of each of the `pieces`, ``(..., *state of the piece)``."""
        if self.parts is None:
            return [x]
        ends = np.cumsum([part.size for part in self.pieces]).tolist()
        return [
            x[..., end - part.size : end].reshape(*x.shape[:-1], *part.shape)
            for part, end in zip(self.pieces, ends, strict=True)
        ]

    def field(self, x: Array, name: str) -> Array:
        """Return one variable of states ``(..., *state)``, of shape ``(..., *grid)``.

        Raises:
            ValueError: If there is no such variable.
        """
        self.variable(name)
        index = [name in piece.variables for piece in self.pieces].index(True)
        piece: StateSpace = self.pieces[index]
        states = self.split(x)[index]
        at: tuple[Any, ...] = (..., piece.variable(name), *[slice(None)] * len(piece.grid))
        return states[at] if piece.has_channels else states

    def joined(self, fields: Mapping[str, Array]) -> Array:
        """Return states ``(..., *state)`` of the `field` of each variable.

        Raises:
            ValueError: If there is not one field of each variable.
        """
        if set(fields) != set(self.variables):
            raise ValueError(f"Got fields of {list(fields)}: give one of {list(self.variables)}.")
        if self.parts is None:
            each = [fields[name] for name in self.variables]
            return _stacked(each, -len(self.grid) - 1) if self.has_channels else each[0]
        states = [
            part.joined({name: fields[name] for name in part.variables}) for part in self.pieces
        ]
        flat = [
            x.reshape(*x.shape[: x.ndim - len(part.shape)], part.size)
            for x, part in zip(states, self.pieces, strict=True)
        ]
        return _concatenated(flat)

    def unbounded(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with bounded variables in their `transforms`."""
        return self._mapped(x, lambda transform, values: transform.forward(values))

    def bounded(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the states of which `unbounded` returned z, inside of their bounds."""
        return self._mapped(z, lambda transform, values: transform.inverse(values))

    def within(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states whose values on a bound, or beyond, are the next ones inside.

        Circular variables are on their own turn.
        """
        return self._mapped(x, lambda transform, values: transform.within(values))

    @property
    def circular(self) -> dict[str, Circular]:
        """Return the transforms of the circular variables."""
        return {name: t for name, t in self.transforms.items() if isinstance(t, Circular)}

    def unrolled(
        self,
        x: Float[Tensor, "ensemble ..."],
        weights: Float[Tensor, "ensemble ..."] | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Return members whose circular variables are on the turns nearest to their mean.

        Their means, spreads and differences go the short way round.

        Arguments:
            x: Members ``(ensemble, ..., *state)``.
            weights: Weights of the members, with the first axes of `x`; None: all are equal.
        """
        return self._turned(x, lambda circle, values: circle.unrolled(values, weights))

    def rolled(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` whose circular variables are on their own turn."""
        return self._turned(x, lambda circle, values: circle.within(values))

    def shortest(self, change: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return differences of states ``(..., *state)``, in circular variables the short way."""
        return self._turned(change, lambda circle, values: circle.near(values, 0.0))

    def _turned(self, x: Tensor, function: Callable[[Circular, Tensor], Tensor]) -> Tensor:
        if not (circular := self.circular):
            return x
        fields = {name: self.field(x, name) for name in self.variables}
        for name, circle in circular.items():
            fields[name] = function(circle, fields[name])
        return self.joined(fields)

    def moved(self, x: Float[Tensor, "..."], change: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states to which a change is added, in their `transforms` where they have some.

        What changes by 0 stays, bit for bit.
        """
        if not self.transforms:
            return x + change
        return torch.where(change == 0, x, self.bounded(self.unbounded(x) + change))

    def log_slope(
        self, x: Float[Tensor, "..."], counted: Bool[Tensor, "..."]
    ) -> Float[Tensor, "..."] | float:
        """Return the sum of the log of the slopes of `unbounded` at states.

        Arguments:
            x: States ``(..., *state)``.
            counted: Entries that count, ``(*state)``.
        """
        total: Tensor | float = 0.0
        for name, transform in self.transforms.items():
            slope = transform.log_slope(self.field(x, name))
            slope = slope.masked_fill(~self.field(counted, name), 0.0)
            axes = len(self.piece_of(name).grid)
            total = total + (slope.sum(tuple(range(-axes, 0))) if axes else slope)
        return total

    def _mapped(self, x: Tensor, function: Callable[[Transform, Tensor], Tensor]) -> Tensor:
        if not self.transforms:
            return x
        fields = {name: self.field(x, name) for name in self.variables}
        for name, transform in self.transforms.items():
            fields[name] = function(transform, fields[name])
        return self.filled(self.joined(fields))

    @abstractmethod
    def filled(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with 0 at points that are not theirs."""

    def check(self, x: Tensor, name: str = "state") -> None:
        """Check that the trailing axes of a tensor are one state and that it is finite.

        Points outside of the mask may hold anything.

        Raises:
            ValueError: If the shape is wrong or a value is not finite.
        """
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"Got {name} of shape {tuple(x.shape)}: its last axes must be {self.shape}."
            )
        finite = torch.isfinite(self.filled(x))
        if not finite.all():
            raise ValueError(
                f"Got {int((~finite).sum())} values of {name} that are not finite: "
                "remove or repair them."
            )

    def check_bounds(self, x: Tensor, name: str) -> None:
        """Check that states ``(..., *state)`` are inside of their bounds, or on them.

        Raises:
            ValueError: If a value lies beyond.
        """
        if not self.transforms:
            return
        x = self.filled(x)
        near = self._mapped(x, lambda bounds, values: values.clamp(bounds.lower, bounds.upper))
        beyond = (near - x).abs() > 0
        for variable, bounds in self.transforms.items():
            values = self.field(x, variable)[self.field(beyond, variable)]
            if len(values):
                raise ValueError(
                    f"Got {len(values)} values of {variable} in {name} beyond its bounds "
                    f"{bounds.lower:g} and {bounds.upper:g}, such as {float(values[0]):g}: repair "
                    "them, or give wider bounds."
                )

    def check_no_circles(self, subject: str) -> None:
        """Check that no variable is circular, of which the subject of a sentence takes none.

        Raises:
            ValueError: If one is.
        """
        if self.circular:
            raise ValueError(
                f"{subject} takes no circular variables ({', '.join(self.circular)}): make the "
                "cosine and the sine of each two variables of the state."
            )

    def constant(self, values: Float[Tensor, "variables"]) -> Float[Tensor, "..."]:
        """Return a state that has one value per variable, broadcastable to ``(*state)``."""
        if self.parts is not None:
            lengths = np.diff(np.append(self.offsets, self.size))
            return values.repeat_interleave(torch.from_numpy(lengths).to(values.device))
        channels = (-1,) if self.has_channels else ()
        return values.reshape(*channels, *[1] * len(self.grid))


def _stacked(arrays: list[Array], axis: int) -> Array:
    """Stack tensors, or arrays."""
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays, axis)
    return torch.stack(arrays, axis)


def _concatenated(arrays: list[Array]) -> Array:
    """Put tensors, or arrays, one behind the other along the last axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays, -1)
    return torch.cat(arrays, -1)
