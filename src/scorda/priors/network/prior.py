r"""A network prior: the Gaussian of an ensemble, and what a small network learns beyond it.

The denoiser (`network_denoiser`) is exact where the network says nothing, and the network starts
from zero: a few tens of members say little beyond their covariance, and where they say nothing the
filter is that of the Gaussian. The network is trained by the loss of `train`, on all noise levels
and on levels as observations of some of the entries make them (`observed.observed_levels`): one
network serves every observing network that picks entries.

Members are held back in each cycle. Training starts from the weights of the cycle before, which
are kept where no later ones have a lower loss on the members held back; and where none is below
that of the Gaussian alone, the network is left out of this analysis. During training each member
meets the Gaussian of other members (`pool`), in the analysis that of all.

Or the network is trained once, on the forecasts of many cycles, and serves as it is from then on
(`NetworkPrior.amortised`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.training import Levels, Loss, Training
from scorda.nn.residual import FEATURES, correction
from scorda.observations.augmentation import (
    AugmentedSpace,
    as_linear,
    check_entries,
    check_trained_for,
)
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import EnsembleGaussian
from scorda.priors.heads import Pairs
from scorda.priors.local import LocalGaussian
from scorda.priors.network.dataset import Pool, checked, folds
from scorda.priors.network.denoiser import Axes, Climate, Corrected, FittedNetwork
from scorda.priors.network.heads import FittedHeads, HeadsPool, TwoHeads
from scorda.priors.network.memory import Memory, learn

__all__ = ["NetworkPrior"]

# One member is held back, and a covariance needs two.
LEAST_MEMBERS = 3
# What an amortised network sees beside the features of every network: mean and spread.
CONTEXT = 2


@dataclass(frozen=True)
class NetworkPrior(EnsemblePrior):
    """A small denoising network, fine-tuned on each forecast ensemble.

    Approximate. In a run a filter calls `begin`, whose copy of the prior fine-tunes from cycle to
    cycle; `fit` of the prior itself trains anew each time. The weights travel with the run
    (`Cycle.carried`): a run continued from a stored step has the bits of an uninterrupted one.

    Weights are those of coordinates: the modes of the observation, which for masks, strides and
    selections are the entries of the state. With other operators the network is one in the modes,
    so it has to learn anew when the operator changes, and a ring is refused. Nonlinear ones are
    linear in the pairs of states and values (`augment`; `on_grid` for a ring), or have `heads`.

    The Gaussian's part costs a Cholesky factor per noisy sample, of the size of the state where
    localized, of the number of members otherwise: for states of some hundreds of components. For
    larger ones `local` has one of the number of members for each block of the grid, in training
    too, where the members of an ensemble that are denoised with the same Gaussian share their
    noise levels; and ``gaussian=False`` leaves the variances alone.

    Source: fine-tuning from the cycle before, after SF (Bao, Zhang & Zhang 2024, JCP) and MASF
    (arXiv 2604.02889). Our own: the Gaussian under the network, levels per entry, the members
    held back, and leaving the network out where they say so.

    Arguments:
        axis: Name of a periodic coordinate to convolve along, or of two; None: a dense network.
        localization: Taper of the Gaussian's covariance by distance, or None.
        gaussian: Whether the network corrects the Gaussian, or variances alone.
        local: Local Gaussians in its place, for networks along axes, in patches of their blocks.
        steps: Optimiser steps of the first training, or of the pre-training; again where a
            nonlinear observation has another number of values.
        fine_tune: Optimiser steps of each later one; 0 keeps the weights.
        pretrain: Draws of the system, advanced to the first observation, to train on before the
            run; 0: none.
        width: Hidden features.
        blocks: Residual blocks.
        batch: Noisy samples per step.
        rate: Learning rate.
        low: Smallest noise level, in standard deviations of the ensemble.
        high: Largest one.
        observed: Share of samples some of whose entries may have less noise.
        levels: "any" for all noise levels and the levels of many observing networks; "these" for
            those of the bridge with the observations of this cycle alone.
        weighting: What counts alike in the loss, for errors in standard deviations: "noise",
            those in units of each noise level, or "state", those of the state at all levels,
            times the entry's spread: half-way to a mean squared error. For heads the former.
        validation: Share of members held back.
        every: Steps between validations.
        patience: Validations without improvement that stop a training in a run.
        seed: Seed of the first weights and of all training noise.
        weights: Weights to start from, plain tensors by name as `amortised` makes them; or None.
    """

    axis: str | tuple[str, str] | None = None
    localization: GaspariCohn | None = None
    gaussian: bool = True
    local: LocalGaussian | None = None
    steps: int = 200
    fine_tune: int = 50
    pretrain: int = 0
    width: int = 64
    blocks: int = 2
    batch: int = 64
    rate: float = 5e-3
    low: float = 1e-2
    high: float = 30.0
    observed: float = 1.0
    levels: Literal["any", "these"] = "any"
    weighting: Literal["noise", "state"] = "noise"
    validation: float = 0.2
    every: int = 25
    patience: int = 4
    seed: int = 0
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    _memory: Memory | None = field(default=None, init=False, repr=False, compare=False)

    least_members = LEAST_MEMBERS

    def __post_init__(self) -> None:
        self._training(max(self.steps, 1), 1, 0)
        if self.levels not in ("any", "these"):
            raise ValueError(f'Got levels = {self.levels!r}: choose "any" or "these".')
        if self.weighting not in ("noise", "state"):
            raise ValueError(f'Got weighting = {self.weighting!r}: choose "noise" or "state".')
        for name in ("steps", "fine_tune", "pretrain", "blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"Got {name} = {getattr(self, name)}: it must not be negative.")
        if self.local is not None and (
            self.axis is None or self.localization is not None or not self.gaussian
        ):
            raise ValueError(
                f"Got local = {self.local} with axis = {self.axis!r}, localization = "
                f"{self.localization} and gaussian = {self.gaussian}: local Gaussians are for a "
                "network along an axis, in place of a localization."
            )
        if self.width < 1 or self.patience < 1 or 0 < self.pretrain < LEAST_MEMBERS:
            raise ValueError(
                f"Got width = {self.width}, patience = {self.patience}, pretrain = {self.pretrain}"
                f": the first two must be at least 1, the last 0 or at least {LEAST_MEMBERS}."
            )

    def check(self, space: StateSpace) -> None:
        self._base().check(space)
        names = self._names
        if len(set(names)) != len(names) or len(names) > 2 or not set(names) <= set(space.period):
            raise ValueError(
                f"NetworkPrior(axis={self.axis!r}) convolves along a ring: the periodic "
                f"coordinates of this space are {list(space.period)}; name one, or leave it out."
            )

    def begin(self, problem: Problem) -> NetworkPrior:
        """Return a copy that remembers its weights from one `fit` to the next."""
        run = copy.copy(self)
        object.__setattr__(run, "_memory", self._recalled(problem))
        if self.local is not None:
            object.__setattr__(run, "local", self.local.begin(problem))
        return run

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        assert self._memory is not None
        weights = dict(carried)
        self._memory.fits = int(weights.pop("fits"))
        self._memory.weights = weights

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedNetwork:
        self._check_members(ensemble)
        memory = self._recalled() if self._memory is None else self._memory
        if self.pretrain and memory.weights is None and memory.problem is not None:
            if memory.problem.space.shape != ensemble.shape[1:]:
                raise ValueError(
                    f"Got NetworkPrior(pretrain={self.pretrain}) for a nonlinear observation: its "
                    "draws are of the state alone; leave pretrain out."
                )
            self._fit(memory, memory.draws(self.pretrain, self.seed), None, space)
        return self._fit(memory, ensemble, modes, space)

    def amortised(
        self,
        ensembles: Float[Tensor, "cycles ensemble ..."],
        space: StateSpace | None = None,
        model: ObservationModel | None = None,
    ) -> NetworkPrior:
        """Return a copy that is trained, once and for all, and is not fine-tuned in a run.

        `steps` optimiser steps on forecasts of many cycles, of which a share of `validation` is
        held back from the Gaussians and trained on; beside the usual features the network sees
        the mean and the spread of the ensemble. With the levels of many observing networks it
        serves them all. ``dataclasses.replace(prior, fine_tune=50)`` fine-tunes it all the same.

        Arguments:
            ensembles: Forecasts, for instance those of another filter in a run of its own.
            space: Space of the states, for a ring or localization.
            model: Observing network of ``levels="these"``, also nonlinear (`PairsOnGrid`): the
                weights then serve this h and error alone; other entries or errors are refused.
        """
        if (self.levels == "these") != (model is not None):
            raise ValueError(
                f'Got levels = {self.levels!r} and model = {model}: levels="these" are those of '
                'the model, which levels="any" has no use for.'
            )
        ensembles, space, model = as_linear(checked(ensembles, space), space, model)
        modes = None if model is None else model.modes(tuple(ensembles.shape[2:]))
        axes = self._axes(modes, space)
        climate = Climate.of(ensembles, axes)
        base, held = self._base(), self._held(ensembles[0])
        parts = [
            (
                base.fit(e[:-held], modes, space),
                e[-held:] if modes is None else modes.forward(e[-held:]),
            )
            for e in ensembles.double()
        ]
        precision = None if modes is None else modes.precision
        pool = Pool.of(parts, axes, self.gaussian, climate, precision, self.weighting)
        network = self._corrected(ensembles[0, :1], axes, CONTEXT)
        memory = Memory()
        # The rate falls to zero over all steps: to stop before would be to stop half-way.
        levels = pool.levels(self.observed)
        self._learn(memory, network, pool.members, levels, pool.loss, None, pool.group)
        assert memory.weights is not None
        weights = {**memory.weights, "centre": climate.centre, "scale": climate.scale}
        weights |= {"precision": precision} if precision is not None else {}
        return replace(self, weights=weights, fine_tune=0, levels="any", pretrain=0)

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
            simulate: Makes pairs of draws of the system, for `pretrain`.

        Raises:
            ValueError: If there are too few members, or the network is a ring or amortised.
        """
        self._check_members(pairs[0])
        if self.axis is not None or self.weights is not None:
            raise ValueError(
                "The two heads of a nonlinear observation are a dense network of their own: leave "
                "`axis` and `weights` of the NetworkPrior out."
            )
        memory = self._recalled() if self._memory is None else self._memory
        if self.pretrain and memory.weights is None and memory.problem is not None and simulate:
            self._fit_heads(memory, simulate(memory.draws(self.pretrain, self.seed)), space)
        return self._fit_heads(memory, pairs, space)

    def _fit_heads(
        self, memory: Memory, pairs: Pairs, space: StateSpace | AugmentedSpace | None
    ) -> FittedHeads:
        base = EnsembleGaussian(self.localization) if self.gaussian else None
        pool = HeadsPool.of(pairs, self._held(pairs[0]), base, space)
        inner = self._network(pool.pairs.shape[1], (), FEATURES, pool.pairs.device)
        network = TwoHeads(inner, pool.margins, self.low, pool.whole)
        report = self._learn(memory, network, pool.pairs, None, pool.loss, self.patience)
        # A sampler wants gradients by the state alone.
        return FittedHeads(network.requires_grad_(False), report)

    def _fit(
        self,
        memory: Memory,
        ensemble: Tensor,
        modes: Modes | None,
        space: StateSpace | AugmentedSpace | None,
    ) -> FittedNetwork:
        axes, base = self._axes(modes, space), self._base()
        climate = self._climate(modes, space)
        whole = base.fit(ensemble, modes, space)
        members = ensemble if modes is None else modes.forward(ensemble)
        network = self._corrected(members[:1], axes, 0 if climate is None else CONTEXT)
        # Held to many forecasts in training: a few members of one could not tell.
        if climate is not None and self.fine_tune == 0:
            self._check_known(memory, network.correction)
            check_trained_for((self.weights or {}).get("precision"), modes)
            memory.load(network.correction)
            network.meets(whole, axes, climate, self.gaussian)
            return FittedNetwork(network, whole, axes)
        parts = [
            (base.fit(ensemble[others], modes, space), members[own])
            for others, own in folds(len(ensemble), self._held(ensemble))
        ]
        precision = modes.precision if modes is not None and self.levels == "these" else None
        pool = Pool.of(parts, axes, self.gaussian, climate, precision, self.weighting)
        levels, patience = pool.levels(self.observed), self.patience
        report = self._learn(
            memory, network, pool.members, levels, pool.loss, patience, pool.group
        )
        network.meets(whole, axes, climate, self.gaussian)
        return FittedNetwork(network, whole, axes, report)

    def _base(self) -> EnsembleGaussian | LocalGaussian:
        """What makes the Gaussians; a local one keeps its blocks from one to the next."""
        local = self.local and (self.local if self._memory else self.local.in_one_space())
        return local or EnsembleGaussian(self.localization)

    def _held(self, ensemble: Tensor) -> int:
        return max(1, round(self.validation * len(ensemble)))

    def _learn(
        self,
        memory: Memory,
        network: Corrected | TwoHeads,
        members: Tensor,
        levels: Levels | None,
        loss: Loss,
        patience: int | None,
        group: int = 1,
    ) -> dict[str, Any]:
        steps = self.fine_tune if self._check_known(memory, network.correction) else self.steps
        settings = self._training(max(steps, 1), members.shape[1], memory.fits, group)
        return learn(memory, network, members, settings, steps, patience, levels, loss)

    def _check_known(self, memory: Memory, network: nn.Module) -> bool:
        known = memory.knows(network)
        if self.weights is not None and not known:
            raise ValueError(
                "The weights of this NetworkPrior are those of another width, number of blocks or "
                "state: give it the settings that they were trained with."
            )
        return known

    def _training(self, steps: int, points: int, fits: int, group: int = 1) -> Training:
        return Training(
            training_steps=steps,
            # Two at least: one for the bridge and one for its encoding.
            batch=max(min(2, self.batch), self.batch // group),
            segment=points,
            rate=self.rate,
            average=0.98,
            min_noise=self.low,
            max_noise=self.high,
            observed=self.observed,
            validation=self.validation,
            every=min(self.every, steps),
            # Other noise in each cycle; `fit` takes the seed after this one too.
            seed=self.seed + 2 * fits,
        )

    @property
    def of_entries(self) -> bool:  # type: ignore[override]
        """Whether it is one of places: of a ring, or trained once."""
        return self.axis is not None or self.weights is not None

    @property
    def _names(self) -> tuple[str, ...]:
        return (self.axis,) if isinstance(self.axis, str) else self.axis or ()

    def _axes(self, modes: Modes | None, space: StateSpace | AugmentedSpace | None) -> Axes:
        if self.axis is None:
            return ()
        if space is None:
            raise ValueError("A NetworkPrior along a ring needs the space of the states.")
        check_entries(modes, space)
        assert isinstance(space, StateSpace)
        return tuple(space.axes.index(name) + space.has_channels for name in self._names)

    def _corrected(self, state: Tensor, axes: Axes, context: int) -> Corrected:
        grid = tuple(state.shape[1 + axis] for axis in axes)
        inner = self._network(state[0].numel(), grid, FEATURES + context, state.device)
        return Corrected(inner, self.low, self.high)

    def _network(self, size: int, grid: Axes, seen: int, device: torch.device) -> nn.Module:
        # As coarse as the Gaussians, so that it sees as far on a finer grid.
        patch = self.local.block if self.local else 1
        return correction(size, grid, self.width, self.blocks, seen, self.seed, patch).to(device)

    def _recalled(self, problem: Problem | None = None) -> Memory:
        return Memory(problem, None if self.weights is None else dict(self.weights))

    def _climate(
        self, modes: Modes | None, space: StateSpace | AugmentedSpace | None
    ) -> Climate | None:
        if self.weights is None:
            return None
        check_entries(modes, space)
        return Climate(self.weights["centre"], self.weights["scale"])

    def _check_members(self, ensemble: Tensor) -> None:
        if len(ensemble) < LEAST_MEMBERS:
            raise ValueError(
                f"Got {len(ensemble)} members: NetworkPrior holds some back and needs at least "
                f"{LEAST_MEMBERS}."
            )
