r"""A network prior that is trained on each forecast ensemble of a run.

Members are held back in each cycle. Training starts from the weights of the cycle before, which
are kept where no later ones have a lower loss on the members held back; and where none is below
that of the Gaussian alone, the network is left out of this analysis. During training each member
meets the Gaussian of other members (`dataset`), in the analysis that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.nn.residual import FEATURES
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.observations.problem import Problem
from scorda.priors.base import PriorRun
from scorda.priors.heads import Pairs
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.dataset import Pool, folds
from scorda.priors.network.denoiser import Corrected, FittedNetwork
from scorda.priors.network.heads import FittedHeads, HeadsPool, TwoHeads
from scorda.priors.network.prior import (
    CONTEXT,
    LEAST_MEMBERS,
    BaseRun,
    NetworkPrior,
    check_entries,
    match,
)
from scorda.priors.network.training import learn
from scorda.systems.base import forecast

__all__ = ["OnlineNetwork"]


@dataclass(frozen=True)
class OnlineNetwork(NetworkPrior):
    """A small denoising network, fine-tuned on each forecast ensemble.

    Approximate. In a run the network is fine-tuned from cycle to cycle; outside a run each fit
    trains anew. The weights travel with the run (``Cycle.carried``): a run continued from a stored
    step has the bits of an uninterrupted one. See ``NetworkPrior`` for the base and the operators;
    for `NonlinearMASF` the network has two heads.

    Source: fine-tuning from the cycle before, after SF (Bao, Zhang & Zhang 2024, JCP) and MASF
    (arXiv 2604.02889). Our own: the Gaussian under the network, levels per entry, the members
    held back, and leaving the network out where they say so.

    Arguments:
        axis: Name of a periodic coordinate to convolve along, or of two; None: a dense network.
        base: Prior that the network corrects, or None for variances alone.
        training: Size of the network and settings of its training. The first training has its
            `training_steps`; so has one where a nonlinear observation has another number of
            values.
        fine_tuning_steps: Optimiser steps of each later training; 0 keeps the weights.
        pretraining_members: Draws of the system, advanced to the first observation, to train on
            before the run; 0: none.
        levels: "any" for all noise levels and the levels of many observing networks; "fixed" for
            those of the bridge with the observations of this cycle alone.
        patience: Validations without improvement that stop a training.
        start: Network to start from, with the same axis, base, width and blocks; or None. Its
            training counts as the first one.
    """

    fine_tuning_steps: int = 50
    pretraining_members: int = 0
    levels: Literal["any", "fixed"] = "any"
    patience: int = 4
    start: AmortisedNetwork | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels not in ("any", "fixed"):
            raise ValueError(f'Got levels = {self.levels!r}: choose "any" or "fixed".')
        if self.fine_tuning_steps < 0 or self.patience < 1:
            raise ValueError(
                f"Got fine_tuning_steps = {self.fine_tuning_steps}, patience = {self.patience}: "
                "the first must not be negative, the second must be at least 1."
            )
        if self.pretraining_members < 0 or 0 < self.pretraining_members < LEAST_MEMBERS:
            raise ValueError(
                f"Got pretraining_members = {self.pretraining_members}: give 0, or at least "
                f"{LEAST_MEMBERS}."
            )
        if self.start is not None and _kind(self.start) != _kind(self):
            raise ValueError(
                f"Got a network to start from with (axis, base, width, blocks) = "
                f"{_kind(self.start)}, and these settings: {_kind(self)}; give the same."
            )

    @property
    def of_entries(self) -> bool:  # type: ignore[override]
        """Whether the network knows places, along an axis or from a start."""
        return self.axis is not None or self.start is not None

    def begin(self, problem: Problem | None) -> OnlineRun:
        if problem is not None:
            problem.space.check_no_circles("A network that learns from forecasts")
        weights = None if self.start is None else self.start.tensors()
        return OnlineRun(self, self.base_run(), problem, weights)


def _kind(prior: NetworkPrior) -> tuple[Any, ...]:
    return prior.axis, prior.base, prior.training.width, prior.training.blocks


@dataclass
class OnlineRun(PriorRun):
    """A run of a network that learns from cycle to cycle.

    Arguments:
        settings: Settings of the prior.
        base: Run of the prior that the network corrects.
        problem: Problem of the run, or None outside one.
        weights: Weights of the last training, and of the start.
        fits: Trainings so far.
    """

    settings: OnlineNetwork
    base: BaseRun
    problem: Problem | None
    weights: dict[str, Tensor] | None
    fits: int = 0

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        weights = dict(carried)
        self.fits, self.weights = int(weights.pop("fits")), weights

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedNetwork:
        _check_members(ensemble)
        if (problem := self._pretrained_on()) is not None:
            if problem.space.shape != ensemble.shape[1:]:
                raise ValueError(
                    f"Got pretraining_members = {self.settings.pretraining_members} for a "
                    "nonlinear observation: these draws are of the state alone; leave "
                    "pretraining_members out."
                )
            self._fit(self._draws(problem), None, space)
        return self._fit(ensemble, modes, space)

    def heads(
        self,
        pairs: Pairs,
        space: StateSpace | AugmentedSpace | None = None,
        simulate: Callable[[Tensor], Pairs] | None = None,
    ) -> FittedHeads:
        """Return trained heads of the pairs of states and simulated observations.

        As in `fit`, with the weights of heads: fully connected, for the errors of this cycle.

        Arguments:
            pairs: States, simulated observations and the std of their errors, standardised.
            space: Space of the pairs, for localization.
            simulate: Makes pairs of draws of the system, for the training before the run.

        Raises:
            ValueError: If there are too few members, or the network is a ring or has a start.
        """
        _check_members(pairs[0])
        if self.settings.of_entries:
            raise ValueError(
                "The two heads of a nonlinear observation are a dense network of their own: leave "
                "`axis` and `start` of the OnlineNetwork out."
            )
        if simulate is not None and (problem := self._pretrained_on()) is not None:
            self._fit_heads(simulate(self._draws(problem)), space)
        return self._fit_heads(pairs, space)

    def _fit(
        self, ensemble: Tensor, modes: Modes | None, space: StateSpace | AugmentedSpace | None
    ) -> FittedNetwork:
        prior, training, climate = self.settings, self.settings.training, None
        if prior.start is not None:
            check_entries(modes, space)
            climate = prior.start.climate
        axes, corrects = prior.axes_in(modes, space), prior.base is not None
        whole = self.base.fit(ensemble, modes, space)
        members = ensemble if modes is None else modes.forward(ensemble)
        network = prior.corrected(members[:1], axes, 0 if climate is None else CONTEXT)
        parts = [
            (self.base.fit(ensemble[others], modes, space), members[own])
            for others, own in folds(len(ensemble), training.held_back(len(ensemble)))
        ]
        precision = modes.precision if modes is not None and prior.levels == "fixed" else None
        pool = Pool.of(parts, axes, corrects, climate, precision, training.weighting)
        report = self._learn(network, pool)
        network.meets(whole, axes, climate, corrects)
        return FittedNetwork(network, whole, axes, report)

    def _fit_heads(self, pairs: Pairs, space: StateSpace | AugmentedSpace | None) -> FittedHeads:
        prior, training = self.settings, self.settings.training
        base = None if prior.base is None else self.base
        pool = HeadsPool.of(pairs, training.held_back(len(pairs[0])), base, space)
        inner = prior.network(pool.members.shape[1], (), FEATURES).to(pool.members.device)
        network = TwoHeads(inner, pool.margins, training.min_noise, pool.whole)
        report = self._learn(network, pool)
        # A sampler wants gradients by the state alone.
        return FittedHeads(network.requires_grad_(False), report)

    def _learn(self, network: Corrected | TwoHeads, pool: Pool | HeadsPool) -> dict[str, Any]:
        """Train from the weights of before, keep the new ones, and report both."""
        prior, inner, before = self.settings, network.correction, self.weights or {}
        # Of a nonlinear observation some values may be absent: another size, another network.
        known = match(before, inner)
        if known:
            inner.load_state_dict({name: before[name] for name in inner.state_dict()})
        elif prior.start is not None:
            raise ValueError(
                "The network to start from is one of another state than this: give it forecasts "
                "of this system, or leave `start` out."
            )
        steps = prior.fine_tuning_steps if known else prior.training.training_steps
        report = learn(network, pool, prior.training, steps, self.fits, prior.patience)
        self.fits += 1
        self.weights = before | _weights(inner)
        return report | {"carried": {**self.weights, "fits": torch.tensor(self.fits)}}

    def _pretrained_on(self) -> Problem | None:
        """The problem, where a training on draws of its system comes first."""
        first = self.weights is None and self.settings.pretraining_members > 0
        return self.problem if first else None

    def _draws(self, problem: Problem) -> Float[Tensor, "ensemble ..."]:
        """States of the system as they are at the first observation."""
        generator = rng.seeded(self.settings.training.seed)
        draws = problem.system.prior(self.settings.pretraining_members, generator)
        if problem.initial is not None:
            draws = draws.to(problem.initial)
        for k in range(min(problem.observed(), default=0)):
            draws = forecast(problem.system, draws, generator, k)
        return problem.space.unbounded(draws)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in network.state_dict().items()}


def _check_members(ensemble: Tensor) -> None:
    if len(ensemble) < LEAST_MEMBERS:
        raise ValueError(
            f"Got {len(ensemble)} members: an OnlineNetwork holds some back and needs at least "
            f"{LEAST_MEMBERS}."
        )
