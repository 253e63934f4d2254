r"""Kolmogorov flow: two-dimensional turbulence driven by a sinusoidal force."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scorda import rng
from scorda.shapes import Complex, Float, Tensor
from scorda.space import StateSpace
from scorda.systems.base import AdditiveNoise
from scorda.systems.vorticity import PeriodicFlow

__all__ = ["KolmogorovFlow"]

# First fields: the wave number of most energy, the variance of its logarithm, the largest speed.
PEAK, LOG_VARIANCE, FASTEST = 4.0, 0.25, 3.0
# Points per axis of the noise that they are made of, whatever the resolution.
NOISE = 64


@dataclass(frozen=True)
class KolmogorovFlow(AdditiveNoise):
    size: int = 64
    resolution: int = 128
    viscosity: float = 1e-3
    drag: float = 0.1
    forcing: float = 1.0
    wavenumber: int = 4
    dt: float = 0.2
    noise_std: float = 0.0
    spinup: float = 12.8
    speed: float = 5.0
    space: StateSpace = field(init=False, repr=False)
    name: str = field(default="kolmogorov", init=False, repr=False)

    def __post_init__(self) -> None:
        length = 2 * math.pi
        axis = length / self.size * np.arange(self.size)
        space = StateSpace(
            (2, self.size, self.size),
            self.dt,
            ("u", "v"),
            {"y": axis, "x": axis},
            {"y": length, "x": length},
        )
        object.__setattr__(self, "space", space)

    @classmethod
    def sda(cls, size: int = 64, **settings: Any) -> KolmogorovFlow:
        return cls(**{"size": size, "resolution": 128, "viscosity": 1.5e-3} | settings)

    @property
    def flow(self) -> PeriodicFlow:
        return PeriodicFlow(
            self.resolution,
            self.viscosity,
            self.drag,
            self.forcing,
            self.wavenumber,
            self.speed,
        )

    def advance(self, x: Float[Tensor, "... 2 n n"]) -> Float[Tensor, "... 2 n n"]:
        states = x.reshape(-1, *self.space.shape)
        spectrum = self.flow.integrate(self.flow.spectrum(states), self.dt)
        return self.flow.velocity(spectrum, self.size).reshape(x.shape)

    def prior(
        self, members: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble 2 n n"]:
        spectrum = self.first(members, generator)
        for _ in range(round(self.spinup / self.dt)):
            spectrum = self.flow.integrate(spectrum, self.dt)
        return self.flow.velocity(spectrum, self.size)

    def first(self, members: int, generator=None):
        noise = rng.normal(members, (2, NOISE, NOISE), generator)
        spectrum = self.flow.spectrum(noise)
        k = self.flow.wavenumbers(spectrum)
        amplitude = torch.where(k > 0, torch.exp(-(k.clamp(min=1) / PEAK).log() ** 2 / (4 * LOG_VARIANCE)) / k.clamp(min=1).sqrt(), 0.0)
        spectrum = spectrum * amplitude
        v = self.flow.velocity(spectrum, self.resolution)
        fastest = v.square().sum(1).amax((-2, -1)).sqrt()
        return spectrum * (FASTEST / fastest)[:, None, None]
