"""The base of every method of data assimilation, and the requirements it may have."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import final

from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.core.plugins import declared
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_observations
from scorda.systems.linear import LinearGaussian
from scorda.systems.mapped import unmapped

__all__ = ["REQUIREMENTS", "Assimilator", "Cost", "check_members", "check_needs"]

# Ensembles that an analysis is taken to hold at once.
ENSEMBLES = 5


@dataclass(frozen=True)
class Cost:
    """Computations of a method at its default settings, beside those that the cycle makes for all.

    The cycle makes the steps of the system and, where the analysis does not report its innovation,
    one evaluation of the operator for that.

    For a filter per member and analysis, else per member and run. Numbers are held by
    `scorda.testing.check_declaration` to what the method does.

    Arguments:
        operator: Evaluations of the observation operator; None: not a number per member, `note`
            says how many.
        denoiser: Evaluations of a score or denoiser that is made of the ensemble, without a
            network: a sum over the members each; None: as many as its tolerance asks for.
        note: Words for what these numbers leave out.
    """

    operator: int | None = 1
    denoiser: int | None = 0
    note: str = ""

    def __str__(self) -> str:
        parts = [f"{self.operator} h"] if self.operator else []
        if self.denoiser != 0:
            parts.append(f"{self.denoiser or 'adaptive'} denoiser")
        return ", ".join([*parts, self.note] if self.note else parts)


class Assimilator(ABC):
    """A method of data assimilation.

    `smoother` says whether states are conditioned on all observations (True) or on past ones
    (False); `needs` lists what the method asks of a problem, each a key of ``REQUIREMENTS``;
    `least_members` is the smallest ensemble that it can work with; `exact` says for which problems
    its posterior is exact, and in which limit (N members), `cost` what it computes, `drops`
    whether it goes on without members whose model fails, `forgets` whether its analysis makes no
    use of the forecast, and `in_double` whether it computes in double precision whatever that of
    the states. `errors` is the law of observed values that it takes, a key of ``REQUIREMENTS``:
    "gaussian_errors"; "robust_errors", by reweighting, or "linearised_errors", by a Gaussian near
    the analysis (``assimilation.reweighting``); or "density", whatever has one. `circular` says
    whether it takes circular variables: one that sees the members as the cycle hands them does.
    """

    smoother: bool = False
    needs: tuple[str, ...] = ()
    errors: str = "gaussian_errors"
    least_members: int = 1
    exact: str = "no problem"
    cost: Cost = Cost()
    drops: bool = False
    forgets: bool = False
    in_double: bool = True
    circular: bool = False

    @property
    def together(self) -> int:
        """Members that depend on each other, in groups of so many, of a method that has groups."""
        return 1

    @property
    def name(self) -> str:
        """Name of the method in messages and results."""
        return type(self).__name__.lstrip("_")

    @classmethod
    def example(cls, problem: Problem) -> Assimilator:
        """Return an instance for tests of a small problem: by default that without settings.

        A method overrides it if it has a setting without a default, or needs one to be quick.
        """
        return cls()

    def memory(self, problem: Problem, members: int) -> int:
        """Return about how many bytes the method holds at once, beside what is handed out.

        By default those of a few ensembles, which a smoother has of all steps.

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
        """
        steps = problem.steps + 1 if self.smoother else 1
        return ENSEMBLES * self.bytes_each(problem) * members * problem.space.size * steps

    @property
    def errors_taken(self) -> str:
        """Which of `errors`, or a narrower law, it takes of observed values with its settings."""
        return self.errors

    @final
    def bytes_each(self, problem: Problem) -> int:
        """Return the bytes of a number that the method computes with [final]."""
        return 8 if self.in_double else problem.dtype.itemsize

    @abstractmethod
    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Draw `members` samples of the posterior.

        Arguments:
            problem: What is to be assimilated.
            members: Number of members.
            generator: Source of randomness: a generator, its seed (a whole number), or None for
                the global generator of torch.
        """


def _models(problem: Problem) -> list[ObservationModel]:
    return [instrument.model for instrument in problem.instruments]


def _has_simulator(problem: Problem) -> bool:
    system = problem.system
    return hasattr(system, "step") and (problem.initial is not None or hasattr(system, "prior"))


def _is_linear(problem: Problem) -> bool:
    """Say whether what is observed is linear in the coordinates that methods estimate."""
    parts = (unbounded_observations(part, problem.space) for part in problem.instruments)
    return all(part.model.operator.linear for part in parts)


def _has_positions(problem: Problem) -> bool:
    try:
        problem.space.check_distances("Localization")
        for model in _models(problem):
            model.operator.coordinates(problem.space)
    except ValueError:
        return False
    return True


