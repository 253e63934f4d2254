r"""A network prior: the Gaussian of an ensemble, and what a small network learns beyond it.

The denoiser (`network.denoiser`) is exact where the network says nothing, and the network starts
from zero: a few tens of members say little beyond their covariance, and where they say nothing the
filter is that of the Gaussian. The network is trained on all noise levels, and on levels as
observations of some of the entries make them: one network then serves every observing network that
picks entries.

There are two kinds. `OnlineNetwork` is trained on each forecast ensemble, `AmortisedNetwork` once
on the forecasts of many cycles. This file has what both share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.nn.residual import FEATURES, correction
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.priors.base import PreparedPrior
from scorda.priors.gaussian import Gaussian, GaussianRun
from scorda.priors.local import LocalGaussian, LocalRun
from scorda.priors.network.denoiser import Axes, Corrected

__all__ = [
    "CONTEXT",
    "LEAST_MEMBERS",
    "BaseRun",
    "NetworkPrior",
    "NetworkTraining",
    "check_entries",
    "match",
]

# A run of the prior that a network corrects.
BaseRun = Gaussian | GaussianRun | LocalRun


# One member is held back, and a covariance needs two.
LEAST_MEMBERS = 3
# Features that an amortised network sees beside those of every network: mean and spread.
CONTEXT = 2


@dataclass(frozen=True)
class NetworkTraining:
    """Size of a network and settings of its training.

    Arguments:
        training_steps: Optimiser steps of the first training.
        width: Hidden features.
        blocks: Residual blocks.
        batch: Noisy samples per step.
        rate: Learning rate.
        min_noise: Smallest noise level, in standard deviations of the ensemble.
        max_noise: Largest one.
        observed: Share of samples some of whose entries may have less noise.
        weighting: Errors that count alike in the loss, in standard deviations: "noise", those in
            units of each noise level, or "state", those of the state at all levels, times the
            spread of the entry: half-way to a mean squared error. Heads have the former.
        validation: Share of members held back.
        validation_interval: Steps between validations.
        seed: Seed of the first weights and of all training noise.
    """

    training_steps: int = 200
    width: int = 64
    blocks: int = 2
    batch: int = 64
    rate: float = 5e-3
    min_noise: float = 1e-2
    max_noise: float = 30.0
    observed: float = 1.0
    weighting: Literal["noise", "state"] = "noise"
    validation: float = 0.2
    validation_interval: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weighting not in ("noise", "state"):
            raise ValueError(f'Got weighting = {self.weighting!r}: choose "noise" or "state".')
        if min(self.training_steps, self.blocks) < 0 or self.width < 1:
            raise ValueError(
                f"Got training_steps = {self.training_steps}, blocks = {self.blocks}, width = "
                f"{self.width}: the first two must not be negative, the last must be at least 1."
            )
        if not 0 < self.min_noise < self.max_noise:
            raise ValueError(
                f"Got min_noise = {self.min_noise}, max_noise = {self.max_noise}: give "
                "0 < min_noise < max_noise."
            )
        self.settings(self.training_steps, 1)

    def settings(self, steps: int, points: int, group: int = 1, fits: int = 0) -> Training:
        """Return the settings of one training.

        Arguments:
            steps: Optimiser steps.
            points: Points of a state in the layout of the network.
            group: Members of an item, see ``dataset.Pool``.
            fits: Trainings before this one, each of which has noise of its own.
        """
        steps = max(steps, 1)
        return Training(
            training_steps=steps,
            # Two at least: one for the bridge and one for its encoding.
            batch=max(min(2, self.batch), self.batch // group),
            segment=points,
            rate=self.rate,
            average=0.98,
            min_noise=self.min_noise,
            max_noise=self.max_noise,
            observed=self.observed,
            validation=self.validation,
            every=min(self.validation_interval, steps),
            # `training.fit` takes the seed after this one too.
            seed=self.seed + 2 * fits,
        )

    def held_back(self, members: int) -> int:
        """Return how many members of an ensemble are held back."""
        return max(1, round(self.validation * members))


@dataclass(frozen=True)
class NetworkPrior(PreparedPrior):
    """A small denoising network over a Gaussian of the ensemble.

    Weights are those of coordinates: the modes of the observation, which for masks, strides and
    selections are the entries of the state. With other operators the network is one in the modes,
    so it has to learn anew when the operator changes, and a ring is refused. Nonlinear ones are
    linear in the pairs of states and values (`augment`; `PairsOnGrid` for a ring).

    A `Gaussian` as base costs a Cholesky factor per noisy sample, of the size of the state where
    localized, of the number of members otherwise: for states of some hundreds of components. For
    larger ones a `LocalGaussian` has one of the number of members for each block of the grid, in
    training too, where the members of an ensemble that are denoised with the same Gaussian share
    their noise levels; and without a base the network corrects the variances alone.

    Arguments:
        axis: Name of a periodic coordinate to convolve along, or of two; None: a dense network.
        base: Prior that the network corrects, or None for variances alone. Local Gaussians are
            for networks along axes, in patches of their blocks.
        training: Size of the network and settings of its training.
    """

    axis: str | tuple[str, str] | None = None
    base: Gaussian | LocalGaussian | None = field(default_factory=Gaussian)
    training: NetworkTraining = field(default_factory=NetworkTraining)

    least_members = LEAST_MEMBERS

    def __post_init__(self) -> None:
        if isinstance(self.base, LocalGaussian) and self.axis is None:
            raise ValueError(
                f"Got base = {self.base} without axis: local Gaussians are for a network along an "
                "axis; name one, or give a Gaussian."
            )

    def check(self, space: StateSpace) -> None:
        (self.base or Gaussian()).check(space)
        names = self.names
        if names and space.points is not None:
            raise ValueError(
                f"{type(self).__name__}(axis={self.axis!r}) convolves along a grid of equal "
                "steps, and each point of this space has a position of its own (`points`): leave "
                "the axis out, for a dense network."
            )
        rings = [axis for axis in space.axes if axis in space.period]
        if len(set(names)) != len(names) or len(names) > 2 or not set(names) <= set(rings):
            raise ValueError(
                f"{type(self).__name__}(axis={self.axis!r}) convolves along a ring: the periodic "
                f"coordinates of this space are {rings}; name one, or leave it out."
            )

    def base_run(self) -> BaseRun:
        """Return what gives mean and variances, whether or not the network corrects it."""
        return (self.base or Gaussian()).begin(None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return (self.axis,) if isinstance(self.axis, str) else self.axis or ()

    def axes_in(self, modes: Modes | None, space: StateSpace | AugmentedSpace | None) -> Axes:
        """Return the axes of the state that the network convolves along.

        Raises:
            ValueError: If there are some, and the space or the observation does not have them.
        """
        if self.axis is None:
            return ()
        if space is None:
            raise ValueError(
                f"{type(self).__name__} along a ring needs the space of the states: run the "
                "filter, or give the space."
            )
        check_entries(modes, space)
        assert isinstance(space, StateSpace)
        return tuple(space.axes.index(name) + space.has_channels for name in self.names)

    def corrected(self, state: Tensor, axes: Axes, context: int) -> Corrected:
        """Return an untrained network for states like ``(1, *state)``, and a base to be met."""
        grid = tuple(state.shape[1 + axis] for axis in axes)
        inner = self.network(state[0].numel(), grid, FEATURES + context).to(state.device)
        return Corrected(inner, self.training.min_noise, self.training.max_noise)

    def network(self, size: int, grid: tuple[int, ...], features: int) -> nn.Module:
        """Return an untrained correction of states of a size, on a grid or dense."""
        # As coarse as the Gaussians, so that it sees as far on a finer grid.
        patch = self.base.block if isinstance(self.base, LocalGaussian) else 1
        training = self.training
        return correction(
            size, grid, training.width, training.blocks, features, training.seed, patch
        )


def check_entries(modes: Modes | None, space: StateSpace | AugmentedSpace | None) -> None:
    """Check that an observation is one of entries of a grid, or of pairs there.

    Raises:
        ValueError: If a network along an axis, or trained once, would not know its places.
    """
    if isinstance(space, AugmentedSpace) or (modes is not None and not modes.trivial):
        raise ValueError(
            "A network that is amortised, or lies along an axis, takes observations of entries of "
            "the state (masks, strides, selections with independent errors) and nonlinear ones at "
            "every grid point: use an OnlineNetwork without `axis` and `start` for any other."
        )


def match(weights: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Return whether weights by name are those of a network of this size."""
    return all(
        name in weights and weights[name].shape == w.shape
        for name, w in network.state_dict().items()
    )
