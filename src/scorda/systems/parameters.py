r"""A system with unknown parameters: they become scalars of the state, beside the fields.

.. math:: (x, \theta)_{k+1} = (\mathcal M(x_k, \theta_k) + \varepsilon_k, \; \theta_k)

Every method that estimates the state then estimates the parameters too, by their correlations
with what is observed. Parameters with bounds are estimated in coordinates without (`Transform`):
no analysis leaves the bounds, and what is handed out, stored and scored are the parameters
themselves.

Source: state augmentation as in Anderson (2001), Mon. Wea. Rev. 129, 2884-2903, section 5, and
Aksoy, Zhang & Nielsen-Gammon (2006), Mon. Wea. Rev. 134, 2951-2970.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from scorda.core import rng
from scorda.core.distributions import Distribution
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.systems.base import AdditiveNoise, System
from scorda.systems.function import FunctionSystem

__all__ = ["WithParameters"]


class WithParameters(AdditiveNoise):
    r"""A system whose parameters are unknown numbers of the state.

    The state is that of the system, flattened, and then one entry for each parameter, a variable
    of its own in the space. Each member starts with a draw of the prior of the parameters, and
    advances with its own. By "constant" evolution a parameter never changes between analyses;
    by a "random-walk" it gets model error,

    .. math:: z_{k+1} = z_k + \mathrm{walk} \cdot s \cdot \eta_k, \quad \eta_k \sim N(0, 1),

    in its coordinate z without bounds, in which its prior has the standard deviation s. It lets
    parameters drift, and keeps the spread of a long run from vanishing.

    Localization takes parameters as next to all observations, unless they have `positions`.

    Arguments:
        system: A built-in system, whose own settings are parameters (`System.parameters`: sigma,
            rho and beta of `Lorenz63`, forcing of `Lorenz96`, viscosity, drag and forcing of
            `KolmogorovFlow`), or a `FunctionSystem`, whose function then gets ``step(x,
            parameters)`` with a dictionary of ``(ensemble,)``.
        parameters: Prior of each parameter by name, such as ``{"rho": Uniform(20, 35)}``.
        evolution: "constant", or "random-walk".
        walk: Standard deviation of a random walk per step, in that of the prior; one number, or
            one by name.
        positions: Position of a parameter by name, a number for each position of the space;
            localization then tapers it like a field there.

    Raises:
        TypeError: If the model error of the system is not additive.
        ValueError: If there is no parameter, the system has none of that name, a name is that of
            a variable, or a setting does not fit.

    Example:
        The number rho of Lorenz-63 is estimated with the state:

        >>> rho = sc.systems.Uniform(20, 35)
        >>> system = sc.WithParameters(sc.systems.Lorenz63(), {"rho": rho})
        >>> seen = sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> truth, problem = sc.twin_experiment(system, seen, steps=16, every=8, generator=0)
        >>> sc.EnKF().assimilate(problem, members=20, generator=0).sel("rho").shape
        (20, 17)
    """

    unchanging: Bool[Tensor, "size"]

    def __init__(
        self,
        system: System,
        parameters: Mapping[str, Distribution],
        evolution: Literal["constant", "random-walk"] = "constant",
        walk: float | Mapping[str, float] = 0.01,
        positions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not isinstance(system, AdditiveNoise) or isinstance(system, WithParameters):
            raise TypeError(
                f"WithParameters takes a system with additive model error or none, and "
                f"{type(system).__name__} is another: give a built-in one, or wrap your model as "
                "a FunctionSystem."
            )
        _check_parameters(system, parameters)
        if evolution not in ("constant", "random-walk"):
            raise ValueError(f"Got evolution = {evolution!r}: give 'constant' or 'random-walk'.")
        self.system, self.laws = system, dict(parameters)
        self.evolution, self.walk, self.positions = evolution, walk, dict(positions or {})
        self.name, self.differentiable = system.name, system.differentiable
        self.space = _space(system.space, self.laws, self.positions)
        walks = torch.zeros(len(self.laws), dtype=torch.float64)
        if evolution == "random-walk":
            walks = torch.tensor(_walks(self.laws, walk), dtype=torch.float64)
        self.unchanging = torch.cat([torch.zeros(system.space.size, dtype=torch.bool), walks == 0])
        self.noise_std, self.noise_cov = _error(system, walks)

    def __repr__(self) -> str:
        return f"WithParameters({self.system!r}, {self.laws}, evolution={self.evolution!r})"

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step draws model error, of the fields or of the parameters."""
        return self.system.stochastic or self.has_error

    @property
    def per_member(self) -> bool:
        """Whether the model is one of single members (`FunctionSystem`)."""
        return isinstance(self.system, FunctionSystem) and self.system.per_member

    def fields_of(self, x: Float[Tensor, "... size"]) -> Float[Tensor, "..."]:
        """Return the states of the system itself, ``(..., *its state)``."""
        inner = self.system.space
        return x[..., : inner.size].reshape(*x.shape[:-1], *inner.shape)

    def values_of(self, x: Float[Tensor, "... size"]) -> dict[str, Float[Tensor, "..."]]:
        """Return the values of the parameters by name, of the shape of the leading axes."""
        values = x[..., self.system.space.size :].unbind(-1)
        return dict(zip(self.laws, values, strict=True))

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble size"]:
        """Draw parameters, and states of the system that has them."""
        *own, states = rng.spawn(generator, len(self.laws) + 1)
        values = {
            name: law.sample(members, source)
            for (name, law), source in zip(self.laws.items(), own, strict=True)
        }
        return self.prior_given(values, states)

    def prior_given(
        self, values: Mapping[str, Float[Tensor, "ensemble"]], generator: rng.Seed = None
    ) -> Float[Tensor, "ensemble size"]:
        """Draw states at step 0 of members with these values of all parameters."""
        members = len(next(iter(values.values())))
        fields = self.system.with_values(values).prior(members, rng.as_generator(generator))
        drawn = [values[name].to(fields)[:, None] for name in self.laws]
        return torch.cat([fields.reshape(members, -1), *drawn], 1)

    def advance(self, x: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        fields = self.fields_of(x)
        moved = self._of(x).advance(fields)
        return self._joined(moved, x)

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        if not self.per_member:
            return super().step(x, generator)
        generator = rng.as_generator(generator)
        key, flat = rng.key(generator), x.reshape(-1, self.space.size)
        numbers = self._members or tuple(range(len(flat)))
        moved = self.advance_members(flat, numbers, self._step, key)
        return self.disturbed(moved.reshape(x.shape), generator, self._members)

    def advance_members(
        self, x: Float[Tensor, "ensemble size"], members: Sequence[int], step: int, key: rng.Key
    ) -> Float[Tensor, "ensemble size"]:
        """Advance members as `FunctionSystem.advance_members` does."""
        system = self._of(x)
        assert isinstance(system, FunctionSystem)
        return self._joined(system.advance_members(self.fields_of(x), members, step, key), x)

    def at(self, step: int, members: Sequence[int] | None = None) -> WithParameters:
        other = copy.copy(self)
        other._step, other._members = step, None if members is None else tuple(members)
        return other

    def apart_from(self, truth: Float[Tensor, "size"]) -> WithParameters:
        other = copy.copy(self)
        other.system = self.system.apart_from(self.fields_of(truth))  # type: ignore[assignment]
        return other

    _step: int = 0
    _members: tuple[int, ...] | None = None

    def _of(self, x: Tensor) -> Any:
        """Return the system with the parameters of states."""
        return self.system.with_values(self.values_of(x))

    def _joined(self, fields: Tensor, x: Tensor) -> Tensor:
        """Return states of fields that have moved and the parameters that states had."""
        flat = fields.reshape(*x.shape[:-1], self.system.space.size)
        return torch.cat([flat, x[..., self.system.space.size :]], -1)


def _check_parameters(system: System, parameters: Mapping[str, Distribution]) -> None:
    """Check that there are parameters, that the system has them, and that each has a law."""
    if not parameters:
        raise ValueError("Got no parameters: give the prior of each by its name.")
    known = system.parameters
    for name, law in parameters.items():
        if known is not None and name not in known:
            named = f"has {', '.join(known)}" if known else "has none"
            raise ValueError(
                f"Got the parameter {name!r}, but {type(system).__name__} {named}: give one of "
                "its own, or wrap a model step(x, parameters) as a FunctionSystem."
            )
        if not isinstance(law, Distribution):
            raise ValueError(
                f"Got {law!r} as the prior of {name!r}: give a law such as Uniform(20, 35), "
                "LogNormal(8, 0.2) or Normal(28, 3)."
            )


def _space(
    inner: StateSpace, laws: Mapping[str, Distribution], positions: Mapping[str, Sequence[float]]
) -> StateSpace:
    """Return the space of states with parameters: flat, or of parts where it has coordinates."""
    transforms = {name: t for name, law in laws.items() if (t := law.transform) is not None}
    marked: dict[str, Any] = {"transforms": {**inner.transforms, **transforms}}
    marked["parameters"] = tuple(laws)
    if unknown := set(positions) - set(laws):
        raise ValueError(f"Got positions of {sorted(unknown)}: the parameters are {list(laws)}.")
    if not inner.position_names:
        if positions:
            raise ValueError(
                f"Got positions of {list(positions)}, and the space has none: leave them out."
            )
        names = (*inner.variables, *laws)
        return StateSpace(
            (len(names),), inner.dt, names, None, {}, inner.units, inner.calendar, **marked
        )
    parts = dict(inner.parts or {"state": inner})
    time = {n: unit for n, unit in inner.units.items() if n == "time"}
    # One after the other in the order of the laws, so that they are the last entries.
    for name in laws:
        place = _place(inner, name, positions[name]) if name in positions else {}
        parts[name] = StateSpace(
            (1,),
            inner.dt,
            (name,),
            place,
            {axis: length for axis, length in inner.period.items() if axis in place},
            time | {axis: unit for axis, unit in inner.units.items() if axis in place},
            inner.calendar,
            transforms={n: t for n, t in transforms.items() if n == name},
            parameters=(name,),
        )
    return StateSpace.of_parts(parts, inner.same_as)


def _place(inner: StateSpace, name: str, position: Sequence[float]) -> dict[str, np.ndarray]:
    """Return the coordinates of a grid of one point."""
    if len(position) != len(inner.position_names):
        raise ValueError(
            f"Got the position {list(position)} of {name!r}: give a number for each of "
            f"{list(inner.position_names)}."
        )
    pairs = zip(inner.position_names, position, strict=True)
    return {axis: np.array([number], float) for axis, number in pairs}


def _walks(laws: Mapping[str, Distribution], walk: float | Mapping[str, float]) -> list[float]:
    """Return the standard deviation per step of each parameter, in its coordinate."""
    shares = dict(walk) if isinstance(walk, Mapping) else dict.fromkeys(laws, walk)
    if unknown := set(shares) - set(laws):
        raise ValueError(f"Got walks of {sorted(unknown)}: the parameters are {list(laws)}.")
    for name, share in shares.items():
        if not 0 <= share < math.inf:
            raise ValueError(f"Got walk = {share} for {name!r}: give a share, 0 or more.")
    return [shares.get(name, 0.0) * law.spread for name, law in laws.items()]


def _error(system: AdditiveNoise, walks: Tensor) -> tuple[float | Tensor, Tensor | None]:
    """Return standard deviations or covariance of the model error of states with parameters."""
    if system.noise_cov is not None:
        return 0.0, torch.block_diag(system.noise_cov.double(), walks.square().diag())
    if not system.has_error and not walks.any():
        return 0.0, None
    std = torch.as_tensor(system.noise_std, dtype=torch.float64).expand(system.space.shape)
    return torch.cat([std.flatten(), walks]), None
