"""Statistics of trajectories: memory and density under the system."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from scorda.shapes import Float, Tensor

__all__ = ["HasTransition", "autocorrelation", "log_prior"]


@runtime_checkable
class HasTransition(Protocol):
    """A system whose model error has a density."""

    def log_transition(self, x: Tensor, x_next: Tensor) -> Tensor:
        """Return log p(x_next | x) over the leading axes."""


def autocorrelation(
    states: Float[Tensor, "ensemble time *state"], lags: int
) -> Float[Tensor, "lags_plus_one *state"]:
    r"""Autocorrelation of every component at lags 0 to ``lags``, in steps.

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


def log_prior(
    states: Float[Tensor, "ensemble time *state"], system: HasTransition
) -> Float[Tensor, " ensemble"]:
    r"""Log-density of each trajectory under the system, given its first state.

    .. math:: \sum_{k=0}^{T-2} \log p(x_{k+1} \mid x_k)

    Exact where the system's model error has a density. Average over the members for the expected
    log-prior of an ensemble.
    """
    return system.log_transition(states[:, :-1], states[:, 1:]).sum(1)
