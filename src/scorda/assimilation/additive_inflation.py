r"""Additive inflation: draws of a Gaussian law are added to the members."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.assimilation.inflation import Inflation, Stage, check_stage, stream_of
from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.gaussian import check_cov, sampling_root
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["Additive"]


@dataclass(frozen=True, eq=False)
class Additive(Inflation):
    r"""Add to each member its own draw of a Gaussian law with mean 0 and covariance Q.

    .. math:: x_i \leftarrow x_i + \eta_i - \bar \eta, \quad \eta_i \sim N(0, Q)

    The draws are centred, so that the mean does not move, and the expected sample covariance grows
    by Q, also in directions that the ensemble has lost. With a `sample` of n states,
    :math:`\eta` is :math:`(n - 1)^{-1/2} \sum_j w_j (s_j - \bar s)` with :math:`w_j \sim N(0, 1)`,
    and Q its sample covariance. The draw of member i at step k is a function of (seed, k, i).

    Source: Mitchell & Houtekamer (2000), Mon. Wea. Rev. 128, 416-433; with a climatological
    sample: Whitaker & Hamill (2012), Mon. Wea. Rev. 140, 3078-3089.

    All is of the coordinates in which states are analysed: of a bounded variable, its log or logit
    (`StateSpace.transforms`).

    Arguments:
        std: Standard deviation of independent draws, in the units of the state: one number, or
            one for each variable.
        cov: Instead: Q of the flattened state, ``(size, size)``; it may be singular.
        sample: Instead: states, ``(n, *state)``, such as differences of climatological states, in
            the size of the errors that are meant.
        stage: Whether the "analysis" or the "forecast" before it is inflated.

    Raises:
        ValueError: If not exactly one of `std`, `cov` and `sample` is given, or it is out of
            range, or, in a run, does not fit the states.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF(inflation=sc.Additive(std=0.1)).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    std: float | tuple[float, ...] | None = None
    cov: Float[Tensor, "size size"] | ArrayLike | None = None
    sample: Float[Tensor, "n ..."] | ArrayLike | None = None
    stage: Stage = "analysis"

    def __post_init__(self) -> None:
        if [self.std, self.cov, self.sample].count(None) != 2:
            raise ValueError("Give exactly one of `std`, `cov` and `sample` to Additive.")
        check_stage(self.stage)
        if self.std is not None:
            std = torch.as_tensor(self.std)
            if not ((std >= 0) & std.isfinite()).all():
                raise ValueError(f"Got std = {self.std}: give Additive finite numbers, >= 0.")
        for name in ("cov", "sample"):
            if (given := getattr(self, name)) is not None:
                tensor = as_tensor(given, name)
                object.__setattr__(self, name, tensor)
                if not tensor.isfinite().all():
                    raise ValueError(f"Got a `{name}` that is not finite.")
        if self.cov is not None:
            shape = tuple(self.cov.shape)
            if len(shape) != 2 or shape[0] != shape[1]:
                raise ValueError(f"Got a `cov` of shape {shape}: give Additive (size, size).")
            check_cov(self.cov, "cov")
        if self.sample is not None and len(self.sample) < 2:
            raise ValueError(f"Got a `sample` of {len(self.sample)} states: give at least two.")

    def begin(self, problem: Problem) -> Inflation:
        space = problem.space
        return _Adding(self.stage, space, *self._law(space))

    def _law(self, space: StateSpace) -> tuple[Tensor, Tensor | None]:
        """Return factors of each component, and rows of which draws are combinations, if any."""
        if self.std is not None:
            std = torch.as_tensor(self.std, dtype=torch.float64)
            if std.ndim and len(std) != len(space.variables):
                raise ValueError(
                    f"Got {len(std)} standard deviations for the variables "
                    f"{', '.join(space.variables)}: give Additive one number, or one of each."
                )
            return space.constant(std) if std.ndim else std, None
        one = torch.ones((), dtype=torch.float64)
        if self.cov is not None:
            if len(self.cov) != space.size:
                raise ValueError(
                    f"Got a `cov` of {len(self.cov)} rows for states of {space.size} numbers: "
                    "give Additive one row for each."
                )
            return one, sampling_root(self.cov.double())
        assert self.sample is not None
        if tuple(self.sample.shape[1:]) != space.shape:
            raise ValueError(
                f"Got a `sample` of states of shape {tuple(self.sample.shape[1:])}: those of the "
                f"run have {space.shape}."
            )
        sample = self.sample.double().flatten(1)
        return one, (sample - sample.mean(0)) / (len(sample) - 1) ** 0.5


@dataclass(frozen=True, eq=False)
class _Adding(Inflation):
    """Additive inflation in one space."""

    stage: Stage
    space: StateSpace
    factors: Float[Tensor, "..."]
    rows: Float[Tensor, "n size"] | None

    def before(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        return self._added(forecast, generator) if self.stage == "forecast" else forecast

    def after(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        analysis: Float[Tensor, "ensemble ..."],
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        return self._added(analysis, generator) if self.stage == "analysis" else analysis

    def _added(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shape = x.shape[1:] if self.rows is None else self.rows.shape[:1]
        noise = rng.normal(len(x), tuple(shape), stream_of(generator), like=x)
        if self.rows is not None:
            noise = (noise @ self.rows.to(x)).reshape(x.shape)
        noise = noise * self.factors.to(x)
        return self.space.filled(x + (noise - noise.mean(0)))
