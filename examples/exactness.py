"""Measure how far each guidance and sampler is from the exact linear-Gaussian posterior.

With a Gaussian prior and linear observations a guided sampler without corrections is an affine
map of its noise. A run on zero noise and on unit vectors therefore gives the mean and the
covariance of its samples without sampling error. This file prints the table of docs/exactness.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import torch

from scorda.core import rng
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.sda import SDA
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.systems.linear import LinearGaussian


class UnitNoise(rng.Stream):
    """A stream that gives zeros to member 0 and a unit in a single draw to each other member."""

    def __init__(
        self,
        key: rng.Key,
        first: int,
        last: int,
        shape: tuple[int, ...],
        like: torch.Tensor | None = None,
    ) -> None:
        self.members, self.shape, self.draws = torch.arange(first, last), shape, 0

    def __call__(self) -> torch.Tensor:
        inputs = 1 + self.draws * math.prod(self.shape) + torch.arange(math.prod(self.shape))
        self.draws += 1
        units = self.members[:, None] == inputs
        return units.to(torch.get_default_dtype()).view(-1, *self.shape)


def affine_moments(method: SDA, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean ``(time, state)`` and covariance ``(time, state, time, state)``."""
    sampler = method.sampler or method.prior.sampler
    draws = sampler.noise_levels if isinstance(sampler, Ancestral) else 1
    size = (problem.steps + 1) * problem.space.size
    with mock.patch.object(rng, "Stream", UnitNoise):
        members = 1 + draws * size
        states = replace(method, chunk=members).assimilate(problem, members).states
    responses = states[1:] - states[0]
    return states[0], torch.einsum("nsi,ntj->sitj", responses, responses)


def partially_observed(std: float = 0.2) -> Problem:
    """Return a damped rotation of two variables, of which one is observed every 4 steps."""
    system = LinearGaussian(
        torch.tensor([[0.95, 0.1], [-0.1, 0.95]]),
        torch.diag(torch.tensor([0.05, 0.02])),
        torch.tensor([1.0, -1.0]),
        0.5 * torch.eye(2),
    )
    model = ObservationModel(Select([0]), std=std)
    return twin_experiment(system, model, 16, 4, rng.seeded(0))[1]


def distance(mean: torch.Tensor, var: torch.Tensor, problem: Problem) -> tuple[float, ...]:
    """Return the largest error of the mean in posterior std, and the range of variance ratios."""
    exact = KalmanSmoother().moments(problem)
    exact_var = exact.covs.diagonal(dim1=1, dim2=2)
    error, ratio = (mean - exact.means).abs() / exact_var.sqrt(), var / exact_var
    return float(error.max()), float(ratio.min()), float(ratio.max())


GUIDANCES = {
    "merged entries": None,
    "MMPS(4)": MMPS(4),
    "InflatedLikelihood(0.5)": InflatedLikelihood(0.5, bound=None),
    "InflatedLikelihood(0.01)": InflatedLikelihood(0.01, bound=None),
    "DPS()": DPS(),
}
SAMPLERS = {
    f"{build.__name__}({'corrections=1' if corrections else ''})": build(
        64, corrections, max_noise=1e3
    )
    for corrections in (0, 1)
    for build in (Multistep, PredictorCorrector, Ancestral)
}
SAMPLES = 4000


def row(guidance: str, sampler: str, problem: Problem) -> str:
    """Return one line of the table."""
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    method = SDA(prior, GUIDANCES[guidance], SAMPLERS[sampler], chunk=SAMPLES)
    # Not affine: a correction is sized by the score, and DPS divides by the residual's norm.
    sampled = SAMPLERS[sampler].corrections > 0 or guidance == "DPS()"
    if sampled:
        states = method.assimilate(problem, SAMPLES, rng.seeded(1)).states
        mean, var = states.mean(0), states.var(0)
    else:
        mean, cov = affine_moments(method, problem)
        var = torch.einsum("titi->ti", cov)
    error, low, high = distance(mean, var, problem)
    source = "samples" if sampled else "exact"
    return f"| `{guidance}` | `{sampler}` | {error:.3f} | {low:.3f} | {high:.3f} | {source} |"


def main() -> None:
    torch.set_default_dtype(torch.float64)
    problem = partially_observed()
    print("| guidance | sampler | mean error | smallest ratio | largest ratio | moments |")
    print("|---|---|---|---|---|---|")
    for guidance in GUIDANCES:
        for sampler in SAMPLERS:
            print(row(guidance, sampler, problem), flush=True)


if __name__ == "__main__":
    main()
