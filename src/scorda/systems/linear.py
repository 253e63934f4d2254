r"""The linear-Gaussian system; its posteriors are known exactly, so that tests compare with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.gaussian import check_cov, gaussian_log_density, sampling_root
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.transforms import Transform
from scorda.systems.base import System

__all__ = ["LinearGaussian"]


@dataclass(frozen=True, eq=False)
class LinearGaussian(System):
    r"""A linear Markov chain with Gaussian start and Gaussian model error.

    .. math:: x_0 \sim N(m, P), \quad x_{k+1} = A x_k + \varepsilon, \quad
        \varepsilon \sim N(0, Q)

    Every marginal, the joint law of a trajectory and every posterior under linear observations
    are Gaussian (see `trajectory_moments` and the Kalman methods).

    Arguments:
        transition: A, ``(state, state)``, an array like the others.
        noise_cov: Q, positive semidefinite; may be singular or zero.
        mean: m, ``(state,)``.
        cov: P, positive semidefinite.
        space: Space of the states, which are flat, such as one of parts. Default: one without
            coordinates.

    Raises:
        ValueError: If the shapes differ, Q or P is not a covariance, or the space has bounds.

    Example:
        >>> turn, noise = [[0.9, -0.3], [0.3, 0.9]], [[0.1, 0], [0, 0.1]]
        >>> system = sc.systems.LinearGaussian(turn, noise, mean=[1, 0], cov=[[1, 0], [0, 1]])
        >>> system.space.size
        2
    """

    transition: Float[Tensor, "state state"] | ArrayLike
    noise_cov: Float[Tensor, "state state"] | ArrayLike
    mean: Float[Tensor, "state"] | ArrayLike
    cov: Float[Tensor, "state state"] | ArrayLike
    space: StateSpace = field(default=None, repr=False)  # type: ignore[assignment]
    name: str = field(default="linear", init=False, repr=False)
    differentiable = True
    _root: Tensor = field(init=False, repr=False)
    _noise_root: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = ("transition", "noise_cov", "mean", "cov")
        given = [as_tensor(getattr(self, label), label) for label in labels]
        dtype = reduce(torch.promote_types, [value.dtype for value in given])
        for label, value in zip(labels, given, strict=True):
            object.__setattr__(self, label, value.to(dtype))
        dim = len(self.mean)
        for label in ("transition", "noise_cov", "cov"):
            shape = tuple(getattr(self, label).shape)
            if shape != (dim, dim):
                raise ValueError(
                    f"Got `{label}` of shape {shape} for a mean of {dim} components: "
                    f"give a matrix of shape {(dim, dim)}."
                )
        for label in ("noise_cov", "cov"):
            check_cov(getattr(self, label), label)
        if self.space is None:
            object.__setattr__(self, "space", StateSpace((dim,)))
        if self.space.shape != (dim,):
            raise ValueError(
                f"Got a space of states of shape {self.space.shape} for a mean of {dim} "
                f"components: give one of shape {(dim,)}."
            )
        if self.space.transforms:
            self.with_transforms(self.space.transforms)
        object.__setattr__(self, "_noise_root", sampling_root(self.noise_cov))
        object.__setattr__(self, "_root", sampling_root(self.cov))

    def with_transforms(self, transforms: Mapping[str, Transform]) -> System:
        """Refuse: a Gaussian law has no bounds."""
        raise ValueError(
            f"Got bounds of {sorted(transforms)} for a LinearGaussian, whose states have none: "
            "make the model a FunctionSystem."
        )

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether Q is not zero."""
        return bool(self.noise_cov.any())

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble state"]:
        """Draw from N(mean, cov)."""
        noise = rng.normal(members, self.space.shape, generator, like=self.mean)
        return self.mean + noise @ self._root

    def advance(self, x: Float[Tensor, "... state"]) -> Float[Tensor, "... state"]:
        """Advance by one step without model error."""
        return x @ self.transition.to(x).mT

    def step(
        self, x: Float[Tensor, "... state"], generator: rng.Seed = None
    ) -> Float[Tensor, "... state"]:
        """Advance by one step; row i of the noise depends on the generator and i only."""
        moved = self.advance(x)
        if not self.stochastic:
            return moved
        rows = x if x.ndim > 1 else x[None]
        noise = rng.normal(len(rows), tuple(rows.shape[1:]), generator, like=x).reshape(x.shape)
        return moved + noise @ self._noise_root.to(x)

    def log_transition(
        self, x: Float[Tensor, "... state"], x_next: Float[Tensor, "... state"]
    ) -> Float[Tensor, "..."]:
        """Return the log density of one step, where Q is positive definite."""
        return self.log_error(self.advance(x), x_next)

    def log_error(
        self, advanced: Float[Tensor, "... state"], x_next: Float[Tensor, "... state"]
    ) -> Float[Tensor, "..."]:
        """Return the log density of a state given the one that the model has advanced."""
        if torch.linalg.cholesky_ex(self.noise_cov).info.item() != 0:
            return super().log_transition(advanced, x_next)
        error = x_next - advanced
        zero, cov = torch.zeros_like(self.mean).to(advanced), self.noise_cov.to(advanced)
        return gaussian_log_density(error, zero, cov)

    def trajectory_moments(
        self, steps: int
    ) -> tuple[Float[Tensor, "trajectory"], Float[Tensor, "trajectory trajectory"]]:
        r"""Exact mean and covariance of the flattened trajectory of ``steps + 1`` states.

        .. math:: m_{k+1} = A m_k, \quad P_{k+1} = A P_k A^T + Q, \quad
            \mathrm{Cov}(x_{k+j}, x_k) = A^j P_k

        Returns:
            Mean ``((steps + 1) * state,)`` and covariance; component ``k * state + i`` is
            component i at step k.
        """
        dim = len(self.mean)
        means, cov = [self.mean], self.cov
        joint = self.cov.new_zeros(steps + 1, dim, steps + 1, dim)
        for k in range(steps + 1):
            lagged = cov
            joint[k, :, k] = cov
            for later in range(k + 1, steps + 1):
                lagged = self.transition @ lagged
                joint[later, :, k], joint[k, :, later] = lagged, lagged.mT
            means.append(self.transition @ means[-1])
            cov = self.transition @ cov @ self.transition.mT + self.noise_cov
        size = (steps + 1) * dim
        return torch.cat(means[:-1]), joint.reshape(size, size)
