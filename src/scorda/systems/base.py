r"""The interface of a dynamical system.

A system is a Markov chain: a distribution of the state at step 0 and one step
:math:`x_{k+1} \sim p(x_{k+1} \mid x_k)` of length ``space.dt``, model error included.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from scorda.core import rng
from scorda.core.gaussian import gaussian_log_density, sampling_root
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.transforms import Transform

__all__ = [
    "AdditiveNoise",
    "System",
    "along",
    "check_step",
    "forecast",
    "plain_settings",
    "rk4",
]


class System(ABC):
    """A Markov chain of states, batched over all leading axes, of which members are the first.

    Subclasses set `space`, `name`, `stochastic` (whether a step draws model error) and
    `differentiable` (whether the system has a model `advance`, the step without its additive
    error, that autograd can follow). Where `drops` is set, a member whose model fails is NaN from
    then on, and the ensemble goes on without it. `parameters` are the settings that members may
    have of their own (`with_values`); None: any name, as of arguments of a user's function.
    """

    space: StateSpace
    name: str
    stochastic: bool = False
    differentiable: bool = False
    drops: bool = False
    parameters: ClassVar[tuple[str, ...] | None] = ()

    @property
    def context(self) -> Float[Tensor, "fields *grid"] | None:
        """Constant fields that tell places apart, such as a force; a network may see them."""
        return None

    @abstractmethod
    def prior(
        self, members: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble *state"]:
        """Draw independent states from the distribution at step 0."""

    @abstractmethod
    def step(
        self, x: Float[Tensor, "..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Advance states ``(..., *state)`` by one step, model error included."""

    def at(self, step: int, members: Sequence[int] | None = None) -> System:
        """Return the system that makes one step: itself, unless its model asks for the step.

        Arguments:
            step: Number of the step that the states are of, from 0.
            members: Numbers of the members; None: they count from 0.
        """
        return self

    def with_values(self, values: Mapping[str, Float[Tensor, "..."]]) -> System:
        """Return the same system, whose members have values of their own of some `parameters`.

        Arguments:
            values: Values by name, of the shape of the leading axes of the states to come, of
                which the members are the first.
        """
        other = copy.copy(self)
        for name, value in values.items():
            # The settings of a frozen dataclass; its checks are of single numbers.
            object.__setattr__(other, name, value)
        return other

    def with_transforms(self, transforms: Mapping[str, Transform]) -> System:
        """Return the same system, of which further variables have bounds.

        Forecasts and trajectories take what a step puts on a bound, or beyond, as the next number
        inside; additive model error (`AdditiveNoise`) is of the coordinates without bounds.

        Arguments:
            transforms: Maps onto the real numbers by the name of the variable, such as
                ``{"humidity": Logit(0, 1)}``.

        Raises:
            ValueError: If there is no such variable.
        """
        other = copy.copy(self)
        # The attribute of a frozen dataclass.
        object.__setattr__(other, "space", self.space.with_transforms(transforms))
        return other

    def apart_from(self, truth: Float[Tensor, "*state"]) -> System:
        """Return the same system, whose `prior` never returns a given state at step 0.

        That is itself, unless it draws from a sample of states.
        """
        return self

    def log_transition(
        self, x: Float[Tensor, "..."], x_next: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the log density of one step, of the shape of the leading axes.

        Raises:
            TypeError: If the step has no density (no model error).
        """
        raise TypeError(
            f"{type(self).__name__} has no transition density: give it model error "
            "(noise_std > 0) or use a method that needs none."
        )

    def trajectory(
        self, x: Float[Tensor, "..."], steps: int, generator: rng.Seed = None
    ) -> Float[Tensor, "..."]:
        """Return ``(..., steps + 1, *state)``: the given states and those that follow [final].

        Raises:
            ValueError: If the states do not fit the space, are not finite, or beyond their bounds.
        """
        self.space.check(x, "the first state")
        self.space.check_bounds(x, "the first state")
        generator = rng.as_generator(generator)
        axis = x.ndim - len(self.space.shape)
        states = [self.space.within(x)]
        for k in range(steps):
            states.append(self.space.within(self.at(k).step(states[-1], generator)))
        return torch.stack(states, axis)


class AdditiveNoise(System):
    r"""A deterministic model with additive model error.

    .. math:: x_{k+1} = \mathcal M(x_k) + \varepsilon, \quad \varepsilon \sim \mathcal N(0, Q)

    Subclasses write `advance`, the model :math:`\mathcal M`. Q is diagonal with the standard
    deviations `noise_std`, one number or one per entry of the state, in its units; 0 makes the
    system deterministic. Where `noise_cov` is not None it is Q of the flattened state. Variables
    with bounds get their error in the `transforms` of the space, and so stay inside. The entries
    of a flattened state in `unchanging` never change, as constant parameters.
    """

    noise_std: float | Float[Tensor, "..."]
    noise_cov: Float[Tensor, "size size"] | None = None
    unchanging: Bool[Tensor, "size"] | None = None
    differentiable = True

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.has_error

    @property
    def has_error(self) -> bool:
        """Whether the covariance Q of the additive error is not zero [final]."""
        if self.noise_cov is not None:
            return bool(self.noise_cov.any())
        std = self.noise_std
        return bool((std > 0).any()) if isinstance(std, Tensor) else std > 0

    @abstractmethod
    def advance(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Advance states ``(..., *state)`` by one step without model error."""

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        """Advance by one step; row i of the noise depends on the generator and i only."""
        return self.disturbed(self.advance(x), generator)

    def disturbed(
        self,
        x: Float[Tensor, "..."],
        generator: rng.Seed = None,
        members: Sequence[int] | None = None,
    ) -> Float[Tensor, "..."]:
        """Return states that the model has advanced with their model error [final].

        Arguments:
            x: States, of which members are the first axis.
            generator: Source of the noise.
            members: Numbers of the members, which choose their noise; None: they count from 0.
        """
        if not self.has_error:
            return x
        shape = self.space.shape
        rows, inner = (1, tuple(x.shape)) if x.shape == shape else (x.shape[0], x.shape[1:])
        drawn = rows if members is None else max(members) + 1
        noise = rng.normal(drawn, tuple(inner), generator, like=x)
        noise = (noise if members is None else noise[list(members)]).reshape(x.shape)
        if self.noise_cov is None:
            return self.space.filled(self.space.moved(x, self._std(x) * noise))
        root = sampling_root(self.noise_cov).to(x)
        error = (noise.flatten(-len(shape)) @ root).reshape(x.shape)
        return self.space.filled(self.space.moved(x, error))

    def log_transition(
        self, x: Float[Tensor, "..."], x_next: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the log density of the model error between two states [final].

        It is the density of the entries that change. The error of a circular variable is taken
        the short way round, which for an error far below half a period is the whole density.

        Raises:
            TypeError: If the model error has no density, because Q is singular.
        """
        return self.log_error(self.advance(x), x_next)

    def log_error(
        self, advanced: Float[Tensor, "..."], x_next: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the log density of a state given the one that the model has advanced [final].

        It is highest where the two are the same.

        Raises:
            TypeError: If the model error has no density, because Q is singular.
        """
        axes, space = len(self.space.shape), self.space
        inside = space.inside if self.unchanging is None else space.inside & ~self.unchanging
        inside = inside.to(advanced.device).reshape(space.shape)
        error = space.shortest(space.unbounded(x_next) - space.unbounded(advanced))
        slope = space.log_slope(x_next, inside)
        if self.noise_cov is not None:
            cov, error = self.noise_cov, error.flatten(-axes)
            if self.unchanging is not None:
                kept = inside.flatten()
                cov, error = cov[kept][:, kept], error[..., kept]
            if torch.linalg.cholesky_ex(cov).info.item() != 0:
                return super().log_transition(advanced, x_next)
            return slope + gaussian_log_density(error, error.new_zeros(len(cov)), cov.to(advanced))
        std = torch.as_tensor(self._std(advanced)).to(advanced).expand(space.shape)
        if not (std > 0)[inside].all():
            return super().log_transition(advanced, x_next)
        # The gradient of what is masked would be NaN where its error is 0.
        white = (error / std.masked_fill(~inside, 1.0)).masked_fill(~inside, 0.0)
        log_norm = std[inside].log().sum() + 0.5 * int(inside.sum()) * math.log(2 * math.pi)
        return slope - 0.5 * white.square().sum(tuple(range(-axes, 0))) - log_norm

    def _std(self, like: Tensor) -> float | Tensor:
        std = self.noise_std
        return std.to(like) if isinstance(std, Tensor) else std


def forecast(
    system: Any,
    x: Float[Tensor, "ensemble ..."],
    generator: rng.Seed,
    step: int,
    members: Sequence[int] | None = None,
) -> Float[Tensor, "ensemble ..."]:
    """Advance an ensemble by one step of a system, which is told the step where it asks for it.

    Arguments:
        system: A `System`, or anything else with a `step`.
        x: States ``(ensemble, *state)``.
        generator: Source of the model error.
        step: Number of the step that the states are of, from 0.
        members: Numbers of the members; None: they count from 0.
    """
    if isinstance(system, System):
        system = system.at(step, members)
    moved: Tensor = system.step(x, generator)
    return system.space.within(moved) if system.space.transforms else moved


def rk4(
    tendency: Callable[[Tensor], Tensor], x: Float[Tensor, "..."], dt: float
) -> Float[Tensor, "..."]:
    r"""Advance :math:`\dot x = f(x)` by one step of the classical Runge-Kutta method.

    The order is four: the error after a fixed time falls with :math:`dt^4` (tested).
    """
    k1 = tendency(x)
    k2 = tendency(x + 0.5 * dt * k1)
    k3 = tendency(x + 0.5 * dt * k2)
    k4 = tendency(x + dt * k3)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def along(value: float | Float[Tensor, "..."], axes: int) -> float | Float[Tensor, "..."]:
    """Return a setting, which members may have of their own, to be taken with so many axes."""
    return value.reshape(*value.shape, *[1] * axes) if isinstance(value, Tensor) else value


def check_step(dt: float, noise_std: float) -> None:
    """Check the length of a step and its model error.

    Raises:
        ValueError: If the length is not positive, the standard deviation is negative, or one is
            infinite.
    """
    if not 0 < dt < math.inf:
        raise ValueError(f"Got dt = {dt}: the time step must be positive, and finite.")
    if not 0 <= noise_std < math.inf:
        raise ValueError(
            f"Got noise_std = {noise_std}: a standard deviation is not negative, and finite."
        )


def plain_settings(system: System) -> dict[str, int | float | str | bool]:
    """Return the settings of a system that are plain numbers and names."""
    return {k: v for k, v in vars(system).items() if isinstance(v, int | float | str | bool)}
