r"""Observation models: operators with Gaussian errors.

An observation of the state is :math:`y = h(x) + \varepsilon`, :math:`\varepsilon \sim N(0, R)`;
an `Operator` is h, an `ObservationModel` adds R. Models of parts of an observation and of several
observations at once are made here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.sparse import csr_array, vstack

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.errors import ShapeError
from scorda.core.gaussian import standard_deviations
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.modes import BlockModes, FourierModes, Modes, ScaledModes
from scorda.observations.operators import Operator

__all__ = ["ObservationModel", "Present", "Stacked", "as_std", "check_std", "stack"]


@dataclass(frozen=True, eq=False)
class ObservationModel:
    r"""An operator with Gaussian error, :math:`y = h(x) + \varepsilon`, covariance R.

    Arguments:
        operator: h.
        std: Standard deviation of the error, one number or an array that broadcasts to
            ``(*obs)``, positive.
        cov: Instead of `std`: full covariance of the flattened error, ``(obs, obs)``.

    Raises:
        ValueError: If not exactly one of `std` and `cov` is given, or is not positive (definite).
    """

    operator: Operator
    std: float | Float[Tensor, "..."] | ArrayLike | None = None
    cov: Float[Tensor, "obs obs"] | ArrayLike | None = None

    def __post_init__(self) -> None:
        if (self.std is None) == (self.cov is None):
            raise ValueError("Give exactly one of `std` and `cov`, the error of the observations.")
        if self.std is not None:
            object.__setattr__(self, "std", as_std(self.std))
            check_std(torch.as_tensor(self.std))
            return
        cov = as_tensor(self.cov, "cov")
        object.__setattr__(self, "cov", cov)
        if cov.ndim != 2 or cov.shape[0] != cov.shape[1]:
            raise ValueError(
                f"Got a `cov` of shape {tuple(cov.shape)}: give one row and one column per "
                "entry of the flattened observation."
            )
        unit = standard_deviations(cov)
        scaled = cov / unit[:, None] / unit
        if not torch.allclose(scaled, scaled.T) or torch.linalg.cholesky_ex(cov).info.item() != 0:
            raise ValueError(
                "Got a `cov` that is not symmetric and positive definite: check the matrix."
            )

    def error_std(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs"]:
        """Return the error std of each entry of a flattened observation of that shape."""
        if self.cov is not None:
            self._check_size(math.prod(shape))
            return self.cov.to(like).diagonal().sqrt()
        std = torch.as_tensor(self.std).to(like)
        try:
            return std.expand(shape).flatten()
        except RuntimeError as error:
            raise ValueError(
                f"Got an observation error std of shape {tuple(std.shape)} for observations of "
                f"shape {tuple(shape)}: it must be one number or broadcast to that shape."
            ) from error

    def error_cov(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs obs"]:
        """Return R of the flattened observation."""
        if self.cov is not None:
            self._check_size(math.prod(shape))
            return self.cov.to(like)
        return torch.diag(self.error_std(shape, like).square())

    def whiten(self, residual: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        r"""Return :math:`L^{-1}` times residuals ``(ensemble, *obs)``, flat; :math:`R = LL^T`."""
        flat = residual.flatten(1)
        if isinstance(self.std, float):
            return flat / self.std
        if self.cov is None:
            return flat / self.error_std(tuple(residual.shape[1:]), residual)
        self._check_size(flat.shape[1])
        return torch.linalg.solve_triangular(self._root.to(flat), flat.mT, upper=False).mT

    def error(
        self,
        members: int,
        shape: tuple[int, ...],
        like: Tensor,
        generator: rng.Seed = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Draw observation errors, ``(members, *obs)``."""
        noise = rng.normal(members, (math.prod(shape),), generator, like=like)
        if self.cov is None:
            noise = noise * self.error_std(shape, like)
        else:
            self._check_size(math.prod(shape))
            noise = noise @ self._root.to(like).T
        return noise.reshape(members, *shape)

    def only(self, kept: Bool[Tensor, "obs"], y: Float[Tensor, "obs"]) -> ObservationModel:
        """Return the model of some entries of a flattened observation, as if others were absent.

        Arguments:
            kept: Which.
            y: Observation, complete, whose shape and precision count.
        """
        operator = Present(self.operator, kept)
        if self.cov is not None:
            self._check_size(len(y))
            cov = self.cov[kept.to(self.cov.device)][:, kept.to(self.cov.device)]
            return ObservationModel(operator, cov=cov.to(y))
        return ObservationModel(operator, std=self.error_std(tuple(y.shape), y)[kept])

    def predict(
        self, x: Float[Tensor, "ensemble ..."], y: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Observe states without error, in the shape of an observation ``(*obs)`` or ``(obs,)``.

        So their difference is never broadcast.

        Raises:
            ValueError: If the operator makes another shape.
        """
        predicted = self.operator(x)
        made = tuple(predicted.shape[1:])
        if tuple(y.shape) not in (made, (math.prod(made),)):
            raise ShapeError(
                f"Got an observation of shape {tuple(y.shape)} for an operator that makes {made} "
                "of each state: the shapes must be equal."
            )
        return predicted.reshape(len(predicted), *y.shape)

    def sample(
        self, x: Float[Tensor, "ensemble ..."], generator: rng.Seed = None
    ) -> Float[Tensor, "ensemble ..."]:
        """Observe states ``(ensemble, *state)`` with error."""
        y = self.operator(x)
        return y + self.error(len(y), tuple(y.shape[1:]), y, generator)

    def log_likelihood(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble"]:
        """Return the log density of a complete observation ``(*obs)`` given each state.

        It is in double precision, as small differences of large numbers count.
        """
        return self.log_density(self.white_residuals(y, x), tuple(y.shape))

    def white_residuals(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble obs"]:
        """Return what `whiten` makes of y - h(x), in double precision."""
        return self.whiten(y.double() - self.predict(x, y).double())

    def log_density(
        self, white: Float[Tensor, "ensemble obs"], shape: tuple[int, ...]
    ) -> Float[Tensor, "ensemble"]:
        """Return the log density of `white_residuals` of observations of a shape, in double."""
        if self.cov is None:
            log_det = self.error_std(shape, white).log().sum()
        else:
            log_det = self._root.to(white).diagonal().log().sum()
        log_norm = log_det + 0.5 * white.shape[1] * math.log(2 * math.pi)
        return -0.5 * white.square().sum(-1) - log_norm

    def misfit(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble"]:
        r"""Return :math:`(y - h(x))^T R^{-1} (y - h(x))` of each state, in double precision."""
        return self.white_residuals(y, x).square().sum(-1)

    @cached_property
    def _root(self) -> Tensor:
        assert self.cov is not None
        return torch.linalg.cholesky(self.cov)

    def modes(self, shape: tuple[int, ...], unit: Float[Tensor, "..."] | None = None) -> Modes:
        r"""Return orthonormal modes V and eigenvalues :math:`\lambda` of :math:`H^T R^{-1} H`.

        What is missing has been dropped: the models of ``observations.at(k)`` hold only what is
        present. Kept for the next call with the same shape and no unit.

        Arguments:
            shape: Shape of one state.
            unit: Units in which the modes are orthonormal, of the shape of a state and positive,
                where they are not those of the state (`ScaledModes`). Modes that are entries of
                the state stay as they are.

        Raises:
            TypeError: If the operator is not linear.
        """
        if shape not in self._modes:
            self._modes[shape] = self._find_modes(shape, None)
        plain = self._modes[shape]
        if unit is None or plain.trivial:
            return plain
        return ScaledModes(self._find_modes(shape, unit), unit)

    def _find_modes(self, shape: tuple[int, ...], unit: Tensor | None) -> Modes:
        observed = tuple(self.operator(torch.zeros(1, *shape)).shape[1:])
        transfer = None
        if self.cov is None:
            error = self.error_std(observed, torch.zeros(0, dtype=torch.float64))
            alike = bool((error == error[:1]).all())
            transfer = self.operator.transfer(shape) if alike else None
        else:
            error = self.cov
        if transfer is not None:
            return FourierModes(transfer, float(error[0]), shape, 1.0 if unit is None else unit)
        rows = self.operator.as_matrix(shape)
        if self.cov is not None:
            self._check_size(rows.shape[0])
        if unit is not None:
            rows = rows * unit.flatten().numpy(force=True)
        return BlockModes.of(csr_array(rows), error, shape)

    @cached_property
    def _modes(self) -> dict[tuple[int, ...], Modes]:
        return {}

    def _check_size(self, observations: int) -> None:
        assert self.cov is not None
        if len(self.cov) != observations:
            raise ValueError(
                f"Got a `cov` of {len(self.cov)} rows for {observations} observations: the "
                "numbers must be equal."
            )


@dataclass(frozen=True, eq=False)
class Present(Operator):
    """The present entries of the flattened observation of another operator.

    Arguments:
        operator: The other operator.
        present: Which entries of its flattened observation are kept; None keeps all.
        size: Number of entries of the flattened observation, where it is known.
    """

    operator: Operator
    present: Bool[Tensor, "obs"] | None = None
    size: int | None = None

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        rows = self.operator.as_matrix(shape)
        return rows if self.present is None else rows[self.present.numpy(force=True)]

    def transfer(self, shape: tuple[int, ...]) -> Tensor | None:
        return self.operator.transfer(shape) if self.present is None else None

    def check(self, space: StateSpace) -> None:
        self.operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble present"]:
        y = self.operator(x)
        y = y.flatten(1) if y.ndim > 1 else y[:, None]
        if self.size not in (None, y.shape[1]):
            # The difference to the observation would be broadcast.
            raise ShapeError(
                f"The operator made {y.shape[1]} values of a state where {self.size} are "
                "observed: the numbers must be equal."
            )
        return y if self.present is None else y[:, self.present.to(y.device)]

    def coordinates(self, space: StateSpace) -> Float[Tensor, "present axes"]:
        positions = self.operator.coordinates(space)
        return positions if self.present is None else positions[self.present.to(positions.device)]

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        names = self.operator.variables(space)
        if self.present is None:
            return names
        return tuple(n for n, kept in zip(names, self.present.tolist(), strict=True) if kept)


@dataclass(frozen=True)
class Stacked(Operator):
    """The flattened observations of several operators, one after another."""

    operators: tuple[Operator, ...]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return all(operator.linear for operator in self.operators)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(operator.differentiable for operator in self.operators)

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        return vstack([o.as_matrix(shape) for o in self.operators], format="csr")

    def check(self, space: StateSpace) -> None:
        for operator in self.operators:
            operator.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return torch.cat([operator.coordinates(space) for operator in self.operators])

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        return sum((operator.variables(space) for operator in self.operators), ())


def stack(parts: Sequence[tuple[Tensor, ObservationModel]]) -> tuple[Tensor, ObservationModel]:
    """Join observations ``(y, model)`` of the same state, flat, into one."""
    if len(parts) == 1:
        return parts[0]
    y = torch.cat([y for y, _ in parts])
    operator = Stacked(tuple(model.operator for _, model in parts))
    if all(model.cov is None for _, model in parts):
        std = torch.cat([model.error_std(tuple(y.shape), y) for y, model in parts])
        return y, ObservationModel(operator, std=std)
    blocks = [model.error_cov(tuple(y.shape), y) for y, model in parts]
    return y, ObservationModel(operator, cov=torch.block_diag(*blocks))


def as_std(std: ArrayLike) -> float | Tensor:
    """Return standard deviations as a number or a tensor."""
    return float(std) if isinstance(std, int | float) else as_tensor(std, "std")


def check_std(std: Tensor) -> None:
    """Check standard deviations of errors.

    Raises:
        ValueError: If one is not positive or not finite.
    """
    good = (std > 0) & torch.isfinite(std)
    if not good.all():
        raise ValueError(
            f"Got an observation error std of {std[~good].flatten()[0].item():g}: it must be "
            "positive and finite; leave out (NaN) what is not observed."
        )