# What a method may ask of a problem: how it is checked, and how a sentence names it.
REQUIREMENTS: dict[str, tuple[Callable[[Problem], bool], str]] = {
    "simulator": (
        _has_simulator,
        "a system that makes steps, and either its `prior` or an `initial` ensemble",
    ),
    "prior": (
        lambda problem: hasattr(problem.system, "prior"),
        "a system whose `prior` draws the states of its climatology",
    ),
    "linear_system": (
        lambda problem: isinstance(problem.system, LinearGaussian),
        "a LinearGaussian system",
    ),
    "differentiable_system": (
        lambda problem: bool(getattr(problem.system, "differentiable", False)),
        "a system whose model has a gradient (written in torch, with additive model error)",
    ),
    "transition_density": (
        lambda problem: (
            bool(getattr(problem.system, "stochastic", False))
            and not getattr(problem.system, "per_member", False)
        ),
        "a system with model error, whose steps have a density",
    ),
    "gaussian_errors": (
        lambda problem: all(model.law is None for model in _models(problem)),
        "Gaussian errors of observation",
    ),
    "robust_errors": (
        lambda problem: all(model.law is None or model.law.robust for model in _models(problem)),
        "errors of observation that are Gaussian, or of StudentT, Laplace or Huber",
    ),
    # Every law has a density, and a Gaussian near a state.
    "linearised_errors": (lambda problem: True, "observations of a law"),
    "density": (lambda problem: True, "observations of a law"),
    "independent_errors": (
        lambda problem: all(model.cov is None for model in _models(problem)),
        "independent errors of observation (`std`, not a full `cov`)",
    ),
    "positions": (
        _has_positions,
        "a space with coordinates, of the same kind in all its parts, and the positions of the "
        "observations (`positions` of the operator), for localization",
    ),
    "nonlinear_positions": (
        lambda problem: (
            all(model.operator.linear for model in _models(problem)) or _has_positions(problem)
        ),
        "the positions of nonlinear observations (`positions` of the operator), for localization",
    ),
    "no_circles": (
        lambda problem: not problem.space.circular,
        "a state without circular variables",
    ),
    "linear_operator": (
        _is_linear,
        "a linear observation operator, of variables without bounds",
    ),
    "differentiable_operator": (
        lambda problem: all(model.operator.differentiable for model in _models(problem)),
        "an observation operator with a gradient (`differentiable=True`)",
    ),
}


def check_needs(method: Assimilator, problem: Problem, first: int = 0) -> None:
    """Check before a run that a problem has what the method needs.

    Arguments:
        method: The method.
        problem: The problem.
        first: Step of the system that is step 0 of the problem.

    Raises:
        ValueError: If not; the sentence names the method, the reason and the methods that can.
            Or if the observations begin at another time of day than the system.
    """
    check_start = getattr(unmapped(problem.system), "check_start", None)
    if check_start is not None and problem.start is not None:
        check_start(problem.start, first)
    if getattr(problem.system, "drops", False) and not method.drops:
        raise ValueError(
            f"{method.name} cannot go on without the members that on_failure = 'drop' leaves out: "
            "stop or retry where the model fails, or use a filter."
        )
    needs = (*_needs(method), method.errors_taken)
    lacking = [n for n in needs if not REQUIREMENTS[n][0](problem)]
    if not lacking:
        return
    # By name, because the methods stand on a higher floor.
    able = sorted(
        node.name
        for module, node, _ in declared("scorda.methods", "exact")
        for kind in [getattr(importlib.import_module(module), node.name)]
        if all(REQUIREMENTS[need][0](problem) for need in (*_needs(kind), kind.errors))
    )
    advice = f" Methods that can do without: {', '.join(able)}." if able else ""
    if lacking == [method.errors_taken] != [method.errors]:
        advice = " Take another inflation, which does not learn from them: RTPS, RTPP or a number."
    reasons = "; and ".join(REQUIREMENTS[need][1] for need in lacking)
    raise ValueError(f"{method.name} needs {reasons}.{advice}")


def _needs(method: Assimilator | type[Assimilator]) -> tuple[str, ...]:
    return (*method.needs, *(() if method.circular else ("no_circles",)))


def check_members(method: Assimilator, members: int) -> None:
    """Check the size of an ensemble before a run.

    Raises:
        TypeError: If it is no whole number.
        DegenerateEnsemble: If the method cannot work with so few members.
    """
    if not isinstance(members, Integral) or isinstance(members, bool):
        raise TypeError(f"Got members = {members!r}: give a whole number.")
    if members < method.least_members:
        raise DegenerateEnsemble(
            f"Got {members} members: {method.name} needs at least {method.least_members}."
        )
