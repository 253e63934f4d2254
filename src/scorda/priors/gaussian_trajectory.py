"""The exact law of trajectories of a linear-Gaussian system, the oracle of the tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.diffusion.samplers import Multistep, Sampler, ScalarProcess, VarianceExploding
from scorda.priors.trajectory import Prior, Standardisation
from scorda.systems.linear import LinearGaussian

__all__ = ["GaussianTrajectory"]


@dataclass(frozen=True, eq=False)
class GaussianTrajectory(Prior):
    """The exact Gaussian law of a linear-Gaussian system's trajectories.

    Made by `of`. Exact for trajectories of the length it was made for, and for no other.

    Arguments:
        space: Space of the states.
        standardisation: Map between states and the sampler's coordinates, per component.
        mean: Mean of a standardised trajectory, ``(time, *state)``.
        cov: Covariance of the flattened standardised trajectory.
        process: Forward process that sampling uses.
        sampler: Default sampler.
    """

    space: StateSpace
    standardisation: Standardisation
    mean: Float[Tensor, "time ..."]
    cov: Float[Tensor, "trajectory trajectory"]
    process: ScalarProcess = field(default_factory=lambda: VarianceExploding(1e-3, 1e3))
    sampler: Sampler = field(default_factory=lambda: Multistep(corrections=0, max_noise=1e3))

    per_entry = True

    @classmethod
    def of(cls, system: LinearGaussian, steps: int) -> GaussianTrajectory:
        """The law of ``steps + 1`` states of a system."""
        mean, cov = system.trajectory_moments(steps)
        states, size = steps + 1, system.space.size
        mean = mean.reshape(states, size)
        var = cov.diagonal().reshape(states, size)
        centre = mean.mean(0)
        scale = (var + (mean - centre).square()).mean(0).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        weight = scale.repeat(states)
        return cls(
            system.space,
            Standardisation(centre, scale),
            (mean - centre) / scale,
            cov / (weight[:, None] * weight),
        )

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def to(self, device: torch.device | str) -> GaussianTrajectory:
        return replace(self, mean=self.mean.to(device), cov=self.cov.to(device))

    def denoiser(self, states: int) -> GaussianDenoiser:
        if states != len(self.mean):
            raise ValueError(
                f"Asked for trajectories of {states} states of a Gaussian prior made for "
                f"{len(self.mean)}: make it with steps = {states - 1}."
            )
        return GaussianDenoiser.from_cov(self.mean, self.cov)
