r"""State augmentation: any observation is linear in the state and its simulated observation.

With :math:`X = (x, h(x))` an observation :math:`y = h(x) + N(0, R)` reads
:math:`y = (0 \; 1) X + N(0, R)`: linear, of any number of values, and h may be a black box. A
method that is exact for linear observations under its prior of X is then exact for every h under
that prior. What is left to approximate is the joint law: its Gaussian is the statistical
linearisation of the ensemble Kalman filters, a kernel density or a network on the pairs has no
such limit.

Source: augmentation as in Anderson (2001), Mon. Wea. Rev. 129, 2884-2903, section 2a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.likelihood import ObservationModel
from scorda.operators import Operator, Select
from scorda.shapes import Float, Int, Tensor
from scorda.space import StateSpace

__all__ = ["Augmented", "AugmentedSpace", "augment"]


@dataclass(frozen=True, eq=False)
class AugmentedSpace:
    """Where the entries of an augmented state are: those of the state, then the observations.

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
        """Names of the coordinates."""
        return self.space.axes

    @property
    def size(self) -> int:
        """Entries of an augmented state."""
        return self.space.size + len(self.used)

    def positions(self) -> Float[Tensor, "entries axes"]:
        """Position of every entry."""
        points = self.space.positions()
        places = self.operator.coordinates(self.space)[self.used.cpu()]
        return torch.cat((points.repeat(self.space.size // len(points), 1), places))

    def distance(
        self, a: Float[Tensor, "a axes"], b: Float[Tensor, "b axes"]
    ) -> Float[Tensor, "a b"]:
        """Distances between positions, in the units of the coordinates."""
        return self.space.distance(a, b)


@dataclass(frozen=True, eq=False)
class Augmented:
    """An ensemble with its simulated observations, and the observation that it got.

    Arguments:
        ensemble: ``(ensemble, state + obs)``: flattened states, then simulated observations in
            units in which their spread is that of the states.
        y: Observation in these units.
        model: Linear model of the augmented state.
        used: Which observations these are.
        shape: Shape of a state.
    """

    ensemble: Float[Tensor, "ensemble entries"]
    y: Float[Tensor, "used"]
    model: ObservationModel
    used: Int[Tensor, "used"]
    shape: tuple[int, ...]

    def states(self, ensemble: Float[Tensor, "ensemble entries"]) -> Float[Tensor, "ensemble ..."]:
        """The states of augmented ones."""
        return ensemble[:, : self.ensemble.shape[1] - len(self.y)].unflatten(1, self.shape)


def augment(
    ensemble: Float[Tensor, "ensemble ..."], y: Float[Tensor, "obs"], model: ObservationModel
) -> Augmented | None:
    """Append simulated observations to the members; None where none of them has any spread.

    A value that is the same for all members, as where a sensor saturates, tells nothing of the
    state under any prior made of these members, and is left out; of correlated errors, what it
    tells of the others' errors is kept.

    Arguments:
        ensemble: Members.
        y: A complete observation, flat.
        model: Its model, with any operator.
    """
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
    return Augmented(joint, values / unit, scaled, used, tuple(ensemble.shape[1:]))
