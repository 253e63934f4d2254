"""A user's own model becomes a system: any callable, written with NumPy or torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.gaussian import check_cov, psd_root
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.ensembles import read_initial
from scorda.reading.opening import is_labelled
from scorda.systems.base import AdditiveNoise

__all__ = ["FunctionSystem"]


class FunctionSystem(AdditiveNoise):
    r"""Wrap a function that advances an ensemble by one step.

    .. math:: x_{k+1} = \mathrm{step}(x_k) + \varepsilon, \quad \varepsilon \sim N(0, Q)

    The function gets a copy of the states ``(ensemble, *state)``, 0 outside of the mask of the
    space, and returns states of the same shape. It must treat members alike and independently and
    draw no random numbers of its own, so that a run is a function of its seed; model error is what
    `noise_std` or `noise_cov` adds. It is a black box: a NumPy model has no gradient, a torch
    model has if its operations have.

    With ``per_member=True`` the function is called for each member by itself, as
    ``step(x, member=3, step=12, seed=1234)``: with one state ``(*state)``, the number of the
    member, that of the step which the state is of (from 0, so that the time is ``step * dt``), and
    a seed below 2^31, which is a function of the seed of the run, the step and the member. It may
    draw random numbers from that seed, and may start a program that has files of its own for each
    member (`scorda.systems.Executable`). `Mapped` calls it on workers.

    In `WithParameters` the second argument of the function are the parameters, a dictionary of
    ``(ensemble,)``, or of numbers where it is called for each member.

    Arguments:
        step: The model, ``(ensemble, *state)`` to ``(ensemble, *state)``.
        initial: States at step 0. Either an array ``(states, *state)``, of which `prior` draws
            without replacement (so it must hold at least as many states as there are members; in
            a twin experiment one more, since the truth is drawn from it and never is a member),
            an object of xarray with an axis of members, which is aligned by its labels, or a
            callable ``initial(members, seed)`` that returns ``(members, *state)`` and takes
            its randomness from the integer `seed`.
        space: Space of the states; ``space.dt`` is the length of one call of `step`.
        noise_std: Standard deviation of additive model error per step, in units of the state: one
            number, one per variable, or one per entry, ``(*state)``.
        library: What `step` and `initial` take and return: "numpy" arrays or "torch" tensors.
        name: Name of the system.
        noise_cov: Instead of `noise_std`: covariance of the model error of the flattened state,
            ``(size, size)``, positive semidefinite; it may be singular.
        per_member: Whether `step` is called for each member by itself.

    Raises:
        ValueError: If an argument does not fit, or (when called) if the model returns states of
            another shape.
        FloatingPointError: If the model returns values that are not finite.

    Example:
        A damped pendulum, all members at once, in NumPy:

        >>> def step(x):
        ...     angle, speed = x[:, 0], x[:, 1]
        ...     faster = -0.1 * np.sin(angle) - 0.01 * speed
        ...     return np.stack([angle + 0.1 * speed, speed + faster], axis=1)
        >>> space = sc.StateSpace((2,), dt=0.1, variables=("angle", "speed"))
        >>> start = np.random.default_rng(0).normal(size=(200, 2))
        >>> system = sc.systems.FunctionSystem(step, start, space, noise_std=0.01)
        >>> system.space.variables
        ('angle', 'speed')
    """

    def __init__(
        self,
        step: Callable[..., Any],
        initial: Callable[[int, int], Any] | ArrayLike,
        space: StateSpace,
        noise_std: ArrayLike = 0.0,
        library: Literal["numpy", "torch"] = "numpy",
        name: str = "function",
        noise_cov: ArrayLike | None = None,
        per_member: bool = False,
    ) -> None:
        if library not in ("numpy", "torch"):
            raise ValueError(f"Got library = {library!r}: choose 'numpy' or 'torch'.")
        if is_labelled(initial):
            initial = read_initial(initial, space)[0].numpy()
        if not callable(initial):
            states = as_tensor(initial, "initial")
            if states.ndim != len(space.shape) + 1:
                raise ValueError(
                    f"Got `initial` of shape {tuple(states.shape)}: "
                    f"give states first, (states, {', '.join(map(str, space.shape))})."
                )
            space.check(states, "`initial`")
        self.model, self.initial, self.space = step, initial, space
        self.library, self.name, self.per_member = library, name, per_member
        self.noise_std = _error_std(noise_std, space)
        self.noise_cov = None if noise_cov is None else _error_cov(noise_cov, noise_std, space)
        self._apart: Tensor | None = None
        self._step: int = 0
        self._members: tuple[int, ...] | None = None
        self._values: dict[str, Tensor] | None = None

    parameters = None

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether the model is written in torch, as far as one can tell before it is called."""
        return self.library == "torch" and not self.per_member

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step draws model error, as a model that is given seeds may."""
        return self.per_member or self.has_error

    def __repr__(self) -> str:
        model = getattr(self.model, "__name__", repr(self.model))
        return f"FunctionSystem({model}, shape={self.space.shape}, library={self.library!r})"

    def with_values(self, values: Mapping[str, Float[Tensor, "..."]]) -> FunctionSystem:
        other = copy.copy(self)
        other._values = dict(values)
        return other

    def apart_from(self, truth: Float[Tensor, "*state"]) -> FunctionSystem:
        """Return the same system, whose `prior` never returns a given state at step 0.

        So the truth of a twin experiment is none of the members.
        """
        other = copy.copy(self)
        other._apart = truth
        return other

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        """Draw states at step 0, in torch's default dtype unless `initial` is a torch tensor.

        Raises:
            ValueError: If there are fewer states, or a callable returns the truth of a twin
                experiment among the members.
        """
        if callable(self.initial):
            seed = rng.key(generator)[0]
            drawn = self.initial(members, seed)
            drawn = self._states(drawn, (members, *self.space.shape), "`initial`")
            if not self._others(drawn).all():
                raise ValueError(
                    "`initial` returned the truth of this twin experiment among the members: let "
                    "it draw other states for another seed."
                )
            return drawn
        states = as_tensor(self.initial, "initial")
        if not isinstance(self.initial, Tensor):
            states = states.to(torch.get_default_dtype())
        others = self._others(states)
        if members > others.sum():
            besides = "" if others.all() else " besides the truth of the twin experiment"
            raise ValueError(
                f"Asked for {members} members of {int(others.sum())} initial states{besides}: "
                "give `initial` more states, or a callable that draws them."
            )
        order = torch.randperm(len(states), generator=rng.spawn(generator, 1)[0])
        order = order[others[order]]
        return self.space.filled(states[order[:members].to(states.device)])

    def _others(self, states: Tensor) -> Tensor:
        """Which states are not the truth, on the CPU."""
        if self._apart is None:
            return torch.ones(len(states), dtype=torch.bool)
        # A truth that was stored in single precision is the same state.
        truth = self._apart.to(states)
        close = torch.isclose(states, truth, rtol=1e-6, atol=0)
        return ~close.flatten(1).all(1).cpu()

    def at(self, step: int, members: Sequence[int] | None = None) -> FunctionSystem:
        if not self.per_member:
            return self
        other = copy.copy(self)
        other._step, other._members = step, None if members is None else tuple(members)
        return other

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        if not self.per_member:
            return super().step(x, generator)
        generator = rng.as_generator(generator)
        key, flat = rng.key(generator), x.reshape(-1, *self.space.shape)
        numbers = self._members or tuple(range(len(flat)))
        moved = self.advance_members(flat, numbers, self._step, key)
        return self.disturbed(moved.reshape(x.shape), generator, self._members)

    def advance_members(
        self, x: Float[Tensor, "ensemble ..."], members: Sequence[int], step: int, key: rng.Key
    ) -> Float[Tensor, "ensemble ..."]:
        """Call a model of single members for some of them, without the additive model error.

        Arguments:
            x: States ``(ensemble, *state)``.
            members: Numbers of the members.
            step: Number of the step that the states are of.
            key: Key of the seeds of this step.
        """
        made = []
        for i, (row, member) in enumerate(zip(x, members, strict=True)):
            given: list[Any] = [self._given(row)]
            if self._values is not None:
                given.append({name: float(v[i]) for name, v in self._values.items()})
            moved = self.model(*given, member=member, step=step, seed=_seed(key, member))
            moved = as_tensor(moved, "the model")
            made.append(self._states(moved[None], (1, *self.space.shape), "the model", x, member))
        return torch.cat(made)

    def log_transition(
        self, x: Float[Tensor, "..."], x_next: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the log density of the additive model error.

        Raises:
            TypeError: If there is none, or the model draws random numbers of its own.
        """
        if self.per_member:
            raise TypeError(
                "A FunctionSystem with per_member=True may draw random numbers, so that its step "
                "has no density: use a method that needs none."
            )
        return super().log_transition(x, x_next)

    def advance(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Call the model once on all states, their leading axes flattened to one.

        Raises:
            TypeError: If the model is one of single members.
        """
        if self.per_member:
            raise TypeError(
                "A FunctionSystem with per_member=True makes steps of numbered members: call "
                "`step`, or use a method that needs no model without its error."
            )
        flat = x.reshape(-1, *self.space.shape)
        given: list[Any] = [self._given(flat)]
        if self._values is not None:
            given.append({name: self._given(v.reshape(-1)) for name, v in self._values.items()})
        moved = self._states(self.model(*given), tuple(flat.shape), "the model", like=x)
        return moved.reshape(x.shape)

    def _given(self, values: Tensor) -> Any:
        """Return a copy of values as the model takes them."""
        return values.clone() if self.library == "torch" else values.detach().cpu().numpy().copy()

    def _states(
        self,
        values: Any,
        shape: tuple[int, ...],
        source: str,
        like: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        dtype = torch.get_default_dtype() if like is None else like.dtype
        states = as_tensor(values, source).to(dtype)
        states = states if like is None else states.to(like.device)
        if tuple(states.shape) != shape:
            raise ValueError(
                f"{source.capitalize()} returned states of shape {tuple(states.shape)}: "
                f"it must return {shape}, the members first."
            )
        states = self.space.filled(states)
        if not torch.isfinite(states).all():
            bad = first + int((~torch.isfinite(states.flatten(1))).any(1).nonzero()[0])
            raise FloatingPointError(
                f"{source.capitalize()} returned values that are not finite for member {bad}: "
                "check the initial states and the length of a step."
            )
        return states


def _seed(key: rng.Key, member: int) -> int:
    """Return the seed of one member at one step, which programs of 32 bits can take."""
    return int(np.random.SeedSequence([*key, member]).generate_state(1, np.uint64)[0] >> 33)


def _error_std(std: ArrayLike, space: StateSpace) -> float | Tensor:
    """One number, or a tensor that broadcasts to a state."""
    values = as_tensor(std, "noise_std")
    if not (values >= 0).all():
        raise ValueError(f"Got noise_std = {std}: a standard deviation is not negative.")
    if values.ndim == 0:
        return float(values)
    if values.shape == space.shape:
        return values
    if space.has_channels and values.shape == (len(space.variables),):
        return space.constant(values)
    raise ValueError(
        f"Got `noise_std` of shape {tuple(values.shape)}: give one number, one for each of the "
        f"variables {space.variables}, or one per entry, {space.shape}."
    )


def _error_cov(cov: ArrayLike, std: ArrayLike, space: StateSpace) -> Tensor:
    """The covariance of the flattened state."""
    matrix = as_tensor(cov, "noise_cov")
    if as_tensor(std, "noise_std").any():
        raise ValueError("Got both `noise_std` and `noise_cov`: give one of them.")
    if matrix.shape != (space.size, space.size):
        raise ValueError(
            f"Got `noise_cov` of shape {tuple(matrix.shape)}: give one row and one column per "
            f"entry of the flattened state, {(space.size, space.size)}."
        )
    check_cov(matrix, "noise_cov")
    psd_root(matrix)
    return matrix
