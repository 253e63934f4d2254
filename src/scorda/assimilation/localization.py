r"""Localization: a weight between each observation and each component of the state.

With few members, sample covariances between what has nothing to do with each other are noise. A
`Localization` weighs them, either by where they are (`Taper`, `Layered`, `ByVariable`) or by how
large the sample correlation is (`scorda.assimilation.correlations`), which needs no positions.
`GaspariCohn`, one radius for all, has sparse paths of its own in each method.

How the weights :math:`\rho` act is up to the method: the EnKF multiplies covariances, also those
between observations, and the `LETKF` the inverse error variances. A weight of 1 is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from scorda.assimilation.local import BATCH, Local
from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel

__all__ = [
    "ByVariable",
    "Layered",
    "Localization",
    "Places",
    "Scene",
    "Taper",
    "check_taper",
    "local_weights",
    "needs_positions",
]


@dataclass(frozen=True)
class Places:
    """Positions of some things in a space, and the variables that they are values of.

    Arguments:
        positions: One per row, in the columns ``space.position_names``, infinite for what has
            none, as a parameter (`StateSpace.places`); None where none are asked.
        variables: Number of the variable of each, or None where none are asked.
    """

    positions: Float[Tensor, "places axes"] | None
    variables: Int[Tensor, "places"] | None = None

    @property
    def placed(self) -> Bool[Tensor, "places"]:
        """Return which have a position."""
        assert self.positions is not None
        return self.positions.isfinite().all(1)

    @property
    def filled(self) -> Float[Tensor, "places axes"]:
        """Return the positions, 0 for what has none."""
        assert self.positions is not None
        return self.positions.masked_fill(~self.placed[:, None], 0.0)

    def part(self, rows: slice) -> Places:
        """Return some of them."""
        return Places(*(None if x is None else x[rows] for x in (self.positions, self.variables)))


class Localization(ABC):
    """Weights between observations and components of the state, in [0, 1].

    `positions` and `variables` say what it asks of a problem; `errors`, whether the weights are
    meant for the errors of the observations in all methods, not for covariances in some.
    """

    positions: bool = False
    variables: bool = False
    errors: bool = False

    @abstractmethod
    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        """Return the weights between all observations and some components of the state.

        Arguments:
            scene: The observations, space and ensemble.
            places: Where the components are.
            directions: Anomalies of the components over members, of length 1 (or 0 where nothing
                varies), ``(ensemble, n)``.
        """


class Scene:
    """What a localization sees of one analysis.

    Arguments:
        localization: Says what is needed.
        space: Space of the states.
        model: Model of the observation.
        forecast: Members.
        anomalies: Of the predicted observations, in standard deviations of their errors.
    """

    def __init__(
        self,
        localization: Localization,
        space: StateSpace,
        model: ObservationModel,
        forecast: Float[Tensor, "ensemble ..."],
        anomalies: Float[Tensor, "ensemble obs"],
    ) -> None:
        self.localization, self.space, self.anomalies = localization, space, anomalies
        self._flat, operator = forecast.flatten(1), model.operator
        where = space.places(operator.coordinates(space)) if localization.positions else None
        names = operator.variables(space) if localization.variables else None
        numbers = None if names is None else [space.variables.index(name) for name in names]
        self.observed = Places(where, None if numbers is None else torch.tensor(numbers))

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self._flat)

    @cached_property
    def directions(self) -> Float[Tensor, "ensemble obs"]:
        """Anomalies of the predicted observations, each of length 1."""
        return _directions(self.anomalies)

    def parts(self, alone: float = 1.0) -> Iterator[tuple[slice, Float[Tensor, "obs n"]]]:
        """Yield some components of the flattened state after others, and their weights.

        Arguments:
            alone: Factor of the weights of a component without a position, as a parameter has
                none, where weights ask for positions.
        """
        size = self._flat.shape[1]
        step = max(1, BATCH // max(1, self.anomalies.shape[1], self.members))
        for first in range(0, size, step):
            rows = slice(first, min(first + step, size))
            x = self._flat[:, rows].double()
            places = self._components.part(rows)
            weights = self.localization.weights(self, places, _directions(x - x.mean(0)))
            if alone != 1 and places.positions is not None:
                weights = weights * torch.where(places.placed, 1.0, alone).to(weights)
            yield rows, weights

    def between(self) -> Float[Tensor, "obs obs"]:
        """Return the weights between observations."""
        return self.localization.weights(self, self.observed, self.directions)

    @cached_property
    def _components(self) -> Places:
        space, asked = self.space, self.localization
        positions = variables = None
        if asked.positions:
            positions = space.places(space.positions())
            positions = positions.repeat(space.size // len(positions), 1)
        if asked.variables:
            variables = torch.from_numpy(space.variable_of(np.arange(space.size)))
        return Places(positions, variables)


def _everywhere(weights: Tensor, one: Places, other: Places) -> Float[Tensor, "obs n"]:
    """Return weights that are 1 where one of a pair has no position: it is next to everything."""
    return weights.masked_fill(~(one.placed[:, None] & other.placed), 1.0)


def _directions(anomalies: Float[Tensor, "ensemble n"]) -> Float[Tensor, "ensemble n"]:
    unit = anomalies.square().sum(0).sqrt()
    return torch.where(unit > 0, anomalies / unit, 0.0)


@dataclass(frozen=True)
class Taper(Localization):
    r"""Any weight as a function of two positions.

    Arguments:
        function: Takes positions ``(m, axes)`` and ``(n, axes)``, with the columns
            ``space.position_names``, and returns weights ``(m, n)`` in [0, 1]. For an EnKF, which
            multiplies covariances, they should be positive semidefinite as Gaspari-Cohn's are.

    Raises:
        ValueError: In a run, if the function returns something else.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    positions = True

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        a, b = scene.observed.filled, places.filled
        found = torch.as_tensor(self.function(a, b))
        if tuple(found.shape) != (len(a), len(b)) or not ((found >= 0) & (found <= 1)).all():
            raise ValueError(
                f"A taper of {len(a)} and {len(b)} positions made an array of shape "
                f"{tuple(found.shape)}: it must be ({len(a)}, {len(b)}), of numbers in [0, 1]."
            )
        return _everywhere(found, scene.observed, places)


