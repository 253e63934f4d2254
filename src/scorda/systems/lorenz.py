r"""The systems of Lorenz (1963) and Lorenz (1996), integrated with one RK4 step per `dt`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import LARGEST, StateSpace
from scorda.systems.base import AdditiveNoise, along, check_step, rk4

__all__ = ["Lorenz63", "Lorenz96"]


@dataclass(frozen=True)
class Lorenz63(AdditiveNoise):
    r"""Lorenz's model of convection.

    .. math:: \dot x = \sigma (y - x), \quad \dot y = x (\rho - z) - y, \quad
        \dot z = x y - \beta z

    The defaults are the stochastic system of Rozet & Louppe (2023), section 4.1: one step of 0.025
    and model error of variance 0.025. Source of the equations: Lorenz (1963), J. Atmos. Sci. 20.

    Arguments:
        dt: Length of one step in model time units.
        noise_std: Standard deviation of the model error per step, in units of the state.
        sigma: Prandtl number.
        rho: Rayleigh number.
        beta: Aspect ratio.
        spinup: Model time units that `prior` integrates before it returns a state.

    Example:
        >>> system = sc.systems.Lorenz63(rho=28.0)
        >>> states = system.prior(4, sc.rng.seeded(0))
        >>> system.step(states, sc.rng.seeded(1)).shape
        torch.Size([4, 3])
    """

    dt: float = 0.025
    noise_std: float = 0.025**0.5
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8.0 / 3.0
    spinup: float = 16.0
    space: StateSpace = field(init=False, repr=False)
    name: str = field(default="lorenz63", init=False, repr=False)
    parameters = ("sigma", "rho", "beta")

    def __post_init__(self) -> None:
        check_step(self.dt, self.noise_std)
        object.__setattr__(self, "space", StateSpace((3,), self.dt, ("x", "y", "z")))

    def advance(self, x: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        return rk4(self.tendency, x, self.dt)

    def tendency(self, x: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        """Time derivative of the state."""
        a, b, c = x.unbind(-1)
        return torch.stack(
            (self.sigma * (b - a), a * (self.rho - c) - b, a * b - self.beta * c), -1
        )

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble 3"]:
        """Draw states of the attractor: a broad Gaussian, then `spinup` time units."""
        start, model_error = rng.spawn(generator, 2)
        mean, std = torch.tensor([0.0, 0.0, 25.0]), torch.tensor([8.0, 9.0, 8.6])
        x = mean + std * rng.normal(members, (3,), start)
        for _ in range(round(self.spinup / self.dt)):
            x = self.step(x, model_error)
        return x


@dataclass(frozen=True)
class Lorenz96(AdditiveNoise):
    r"""Lorenz's model of an atmospheric quantity on a circle of latitude.

    .. math:: \dot x_i = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F

    Source: Lorenz (1996), Predictability, a problem partly solved (ECMWF), equation 1.

    Arguments:
        dim: Number of sites, at least 4, periodic.
        forcing: F.
        dt: Length of one step in model time units (0.05 is about six hours).
        noise_std: Standard deviation of the model error per step, in units of the state.
        spinup: Model time units that `prior` integrates before it returns a state.
    """

    dim: int = 40
    forcing: float = 8.0
    dt: float = 0.05
    noise_std: float = 0.0
    spinup: float = 20.0
    space: StateSpace = field(init=False, repr=False)
    name: str = field(default="lorenz96", init=False, repr=False)
    parameters = ("forcing",)

    def __post_init__(self) -> None:
        check_step(self.dt, self.noise_std)
        if not 4 <= self.dim <= LARGEST:
            raise ValueError(
                f"Got dim = {self.dim}: Lorenz-96 needs at least 4 sites, and at most {LARGEST}."
            )
        sites = {"site": np.arange(self.dim)}
        space = StateSpace((self.dim,), self.dt, ("x",), sites, {"site": float(self.dim)})
        object.__setattr__(self, "space", space)

    def advance(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return rk4(self.tendency, x, self.dt)

    def tendency(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Time derivative of the state."""
        # One copy with the ends repeated: three rolls pass over a large state three times.
        ring = torch.cat((x[..., -2:], x, x[..., :1]), -1)
        ahead, behind, behind2 = ring[..., 3:], ring[..., 1:-2], ring[..., :-3]
        return (ahead - behind2) * behind - x + along(self.forcing, 1)

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble dim"]:
        """Draw states of the attractor: noise around F, then `spinup` time units."""
        start, model_error = rng.spawn(generator, 2)
        x = along(self.forcing, 1) + rng.normal(members, (self.dim,), start)
        for _ in range(round(self.spinup / self.dt)):
            x = self.step(x, model_error)
        return x
