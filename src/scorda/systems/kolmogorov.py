r"""Kolmogorov flow: two-dimensional turbulence that a force of one wave number drives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from scorda.core import rng
from scorda.core.shapes import Complex, Float, Tensor
from scorda.core.space import StateSpace
from scorda.systems.base import AdditiveNoise, check_step
from scorda.systems.vorticity import PeriodicFlow

__all__ = ["KolmogorovFlow"]

# Points along an axis of the grid: 2 GB for one field in double precision.
LARGEST = 2**14

# The wave number of most energy in the first fields, the variance of its logarithm, and the
# largest speed.
PEAK, LOG_VARIANCE, FASTEST = 4.0, 0.25, 3.0
# Points per axis of the noise that the first fields are made of, whatever the resolution.
NOISE = 64
# Share of the spin-up at half the resolution, and the least resolution that is halved to.
COARSE_SHARE, COARSEST = 0.75, 64


@dataclass(frozen=True)
class KolmogorovFlow(AdditiveNoise):
    r"""Incompressible flow on a periodic square of side :math:`2 \pi`, forced along x.

    .. math:: \partial_t (u, v) + (u, v) \cdot \nabla (u, v) = -\nabla p + \nu \nabla^2 (u, v)
        - \mu (u, v) + (A \sin(m y), 0), \quad \nabla \cdot (u, v) = 0

    States are velocities ``(2, y, x)`` at the points :math:`2 \pi j / \mathrm{size}`. A step takes
    the divergence-free part of a state below wave number size / 2, advances it at `resolution`
    (pseudo-spectral, RK4, ``systems.vorticity``) and drops the wave numbers from size / 2 on
    again, so that the chain is one of states of that size. At a resolution of 128 and viscosity
    1.5e-3, states of 64 lose by this 0.4 % of the energy of wave numbers 13-20 within 10 steps,
    and less of lower ones; over 64 steps every band is that of the whole fields to 1.2 % (20
    trajectories, standard error 2 %).

    The relative error of one step of 0.2, for 20 developed flows at viscosity 1e-3: the substeps
    leave 1e-5 in the median and 5e-5 at most (at resolution 64: 7e-5 and 2e-4, in single precision
    too), compared with substeps of a quarter. The grid leaves, compared with 256 points, in the
    median of 6 flows 3e-4 for states of 64 and 3e-6 for 32; at resolution 64 2e-2 and 1e-3.

    Source: the settings of Rozet & Louppe (2023), https://arxiv.org/abs/2306.10574, section 4.2,
    whose states are means of 4 x 4 cells of a finite-volume solver on 256 x 256.

    Arguments:
        size: Points of a state along each axis.
        resolution: Points of the solver's grid, at least `size`; wave numbers k with
            3 k < resolution are kept.
        viscosity: :math:`\nu`, one over the Reynolds number.
        drag: :math:`\mu`.
        forcing: A, zero for a flow that decays.
        wavenumber: m.
        dt: Length of one step.
        noise_std: Standard deviation of the model error per step; the next step drops the part of
            it that is not a flow of this size.
        spinup: Time that `prior` integrates before it returns a state. From random fields the mean
            energy of the flow of `sda` rises to 1.09 (3.2 to 6.4) and falls to 0.99 at 12.8; in
            the 12.8 time units after that it falls to 0.97 (368 trajectories, +- 0.006).
        speed: Largest :math:`|u| + |v|` that the usual number of substeps is made for; a member
            that is faster takes twice as many, or four times, and so on.
    """

    size: int = 64
    resolution: int = 128
    viscosity: float = 1e-3
    drag: float = 0.1
    forcing: float = 1.0
    wavenumber: int = 4
    dt: float = 0.2
    noise_std: float = 0.0
    spinup: float = 12.8
    speed: float = 6.0
    space: StateSpace = field(init=False, repr=False)
    name: str = field(default="kolmogorov", init=False, repr=False)
    parameters = ("viscosity", "drag", "forcing")

    def __post_init__(self) -> None:
        check_step(self.dt, self.noise_std)
        if not self.speed > 0:
            raise ValueError(f"Got speed = {self.speed}: the assumed speed must be positive.")
        for name in ("viscosity", "drag", "noise_std", "spinup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Got {name} = {getattr(self, name)}: it must be finite and not negative."
                )
        if not math.isfinite(self.forcing):
            raise ValueError(f"Got forcing = {self.forcing}: it must be finite.")
        for name in ("size", "resolution", "wavenumber"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"Got {name} = {getattr(self, name)}: give a whole number.")
        if not 4 <= self.size <= self.resolution <= LARGEST:
            raise ValueError(
                f"Got states of {self.size} points per axis for a grid of {self.resolution}: the "
                f"size must be at least 4 and at most the resolution, which is at most {LARGEST}."
            )
        if not 1 <= self.wavenumber <= self.flow.largest:
            raise ValueError(
                f"Got the wave number {self.wavenumber} of the force: a grid of "
                f"{self.resolution} keeps 1 to {self.flow.largest}; raise `resolution`."
            )
        length = 2 * math.pi
        points = length / self.size * np.arange(self.size)
        axes, period = {"y": points, "x": points}, {"y": length, "x": length}
        space = StateSpace((2, self.size, self.size), self.dt, ("u", "v"), axes, period)
        object.__setattr__(self, "space", space)

    @classmethod
    def sda(cls, size: int = 64, **settings: Any) -> KolmogorovFlow:
        """Return the flow whose states have the spectrum of the data of Rozet & Louppe (2023).

        Their finite-volume solver (Re = 1000, 256 x 256, means of 4 x 4 cells) is dissipative.
        Viscosity 1.5e-3 stands for its own dissipation and for the mean over cells together:
        the energy of wave numbers 1-3, 4-7, 8-12, 13-20 of 368 trajectories of 64 states is 0.97,
        1.05, 1.04, 1.06 of that of two of theirs (two standard errors of ours: 0.01; theirs
        differ by up to 14 %), the mean speed 0.99. The mean over cells alone takes 14 % of the
        last band; applied to our fields too, viscosity 1.25e-3 fits: 0.96, 1.02, 1.00, 0.94
        (20 trajectories, two standard errors 0.03 to 0.05).
        """
        return cls(**{"size": size, "resolution": 128, "viscosity": 1.5e-3} | settings)

    @property
    def flow(self) -> PeriodicFlow:
        """The solver, for states whose leading axes are flattened."""
        viscosity, drag, force = (
            value.reshape(-1) if isinstance(value, Tensor) else value
            for value in (self.viscosity, self.drag, self.forcing)
        )
        return PeriodicFlow(self.resolution, viscosity, drag, force, self.wavenumber, self.speed)

    @property
    def context(self) -> Float[Tensor, "1 y x"] | None:
        """The force per unit amplitude, of unit variance; None without a force."""
        if self.forcing == 0:
            return None
        y = torch.arange(self.size) * (2 * math.pi / self.size)
        column = math.sqrt(2) * torch.sin(self.wavenumber * y)
        return column[:, None].expand(1, self.size, self.size)

    def advance(self, x: Float[Tensor, "... 2 y x"]) -> Float[Tensor, "... 2 y x"]:
        flow = self.flow
        spectrum = flow.spectrum(x.reshape(-1, *self.space.shape))
        return flow.velocity(flow.integrate(spectrum, self.dt), self.size).reshape(x.shape)

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble 2 y x"]:
        """Draw developed flows: random fields, then `spinup` time units without model error.

        Three quarters of the spin-up are at half the resolution, at 64 at least, if that keeps
        the force. No trace of this is left: the first 8 states of `sda` have 1.009 +- 0.011 of the
        energy in wave numbers 13-20 that 64 states have.
        """
        flow, steps = self.flow, round(self.spinup / self.dt)
        coarse = replace(flow, resolution=max(flow.resolution // 2, COARSEST))
        spectrum = self._first_fields(members, generator)
        if coarse.resolution < flow.resolution and self.wavenumber <= coarse.largest:
            first = round(COARSE_SHARE * steps)
            steps -= first
            spectrum = coarse.spectrum(flow.velocity(spectrum, coarse.resolution))
            for _ in range(first):
                spectrum = coarse.integrate(spectrum, self.dt)
            spectrum = flow.spectrum(coarse.velocity(spectrum, coarse.resolution))
        for _ in range(steps):
            spectrum = flow.integrate(spectrum, self.dt)
        return flow.velocity(spectrum, self.size)

    def _first_fields(
        self, members: int, generator: rng.Seed
    ) -> Complex[Tensor, "members k columns"]:
        """White noise made divergence-free, its energy a log-normal function of wave number."""
        flow = self.flow
        spectrum = flow.spectrum(rng.normal(members, (2, NOISE, NOISE), generator))
        k = flow.wavenumbers(spectrum)
        energy = torch.exp(-(k / PEAK).log().square() / (2 * LOG_VARIANCE))
        # A ring of radius k has 2 pi k wave numbers; the mean velocity is left out.
        spectrum = spectrum * torch.where(k > 0, (energy / k).sqrt(), 0.0)
        speed = flow.velocity(spectrum, flow.resolution).square().sum(-3).sqrt()
        return spectrum * (FASTEST / speed.amax((-2, -1)))[:, None, None]