@dataclass(frozen=True)
class Layered(Localization):
    r"""A radius along all axes but one, such as the horizontal distance, and another along this.

    .. math:: \rho = \rho_{GC}(\mathrm{distance} / \mathrm{radius}) \,
        \rho_{GC}(|z - z'| / \mathrm{vertical})

    Products of correlation functions are correlation functions.

    Arguments:
        radius: Radius of the `GaspariCohn` function of the distance without the axis, in the units
            of the space's distances (km on the globe).
        vertical: Radius along the axis, in its unit.
        axis: Name of the axis, one of ``space.position_names``.

    Raises:
        ValueError: If a radius is not positive, or, in a run, the space has no such axis.
    """

    radius: float
    vertical: float
    axis: str = "level"

    positions = True

    def __post_init__(self) -> None:
        GaspariCohn(self.radius)
        GaspariCohn(self.vertical)

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        a, b, names = scene.observed.filled, places.filled, scene.space.position_names
        if self.axis not in names:
            raise ValueError(
                f"Got axis = {self.axis!r} for a space whose positions have {', '.join(names)}: "
                "name one of these."
            )
        column = names.index(self.axis)
        gap = (a[:, None, column] - b[None, :, column]).abs()
        a, b = a.clone(), b.clone()
        a[:, column] = b[:, column] = 0
        near = GaspariCohn(self.radius)(scene.space.distance(a, b))
        return _everywhere(near * GaspariCohn(self.vertical)(gap), scene.observed, places)


@dataclass(frozen=True)
class ByVariable(Localization):
    r"""Another weight for each pair of an observed variable and one of the state.

    .. math:: \rho = f_{uv} \, \rho_{uv}(\mathrm{distance})

    A radius per pair is positive semidefinite in no general case: the `LETKF` needs none, and
    factors alone, such as 0 between ocean and air, are where their matrix is.

    Arguments:
        taper: Taper of all pairs.
        pairs: Of pairs of names, in any order: a factor in [0, 1], or a `GaspariCohn` that
            replaces the taper.

    Raises:
        ValueError: If a factor is out of range, or, in a run, a variable is not one of the space,
            or an observation is of no single variable.
    """

    taper: GaspariCohn
    pairs: Mapping[tuple[str, str], float | GaspariCohn]

    positions = True
    variables = True

    def __post_init__(self) -> None:
        for pair, given in self.pairs.items():
            if not isinstance(given, GaspariCohn) and not 0 <= given <= 1:
                raise ValueError(f"Got {given} for the variables {pair}: give a factor in [0, 1].")

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        a, b, space = scene.observed, places, scene.space
        assert a.positions is not None and b.positions is not None
        assert a.variables is not None and b.variables is not None
        distance = space.distance(a.positions, b.positions)
        rho = self.taper(distance)
        for pair, given in self.pairs.items():
            if missing := [name for name in pair if name not in space.variables]:
                raise ValueError(
                    f"Got the variable {missing[0]!r}: the space has {', '.join(space.variables)}."
                )
            u, v = (space.variables.index(name) for name in pair)
            one = (a.variables == u)[:, None] & (b.variables == v)
            both = one | ((a.variables == v)[:, None] & (b.variables == u))
            other = given(distance) if isinstance(given, GaspariCohn) else given * rho
            rho = torch.where(both, other, rho)
        return rho


def local_weights(scene: Scene) -> Iterator[Local]:
    """Yield local analyses of components by the observations that have a weight there, in batches.

    A component is a block of its own; one without any observation is in none.
    """
    for rows, weights in scene.parts():
        near = weights > 0
        count = near.sum(0)
        # Those with weight first, in their order; lists of like length in one batch.
        listed = near.to(torch.int8).sort(dim=0, descending=True, stable=True).indices
        order = count.argsort(stable=True)
        order = order[count[order] > 0]
        at = 0
        while at < len(order):
            longest = int(count[order[min(len(order), at + 256) - 1]])
            size = max(1, BATCH // (scene.members * (scene.members + longest) + 2 * longest**2))
            some = order[at : at + min(size, 256)]
            longest = int(count[some[-1]])
            observations = listed[:longest, some].mT
            roots = weights[:, some].mT.gather(1, observations).clamp_min(0).sqrt()
            points = rows.start + some[:, None]
            yield Local(points, torch.ones_like(points, dtype=torch.bool), observations, (roots,))
            at += len(some)


def needs_positions(localization: GaspariCohn | Localization) -> bool:
    """Return whether a localization asks for positions of observations and states."""
    return isinstance(localization, GaspariCohn) or localization.positions


def check_taper(method: Any, localization: Any) -> None:
    """Check the localization of a method that takes `GaspariCohn` alone.

    Raises:
        ValueError: If it is another; the sentence names the methods that take any.
    """
    if localization is not None and not isinstance(localization, GaspariCohn):
        raise ValueError(
            f"Got localization = {localization!r}: {type(method).__name__} takes GaspariCohn "
            "alone; EnKF, LETKF and GaussianMixtureFilter take any."
        )
