r"""Trajectories of an ensemble as functions of their controls: first states and model errors.

A smoother that runs its model again and again controls what decides a trajectory,

.. math:: x_{k+1} = \mathcal M(x_k) + \varepsilon_k, \quad
    z = (x_0, \varepsilon_0, \varepsilon_1, \dots) .

Model errors are drawn once, from the streams of a filter, and are then part of the ensemble: the
update changes them as it changes the first states, with the covariances of the members. So a
linear model with error is no special case. The errors of a model that draws its own random
numbers (``per_member``) cannot be told from it: each run repeats them with the same seeds, and no
update changes them.

Source: Evensen (2019), Comput. Geosci. 23, 761-775: model errors as controls of iterative ensemble
smoothers.
"""

from __future__ import annotations

from typing import Any

import torch

from scorda.core import rng
from scorda.core.errors import check_finite
from scorda.core.shapes import Float, Tensor
from scorda.observations.problem import Problem
from scorda.systems.base import System, forecast

__all__ = ["ControlledModel"]


class ControlledModel:
    """The model of a problem, which runs with given model errors or draws them.

    Arguments:
        problem: The problem.
        key: Key of the model errors: those of a filter with the same key and step are the same.
    """

    def __init__(self, problem: Problem, key: rng.Key) -> None:
        self.system, self.space, self.key = problem.system, problem.space, key
        self.stochastic = bool(getattr(self.system, "stochastic", True))
        known = hasattr(self.system, "advance") and not getattr(self.system, "per_member", False)
        self.additive = self.stochastic and known

    def drawn(
        self, x: Float[Tensor, "ensemble ..."], first: int, last: int
    ) -> tuple[Float[Tensor, "ensemble time ..."], Float[Tensor, "ensemble steps ..."]]:
        """Return the states at steps `first` to `last`, and the model errors drawn between them.

        There are no errors, and no steps of them, where the model has none to control.

        Arguments:
            x: States at step `first`.
            first: Their step.
            last: Last step.
        """
        states, errors = [x], []
        for step in range(first, last):
            moved = self._step(states[-1], step)
            if self.additive:
                errors.append(moved - self._advanced(states[-1], step))
            states.append(moved)
        none = x.new_zeros(len(x), 0, *x.shape[1:])
        return _checked(states), torch.stack(errors, 1) if errors else none

    def run(
        self,
        x: Float[Tensor, "ensemble ..."],
        errors: Float[Tensor, "ensemble steps ..."],
        first: int,
        last: int,
    ) -> Float[Tensor, "ensemble time ..."]:
        """Return the states at steps `first` to `last` that follow from controls.

        Arguments:
            x: States at step `first`.
            errors: Model errors of the steps from there, as `drawn` returns them.
            first: Their step.
            last: Last step.
        """
        states = [x]
        for step in range(first, last):
            if self.additive:
                moved = self._advanced(states[-1], step) + errors[:, step - first]
                moved = self.space.filled(moved)
            else:
                moved = self._step(states[-1], step)
            states.append(moved)
        return _checked(states)

    def _advanced(self, x: Tensor, step: int) -> Tensor:
        """Return states advanced without error, by a system that may ask for the step."""
        system: Any = self.system.at(step) if isinstance(self.system, System) else self.system
        moved: Tensor = system.advance(x)
        return moved

    def _step(self, x: Tensor, step: int) -> Tensor:
        stream = rng.at(self.key, step + 1) if self.stochastic else None
        return forecast(self.system, x, stream, step)


def _checked(states: list[Tensor]) -> Float[Tensor, "ensemble time ..."]:
    """Return trajectories, which must be finite."""
    made = torch.stack(states, 1)
    check_finite(made, "forecast")
    return made
