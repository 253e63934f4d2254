r"""Observation models: operators with the law of what is observed.

An observation of the state is :math:`y = h(x) + \varepsilon`, :math:`\varepsilon \sim N(0, R)`;
an `Operator` is h, an `ObservationModel` adds R, or another law of y given h(x) (`laws`). Models
of parts of an observation and of several observations at once are made here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.sparse import csr_array

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.errors import ShapeError
from scorda.core.gaussian import standard_deviations
from scorda.core.shapes import Bool, Float, Tensor
from scorda.observations.combined import Present, Stacked
from scorda.observations.laws import Law, as_law, joined
from scorda.observations.modes import BlockModes, FourierModes, Modes, ScaledModes
from scorda.observations.operators import Operator
from scorda.observations.robust_laws import Normal

__all__ = ["ObservationModel", "as_std", "check_std", "stack", "stacked"]


@dataclass(frozen=True, eq=False)
class ObservationModel:
    r"""An operator with Gaussian error, :math:`y = h(x) + \varepsilon`, or with another law.

    Methods ask for the law alone (`compare`, `sample`), or for the Gaussian (`whiten`,
    `error_std`, `error_cov`, `error`, `modes`): of another law there is none, and to ask for it is
    an error, so that no method takes a Gaussian in its place unnoticed.

    Arguments:
        operator: h.
        std: Standard deviation of the error, one number or an array that broadcasts to
            ``(*obs)``, positive.
        cov: Instead of `std`: full covariance R of the flattened error, ``(obs, obs)``.
        law: Law of the values given h(x), such as ``StudentT(4)`` with the scale `std` or
            ``Poisson()`` without, or a function ``log_density(y, h)``; None: Gaussian.

    Raises:
        ValueError: If not exactly one of `std` and `cov` is given, or is not positive (definite);
            or if the law has no place for it.

    Example:
        The sum of the first two of three variables, with a standard deviation of 0.1:

        >>> model = sc.ObservationModel(sc.observations.Linear([[1.0, 1.0, 0.0]]), std=0.1)
        >>> model.operator(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[3.]])
    """

    operator: Operator
    std: float | Float[Tensor, "..."] | ArrayLike | None = None
    cov: Float[Tensor, "obs obs"] | ArrayLike | None = None
    law: Law | Any = None

    def __init_subclass__(cls) -> None:
        replaced = sorted(set(vars(cls)) & {n for n in vars(ObservationModel) if n[0] != "_"})
        if replaced:
            raise TypeError(
                f"{cls.__name__} replaces {', '.join(replaced)} of ObservationModel, which "
                "not all methods call: give ObservationModel a `law`, such as a function "
                "log_density(y, h), and the operator h(x)."
            )

    def __post_init__(self) -> None:
        if self.law is not None:
            law = as_law(self.law)
            object.__setattr__(self, "law", None if isinstance(law, Normal) else law)
        if self.law is not None:
            self._check_law(self.law)
            if self.std is None:
                return
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

    def _check_law(self, law: Law) -> None:
        name = type(law).__name__
        if self.cov is not None or (self.std is not None and not law.scaled):
            given = "std" if self.cov is None else "cov"
            wanted = "give `std` instead" if law.scaled else f"leave `{given}` out"
            raise ValueError(f"Got a `{given}` for {name}, which has none: {wanted}.")
        if law.scaled and self.std is None:
            raise ValueError(f"{name} needs `std`, the standard deviation or scale of the error.")

    def _check_gaussian(self) -> None:
        if self.law is not None:
            raise TypeError(
                f"Got errors of the law {type(self.law).__name__} where Gaussian ones are needed: "
                "run the method as a whole (`assimilate`), which makes them Gaussian if it can or "
                "names the methods that take them."
            )

    def scale(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs"]:
        """Return std or scale of each entry of a flattened observation; 1 where it has none."""
        if self.law is not None and self.std is None:
            return torch.ones(math.prod(shape)).to(like)
        return self._expanded(shape, like)

    def error_std(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs"]:
        """Return the error std of each entry of a flattened observation of that shape."""
        self._check_gaussian()
        return self._expanded(shape, like)

    def _expanded(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "obs"]:
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
        self._check_gaussian()
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
        self._check_gaussian()
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
        return self.like(operator, self.scale(tuple(y.shape), y)[kept], kept)

    def like(
        self, operator: Operator, std: Tensor, kept: Bool[Tensor, "obs"] | None = None
    ) -> ObservationModel:
        """Return the law of this model with another operator and other `scale`, flattened.

        Arguments:
            operator: The operator.
            std: Scale of each entry that is kept.
            kept: Which entries of this model's are kept; None: all.
        """
        if self.law is None:
            return ObservationModel(operator, std=std)
        law = self.law if kept is None else self.law.only(kept)
        return ObservationModel(operator, std=std if law.scaled else None, law=law)

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
        return self.disturbed(self.operator(x), generator)

    def disturbed(
        self, y: Float[Tensor, "ensemble ..."], generator: rng.Seed = None
    ) -> Float[Tensor, "ensemble ..."]:
        """Return what was observed without error with the error of each."""
        if self.law is not None:
            shape = tuple(y.shape[1:])
            return self.law.draw(y, self.scale(shape, y).reshape(shape), generator)
        return y + self.error(len(y), tuple(y.shape[1:]), y, generator)

    def log_likelihood(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble"]:
        """Return the log density of a complete observation ``(*obs)`` given each state.

        It is in double precision, as small differences of large numbers count.
        """
        return self.compare(y, self.predict(x, y))[0]

    def compare(
        self, y: Float[Tensor, "..."], predicted: Float[Tensor, "ensemble ..."]
    ) -> tuple[Float[Tensor, "ensemble"], Float[Tensor, "ensemble obs"]]:
        """Return the log density of an observation given predictions, and standard residuals.

        Residuals are in standard deviations of the errors, white, or in units of the law
        (`Law.residual`). Both are in double precision.

        Arguments:
            y: A complete observation.
            predicted: What is predicted of it, as `predict` returns it.
        """
        y, predicted, shape = y.double(), predicted.double(), tuple(y.shape)
        if self.law is not None:
            std = self.scale(shape, predicted).reshape(shape)
            log_density = self.law.log_density(y, predicted, std).flatten(1).sum(1)
            return log_density, self.law.residual(y, predicted, std).flatten(1)
        white = self.whiten(y - predicted)
        if self.cov is None:
            log_det = self.error_std(shape, white).log().sum()
        else:
            log_det = self._root.to(white).diagonal().log().sum()
        log_norm = log_det + 0.5 * white.shape[1] * math.log(2 * math.pi)
        return -0.5 * white.square().sum(-1) - log_norm, white

    def log_densities(
        self, y: Float[Tensor, "obs"], predicted: Float[Tensor, "ensemble obs"]
    ) -> Float[Tensor, "ensemble obs"]:
        """Return the log density of each value given what each member predicts, in double.

        Raises:
            TypeError: If the errors are correlated.
        """
        if self.cov is not None:
            raise TypeError("Correlated errors have no density of single values: give `std`.")
        y, predicted, shape = y.double(), predicted.double(), tuple(y.shape)
        law = Normal() if self.law is None else self.law
        return law.log_density(y, predicted, self.scale(shape, predicted).reshape(shape))

    def residual(
        self, y: Float[Tensor, "..."], predicted: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble obs"]:
        """Return the residuals of `compare` alone, in the precision that is given."""
        if self.law is None:
            return self.whiten(y - predicted)
        shape = tuple(y.shape)
        return self.law.residual(y, predicted, self.scale(shape, y).reshape(shape)).flatten(1)

    def misfit(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble"]:
        r"""Return :math:`-2 \log p(y \mid x)` of each state, in double precision.

        It is without its constant where the error is Gaussian,
        :math:`(y - h(x))^T R^{-1} (y - h(x))`.
        """
        if self.law is not None:
            return -2 * self.log_likelihood(y, x)
        return self.white_residuals(y, x).square().sum(-1)

    def white_residuals(
        self, y: Float[Tensor, "..."], x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble obs"]:
        """Return what `whiten` makes of y - h(x), in double precision."""
        return self.whiten(y.double() - self.predict(x, y).double())

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
                where they are not those of the state (``ScaledModes``). Modes that are entries of
                the state stay as they are.

        Raises:
            TypeError: If the operator is not linear, or the error not Gaussian.
        """
        self._check_gaussian()
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


def stack(parts: Sequence[tuple[Tensor, ObservationModel]]) -> tuple[Tensor, ObservationModel]:
    """Join observations ``(y, model)`` of the same state, flat, into one."""
    if len(parts) == 1:
        return parts[0]
    y = torch.cat([y for y, _ in parts])
    operator = Stacked(tuple(model.operator for _, model in parts))
    return y, stacked(operator, parts)


def stacked(
    operator: Operator, parts: Sequence[tuple[Tensor, ObservationModel]]
) -> ObservationModel:
    """Return the model of flat observations ``(y, model)`` that follow one another.

    Arguments:
        operator: Operator of all of them together.
        parts: The observations, at least one.
    """
    if all(model.cov is None for _, model in parts):
        std = torch.cat([model.scale(tuple(y.shape), y) for y, model in parts])
        if all(model.law is None for _, model in parts):
            return ObservationModel(operator, std=std)
        law = joined([(model.law or Normal(), len(y)) for y, model in parts])
        return ObservationModel(operator, std=std if law.scaled else None, law=law)
    blocks = [model.error_cov(tuple(y.shape), y) for y, model in parts]
    return ObservationModel(operator, cov=torch.block_diag(*blocks))


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
