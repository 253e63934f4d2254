"""Problems of data assimilation, and twin experiments."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.calendars import Start
from scorda.core.errors import ShapeError
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.circular import check_circular, predicted, rolled
from scorda.observations.model import ObservationModel, stack
from scorda.observations.observations import Observations
from scorda.observations.operators import Operator, Pointwise
from scorda.observations.shown import problem_html, problem_title
from scorda.reading.ensembles import read_initial
from scorda.reading.opening import is_labelled
from scorda.systems.base import System

__all__ = ["Problem", "twin_experiment"]


@dataclass(frozen=True)
class Problem:
    """A prior, observations, and the number of steps to be analysed.

    Arguments:
        system: The dynamical system, or a trained prior; anything with a `space`. A filter asks
            it for `prior` and `step`.
        observations: One instrument, or a list of several.
        steps: Number of model steps; states exist at steps 0 to `steps`.
        initial: Members at step 0 instead of draws of the prior: an array ``(ensemble, *state)``,
            or an object of xarray with an axis of members, which is aligned by its labels and
            becomes a tensor of torch's default precision.

    Raises:
        TypeError: If the system has no `space`.
        ValueError: If an observation lies after `steps`, an operator does not fit the space or its
            values or observes points outside of its mask, errors of one instrument are correlated
            and those of another not Gaussian, or `initial` does not fit the space or
            is not finite or beyond its bounds; or what is observed of a circular variable is no
            mean of it.

    Example:
        Your own observations, of the second variable at two steps:

        >>> seen = sc.ObservationModel(sc.Select([1]), std=0.5)
        >>> observations = sc.Observations(seen, steps=[4, 10], values=[[-2.1], [7.9]])
        >>> problem = sc.Problem(sc.systems.Lorenz63(), observations, steps=16)
        >>> problem.space.variables
        ('x', 'y', 'z')
    """

    system: Any
    observations: Sequence[Observations] | Observations
    steps: int
    initial: Float[Tensor, "ensemble ..."] | ArrayLike | None = None

    # The observations, one entry per instrument; and the space of the states.
    instruments: tuple[Observations, ...] = field(init=False, repr=False, compare=False)
    space: StateSpace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not hasattr(self.system, "space"):
            raise TypeError(
                f"Got the system {self.system!r}, which has no space: give a System or a trained "
                "prior, such as sc.systems.load_system('lorenz63')."
            )
        given = self.observations
        instruments = (given,) if isinstance(given, Observations) else tuple(given)
        for name, value in (
            ("observations", instruments),
            ("instruments", instruments),
            ("space", self.system.space),
        ):
            object.__setattr__(self, name, value)
        models = [instrument.model for instrument in instruments]
        if any(m.cov is not None for m in models) and any(m.law is not None for m in models):
            raise ValueError(
                "Got correlated errors (`cov`) beside others that are not Gaussian: give `std` "
                "instead of `cov`."
            )
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
            check_circular(instrument, self.space)
        if self.initial is not None:
            members = self.initial
            if is_labelled(members):
                members = read_initial(members, self.space)[0].to(torch.get_default_dtype())
            object.__setattr__(self, "initial", as_tensor(members, "initial"))
            if self.initial.ndim != len(self.space.shape) + 1:
                raise ValueError(
                    f"Got an initial ensemble of shape {tuple(self.initial.shape)}: it must be "
                    f"(ensemble, *{self.space.shape})."
                )
            self.space.check(self.initial, "the initial ensemble")
            self.space.check_bounds(self.initial, "the initial ensemble")
            object.__setattr__(self, "initial", self.space.within(self.space.filled(self.initial)))

    def __repr__(self) -> str:
        return f"<Problem: {problem_title(self)}>"

    def _repr_html_(self) -> str:
        return problem_html(self)

    @property
    def start(self) -> Start | None:
        """Datetime of step 0, where observations were read with one."""
        known = (instrument.start for instrument in self.instruments)
        return next((start for start in known if start is not None), None)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the states, that of `initial`, or torch's, in which systems draw theirs."""
        return torch.get_default_dtype() if self.initial is None else self.initial.dtype

    def members_at_start(
        self, members: int, generator: rng.Seed = None
    ) -> Float[Tensor, "ensemble *state"]:
        """Return the ensemble at step 0: `initial`, of that size, or draws of the prior."""
        if self.initial is None:
            return self.drawn(members, generator)
        if len(self.initial) != members:
            raise ValueError(
                f"Asked for {members} members with an initial ensemble of {len(self.initial)}: "
                "ask for as many as it has."
            )
        return self.initial.clone()

    def drawn(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        """Return draws of the system's prior, which must be inside of their bounds."""
        states: Tensor = self.system.prior(members, rng.as_generator(generator))
        self.space.check_bounds(states, "the draws of the system")
        return self.space.within(states)

    def observed(self) -> Mapping[int, tuple[Float[Tensor, "present"], ObservationModel]]:
        """Return ``(y, model)`` by observed step, of all instruments, without absent values.

        Steps without any present value are left out. What belongs to a step is made when it is
        asked for, so that a long record takes no memory beside its values.

        Raises:
            ValueError: If a row observes several steps at once.
        """
        return self._observed

    @cached_property
    def _observed(self) -> _Observed:
        # Once for all units of a run, each of which asks for it.
        steps: set[int] = set()
        for instrument in self.instruments:
            for k, step in enumerate(instrument.steps):
                if isinstance(step, tuple):
                    raise ValueError(
                        f"Got an observation of several steps {step} for a method that "
                        "works step by step: use a filter, or a smoother of whole trajectories "
                        "(SDA)."
                    )
                if instrument.observed(k):
                    steps.add(step)
        return _Observed(self.instruments, sorted(steps))


@dataclass(frozen=True, eq=False)
class _Observed(Mapping[int, tuple[Tensor, ObservationModel]]):
    """What is observed at each of some steps, in their order."""

    instruments: tuple[Observations, ...]
    steps: list[int]

    def __getitem__(self, step: int) -> tuple[Tensor, ObservationModel]:
        rows = [(instrument, _place(instrument.steps, step)) for instrument in self.instruments]
        parts = [one.at(k) for one, k in rows if k is not None and one.observed(k)]
        if not parts:
            raise KeyError(step)
        return stack(parts)

    def __contains__(self, step: object) -> bool:
        return _place(self.steps, step) is not None

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _place(steps: Sequence[Any], step: Any) -> int | None:
    """Return the index of a step among increasing ones, or None where it is none of them."""
    k = bisect_left(steps, step)
    return k if k < len(steps) and steps[k] == step else None


def twin_experiment(
    system: System,
    model: ObservationModel,
    steps: int,
    every: int,
    generator: rng.Seed = None,
    start: int | None = None,
) -> tuple[Float[Tensor, "time *state"], Problem]:
    """Draw a truth from the system and observe it: returns ``(truth, problem)``.

    Truth, observation error and the later ensemble use distinct random streams, also where the
    ensemble is drawn with another generator of the same seed. Where a system draws from a sample
    of states, as a `FunctionSystem` may, the system of the problem is the same without the truth.

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

    Example:
        The first variable of Lorenz-63, seen every eighth step with an error of 0.5:

        >>> seen = sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> system = sc.systems.Lorenz63()
        >>> truth, problem = sc.twin_experiment(system, seen, steps=16, every=8, generator=0)
        >>> truth.shape
        torch.Size([17, 3])
        >>> problem.observations[0].values.shape
        torch.Size([2, 1])
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
    seen = predicted(model.operator, truth[observed], system.space)
    values = rolled(model.disturbed(seen, observation_error), model.operator, system.space)
    problem = Problem(system.apart_from(truth[0]), Observations(model, observed, values), steps)
    return system.space.masked(truth), problem


def _check_values(instrument: Observations, space: StateSpace) -> None:
    """Check that an instrument's operator fits the space and makes rows shaped like its values."""
    instrument.model.operator.check(space)
    values = instrument.values
    if not instrument.steps:
        return
    operator, first = instrument.operator(0), instrument.steps[0]
    states = (len(first),) if isinstance(first, tuple) else ()
    probe = values.new_zeros(1, *states, *space.shape)
    known = operator.linear or isinstance(operator, Pointwise)
    observed = operator(probe) if known else _probed(operator, probe)
    if observed is None:
        return
    seen = observed[0]
    made = tuple(seen.shape)
    if made != tuple(values.shape[1:]):
        raise ValueError(
            f"Got observations of shape {tuple(values.shape)} for an operator that makes {made} "
            f"of each state: `values` must be (cycle, *{made})."
        )
    if not known:
        return
    # What is NaN where the others are not, and only there, takes a value from them.
    outside = operator(space.masked(probe))[0].isnan() & ~seen.isnan()
    if (outside & ~values.isnan().all(0)).any():
        raise ValueError(
            f"Got {int(outside.sum())} observed values of points that are no part of the state "
            "(land): leave them out."
        )


def _probed(operator: Operator, probe: Tensor) -> Tensor | None:
    """What an operator makes of a state, or None if it is not made for this one.

    A user's function may fail or warn at zero, or want another dtype or device: the run will show.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return operator(probe)
        except ShapeError:
            raise
        except Exception:
            return None
