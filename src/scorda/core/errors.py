"""Errors that stop a run: members that diverge, and ensembles without spread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scorda.core.shapes import Float, Tensor

__all__ = [
    "OVERFLOW",
    "DegenerateEnsemble",
    "DivergenceError",
    "ModelFailure",
    "RunError",
    "ShapeError",
    "check_finite",
    "check_predicted",
    "check_spread",
    "locating",
]

LinAlgError = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# What an analysis of numbers that overflow may raise.
OVERFLOW = (FloatingPointError, LinAlgError)


class RunError(Exception):
    """A run cannot go on; what it made before stays usable.

    Arguments:
        reason: What happened and what to do, in a sentence.
        step: Step at which it happened, None where that is not known.
        cycle: Number of the cycle, from 0: the analysis, or the forecast that leads to it.
        members: Members that it concerns.

    Example:
        >>> problem = sc.Problem(
        ...     sc.systems.FunctionSystem(
        ...         lambda x: 1e200 * x, np.ones((10, 1)), sc.StateSpace((1,)), noise_std=1.0
        ...     ),
        ...     problem.observations,
        ...     steps=16,
        ... )
        >>> sc.EnKF().assimilate(problem, members=10, generator=0)
        Traceback (most recent call last):
        ...
        scorda.core.errors.DivergenceError: ...
    """

    def __init__(
        self,
        reason: str,
        step: int | None = None,
        cycle: int | None = None,
        members: tuple[int, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.step, self.cycle, self.members = step, cycle, members

    def located(self, name: str, step: int, cycle: int) -> RunError:
        """Return the same error with the method, the step and the cycle in its sentence."""
        reason = str(self)
        text = f"{name} stopped at step {step} (cycle {cycle}): {reason[:1].lower()}{reason[1:]}"
        return type(self)(text, step, cycle, self.members)


class DivergenceError(RunError, FloatingPointError):
    """Members are not finite, or so large that their squares are not."""


class ModelFailure(RunError):
    """The model of a member failed: it raised an error, took too long, or was not finite."""


class ShapeError(ValueError):
    """Values do not have the shape that they must have beside others."""


class DegenerateEnsemble(RunError, ValueError):
    """The spread of an ensemble does not tell its error: too few members, or all alike."""


def check_finite(ensemble: Float[Tensor, "ensemble ..."], stage: str) -> None:
    """Check that all members have finite entries, and squares that are finite too.

    Beyond 1.8e19 in single precision and 1.3e154 in double a variance is not finite.

    Arguments:
        ensemble: Members.
        stage: Step that made them, "forecast" or "analysis".

    Raises:
        DivergenceError: If they do not; it names the members.
    """
    bound = torch.finfo(ensemble.dtype).max ** 0.5
    # No entry is beyond the norm of all, and nothing holds where an entry is NaN.
    if torch.linalg.vector_norm(ensemble).item() < bound:
        return
    broken = (~(ensemble.flatten(1).abs() < bound).all(1)).nonzero().flatten().tolist()
    if not broken:
        return
    raise DivergenceError(
        f"{len(broken)} of {len(ensemble)} members are not finite, or too large to square, after "
        f"the {stage}, the first is member {broken[0]}; raise the inflation or the members, "
        "localize, or shorten the time step of the system.",
        members=tuple(broken),
    )


def check_predicted(predicted: Float[Tensor, "ensemble ..."]) -> None:
    """Check that an observation operator is finite for each member.

    Raises:
        DivergenceError: If it is not; it names the members.
    """
    finite = predicted.flatten(1).isfinite().all(1)
    if finite.all():
        return
    broken = (~finite).nonzero().flatten().tolist()
    raise DivergenceError(
        f"The observation operator is not finite for {len(broken)} of {len(finite)} members, the "
        f"first is member {broken[0]}; make it finite for every state that the system may reach.",
        members=tuple(broken),
    )


def check_spread(ensemble: Float[Tensor, "ensemble ..."]) -> None:
    """Check that the members differ, in at least one entry by more than rounding.

    Raises:
        DegenerateEnsemble: If not.
    """
    eps = torch.finfo(ensemble.dtype).eps
    # Most ensembles differ in the first entry of their first members, which costs nothing to see.
    one, other = ensemble.as_strided((2,), (ensemble.stride(0),)).tolist()
    if abs(one - other) > eps * max(abs(one), abs(other)):
        return
    low, high = ensemble.amin(0), ensemble.amax(0)
    if bool((high - low > eps * torch.maximum(low.abs(), high.abs())).any()):
        return
    raise DegenerateEnsemble(
        f"All {len(ensemble)} members are equal, so that their spread says nothing of their "
        "error; start from members that differ, and add model error, jitter or inflation where "
        "they have become equal.",
        members=tuple(range(len(ensemble))),
    )


@contextmanager
def locating(name: str, step: int, cycle: int) -> Iterator[None]:
    """Add the name of a method, step and cycle to an error that stops a run."""
    try:
        yield
    except RunError as error:
        raise error.located(name, step, cycle) from error
    except FloatingPointError as error:
        raise DivergenceError(str(error)).located(name, step, cycle) from error
    except LinAlgError as error:
        reason = (
            f"A matrix could not be factorised ({error}); check the scale of the observations and "
            "of their `std`."
        )
        raise DivergenceError(reason).located(name, step, cycle) from error
