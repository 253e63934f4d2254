"""The problem that files and flags pose, which several commands read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from scorda.cli.allocator import give_back_freed_memory
from scorda.cli.console import console
from scorda.cli.observed import limit_of, observed
from scorda.cli.posed import Posed
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator
    from scorda.core.shapes import Tensor
    from scorda.observations.observations import Observations
    from scorda.observations.problem import Problem

__all__ = ["Pose", "pose", "suited"]

MEMBERS, QUICK_MEMBERS = 40, 16


class Pose(NamedTuple):
    """What is to be assimilated, and what to score it with."""

    problem: Problem
    truth: Tensor | None
    withheld: tuple[Observations, ...]
    members: int


def pose(given: Posed, method: Assimilator, going_on: int | None = None) -> Pose:
    """Read the files; a method with a trained prior needs no system.

    Arguments:
        given: The settings.
        method: The method, or one of several.
        going_on: Number of members of a run that is continued, whose last ones are taken.
    """
    from scorda.observations.problem import Problem
    from scorda.observations.withholding import withhold
    from scorda.systems.base import System

    system = _system(given, method)
    observations, steps = observed(given, system)
    withheld: list[Observations] = []
    if given.withhold is not None:
        observations, withheld = withhold(observations, given.withhold, given.withhold_seed)
    truth = _truth(given, system, steps)
    if truth is not None and isinstance(system, System):
        system = system.apart_from(truth[0])
    initial, members = (None, going_on) if going_on else _initial(given, system)
    problem = Problem(system, observations, steps, initial)
    give_back_freed_memory()
    return Pose(problem, truth, tuple(withheld), members)


def _truth(given: Posed, system: Any, steps: int) -> Tensor | None:
    """Return the true states, aligned by their labels, where there are some."""
    from scorda.reading.fields import read_states

    if given.truth is None:
        return None
    truth, notes = read_states(given.truth, system.space, steps, given.start)
    for note in notes:
        console().print(f"truth: {note}")
    limit = limit_of(given)
    if limit is not None and given.system is None:
        _check_truth(truth, system, given.truth, limit)
    return truth


def _check_truth(truth: Tensor, system: Any, path: str, limit: float) -> None:
    """Refuse a truth of which a variable is, in the median, far from the climate of the prior."""
    from scorda.cli.common import climate_of

    for name, (mean, std) in climate_of(system).items():
        median = float(system.space.field(truth, name).nanmedian())
        if abs(median - mean) > limit * std:
            raise UserError(
                f"{path} has {name} of {median:.4g} in the median, far from {mean:.4g} of the "
                f"prior: give it in {system.space.units.get(name, 'its unit')}, and say so."
            )


def _system(given: Posed, method: Assimilator) -> Any:
    """Return the system, or the trained prior in its place."""
    from scorda.cli.common import make_system, options_of
    from scorda.priors.trajectory import Prior

    if given.system is None:
        for name in ("bounded", "circular", "parameter"):
            if getattr(given, name):
                raise UserError(f"Got --{name} without --system: a trained prior has its own.")
    else:
        return make_system(given.system, options_of(given))
    prior = getattr(method, "prior", None)
    if not isinstance(prior, Prior):
        raise UserError(f"Give --system, the model: the method {given.method!r} needs one.")
    return prior


def suited(given: Posed, method: Assimilator, steps: int) -> Assimilator:
    """Give a trained prior its device and its dates: of a daily cycle it has to know the begin."""
    from scorda.cli.workers import device_of
    from scorda.priors.trajectory import Prior

    prior = getattr(method, "prior", None)
    if not isinstance(prior, Prior):
        return method
    prior = prior.to(device_of(given.device))
    if given.start is not None:
        prior = prior.starting(given.start, steps + 1)
    return replace(method, prior=prior)  # type: ignore[type-var]


def _initial(given: Posed, system: Any) -> tuple[Tensor | None, int]:
    """Return the members at step 0, None where the system draws them, and their number.

    They are on the device that is given, where the run then stays.
    """
    import torch

    from scorda.cli.workers import device_of
    from scorda.core import rng
    from scorda.reading.ensembles import read_initial

    initial, found = None, MEMBERS
    if given.initial is not None:
        if given.system is None:
            raise UserError(
                "Got --initial for a trained prior, which draws the first state itself."
            )
        initial, notes = read_initial(given.initial, system.space, given.start)
        initial, found = initial.to(torch.get_default_dtype()), len(initial)
        for note in (*notes, f"{found} members"):
            console().print(f"initial: {note}")
    members = found if given.members is None else given.members
    if given.quick:
        members = min(members, QUICK_MEMBERS)
        initial = None if initial is None else initial[:members]
    if initial is None and given.system is not None and given.device != "cpu":
        initial = system.prior(members, rng.seeded(given.seed))
    return None if initial is None else initial.to(device_of(given.device)), members
