"""Statistics of trajectories: memory, density under the system, residuals of observations."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from scorda.core.arrays import takes_arrays
from scorda.core.shapes import Float, Tensor

__all__ = ["HasPredictions", "HasTransition", "autocorrelation", "log_prior", "residual_std"]


@runtime_checkable
class HasTransition(Protocol):
    """A system whose model error has a density."""

    def log_transition(self, x: Tensor, x_next: Tensor) -> Tensor:
        """Return log p(x_next | x) over the leading axes."""


@runtime_checkable
class HasPredictions(Protocol):
    """Observations: values, and what trajectories predict of them."""

    @property
    def values(self) -> Tensor:
        """The values y, ``(cycle, *obs)``, NaN where absent."""

    def predict(self, trajectory: Tensor) -> Tensor:
        """Return h(x), ``(ensemble, cycle, *obs)``."""


@takes_arrays
def autocorrelation(
    states: Float[Tensor, "ensemble time *state"], lags: int
) -> Float[Tensor, "lags_plus_one *state"]:
    r"""Return the autocorrelation of every component at lags of 0 to ``lags`` steps.

    .. math:: r_l = c_l / c_0, \quad c_l = \frac{1}{N (T - l)}
        \sum_{i} \sum_{k < T - l} (x_{i,k} - \bar x)(x_{i,k+l} - \bar x)

    The mean is taken over members and time together, so many short trajectories may be used.

    Raises:
        ValueError: If the trajectories are not longer than the largest lag.
    """
    steps = states.shape[1]
    if not 0 <= lags < steps:
        raise ValueError(
            f"Got lags = {lags} for {steps} states in time: ask for 0 to {steps - 1} lags."
        )
    anomalies = states - states.mean((0, 1))
    products = [
        (anomalies[:, : steps - lag] * anomalies[:, lag:]).mean((0, 1)) for lag in range(lags + 1)
    ]
    return torch.stack(products) / products[0]


@takes_arrays
def log_prior(
    states: Float[Tensor, "ensemble time *state"], system: HasTransition
) -> Float[Tensor, " ensemble"]:
    r"""Return the log-density of each trajectory under the system, given its first state.

    .. math:: \sum_{k=0}^{T-2} \log p(x_{k+1} \mid x_k)

    It is exact where the system's model error has a density. Average over the members for the
    expected log-prior of an ensemble.
    """
    return system.log_transition(states[:, :-1], states[:, 1:]).sum(1)


@takes_arrays
def residual_std(
    states: Float[Tensor, "ensemble time *state"],
    observations: HasPredictions,
    per_cycle: bool = False,
) -> Float[Tensor, "*cycles"]:
    r"""Return the root mean square of what trajectories leave unexplained of the observations.

    .. math:: \Big\langle (y - h(x_i))^2 \Big\rangle^{1/2}

    over members, cycles and the present values. Given y, the truth and a sample of the exact
    posterior have the same distribution, so the mean square is the variance of the error in
    expectation over observations: less means overfitting, more means that the samples ignore
    some of y. It says nothing about what was not observed. Unit: that of the observation.

    Arguments:
        states: Trajectories that reach the last observation.
        observations: One instrument (`Observations`).
        per_cycle: Return one value per cycle, shape ``(cycle,)``, NaN where nothing is present.
    """
    residuals = observations.predict(states) - observations.values.to(states)
    squares = residuals.square().mean(0).flatten(1)
    present = ~observations.values.to(states.device).isnan().flatten(1)
    totals, counts = torch.where(present, squares, 0).sum(1), present.sum(1)
    return (totals / counts if per_cycle else totals.sum() / counts.sum()).sqrt()
