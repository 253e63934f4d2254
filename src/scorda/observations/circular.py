r"""Observations of circular variables, such as a direction, the short way round.

A linear observation of a circular variable x with the period P is a mean of it,
:math:`\sum_k w_k x_k` with :math:`\sum_k w_k = 1`, taken on the turns that are nearest to the
entry r of the largest weight,

.. math:: h(x) = \sum_k w_k x_k + P \sum_k w_k n_k, \quad n_k = [(x_r - x_k) / P]

with [.] the nearest integer. Where the members lie on the turns nearest to their mean
(`StateSpace.unrolled`), the :math:`n_k` are those of their mean, so an analysis may take them off
the observation instead: then its operator is linear, and y is on the turn that is nearest to what
is predicted. A nonlinear operator gets states on their own turn, and its values are no angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.combined import Present, Stacked
from scorda.observations.model import ObservationModel
from scorda.observations.moving import MovingInterpolate
from scorda.observations.operators import Operator

if TYPE_CHECKING:
    from scorda.observations.observations import Observations

__all__ = ["check_circular", "on_one_turn", "predicted", "rolled", "unrolled"]

# Of the sum of weights, which are of single precision at worst.
ROUNDING = 1e-5


def unrolled(
    forecast: Float[Tensor, "ensemble ..."],
    weights: Float[Tensor, "ensemble"] | None,
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    space: StateSpace,
) -> tuple[Float[Tensor, "ensemble ..."], Float[Tensor, "obs"], ObservationModel]:
    """Return members, observation and model for an analysis that knows nothing of circles.

    Arguments:
        forecast: Members.
        weights: Their weights, or None where all are equal.
        y: Flat observation.
        model: Model of the observation.
        space: Space of the states; without circular variables all is as it was.
    """
    if not space.circular:
        return forecast, y, model
    forecast = space.unrolled(forecast, weights)
    mean = _mean(forecast, weights)[None]
    turns = _Turns(model.operator, space)
    more = turns.more(mean)[0]
    y = y + turns.between(y, (turns.linear(mean)[0] + more).to(y)) - more.to(y)
    return forecast, y, replace(model, operator=_of_states(model.operator, space))


def predicted(
    operator: Operator,
    x: Float[Tensor, "ensemble ..."],
    space: StateSpace,
    y: Float[Tensor, "..."] | None = None,
    weights: Float[Tensor, "ensemble"] | None = None,
) -> Float[Tensor, "ensemble ..."]:
    """Observe states without error, what is circular on turns whose mean is nearest to `y`.

    Without circular variables it is the operator alone, and so it is of several states at once,
    whose operator sees none of these (`check_circular`). Members that are NaN stay NaN.

    Arguments:
        operator: The operator.
        x: Members ``(ensemble, *state)``, or ``(ensemble, len, *state)`` of several steps.
        space: Their space.
        y: Observation, in the shape of what the operator makes; None: what is circular stays on
            the turn of the states.
        weights: Weights of the members, or None where all are equal.
    """
    if not space.circular or x.ndim > len(space.shape) + 1:
        return operator(x)
    turns, x = _Turns(operator, space), space.rolled(x)
    plain = operator(x)
    flat = plain.flatten(1) + turns.more(x).to(plain)
    if y is not None:
        there = flat.isfinite().all(1)
        left = None if weights is None else weights[there] / weights[there].sum()
        flat = flat + turns.between(flat, turns.direction(flat[there], left))
        mean = _mean(flat[there], left)
        flat = flat + turns.between(mean, y.reshape(-1).to(flat))
    return flat.view(plain.shape)


def rolled(y: Float[Tensor, "..."], operator: Operator, space: StateSpace) -> Float[Tensor, "..."]:
    """Return values ``(cycle, *obs)``, in circular variables on the turn of the states."""
    if not space.circular:
        return y
    flat = y.flatten(1) if y.ndim > 1 else y[:, None]
    return _Turns(operator, space).rolled(flat).view(y.shape)


def on_one_turn(
    value: np.ndarray, entry: np.ndarray, place: np.ndarray, space: StateSpace
) -> np.ndarray:
    """Return reported values, in circular variables those of one entry on turns that are near.

    Arguments:
        value: Values.
        entry: Number of the entry that each is a report of.
        place: Place of each: its component, or its variable and position.
        space: Space of the states.
    """
    if not space.circular:
        return value
    whole = place[:, 0].astype(np.int64)
    of = space.variable_of(whole) if place.shape[1] == 1 else whole
    other = np.zeros(entry.max() + 1)
    other[entry] = value
    value = value.copy()
    for name, circle in space.circular.items():
        here = of == space.variable(name)
        value[here] = circle.near(*map(torch.from_numpy, (value[here], other[entry[here]])))
    return value


def check_circular(instrument: Observations, space: StateSpace) -> None:
    """Check that what an instrument observes of circular variables is a mean of one of them.

    Raises:
        ValueError: If it is another linear combination, or one of several steps.
    """
    whole = instrument.model.operator
    # Moving platforms observe single variables.
    if not space.circular or not instrument.steps or isinstance(whole, MovingInterpolate):
        return
    entry = instrument.steps[0]
    if not isinstance(entry, tuple):
        _Turns(whole, space)
        return
    probe = torch.zeros(1, len(entry), *space.shape)
    for name in space.circular:
        space.field(probe, name).fill_(1.0)
    if whole.linear and whole(probe).any():
        raise ValueError(
            "Got observations of several steps that see a circular variable "
            f"({', '.join(space.circular)}): a direction has no mean over time that is linear, so "
            "observe single steps."
        )


def _mean(x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean(0) if weights is None else torch.tensordot(weights.to(x), x, 1)


@dataclass(frozen=True, eq=False)
class _OfRolled(Operator):
    """A nonlinear operator, of states whose circular variables are on any turn."""

    operator: Operator
    space: StateSpace

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def check(self, space: StateSpace) -> None:
        self.operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.operator(self.space.rolled(x))

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return self.operator.coordinates(space)


def _of_states(operator: Operator, space: StateSpace) -> Operator:
    """Return an operator whose nonlinear parts take circular variables on any turn."""
    if operator.linear:
        return operator
    if isinstance(operator, Stacked):
        return Stacked(tuple(_of_states(one, space) for one in operator.operators))
    if isinstance(operator, Present):
        return replace(operator, operator=_of_states(operator.operator, space))
    return _OfRolled(operator, space)


def _rows(operator: Operator, space: StateSpace) -> csr_array:
    """Return the matrix of the linear parts of an operator, with rows of 0 for the others."""
    if operator.linear:
        return operator.as_matrix(space.shape)
    if isinstance(operator, Stacked):
        return vstack([_rows(one, space) for one in operator.operators], format="csr")
    if isinstance(operator, Present):
        rows = _rows(operator.operator, space)
        return rows if operator.present is None else rows[operator.present.numpy(force=True)]
    made = operator(torch.zeros(1, *space.shape, dtype=torch.get_default_dtype()))
    return csr_array((made[0].numel(), space.size))


class _Turns:
    """What an operator observes of circular variables.

    Arguments:
        operator: Operator of single states.
        space: Space of the states.

    Raises:
        ValueError: If a linear observation of a circular variable is no mean of it.
    """

    def __init__(self, operator: Operator, space: StateSpace) -> None:
        periods, firsts = torch.zeros(2, space.size, dtype=torch.float64)
        for name, circle in space.circular.items():
            periods[space.entries(name)] = circle.period
            firsts[space.entries(name)] = circle.first
        rows = _rows(operator, space).tocoo()
        row, column = (torch.from_numpy(index.astype(np.int64)) for index in rows.coords)
        weight = torch.from_numpy(rows.data).double()
        of = torch.zeros(rows.shape[0]).double()
        # The entry of the largest weight is the last of its row.
        seen = weight.argsort(stable=True)
        seen = seen[row[seen].argsort(stable=True)]
        seen = seen[weight[seen] != 0]
        row, column, weight = row[seen], column[seen], weight[seen]
        of = of.scatter_reduce(0, row, periods[column], "amax")
        total = torch.zeros_like(of).index_add(0, row, weight)
        wrong = (of > 0) & ((total - 1).abs() > ROUNDING)
        wrong[row[periods[column] != of[row]]] = True
        if wrong.any():
            raise ValueError(
                f"The observed quantity {int(wrong.long().argmax())} mixes a circular variable "
                f"({', '.join(space.circular)}) with others, or its weights do not sum to 1: "
                "observe a direction at points (Select), between them (Interpolate) or as the "
                "mean of a block (Average); or observe its sine and cosine by a Function."
            )
        circular = of[row] > 0
        self._row, self._column, self._weight = row[circular], column[circular], weight[circular]
        main = torch.zeros(len(of), dtype=torch.long)
        main[self._row] = self._column
        self._main, self._period, self._first = main[self._row], of, firsts[main]
        self._mixes = len(self._row) > int((of > 0).sum())

    def linear(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        """Return the weighted sums of what is circular; 0 for other observations."""
        return self._summed(x.flatten(1)[:, self._column.to(x.device)])

    def more(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        """Return the turns by which the means exceed `linear`, times the period."""
        if not self._mixes:
            return x.new_zeros(len(x), len(self._period))
        flat, period = x.flatten(1), self._period[self._row].to(x)
        gap = flat[:, self._main.to(x.device)] - flat[:, self._column.to(x.device)]
        return self._summed(period * (gap / period).round())

    def between(
        self, x: Float[Tensor, "*members obs"], place: Float[Tensor, "*places obs"]
    ) -> Float[Tensor, "... obs"]:
        """Return the whole turns from observations to those that are nearest to places."""
        return self._period.to(x) * ((place - x) / self._divisor.to(x)).round()

    def rolled(self, x: Float[Tensor, "cycle obs"]) -> Float[Tensor, "cycle obs"]:
        """Return observations on the turn of the states."""
        first, period = self._first.to(x), self._period.to(x)
        return x - period * ((x - first) / self._divisor.to(x)).floor()

    def direction(
        self, x: Float[Tensor, "ensemble obs"], weights: Float[Tensor, "ensemble"] | None
    ) -> Float[Tensor, "obs"]:
        """Return the mean direction of what members predict."""
        angle = x * (2 * math.pi / self._divisor.to(x))
        east, north = (_mean(part, weights) for part in (angle.cos(), angle.sin()))
        return torch.atan2(north, east) * self._divisor.to(x) / (2 * math.pi)

    @property
    def _divisor(self) -> Float[Tensor, "obs"]:
        """The period, or 1 where there is none."""
        return self._period.where(self._period > 0, 1.0)

    def _summed(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(len(values), len(self._period))
        weight, row = self._weight.to(values), self._row.to(values.device)
        return sums.index_add(1, row, values * weight)
