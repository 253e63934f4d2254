r"""Observations: operators, error models, and the values themselves.

An observation of the state is :math:`y = h(x) + \varepsilon`, :math:`\varepsilon \sim N(0, R)`.
An `Operator` is h, an `ObservationModel` adds R, and `Observations` adds steps and values.

Operators take states with exactly one leading axis, the members: ``(ensemble, *state)`` to
``(ensemble, *obs)``; a single state is ``x[None]``. Where an entry of ``steps`` is a tuple of
steps, the operator gets ``(ensemble, len, *state)``. Nothing here knows of diffusion.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from scorda import rng
from scorda.shapes import Bool, Float, Tensor
from scorda.space import StateSpace

__all__ = [
    "Function",
    "Linear",
    "ObservationModel",
    "Observations",
    "Operator",
    "Select",
]


class Operator(ABC):
    """An observation operator h, ``(ensemble, *state)`` to ``(ensemble, *obs)``.

    `linear` and `differentiable` say what a method may ask of it; wrappers take them over.
    """

    linear: bool = False
    differentiable: bool = True

    @abstractmethod
    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Observe states without error."""

    def adjoint(
        self, y: Float[Tensor, "ensemble ..."], shape: tuple[int, ...]
    ) -> Float[Tensor, "ensemble ..."]:
        r"""Transpose of a linear operator: :math:`\langle h(x), y\rangle = \langle x, h^T y\rangle`.

        Arguments:
            y: Cotangents, shape ``(ensemble, *obs)``.
            shape: Shape of one state.

        Raises:
            TypeError: If the operator is not linear.
        """
        if not self.linear:
            raise TypeError(f"{type(self).__name__} is not linear, so it has no adjoint.")
        zero = y.new_zeros(y.shape[0], *shape)
        return torch.func.vjp(self, zero)[1](y)[0]

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        """Position of each observation, one row per entry of the flattened observation.

        Raises:
            ValueError: If the operator has no positions.
        """
        raise ValueError(
            f"{type(self).__name__} does not know where its observations are: give it "
            "`positions`, one row per observation, or use a method without localization."
        )


@dataclass(frozen=True)
class Select(Operator):
    """Observe the components with given indices of the flattened state.

    Arguments:
        indices: Indices into the flattened state, each at least 0.
    """

    indices: Sequence[int]
    linear = True

    def __post_init__(self) -> None:
        indices = tuple(int(i) for i in self.indices)
        if not indices or min(indices) < 0:
            raise ValueError(f"Got indices {list(indices)}: give at least one, each >= 0.")
        object.__setattr__(self, "indices", indices)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        flat = x.flatten(1)
        if max(self.indices) >= flat.shape[1]:
            raise ValueError(
                f"Got index {max(self.indices)} for states of {flat.shape[1]} components "
                f"(shape {tuple(x.shape)}, members first): indices must be smaller."
            )
        return flat[:, torch.tensor(self.indices, device=x.device)]

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        positions = space.positions()
        return positions[torch.tensor(self.indices) % len(positions)]


@dataclass(frozen=True)
class Linear(Operator):
    """Multiply the flattened state by a matrix.

    Arguments:
        matrix: Shape ``(obs, state)``.
        positions: Position of each row, ``(obs, axes)``, for localization only.
    """

    matrix: Float[Tensor, "obs state"]
    linear = True
    positions: Float[Tensor, "obs axes"] | None = None

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        flat = x.flatten(1)
        if flat.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"Got states of {flat.shape[1]} components for a matrix with "
                f"{self.matrix.shape[1]} columns: they must be equal."
            )
        return flat @ self.matrix.to(x).T

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return super().coordinates(space) if self.positions is None else self.positions


@dataclass(frozen=True)
class Function(Operator):
    """Observe with any function of ``(ensemble, *state)``.

    Arguments:
        fn: Torch function, or with ``differentiable=False`` a NumPy one: a black box.
        differentiable: Whether gradients flow through `fn`.
        positions: Position of each observation, ``(obs, axes)``, for localization only.
    """

    fn: Callable[..., Tensor]
    differentiable: bool = True
    positions: Float[Tensor, "obs axes"] | None = None

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        if self.differentiable:
            return self.fn(x)
        with torch.no_grad():
            y = self.fn(x.detach())
        return torch.as_tensor(y, dtype=x.dtype, device=x.device)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return super().coordinates(space) if self.positions is None else self.positions


