r"""The kernel density on the members of an ensemble as a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace, variable_std
from scorda.diffusion.denoisers import KernelDenoiser
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes, ScaledModes
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import positive

__all__ = ["FittedKernel", "Kernel"]


@dataclass(frozen=True, eq=False)
class FittedKernel:
    r"""The kernel density :math:`\sum_i w_i N(x_i, h^2 I)` of an ensemble, in the modes.

    Its denoiser is `KernelDenoiser`, with a level for each mode, also infinite ones.

    Arguments:
        members: x_i, ``(members, *shape)``.
        bandwidth: h, one number or one per mode.
        log_weights: log w_i up to a constant, ``(members,)`` (default: equal).
    """

    members: Float[Tensor, "members ..."]
    bandwidth: float | Float[Tensor, "..."]
    log_weights: Float[Tensor, "members"] | None = None

    @property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode."""
        if self.log_weights is None:
            return positive(self.members.var(0, correction=0) + self.bandwidth**2)
        w = self.log_weights.softmax(0)
        mean = torch.tensordot(w, self.members, 1)
        between = torch.tensordot(w, (self.members - mean).square(), 1)
        return positive(between + self.bandwidth**2)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the mean given u, exact for any levels, also infinite ones."""
        return self._denoiser.denoise(u, noise)

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members, each moved within its kernel."""
        return members + self.bandwidth * noise()

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the latents as they are: the kernels reach in every direction."""
        return latents

    @cached_property
    def _denoiser(self) -> KernelDenoiser:
        return KernelDenoiser(self.members, self.bandwidth, self.log_weights)


@dataclass(frozen=True)
class Kernel(EnsemblePrior):
    """The kernel density on the members.

    Exact as N grows and the standard deviation of a kernel falls, however far the forecast is
    from Gaussian; the members that this takes grow exponentially with the number of directions
    that are observed.
    The variance of the density is that of the members plus that of a kernel.

    Arguments:
        std: Standard deviation of a kernel, positive: in standard deviations of each variable of
            the ensemble (root of the mean variance over the grid), and 0 in components in which
            all members agree.
        scale: "spread"; or "none": `std` is in the units of the state, which all variables share.
    """

    std: float
    scale: Literal["spread", "none"] = "spread"

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"Got std = {self.std}: it must be positive.")
        if self.scale not in ("spread", "none"):
            raise ValueError(f"Got scale = {self.scale!r}: choose 'spread' or 'none'.")

    @property
    def in_units_of_state(self) -> bool:  # type: ignore[override]
        """Whether the width of a kernel is in the units of the state."""
        return self.scale == "none"

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedKernel:
        members = ensemble if modes is None else modes.forward(ensemble)
        if self.scale == "none":
            return FittedKernel(members, self.std)
        # Modes that mix entries are of entries of one unit, or of scaled ones.
        std = _spread(ensemble, space)
        std = torch.where(component_std(ensemble) > 0, std, 0.0)
        if isinstance(modes, ScaledModes):
            std = std / modes.unit.to(std)
        return FittedKernel(members, self.std * std)


def _spread(
    ensemble: Float[Tensor, "ensemble ..."], space: StateSpace | AugmentedSpace | None
) -> Float[Tensor, "..."]:
    """Spread of each variable; each simulated observation is a variable."""
    if not isinstance(space, AugmentedSpace):
        return variable_std(ensemble, space)
    size = space.space.size
    states = ensemble[:, :size].unflatten(1, space.space.shape)
    values = component_std(ensemble[:, size:])
    return torch.cat((variable_std(states, space.space).flatten(), values))
