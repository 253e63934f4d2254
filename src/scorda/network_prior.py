r"""A network prior: the Gaussian of an ensemble, and what a small network learns beyond it.

The denoiser (`network_denoiser`) is exact where the network says nothing, and the network starts
from zero: a few tens of members say little beyond their covariance, and where they say nothing the
filter is that of the Gaussian. The network is trained by the loss of `train`, on all noise levels
and on levels as observations of some of the entries make them (`train.observed_levels`): one
network serves every observing network that picks entries.

Members are held back in each cycle. Training starts from the weights of the cycle before, which
are kept where no later ones have a lower loss on the members held back; and where none is below
that of the Gaussian alone, the network is left out of this analysis. During training the Gaussian
is that of the other members, in the analysis that of all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from scorda import rng
from scorda.assimilate import GaspariCohn
from scorda.augment import AugmentedSpace
from scorda.denoise import GaussianDenoiser
from scorda.ensemble_prior import EnsembleGaussian, EnsemblePrior, FittedGaussian
from scorda.modes import Modes
from scorda.network_denoiser import Corrected, FittedNetwork, laid_out
from scorda.nn.residual import DenseCorrection, RingCorrection
from scorda.problem import Problem
from scorda.process import VarianceExploding
from scorda.shapes import Float, Tensor
from scorda.space import StateSpace
from scorda.train import Training, fit, validation_loss

__all__ = ["NetworkPrior"]

# One member is held back, and a covariance needs two.
LEAST_MEMBERS = 3


@dataclass
class _Memory:
    """What one run hands from analysis to analysis, and what it may be pre-trained on."""

    problem: Problem | None = None
    weights: dict[str, Tensor] | None = None
    fits: int = 0


@dataclass(frozen=True)
class NetworkPrior(EnsemblePrior):
    """A small denoising network, fine-tuned on each forecast ensemble.

    Approximate. In a run a filter calls `begin`, whose copy of the prior fine-tunes from cycle to
    cycle; `fit` of the prior itself trains anew each time. The weights travel with the run
    (`Cycle.carried`), so that a run continued from a stored step has the bits of one that was
    never interrupted.

    Weights are those of coordinates: the modes of the observation, which for masks, strides and
    selections are the entries of the state. With other operators the network is one in the modes,
    so it has to learn anew when the operator changes, and a ring is refused.

    The Gaussian's part costs a Cholesky factor per noisy sample, of the size of the state where
    localized, of the number of members otherwise: for states of some hundreds of components, or
    ``gaussian=False``, which leaves the variances alone.

    Source: fine-tuning from the cycle before, after SF (Bao, Zhang & Zhang 2024, JCP) and MASF
    (arXiv 2604.02889). Our own: the Gaussian under the network, levels per entry, the members
    held back, and leaving the network out where they say so.

    Arguments:
        axis: Name of a periodic coordinate to convolve along, or None for a dense network.
        localization: Taper of the Gaussian's covariance by distance, or None.
        gaussian: Whether the network corrects the Gaussian, or variances alone.
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
        validation: Share of members held back.
        every: Steps between validations.
        patience: Validations without improvement that stop the training.
        seed: Seed of the first weights and of all training noise.
    """

    axis: str | None = None
    localization: GaspariCohn | None = None
    gaussian: bool = True
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
    validation: float = 0.2
    every: int = 25
    patience: int = 4
    seed: int = 0
    _memory: _Memory | None = field(default=None, init=False, repr=False, compare=False)

    least_members = LEAST_MEMBERS

    def __post_init__(self) -> None:
        self._training(max(self.steps, 1), 1, 0)
        if self.levels not in ("any", "these"):
            raise ValueError(f'Got levels = {self.levels!r}: choose "any" or "these".')
        for name in ("steps", "fine_tune", "pretrain", "blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"Got {name} = {getattr(self, name)}: it must not be negative.")
        if self.width < 1 or self.patience < 1 or 0 < self.pretrain < LEAST_MEMBERS:
            raise ValueError(
                f"Got width = {self.width}, patience = {self.patience}, pretrain = "
                f"{self.pretrain}: need a width and a patience of at least 1, and no draws or "
                f"at least {LEAST_MEMBERS}."
            )

    def check(self, space: StateSpace) -> None:
        EnsembleGaussian(self.localization).check(space)
        if self.axis is not None and self.axis not in space.period:
            raise ValueError(
                f"NetworkPrior(axis={self.axis!r}) convolves along a ring: the periodic "
                f"coordinates of this space are {list(space.period)}; name one of them, or leave "
                "the axis out for a dense network."
            )

    def begin(self, problem: Problem) -> NetworkPrior:
        """Return a copy that remembers its weights from one `fit` to the next."""
        run = copy.copy(self)
        object.__setattr__(run, "_memory", _Memory(problem))
        return run

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        memory = self._memory
        assert memory is not None
        weights = dict(carried)
        memory.fits = int(weights.pop("fits"))
        memory.weights = weights

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedNetwork:
        if len(ensemble) < LEAST_MEMBERS:
            raise ValueError(
                f"Got {len(ensemble)} members: NetworkPrior holds some back and needs at least "
                f"{LEAST_MEMBERS}."
            )
        if self.pretrain and isinstance(space, AugmentedSpace):
            raise ValueError(
                f"Got NetworkPrior(pretrain={self.pretrain}) for a nonlinear observation: its "
                "draws are of the state alone; leave pretrain out."
            )
        memory = _Memory() if self._memory is None else self._memory
        if self.pretrain and memory.weights is None and memory.problem is not None:
            self._fit(memory, self._draws(memory.problem), None, space)
        return self._fit(memory, ensemble, modes, space)

    def _fit(
        self,
        memory: _Memory,
        ensemble: Tensor,
        modes: Modes | None,
        space: StateSpace | AugmentedSpace | None,
    ) -> FittedNetwork:
        axis = self._axis(modes, space)
        base = EnsembleGaussian(self.localization)
        whole = base.fit(ensemble, modes, space)
        inner = self._network(laid_out(ensemble, axis), ensemble.device)
        # Of a nonlinear observation some values may be absent: another size, another network.
        known = memory.weights
        tuned = known is not None and _fits(inner, known)
        if known is not None and tuned:
            inner.load_state_dict(known)
        network = Corrected(inner, self.low, self.high)
        report = self._train(network, base, ensemble, modes, space, axis, memory.fits, tuned)
        network.gaussian = self._bound(whole, axis)
        memory.fits += 1
        memory.weights = {name: w.detach().clone() for name, w in inner.state_dict().items()}
        report["carried"] = {**memory.weights, "fits": torch.tensor(memory.fits)}
        return FittedNetwork(network, whole, axis, report)

    def _draws(self, problem: Problem) -> Tensor:
        """States of the system as they are at the first observation."""
        generator = rng.seeded(self.seed)
        draws = problem.system.prior(self.pretrain, generator)
        if problem.initial is not None:
            draws = draws.to(problem.initial)
        for _ in range(min(problem.observed(), default=0)):
            draws = problem.system.step(draws, generator)
        return draws

    def _train(
        self,
        network: Corrected,
        base: EnsembleGaussian,
        ensemble: Tensor,
        modes: Modes | None,
        space: StateSpace | AugmentedSpace | None,
        axis: int | None,
        fits: int,
        tuned: bool,
    ) -> dict[str, Any]:
        """Train on all but the last members, and say whether that helped with those."""
        steps = self.fine_tune if tuned else self.steps
        held = max(1, round(self.validation * len(ensemble)))
        part = base.fit(ensemble[:-held], modes, space)
        network.gaussian = self._bound(part, axis)
        members = ensemble if modes is None else modes.forward(ensemble)
        z = laid_out((members - part.mean) / part.var.sqrt(), axis).float()
        settings = self._training(max(steps, 1), z.shape[1], fits)
        levels = None
        if self.levels == "these" and modes is not None:
            precision = modes.precision.to(part.var) * part.var
            levels = partial(_bridge_levels, laid_out(precision[None], axis)[0].float())
        history: list[dict[str, float]] = []
        if steps:
            history = fit(network, z, settings, keep=True, patience=self.patience, levels=levels)
        network.corrects = False
        gaussian = validation_loss(network, z, settings, levels)
        network.corrects = True
        loss = validation_loss(network, z, settings, levels)
        network.corrects = loss < gaussian
        return {
            "loss": loss,
            "gaussian_loss": gaussian,
            "training_steps": int(history[-1]["step"]) if history else 0,
        }

    def _training(self, steps: int, points: int, fits: int) -> Training:
        return Training(
            steps=steps,
            batch=self.batch,
            segment=points,
            rate=self.rate,
            average=0.98,
            low=self.low,
            high=self.high,
            observed=self.observed,
            validation=self.validation,
            every=min(self.every, steps),
            # Other noise in each cycle; `fit` takes the seed after this one too.
            seed=self.seed + 2 * fits,
        )

    def _axis(self, modes: Modes | None, space: StateSpace | AugmentedSpace | None) -> int | None:
        if self.axis is None:
            return None
        if space is None:
            raise ValueError("A NetworkPrior along a ring needs the space of the states.")
        if modes is not None and not modes.trivial:
            raise ValueError(
                f"NetworkPrior(axis={self.axis!r}) takes observations of entries of the state "
                "(masks, strides, selections with independent errors), whose modes have places "
                "on the ring: leave the axis out for any other operator."
            )
        if isinstance(space, AugmentedSpace):
            raise ValueError(
                f"NetworkPrior(axis={self.axis!r}) takes linear observations: simulated ones have "
                "no place on the ring; leave the axis out."
            )
        return space.axes.index(self.axis) + space.has_channels

    def _network(self, layout: Tensor, device: torch.device) -> nn.Module:
        """The network with its first weights, a function of the seed; in single precision."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network: nn.Module
            if self.axis is None:
                network = DenseCorrection(layout[0].numel(), self.width, self.blocks)
            else:
                network = RingCorrection(layout.shape[2], self.width, self.blocks)
        return network.to(device, torch.float32)

    def _bound(self, fitted: FittedGaussian, axis: int | None) -> GaussianDenoiser | None:
        """The Gaussian in standard deviations, in the layout of the network."""
        if not self.gaussian:
            return None
        shape = fitted.var.shape
        basis = fitted.basis / fitted.var.sqrt().flatten()[:, None]
        rows = laid_out(basis.mT.reshape(-1, *shape), axis)
        mean = torch.zeros_like(rows[0]).double()
        spectrum = fitted.spectrum.double()
        # Its columns need not be orthonormal for `denoise`, whose process plays no part.
        return GaussianDenoiser(mean, rows.flatten(1).mT.double(), spectrum, VarianceExploding())


def _fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are of a network of this size."""
    return all(weights[name].shape == w.shape for name, w in network.state_dict().items())


def _bridge_levels(
    precision: Tensor, noise: Tensor, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Levels of the bridge, and every other time those of its encoding, at r = 1 / noise^2."""
    r = noise.double().square().reciprocal().reshape(-1, *(1,) * len(shape))
    seen = precision.to(r) * (torch.arange(len(noise)) % 2).reshape(r.shape)
    return (seen + (1 + seen) * r).rsqrt().expand(-1, *shape)
