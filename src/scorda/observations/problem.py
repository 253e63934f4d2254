"""Problems of data assimilation, twin experiments, and analyses, the solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import Start, time_axis
from scorda.observations.model import ObservationModel, stack
from scorda.observations.observations import Observations
from scorda.observations.operators import Pointwise
from scorda.systems.base import System

if TYPE_CHECKING:
    import xarray

__all__ = ["Analysis", "Problem", "twin_experiment"]


@dataclass(frozen=True)
class Problem:
    """A prior, observations, and the number of steps to be analysed.

    Arguments:
        system: The dynamical system, or a trained prior; anything with a `space`. A filter asks
            it for `prior` and `step`.
        observations: One instrument, or a list of several.
        steps: Number of model steps; states exist at steps 0 to `steps`.
        initial: Ensemble at step 0, ``(ensemble, *state)``, instead of draws from the prior.

    Raises:
        ValueError: If an observation lies after `steps`, an operator does not fit the space or its
            values, or `initial` does not fit the space or is not finite.
    """

    system: Any
    observations: Sequence[Observations] | Observations
    steps: int
    initial: Float[Tensor, "ensemble ..."] | None = None

    # The observations, one entry per instrument; and the space of the states.
    instruments: tuple[Observations, ...] = field(init=False, repr=False, compare=False)
    space: StateSpace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.observations
        instruments = (given,) if isinstance(given, Observations) else tuple(given)
        for name, value in (
            ("observations", instruments),
            ("instruments", instruments),
            ("space", self.system.space),
        ):
            object.__setattr__(self, name, value)
        if self.steps < 0:
            raise ValueError(f"Got steps = {self.steps}: give the number of model steps, >= 0.")
        for instrument in instruments:
            for entry in instrument.steps:
                last = max(entry) if isinstance(entry, tuple) else entry
                if last > self.steps:
                    raise ValueError(
                        f"Got an observation at step {last} of a problem with {self.steps} steps: "
                        "raise `steps` or leave the observation out."
                    )
            _check_values(instrument, self.space)
        if self.initial is not None:
            if self.initial.ndim != len(self.space.shape) + 1:
                raise ValueError(
                    f"Got an initial ensemble of shape {tuple(self.initial.shape)}: it must be "
                    f"(ensemble, *{self.space.shape})."
                )
            self.space.check(self.initial, "the initial ensemble")

    def members_at_start(
        self, members: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble *state"]:
        """Return the ensemble at step 0: `initial`, of that size, or draws of the prior."""
        if self.initial is None:
            return self.system.prior(members, generator)
        if len(self.initial) != members:
            raise ValueError(
                f"Asked for {members} members with an initial ensemble of {len(self.initial)}: "
                "the numbers must be equal."
            )
        return self.initial.clone()

    def observed(self) -> dict[int, tuple[Float[Tensor, "present"], ObservationModel]]:
        """Return ``(y, model)`` per observed step, of all instruments, without absent values.

        Steps without any present value are left out.

        Raises:
            ValueError: If a row observes several steps at once: only smoothers can use that.
        """
        parts: dict[int, list[tuple[Tensor, ObservationModel]]] = {}
        for instrument in self.instruments:
            for k, step in enumerate(instrument.steps):
                if isinstance(step, tuple):
                    raise ValueError(
                        f"Got an observation of several steps {step} for a method that "
                        "works step by step: use a smoother of whole trajectories (SDA)."
                    )
                if instrument.observed(k):
                    parts.setdefault(step, []).append(instrument.at(k))
        return {step: stack(parts[step]) for step in sorted(parts)}


@dataclass
class Analysis:
    """Samples of the posterior, and how they were made.

    Arguments:
        states: ``(ensemble, time, *state)``, steps 0 to `steps`; for a filter the analysis where
            observed, else the forecast.
        space: Space of the states.
        weights: Weights of the members, ``(ensemble, time)``, or None where all are equal.
        info: What the method reports; tensors have one entry per cycle.
        method: Name of the method.
    """

    states: Float[Tensor, "ensemble time ..."]
    space: StateSpace
    weights: Float[Tensor, "ensemble time"] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    method: str = ""

    @property
    def mean(self) -> Float[Tensor, "time ..."]:
        """Return the posterior mean, ``(time, *state)``."""
        if self.weights is None:
            return self.states.mean(0)
        return torch.einsum("et,et...->t...", self.weights.to(self.states), self.states)

    def to_xarray(
        self, attrs: Mapping[str, Any] | None = None, start: Start | None = None
    ) -> xarray.Dataset:
        """Make a dataset of the variables of the space, with dims (ensemble, time, ...).

        Names and units follow the CF conventions. Time counts from step 0: in the space's unit if
        it has one, as a date if `start` is given too (files then read back with datetimes).

        Arguments:
            attrs: Further attributes of the dataset.
            start: Datetime of step 0, which needs a unit of time in the space.
        """
        import numpy as np
        import xarray

        space, states = self.space, self.states.detach().cpu().numpy()
        dims = ("ensemble", "time", *space.axes)
        if space.has_channels:
            variables = {
                name: (dims, states[:, :, i], _units(space, name))
                for i, name in enumerate(space.variables)
            }
        else:
            variables = {space.variables[0]: (dims, states, _units(space, space.variables[0]))}
        if self.weights is not None:
            variables["weight"] = (("ensemble", "time"), self.weights.detach().cpu().numpy(), {})
        coordinates: dict[str, Any] = {
            "ensemble": ("ensemble", np.arange(states.shape[0]), {"standard_name": "realization"}),
            "time": ("time", *time_axis(space, states.shape[1], start)),
        }
        for name, values in (space.coordinates or {}).items():
            coordinates[name] = (name, values, _units(space, name))
        return xarray.Dataset(
            variables,
            coordinates,
            {"Conventions": "CF-1.11", "method": self.method} | dict(attrs or {}),
        )


def twin_experiment(
    system: System,
    model: ObservationModel,
    steps: int,
    every: int,
    generator: torch.Generator | None = None,
    start: int | None = None,
) -> tuple[Float[Tensor, "time *state"], Problem]:
    """Draw a truth from the system and observe it: returns ``(truth, problem)``.

    Truth, observation error and the later ensemble use distinct random streams, also where the
    ensemble is drawn with another generator of the same seed.

    Arguments:
        system: The system, model of both truth and forecasts.
        model: Observation model.
        steps: Number of steps; the truth has ``steps + 1`` states.
        every: Steps between observations, at least 1.
        generator: Source of randomness.
        start: Step of the first observation, 0 allowed (default: `every`).

    Raises:
        ValueError: If no step is observed, or the operator does not fit the space.
        FloatingPointError: If the truth diverges.
    """
    if every < 1:
        raise ValueError(f"Got every = {every}: give the steps between observations, >= 1.")
    first = every if start is None else start
    observed = list(range(first, steps + 1, every))
    if first < 0 or not observed:
        raise ValueError(
            f"Got the first observation at step {first} of {steps} steps: it must lie between 0 "
            "and `steps`."
        )
    model.operator.check(system.space)
    # The second word of the key: `spawn` and the draws of an ensemble from the same seed use the
    # first, and would otherwise make the truth a member.
    private = rng.seeded(rng.key(generator)[1])
    initial, model_error, observation_error = rng.spawn(private, 3)
    truth = system.trajectory(system.prior(1, initial), steps, model_error)[0]
    finite = truth.flatten(1).isfinite().all(1)
    if not finite.all():
        raise FloatingPointError(
            f"The truth of {system.name} is not finite at step {int(finite.long().argmin())}: "
            "reduce dt or check the system."
        )
    values = model.sample(truth[observed], observation_error)
    return truth, Problem(system, Observations(model, observed, values), steps)


def _check_values(instrument: Observations, space: StateSpace) -> None:
    """Check that an instrument's operator fits the space and makes rows shaped like its values."""
    instrument.model.operator.check(space)
    values = instrument.values
    if not instrument.steps or any(isinstance(step, tuple) for step in instrument.steps):
        return
    operator = instrument.operator(0)
    if not (operator.linear or isinstance(operator, Pointwise)):
        # A user's function may be dear, or want another dtype or device: the run will show.
        return
    made = tuple(operator(values.new_zeros(1, *space.shape)).shape[1:])
    if made != tuple(values.shape[1:]):
        raise ValueError(
            f"Got observations of shape {tuple(values.shape)} for an operator that makes {made} "
            f"of each state: `values` must be (cycle, *{made})."
        )


def _units(space: StateSpace, name: str) -> dict[str, str]:
    return {"units": space.units[name]} if name in space.units else {}
