"""A user's own model becomes a system: any callable, written with NumPy or torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.systems.base import AdditiveNoise

__all__ = ["FunctionSystem"]


class FunctionSystem(AdditiveNoise):
    r"""Wrap a function that advances an ensemble by one step.

    .. math:: x_{k+1} = \mathrm{step}(x_k) + \varepsilon, \quad
        \varepsilon \sim N(0, \mathrm{noise\_std}^2 I)

    The function gets a copy of the states ``(ensemble, *state)``, 0 outside of the mask of the
    space, and returns states of the same shape. It must treat members alike and independently and
    draw no random numbers of its own, so that a run is a function of its seed; model error is what
    `noise_std` adds. It is a black box: a NumPy model has no gradient, a torch model has if its
    operations have.

    Arguments:
        step: The model, ``(ensemble, *state)`` to ``(ensemble, *state)``.
        initial: States at step 0. Either an array ``(states, *state)``, of which `prior` draws
            without replacement (so it must hold at least as many states as there are members; in
            a twin experiment the truth is drawn from it too), or a callable ``initial(members,
            seed)`` that returns ``(members, *state)`` and takes its randomness from the integer
            `seed`.
        space: Space of the states; ``space.dt`` is the length of one call of `step`.
        noise_std: Standard deviation of additive model error per step, in units of the state.
        library: What `step` and `initial` take and return: "numpy" arrays or "torch" tensors.
        name: Name of the system.

    Raises:
        ValueError: If an argument does not fit, or (when called) if the model returns states of
            another shape.
        FloatingPointError: If the model returns values that are not finite.
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        initial: Callable[[int, int], Any] | np.ndarray | Tensor,
        space: StateSpace,
        noise_std: float = 0.0,
        library: Literal["numpy", "torch"] = "numpy",
        name: str = "function",
    ) -> None:
        if library not in ("numpy", "torch"):
            raise ValueError(f"Got library = {library!r}: choose 'numpy' or 'torch'.")
        if noise_std < 0:
            raise ValueError(f"Got noise_std = {noise_std}: a standard deviation is not negative.")
        if not callable(initial):
            states = torch.as_tensor(initial)
            if states.ndim != len(space.shape) + 1:
                raise ValueError(
                    f"Got `initial` of shape {tuple(states.shape)}: "
                    f"give states first, (states, {', '.join(map(str, space.shape))})."
                )
            space.check(states, "`initial`")
        self.model, self.initial, self.space = step, initial, space
        self.noise_std, self.library, self.name = noise_std, library, name

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether the model is written in torch, as far as one can tell before it is called."""
        return self.library == "torch"

    def __repr__(self) -> str:
        model = getattr(self.model, "__name__", repr(self.model))
        return f"FunctionSystem({model}, shape={self.space.shape}, library={self.library!r})"

    def prior(
        self, members: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble *state"]:
        """Draw states at step 0, in torch's default dtype unless `initial` is a torch tensor."""
        if callable(self.initial):
            seed = rng.key(generator)[0]
            drawn = self.initial(members, seed)
            return self._states(drawn, (members, *self.space.shape), "`initial`")
        states = torch.as_tensor(self.initial)
        if isinstance(self.initial, np.ndarray):
            states = states.to(torch.get_default_dtype())
        if members > len(states):
            raise ValueError(
                f"Asked for {members} members of {len(states)} initial states: give `initial` "
                "more states, or a callable that draws them."
            )
        order = torch.randperm(len(states), generator=rng.spawn(generator, 1)[0])
        return self.space.filled(states[order[:members].to(states.device)])

    def advance(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Call the model once on all states, their leading axes flattened to one."""
        flat = x.reshape(-1, *self.space.shape)
        given = flat.clone() if self.library == "torch" else flat.detach().cpu().numpy().copy()
        moved = self._states(self.model(given), tuple(flat.shape), "the model", like=x)
        return moved.reshape(x.shape)

    def _states(
        self, values: Any, shape: tuple[int, ...], source: str, like: Tensor | None = None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if like is None else like.dtype
        states = torch.as_tensor(values, dtype=dtype, device=None if like is None else like.device)
        if tuple(states.shape) != shape:
            raise ValueError(
                f"{source.capitalize()} returned states of shape {tuple(states.shape)}: "
                f"it must return {shape}, the members first."
            )
        states = self.space.filled(states)
        if not torch.isfinite(states).all():
            bad = int((~torch.isfinite(states.flatten(1))).any(1).nonzero()[0])
            raise FloatingPointError(
                f"{source.capitalize()} returned values that are not finite for member {bad}: "
                "check the initial states and the length of a step."
            )
        return states
