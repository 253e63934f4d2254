r"""State augmentation: any observation is linear in the state and its simulated observation.

With :math:`X = (x, h(x))` an observation :math:`y = h(x) + N(0, R)` reads
:math:`y = (0 \; 1) X + N(0, R)`: linear, of any number of values, and h may be a black box. A
method that is exact for linear observations under its prior of X is then exact for every h under
that prior. What is left to approximate is the joint law: its Gaussian is the statistical
linearisation of the ensemble Kalman filters, a kernel density or a network on the pairs has no
such limit.

The pairs have one of two layouts. In general X is flat: the entries of the state, then the values
that are observed, in units in which their spread is that of the states. Where h has a value at
every grid point, as the speed of a flow has, the values are further variables of the state on the
same grid (`PairsOnGrid`), known of every member even where they are not observed. A prior that
knows a grid, a local Gaussian or a network that convolves, takes these fields as they are.

Source: augmentation as in Anderson (2001), Mon. Wea. Rev. 129, 2884-2903, section 2a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.observations.combined import Present, Stacked
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Operator, Select

__all__ = [
    "Augmented",
    "AugmentedSpace",
    "PairsOnGrid",
    "as_linear",
    "augment",
]


@dataclass(frozen=True, eq=False)
class AugmentedSpace:
    """Positions of the entries of a flat augmented state: the state's, then the observations'.

    Arguments:
        space: Space of the states.
        operator: Operator of the observations, asked for their positions when they are wanted.
        used: Which of its values there are.
    """

    space: StateSpace
    operator: Operator
    used: Int[Tensor, "used"]

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the names of the coordinates."""
        return self.space.axes

    @property
    def size(self) -> int:
        """Return the number of entries of an augmented state."""
        return self.space.size + len(self.used)

    def positions(self) -> Float[Tensor, "entries axes"]:
        """Return the position of every entry."""
        points = self.space.positions()
        places = self.operator.coordinates(self.space)[self.used.cpu()]
        return torch.cat((points.repeat(self.space.size // len(points), 1), places))

    def places(self, positions: Float[Tensor, "entries axes"]) -> Float[Tensor, "entries axes"]:
        """Return positions that can be compared, as the space does."""
        return self.space.places(positions)

    def distance(
        self, a: Float[Tensor, "a axes"], b: Float[Tensor, "b axes"]
    ) -> Float[Tensor, "a b"]:
        """Return distances between positions, those of the space."""
        return self.space.distance(a, b)


@dataclass(frozen=True, eq=False)
class Augmented:
    """Members with their simulated observations, and the observation of these pairs.

    Arguments:
        ensemble: The pairs: the first entries of each, flattened, are the state's.
        y: Observation of the pairs, without the values that tell nothing.
        model: Its linear model.
        used: Which values of the given observation these are.
        space: Space of the pairs, None where that of the states is not known.
        shape: Shape of a state.
    """

    ensemble: Float[Tensor, "ensemble ..."]
    y: Float[Tensor, "used"]
    model: ObservationModel
    used: Int[Tensor, "used"]
    space: StateSpace | AugmentedSpace | None
    shape: tuple[int, ...]

    def states(self, pairs: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return the states of pairs."""
        return pairs.flatten(1)[:, : math.prod(self.shape)].unflatten(1, self.shape)


def augment(
    ensemble: Float[Tensor, "ensemble ..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    space: StateSpace | None = None,
    on_grid: bool = False,
) -> Augmented | None:
    """Append simulated observations to the members; None where none of them has any spread.

    A value that is the same for all members, as where a sensor saturates, tells nothing of the
    state under any prior made of these members, and is left out; of correlated errors, what it
    tells of the others' errors is kept.

    Arguments:
        ensemble: Members.
        y: A complete observation, flat.
        model: Its model, with any operator.
        space: Space of the states.
        on_grid: Whether the pairs are fields on the grid of the space where they can be.
    """
    shape = tuple(ensemble.shape[1:])
    grid = PairsOnGrid.of(model, space, tuple(y.shape)) if on_grid and space else None
    if grid is not None:
        pairs = grid.pairs(ensemble)
        varies = grid.model.operator(pairs).std(0) > 0
        linear = grid.model.only(varies, y)
        return Augmented(pairs, y[varies], linear, varies.nonzero()[:, 0], grid.space, shape)
    states = ensemble.flatten(1)
    predicted = model.operator(ensemble).flatten(1).to(states)
    spread = predicted.std(0)
    varies = spread > 0
    used, rest = varies.nonzero()[:, 0], (~varies).nonzero()[:, 0]
    if len(used) == 0:
        return None
    unit = spread[used] / states.var(0).mean().sqrt()
    at = Select(range(states.shape[1], states.shape[1] + len(used)))
    y = y.to(states)
    values = y[used]
    if model.cov is not None:
        cov = model.cov.to(states)
        gain = torch.linalg.solve(cov[rest][:, rest], cov[rest][:, used]).mT
        values = values - gain @ (y - predicted[0])[rest]
        cov = cov[used][:, used] - gain @ cov[rest][:, used]
        cov = 0.5 * (cov + cov.mT)
        scaled = ObservationModel(at, cov=cov / (unit[:, None] * unit))
    else:
        std = model.error_std(tuple(y.shape), states)[used]
        scaled = ObservationModel(at, std=std / unit)
    joint = torch.cat((states, predicted[:, used] / unit), 1)
    places = AugmentedSpace(space, model.operator, used) if space else None
    return Augmented(joint, values / unit, scaled, used, places, shape)


@dataclass(frozen=True, eq=False)
class PairsOnGrid:
    """States and their simulated observations as fields on one grid.

    Arguments:
        operator: Operator that has values at every point, whether or not they are observed.
        space: Space of the pairs: the variables of the states, then the values.
        model: Linear model of the pairs.
    """

    operator: Operator
    space: StateSpace
    model: ObservationModel

    @classmethod
    def of(
        cls, model: ObservationModel, states: StateSpace, shape: tuple[int, ...]
    ) -> PairsOnGrid | None:
        """Return the layout, or None where values are elsewhere or have correlated errors.

        Arguments:
            model: Model of a complete observation.
            states: Space of the states.
            shape: Shape of an observation.
        """
        if model.cov is not None or not states.axes:
            return None
        operator, kept = _whole(model.operator, states)
        points = states.positions()
        places = operator.coordinates(states)
        fields = len(places) // len(points)
        if not torch.equal(places.to(points), points.repeat(fields, 1)):
            return None
        variables = len(states.variables)
        space = StateSpace(
            (variables + fields, *states.grid),
            states.dt,
            (*states.variables, *(f"value {i}" for i in range(fields))),
            states.coordinates,
            states.period,
            {n: u for n, u in states.units.items() if n in (*states.axes, *states.ranges)},
            points=states.points,
        )
        seen = torch.zeros(space.size, dtype=torch.bool)
        seen[states.size + kept] = True
        std = model.error_std(shape, torch.zeros((), dtype=torch.float64))
        return cls(operator, space, ObservationModel(Mask(seen.view(space.shape)), std))

    def pairs(self, states: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return states with simulated observations, ``(ensemble, variables, *grid)``."""
        values = self.operator(states).flatten(1).to(states)
        return torch.cat((states.flatten(1), values), 1).unflatten(1, self.space.shape)


def as_linear(
    ensembles: Float[Tensor, "cycles ensemble ..."],
    space: StateSpace | None,
    model: ObservationModel | None,
) -> tuple[Tensor, StateSpace | None, ObservationModel | None]:
    """Return ensembles, their space and a linear model: those of the pairs if h is not linear.

    Arguments:
        ensembles: States of many forecasts.
        space: Their space.
        model: Any model, or none.

    Raises:
        ValueError: If a nonlinear observation is none of `PairsOnGrid`.
    """
    if model is None or model.operator.linear:
        return ensembles, space, model
    shape = tuple(model.operator(ensembles[0, :1]).shape[1:])
    grid = None if space is None else PairsOnGrid.of(model, space, shape)
    if grid is None:
        raise ValueError(
            "Got a nonlinear observation: to train for it give the space of the states, values at "
            "every point of its grid and independent errors."
        )
    pairs = grid.pairs(ensembles.flatten(0, 1)).unflatten(0, ensembles.shape[:2])
    return pairs, grid.space, grid.model


def _whole(operator: Operator, states: StateSpace) -> tuple[Operator, Int[Tensor, "kept"]]:
    """Return the operator that makes absent values too, and which values are present."""
    if isinstance(operator, Present):
        whole, kept = _whole(operator.operator, states)
        return whole, kept if operator.present is None else kept[operator.present.cpu()]
    if isinstance(operator, Stacked):
        parts = [_whole(part, states) for part in operator.operators]
        sizes = [len(whole.coordinates(states)) for whole, _ in parts]
        before = [sum(sizes[:i]) for i in range(len(sizes))]
        kept = torch.cat([kept + n for (_, kept), n in zip(parts, before, strict=True)])
        return Stacked(tuple(whole for whole, _ in parts)), kept
    return operator, torch.arange(len(operator.coordinates(states)))