@dataclass(frozen=True)
class ObservationModel:
    r"""An operator with Gaussian error, :math:`y = h(x) + \varepsilon`, covariance R.

    Arguments:
        operator: h.
        std: Standard deviation of the error, one number or broadcastable to ``(*obs)``, positive.
        cov: Instead of `std`: full covariance of the flattened error, ``(obs, obs)``.

    Raises:
        ValueError: If not exactly one of `std` and `cov` is given, or it is not positive (definite).
    """

    operator: Operator
    std: float | Float[Tensor, "..."] | None = None
    cov: Float[Tensor, "obs obs"] | None = None

    def __post_init__(self) -> None:
        if (self.std is None) == (self.cov is None):
            raise ValueError("Give exactly one of `std` and `cov`, the error of the observations.")
        if self.std is not None:
            std = torch.as_tensor(self.std)
            if not (std > 0).all():
                raise ValueError(
                    f"Got an observation error std of {float(std.min())}: it must be positive; "
                    "leave out (NaN) what is not observed."
                )
        else:
            assert self.cov is not None
            if torch.linalg.cholesky_ex(self.cov).info.item() != 0:
                raise ValueError("Got a `cov` that is not positive definite: check the matrix.")

    def error_std(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs"]:
        """Standard deviation of each flattened observation, for observations of that shape."""
        if self.cov is not None:
            return self.cov.to(like).diagonal().sqrt()
        return torch.as_tensor(self.std).to(like).expand(shape).flatten()

    def error_cov(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs obs"]:
        """R, of the flattened observation."""
        if self.cov is not None:
            return self.cov.to(like)
        return torch.diag(self.error_std(shape, like).square())

    def whiten(self, residual: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        r"""Flatten residuals ``(ensemble, *obs)`` and multiply by :math:`L^{-1}`, :math:`R=LL^T`."""
        flat = residual.flatten(1)
        if self.cov is None:
            return flat / self.error_std(tuple(residual.shape[1:]), residual)
        root = torch.linalg.cholesky(self.cov.to(flat))
        return torch.linalg.solve_triangular(root, flat.mT, upper=False).mT

    def error(
        self,
        members: int,
        shape: tuple[int, ...],
        like: Tensor,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Draw observation errors, ``(members, *obs)``."""
        noise = rng.normal(members, (math.prod(shape),), generator, like=like)
        if self.cov is None:
            noise = noise * self.error_std(shape, like)
        else:
            noise = noise @ torch.linalg.cholesky(self.cov.to(like)).T
        return noise.unflatten(1, shape)

    def sample(
        self, x: Float[Tensor, "ensemble ..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, "ensemble ..."]:
        """Observe states ``(ensemble, *state)`` with error."""
        y = self.operator(x)
        return y + self.error(len(y), tuple(y.shape[1:]), y, generator)

    def log_likelihood(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble"]:
        """Log density of one observation ``(*obs)``, fully present, given each state."""
        residual = self.whiten(y - self.operator(x))
        if self.cov is None:
            log_det = self.error_std(tuple(y.shape), residual).log().sum()
        else:
            log_det = torch.linalg.cholesky(self.cov.to(residual)).diagonal().log().sum()
        log_norm = log_det + 0.5 * y.numel() * math.log(2 * math.pi)
        return -0.5 * residual.square().sum(-1) - log_norm


@dataclass(frozen=True)
class _Present(Operator):
    """The present entries of the flattened observation of another operator."""

    operator: Operator
    present: Bool[Tensor, "obs"]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble present"]:
        return self.operator(x).flatten(1)[:, self.present]

    def coordinates(self, space: StateSpace) -> Float[Tensor, "present axes"]:
        return self.operator.coordinates(space)[self.present]


@dataclass(frozen=True)
class _Stacked(Operator):
    """The flattened observations of several operators, one after another."""

    operators: tuple[Operator, ...]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return all(operator.linear for operator in self.operators)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(operator.differentiable for operator in self.operators)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return torch.cat([operator.coordinates(space) for operator in self.operators])


def stack(parts: Sequence[tuple[Tensor, ObservationModel]]) -> tuple[Tensor, ObservationModel]:
    """Join observations ``(y, model)`` of the same state, flat, into one."""
    if len(parts) == 1:
        return parts[0]
    y = torch.cat([y for y, _ in parts])
    operator = _Stacked(tuple(model.operator for _, model in parts))
    if all(model.cov is None for _, model in parts):
        std = torch.cat([model.error_std(tuple(y.shape), y) for y, model in parts])
        return y, ObservationModel(operator, std=std)
    blocks = [model.error_cov(tuple(y.shape), y) for y, model in parts]
    return y, ObservationModel(operator, cov=torch.block_diag(*blocks))


@dataclass(frozen=True)
class Observations:
    """Values observed at given steps by one instrument.

    Arguments:
        model: Operator and error.
        steps: Step of each row of `values`, strictly increasing, any spacing; a row may instead
            have a tuple of steps, and the operator then gets ``(ensemble, len, *state)``.
        values: Shape ``(cycle, *obs)``; NaN = absent.
        std: Standard deviation of the error, broadcastable to `values`, instead of the model's.

    Raises:
        ValueError: If steps and values do not fit, steps are out of order, or a value is infinite.
    """

    model: ObservationModel
    steps: Sequence[int | tuple[int, ...]]
    values: Float[Tensor, "cycle ..."]
    std: float | Float[Tensor, "..."] | None = None

    def __post_init__(self) -> None:
        steps = tuple(
            tuple(int(i) for i in s) if isinstance(s, Sequence) else int(s) for s in self.steps
        )
        if len(self.values) != len(steps):
            raise ValueError(
                f"Got {len(self.values)} observations for {len(steps)} steps: "
                "`values` needs one row per entry of `steps`."
            )
        last = [s[-1] if isinstance(s, tuple) else s for s in steps]
        if any(b <= a for a, b in zip(last, last[1:], strict=False)) or (last and min(last) < 0):
            raise ValueError(
                f"Got steps {steps[:8]}{'...' if len(steps) > 8 else ''}: they must be >= 0 and "
                "strictly increasing; sort them and merge rows of the same step."
            )
        if torch.isinf(self.values).any():
            raise ValueError("Got infinite observations: use NaN for what is absent.")
        if self.std is not None:
            std = torch.as_tensor(self.std)
            if not (std[~std.isnan()] > 0).all():
                raise ValueError("Got an observation error std <= 0: it must be positive.")
            torch.broadcast_shapes(std.shape, self.values.shape)
        object.__setattr__(self, "steps", steps)

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, k: int) -> tuple[Float[Tensor, "present"], ObservationModel]:
        """Observation and model of row k, flattened, absent entries dropped."""
        row = self.values[k]
        y, shape = row.flatten(), tuple(row.shape)
        present = ~y.isnan()
        operator = _Present(self.model.operator, present)
        if self.std is None and self.model.cov is not None:
            cov = self.model.cov.to(y)[present][:, present]
            return y[present], ObservationModel(operator, cov=cov)
        if self.std is None:
            std = self.model.error_std(shape, y)
        else:
            std = torch.as_tensor(self.std).to(y).expand(self.values.shape)[k].flatten()
        return y[present], ObservationModel(operator, std=std[present])

    def predict(
        self, trajectory: Float[Tensor, "ensemble time ..."]
    ) -> Float[Tensor, "ensemble cycle ..."]:
        """What would be observed of trajectories ``(ensemble, steps + 1, *state)``, without error.

        All rows whose entry of `steps` is alike go through the operator in one call.
        """
        lengths = {len(s) if isinstance(s, tuple) else 0 for s in self.steps}
        if len(lengths) == 1:
            index = torch.tensor(self.steps, device=trajectory.device)
            states = trajectory[:, index]
            return self.model.operator(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        rows = [
            self.model.operator(trajectory[:, list(s) if isinstance(s, tuple) else s])
            for s in self.steps
        ]
        return torch.stack(rows, 1)

    def log_likelihood(
        self, trajectory: Float[Tensor, "ensemble time ..."]
    ) -> Float[Tensor, "ensemble"]:
        """Log density of all present values given trajectories ``(ensemble, steps+1, *state)``."""
        total = trajectory.new_zeros(len(trajectory))
        for k, step in enumerate(self.steps):
            y, model = self.at(k)
            states = trajectory[:, list(step) if isinstance(step, tuple) else step]
            total = total + model.log_likelihood(y.to(states), states)
        return total
