r"""Denoisers of other libraries, and of one's own networks, as priors of trajectories.

Every denoiser here gives :math:`D(u, \nu) = E[x_0 \mid x_0 + \nu \varepsilon = u]` of what another
network gives, for one noise level per sample:

* `ModuleDenoiser`: any torch module of :math:`(u, \nu)`, which returns the mean or the noise;
* `AzulaDenoiser`: a denoiser of azula, of :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`;
* `DiffusersDenoiser`: a UNet of diffusers, with its scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.denoisers import Denoiser, align
from scorda.diffusion.samplers import Ancestral, Sampler, ScalarProcess, VarianceExploding
from scorda.priors.trajectory import Prior, Standardisation

__all__ = ["AzulaDenoiser", "DiffusersDenoiser", "ModuleDenoiser", "OwnPrior"]

# Halvings of the interval in which the time of a noise level is sought.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class ModuleDenoiser:
    """Denoiser of a torch module that takes noisy samples and one noise level for each.

    Arguments:
        module: Maps ``(samples, *shape)`` and ``(samples,)`` to ``(samples, *shape)``.
        predicts: What it returns: the "mean" of the data, or the "noise" of unit variance.

    Raises:
        ValueError: If it predicts something else.
    """

    module: nn.Module
    predicts: str = "mean"

    def __post_init__(self) -> None:
        if self.predicts not in ("mean", "noise"):
            raise ValueError(f"Got predicts = {self.predicts!r}: choose 'mean' or 'noise'.")

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        level = _level(noise, u)
        found: Tensor = self.module(u, level)
        return found if self.predicts == "mean" else u - align(level, u) * found


@dataclass(frozen=True, eq=False)
class AzulaDenoiser:
    """Denoiser of one of azula, whatever its schedule.

    The time of a noise level is found by halving; levels beyond those of the schedule have its
    first or its last time.

    Arguments:
        denoiser: A `Denoiser` of azula: ``denoiser(x_t, t).mean``, ``denoiser.schedule(t)``.
    """

    denoiser: Any

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        t = self._time(_level(noise, u))
        alpha, _ = self.denoiser.schedule(t)
        mean: Tensor = self.denoiser(align(alpha, u) * u, t).mean
        return mean

    def _time(self, level: Float[Tensor, "samples"]) -> Float[Tensor, "samples"]:
        low, high = torch.zeros_like(level), torch.ones_like(level)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            alpha, sigma = self.denoiser.schedule(middle)
            above = sigma > level * alpha
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return 0.5 * (low + high)


@dataclass(frozen=True, eq=False)
class DiffusersDenoiser:
    r"""Denoiser of a UNet of diffusers, with the scheduler that it was trained with.

    All axes of a sample but the last two are channels of the UNet. The time of a noise level
    :math:`\nu = \sqrt{(1 - \bar\alpha) / \bar\alpha}` is interpolated in its log between the
    steps of the scheduler; levels beyond have its first or its last step.

    Arguments:
        unet: ``unet(x, time).sample``, as the ``UNet2DModel`` of diffusers.
        scheduler: Its `alphas_cumprod` and ``config.prediction_type`` are used: "epsilon",
            "sample" or "v_prediction".

    Raises:
        ValueError: If the scheduler predicts something else.
    """

    unet: nn.Module
    scheduler: Any

    def __post_init__(self) -> None:
        kind = self.scheduler.config.prediction_type
        if kind not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(
                f"Got a scheduler with prediction_type = {kind!r}: it is one of epsilon, sample "
                "and v_prediction."
            )

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        bars = self.scheduler.alphas_cumprod.to(u)
        steps = (0.5 * ((1 - bars) / bars).log()).contiguous()
        level = _level(noise, u).log().clamp(steps[0], steps[-1]).contiguous()
        before = (torch.searchsorted(steps, level) - 1).clamp(0, len(steps) - 2)
        share = (level - steps[before]) / (steps[before + 1] - steps[before])
        nu = align(level.exp(), u)
        root = (1 + nu.square()).rsqrt()
        images = (root * u).reshape(len(u), -1, *u.shape[-2:])
        found = self.unet(images, before + share).sample.view_as(u)
        kind = self.scheduler.config.prediction_type
        if kind == "sample":
            return found
        if kind == "epsilon":
            return u - nu * found
        # v = alpha eps - sigma x_0, so that x_0 = alpha x_t - sigma v.
        return root.square() * u - nu * root * found


@dataclass(frozen=True, eq=False)
class OwnPrior(Prior):
    """A prior of trajectories of a denoiser of one's own, for SDA and for drawing from it.

    It is as good as the denoiser, which gets standardised trajectories ``(ensemble, time,
    *state)`` and one noise level for each. It has no file: keep the weights as their library does.

    Arguments:
        own: The denoiser: one of this module, or any other `Denoiser`.
        space: Space of the states.
        standardisation: Map between states and what the denoiser was trained on.
        process: Forward process that sampling uses.
        sampler: Default sampler; its noise levels must be among those of the training.
        on: Device of the denoiser, which the caller has moved there.
    """

    own: Denoiser
    space: StateSpace
    standardisation: Standardisation
    process: ScalarProcess = field(default_factory=lambda: VarianceExploding(1e-3, 1e3))
    sampler: Sampler = field(default_factory=Ancestral)
    on: torch.device | str = "cpu"

    @property
    def device(self) -> torch.device:
        return torch.device(self.on)

    def to(self, device: torch.device | str) -> OwnPrior:
        return replace(self, on=device)

    def denoiser(self, states: int) -> Denoiser:
        return self.own


def _level(noise: Float[Tensor, "..."], u: Float[Tensor, "ensemble ..."]) -> Tensor:
    """Return one noise level for each sample.

    Raises:
        ValueError: If entries of a sample have levels of their own.
    """
    level = noise.reshape((1,) * (u.ndim - noise.ndim) + noise.shape)
    if level[:1].numel() != 1:
        raise ValueError(
            "Got a noise level for each entry, and this denoiser takes one for each sample."
        )
    return level.flatten().expand(len(u)).to(u)
