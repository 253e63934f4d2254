"""Analyses: the solutions of problems of data assimilation."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from scorda.core.calendars import Start
from scorda.core.ownership import SOURCE
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.shown import as_html
from scorda.core.space import StateSpace
from scorda.core.times import time_axis
from scorda.metrics.calibration import quantile

if TYPE_CHECKING:
    import xarray

__all__ = ["Analysis", "left"]


def left(members: int, steps: range, dropped: Mapping[int, int]) -> Bool[Tensor, "ensemble steps"]:
    """Return which members are left at some steps.

    Arguments:
        members: Number of members at the beginning.
        steps: The steps.
        dropped: First step without each member that was dropped.
    """
    ends = [dropped.get(member, steps.stop) for member in range(members)]
    return torch.tensor(steps) < torch.tensor(ends)[:, None]


@dataclass
class Analysis:
    """Samples of the posterior, and how they were made.

    Arguments:
        states: ``(ensemble, time, *state)``, steps 0 to `steps`; for a filter the analysis where
            observed, else the forecast. NaN outside of the mask of the space.
        space: Space of the states.
        weights: Weights of the members, ``(ensemble, time)``, or None where all are equal.
        info: What the method reports; tensors have one entry per cycle.
        method: Name of the method.
        dropped: First step without each member whose model failed, by its number; the member is
            NaN from there on, and is left out of means, scores and figures.
        start: Datetime of step 0, where there is one; axes of figures then have dates.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF().assimilate(problem, members=20, generator=0)
        >>> analysis.mean.shape, analysis.quantile(0.9).shape
        (torch.Size([17, 3]), torch.Size([17, 3]))
        >>> analysis.to_xarray()["x"].dims
        ('ensemble', 'time')
    """

    states: Float[Tensor, "ensemble time ..."]
    space: StateSpace
    weights: Float[Tensor, "ensemble time"] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    dropped: dict[int, int] = field(default_factory=dict)
    start: Start | None = None

    def __post_init__(self) -> None:
        self.states = self.space.masked(self.states)

    @property
    def mean(self) -> Float[Tensor, "time ..."]:
        """Return the posterior mean, ``(time, *state)``."""
        states, weights = self.space.unrolled(self.states, self.weights), self.weights
        if self.dropped:
            there = left(len(states), range(states.shape[1]), self.dropped).to(states.device)
            if weights is None:
                weights = there.to(states) / there.sum(0)
            # Their weight is 0, which times NaN is none.
            states = states.masked_fill(~there.view(*there.shape, *[1] * (states.ndim - 2)), 0.0)
        if weights is None:
            return self.space.rolled(states.mean(0))
        return self.space.rolled(torch.einsum("et,et...->t...", weights.to(states), states))

    def quantile(self, level: float) -> Float[Tensor, "time ..."]:
        r"""Return a quantile of the members at each step, ``(time, *state)``.

        Of N equal members it lies at the place :math:`p (N + 1)` of the sorted ones, between the
        first and the last (see `scorda.metrics.quantile`). Dropped members are left out. Members
        of a circular variable are sorted from the antipode of their mean direction on.

        Arguments:
            level: Probability p of a smaller value, between 0 and 1.

        Raises:
            ValueError: If the level is no probability.
        """
        members, times = self.states.shape[:2]
        bounds = sorted({0, times, *(k for k in self.dropped.values() if k < times)})
        found = []
        for first, last in pairwise(bounds):
            stay = [i for i in range(members) if self.dropped.get(i, times) > first]
            weights = None if self.weights is None else self.weights[stay, first:last]
            part = self.space.unrolled(self.states[stay, first:last], weights)
            found.append(quantile(part, level, weights))
        return self.space.rolled(torch.cat(found))

    def sel(
        self, variable: str | None = None, method: str | None = None, **labels: Any
    ) -> xarray.Dataset | xarray.DataArray:
        """Return members at labels, such as ``sel("t2m", time="2019-03-21", ensemble=0)``.

        Times are those of the space, or dates where `start` is known.

        Arguments:
            variable: One variable of the space (default: all).
            method: What is done where there is no such label, as xarray's ``"nearest"``.
            labels: Label, list or slice of labels by dimension.

        Raises:
            ValueError: If there is no such variable, dimension or label.
        """
        import xarray

        whole = self.to_xarray()
        dataset = whole if self.start is None else xarray.decode_cf(whole)
        if variable is not None:
            self.space.variable(variable)
        chosen = dataset if variable is None else dataset[variable]
        try:
            return chosen.sel(labels, method=method)
        except KeyError as error:
            axes = {
                name: f"{x.values.flat[0]} to {x.values.flat[-1]}"
                for name, x in chosen.coords.items()
            }
            raise ValueError(
                f"Got the labels {labels}, which are not all there: the axes are {axes}; "
                'method="nearest" takes the nearest.'
            ) from error

    def plot(self, truth: Any = None, observations: Any = None, **options: Any) -> Any:
        """Draw the figure that suits the space, with dates on the axis where `start` is known.

        Arguments:
            truth: True states, ``(time, *state)``.
            observations: What was observed, such as ``problem.observations``.
            options: Those of `scorda.report.plot`.

        Returns:
            The figure of matplotlib, which a notebook shows.
        """
        # By name, because figures stand on a higher floor.
        return importlib.import_module("scorda.report").plot(self, truth, observations, **options)

    def __repr__(self) -> str:
        return f"<Analysis: {', '.join(f'{n} {v}' for n, v in self._facts.items() if v)}>"

    def _repr_html_(self) -> str:
        return as_html("Analysis", self._facts, {"space": self.space._repr_html_()})

    @property
    def _facts(self) -> dict[str, object]:
        members, times = self.states.shape[:2]
        return {
            "method": self.method,
            "members": members,
            "states": times,
            "shape": self.space.shape,
            "step 0": self.start,
            "weighted": "" if self.weights is None else "yes",
            "dropped": len(self.dropped),
            "reports": ", ".join(self.info),
        }

    def to_xarray(
        self, attrs: Mapping[str, Any] | None = None, start: Start | None = None
    ) -> xarray.Dataset:
        """Make a dataset of the variables of the space, with dims (ensemble, time, ...).

        Names and units follow the CF conventions. Time counts from step 0: in the space's unit if
        it has one, as a date if `start` is given too (files then read back with datetimes).

        Arguments:
            attrs: Further attributes of the dataset.
            start: Datetime of step 0, which needs a unit of time in the space (default: that of
                the analysis).
        """
        import numpy as np
        import xarray

        space, states = self.space, self.states.detach().cpu().numpy()
        variables = {
            name: (
                ("ensemble", "time", *space.piece_of(name).axes),
                space.field(states, name),
                _units(space, name),
            )
            for name in space.variables
        }
        if self.weights is not None:
            variables["weight"] = (("ensemble", "time"), self.weights.detach().cpu().numpy(), {})
        coordinates: dict[str, Any] = {
            "ensemble": ("ensemble", np.arange(states.shape[0]), {"standard_name": "realization"}),
            "time": ("time", *time_axis(space, states.shape[1], start or self.start)),
        }
        for piece in space.pieces:
            for name, values in (piece.coordinates or {}).items():
                coordinates[name] = (name, values, _units(piece, name))
        for name, values in (space.points or {}).items():
            if name not in space.axes:
                coordinates[name] = (space.axes, values, _units(space, name))
        return xarray.Dataset(
            variables,
            coordinates,
            {"Conventions": "CF-1.11", "source": SOURCE, "method": self.method}
            | dict(attrs or {}),
        )


def _units(space: StateSpace, name: str) -> dict[str, str]:
    return {"units": space.units[name]} if name in space.units else {}
