"""One analysis of an ensemble by observations that another program has predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_positions, as_tensor
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.laws import Law
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Positioned
from scorda.observations.problem import Problem

__all__ = ["Predicted", "analyse"]


@dataclass(frozen=True, eq=False)
class Predicted(Positioned):
    """Observe one ensemble by the values that another program computed of its members.

    It observes no other states: a method that evaluates h elsewhere, such as at the mean or at
    moved members, ends with a sentence instead of a wrong analysis.

    Arguments:
        values: h of each member, ``(ensemble, obs)``.
        ensemble: The members, ``(ensemble, *state)``.
        positions: Position of each observation, ``(obs, axes)``, for localization only.
    """

    values: Float[Tensor, "ensemble obs"]
    ensemble: Float[Tensor, "ensemble ..."]
    positions: Float[Tensor, "obs axes"] | None = None
    differentiable = False

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        if x.shape != self.ensemble.shape or not torch.equal(x, self.ensemble.to(x)):
            raise ValueError(
                "The method observes states beside the members, whose observations were not "
                "predicted: use one that needs h of the members alone, such as EnKF, ETKF, LETKF "
                "or GaussianMixtureFilter."
            )
        return self.values.to(x)


def analyse(
    method: Assimilator,
    ensemble: Float[Tensor, "ensemble ..."] | ArrayLike,
    predicted: Float[Tensor, "ensemble obs"] | ArrayLike,
    values: Float[Tensor, "obs"] | ArrayLike,
    std: float | Float[Tensor, "obs"] | ArrayLike | None = None,
    *,
    cov: Float[Tensor, "obs obs"] | ArrayLike | None = None,
    law: Law | Any = None,
    space: StateSpace | None = None,
    positions: Float[Tensor, "obs axes"] | ArrayLike | None = None,
    generator: rng.Seed = None,
) -> Analysis:
    r"""Condition an ensemble on observations, given what each member predicts of them.

    .. math:: x_i^a = \mathrm{analysis}(x_i, \; h(x_i), \; y), \quad y = h(x) + \varepsilon

    for users whose model and operator live in other programs: it is the analysis of `method` at
    one step, with h known at the members alone.

    Arguments:
        method: A filter that needs no h beside that of the members: `EnKF`, `ETKF`, `LETKF`,
            `DEnKF`, `GaussianMixtureFilter`, `ParticleFilter`, and others.
        ensemble: Members before the analysis, ``(ensemble, *state)``.
        predicted: h of each member, without an error of observation, ``(ensemble, obs)``.
        values: Observed values, ``(obs,)``; NaN where one is missing.
        std: Standard deviation of the error of observation, one number or ``(obs,)``.
        cov: Instead of `std`: covariance of the errors, ``(obs, obs)``.
        law: Law of the values, as `ObservationModel` takes it; None: Gaussian.
        space: Space of the states, with coordinates where the method localizes. Default: one
            without geometry.
        positions: Position of each observation in the coordinates of the space, ``(obs, axes)``,
            where the method localizes.
        generator: Source of randomness or its seed.

    Returns:
        The analysis, whose states are ``(ensemble, 1, *state)``, with weights where the method
        gives its members weights.

    Raises:
        ValueError: If the method is no filter or asks for more than the predictions, arrays do
            not fit each other, or a prediction of a value that is there is not finite.

    Example:
        Three members of one number, the observation predicted by each, and what was observed:

        >>> ensemble, predicted = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [6.0]])
        >>> analysis = sc.analyse(sc.ETKF(), ensemble, predicted, values=[5.0], std=1.0)
        >>> print(f"{float(analysis.mean):.1f}")
        2.4
    """
    if not isinstance(method, Filter):
        raise ValueError(f"Got {type(method).__name__}: give a filter, such as sc.ETKF().")
    members = as_tensor(ensemble, "ensemble")
    seen, y = as_tensor(predicted, "predicted"), as_tensor(values, "values")
    _check(members, seen, y)
    space = StateSpace(tuple(members.shape[1:])) if space is None else space
    members = space.filled(members)
    operator = Predicted(seen, members, as_positions(positions, len(y)))
    model = ObservationModel(operator, std, cov, law)
    local = getattr(method, "localization", None) is not None
    if model.law is not None and method.errors == "robust_errors" and local:
        raise ValueError(
            f"{method.name} with localization reweights errors by h of analysed members, which "
            "was not predicted: leave out the localization, or the law."
        )
    observations = Observations(model, [0], y[None])
    problem = Problem(_Still(space), observations, 0, members)
    return method.assimilate(problem, len(members), generator)


def _check(members: Tensor, seen: Tensor, y: Tensor) -> None:
    """Check that members, what they predict, and the values fit each other."""
    if members.ndim < 2:
        raise ValueError(
            f"Got an ensemble of shape {tuple(members.shape)}: give (members, *state)."
        )
    if seen.ndim != 2 or len(seen) != len(members):
        raise ValueError(
            f"Got predicted observations of shape {tuple(seen.shape)} for {len(members)} members: "
            "give (members, observations)."
        )
    if tuple(y.shape) != (seen.shape[1],):
        raise ValueError(
            f"Got values of shape {tuple(y.shape)} for predictions of {seen.shape[1]} "
            "observations: give one value each."
        )
    wrong = ~(seen.isfinite().all(0) | y.isnan())
    if wrong.any():
        raise ValueError(
            f"Got a prediction that is not finite of observation {int(wrong.int().argmax())} "
            f"({int(wrong.sum())} such): leave it out, or make its value NaN."
        )


@dataclass(frozen=True)
class _Still:
    """A system of which the space alone is known: one analysis makes no step."""

    space: StateSpace

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Refuse a step."""
        raise ValueError("Nothing is known of the model: one analysis makes no step.")
