"""The cosine process of SDA, whose noisy states have about the size of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.samplers import ScalarProcess

__all__ = ["VariancePreserving"]


@dataclass(frozen=True)
class VariancePreserving(ScalarProcess):
    r"""The cosine process of SDA.

    .. math:: \alpha(t) = \cos^2(\omega t), \quad \sigma^2(t) = 1 - \alpha^2(t) + \eta^2, \quad
        \omega = \arccos \sqrt{10^{-3}}

    The amplitude, not its square, is cos^2. Source: Rozet & Louppe (2023), section 4; the floor
    `eta` is from their public code (the paper has none).

    Arguments:
        eta: Standard deviation of the noise at t = 0, in units of the data.
        floor: Amplitude at t = 1.
    """

    eta: float = 1e-3
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 < self.floor < 1 and self.eta > 0):
            raise ValueError(
                f"Got floor = {self.floor}, eta = {self.eta}: need 0 < floor < 1 and eta > 0."
            )

    @property
    def omega(self) -> float:
        """Angular speed of the schedule."""
        return math.acos(math.sqrt(self.floor))

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.cos(self.omega * t).square()

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # 1 - cos^4 = sin^2 (1 + cos^2), without cancellation near t = 0.
        squared_sin = torch.sin(self.omega * t).square()
        return (squared_sin * (2 - squared_sin) + self.eta**2).sqrt()

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # alpha^2 (nu^2 + 1) = 1 + eta^2, and sin^2(w t) = 1 - alpha, written without cancellation.
        squared_alpha = (1 + self.eta**2) / (1 + noise.square())
        rest = ((noise.square() - self.eta**2) / (1 + noise.square())).clamp(min=0)
        squared_sin = rest / (1 + squared_alpha.sqrt())
        return torch.asin(squared_sin.sqrt().clamp(max=1)) / self.omega
