r"""MASF's sampler as published: the reverse SDE with the likelihood's score added.

It tunes the two scores by factors of time,

.. math:: k = k_0 + (k_1 - k_0) \, \tau^p, \qquad \tau = s \text{ (prior's score)},
    \quad 1 - s \text{ (likelihood's)},

on the times :math:`(1 - j/n)^2`, scaled. What it samples is not the posterior: see
`methods.masf`. `projection` has the same for nonlinear operators.

Source: MASF, arXiv 2604.02889, and its public code for factors and times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.bridge import EnsembleDenoiser
from scorda.diffusion.measurement_aware import MeasurementAware
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes

__all__ = ["PublishedSDE", "ScaledSDE", "square_form"]


@dataclass(frozen=True)
class ScaledSDE(ABC):
    """Times and factors of the published samplers.

    Arguments:
        steps: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the likelihood's; (1, 1, 1) is the paper's plain sum.
        floor: Last time.
    """

    steps: int = 150
    end: float = 0.992
    offset: float = 0.008
    prior_scale: tuple[float, float, float] = (0.95, 1.6, 1.5)
    guidance_scale: tuple[float, float, float] = (1.1, 1.5, 2.0)
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.floor < self.end < 1:
            raise ValueError(
                f"Got steps = {self.steps}, end = {self.end}, floor = {self.floor}: need steps "
                ">= 1 and 0 < floor < end < 1."
            )

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Evaluations per member of what the prior has become."""

    def times(self, start: float, like: Tensor) -> Float[Tensor, "times"]:
        """The times of the steps, from `start` to the floor [final]."""
        grid = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64).square()
        return (self.floor + (start - self.floor) * grid).to(like)

    def factors(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the prior's and of the likelihood's score [final]."""
        return _ramp(self.prior_scale, s), _ramp(self.guidance_scale, 1 - s)


@dataclass(frozen=True)
class PublishedSDE(ScaledSDE):
    r"""The reverse SDE of MASF's public code, with the likelihood score added.

    .. math:: x_t = M x_s - \Delta \, (k_s \nabla \log p_s + k_g g_s) + |\Delta|^{1/2} \varepsilon,
        \quad M = A_t / A_s, \quad \Delta = \Sigma_t - M^2 \Sigma_s,

    from the forecast members noised to `end`. The factors tune a biased sampler, they do not mend
    it: see `MASF`.

    Deviation: regularisers of 1e-5 in divisions are left out.

    Arguments:
        steps: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the likelihood's; (1, 1, 1) is the paper's plain sum.
        floor: Last time.
        twice: Whether the integration starts at T^2, and the likelihood refers to T, as in the
            code; else it starts at T and refers to 1.
    """

    twice: bool = True

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per member."""
        return self.steps

    def sample(
        self,
        denoiser: EnsembleDenoiser,
        process: MeasurementAware,
        z: Float[Tensor, "..."],
        forecast: Float[Tensor, "ensemble ..."],
        noise: rng.Stream,
    ) -> Float[Tensor, "ensemble ..."]:
        """Run it.

        Arguments:
            denoiser: Denoiser of the prior, in the modes.
            process: The published process, in the modes.
            z: The measurement in the modes, of the shape of the state.
            forecast: Members in the modes.
            noise: Draws of the noise.
        """
        last = z.new_tensor(self.end if self.twice else 1.0)
        x = process.mean(forecast, z.new_tensor(self.end))
        x = x + process.var(z.new_tensor(self.end)).sqrt() * noise()
        for s, t in pairwise(self.times(self.end**2 if self.twice else self.end, z)):
            A, var = process.scale(s), process.var(s)
            prior = (A * denoiser.denoise(x / A, var.sqrt() / A) - x) / var
            M, _, S = process.transition(s, last)
            guidance = M * (z - M * x) / S
            k_prior, k_guidance = self.factors(s)
            score = k_prior * prior + k_guidance * guidance
            M, _, delta = process.transition(s, t)
            x = M * x - delta * score + delta.abs().sqrt() * noise()
        return x


def square_form(
    model: ObservationModel, modes: Modes, y: Float[Tensor, "obs"], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Eigenvalues of H, y in its eigenvectors, what is observed, and the std of the error.

    Raises:
        ValueError: If the published process cannot do it: errors that differ or correlate, other
            operators than symmetric matrices and those that pick entries.
    """
    rows = model.operator.as_matrix(shape)
    std = model.error_std(tuple(y.shape), y)
    if model.cov is not None or not torch.allclose(std, std[:1]):
        raise ValueError(
            'MASF with mode="published" takes one error std for all observations: use '
            'mode="bridge" for any other error.'
        )
    sigma = float(std[0])
    columns = np.unique(rows.indices)
    picks = len(rows.data) == rows.shape[0] == len(columns) and bool((rows.data == 1).all())
    if picks:
        seen = modes.precision.to(y) > 0
        z = (modes.information(y) * sigma**2).to(y)
        return seen.to(y), z, seen, sigma
    dense = torch.from_numpy(rows.toarray())
    if dense.shape[0] != dense.shape[1] or not torch.allclose(dense, dense.T):
        raise ValueError(
            'MASF with mode="published" takes operators that pick entries of the state, or '
            f'symmetric matrices; got one of shape {tuple(dense.shape)}. Use mode="bridge", '
            "which takes every linear operator."
        )
    # The eigenvectors of H^T H are those of H where no eigenvalue is negative.
    MeasurementAware(torch.linalg.eigvalsh(dense), torch.ones(len(dense)).to(dense))
    gain = modes.precision.to(y).sqrt() * sigma
    z = modes.forward(y.reshape(1, *shape))[0]
    return gain, z, torch.ones_like(gain, dtype=torch.bool), sigma


def _ramp(scale: tuple[float, float, float], tau: Tensor) -> Tensor:
    low, high, power = scale
    return low + (high - low) * tau**power
