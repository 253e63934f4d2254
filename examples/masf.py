"""Compare MASF's two forms with the Kalman update, without sampling error.

Both samplers are affine maps of their noise where the prior is Gaussian, so a run on unit vectors
gives the moments of their samples. This file prints the last table of docs/exactness.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import torch
from exactness import UnitNoise

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.core.space import StateSpace
from scorda.diffusion.bridge import BridgeODE, BridgeSDE
from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.published import PublishedMASF, PublishedSDE
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.operators import Select
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import FittedGaussian, Gaussian


@dataclass(frozen=True)
class Known(EnsemblePrior):
    """A known Gaussian, which does not depend on the ensemble."""

    mean: torch.Tensor
    cov: torch.Tensor

    def fit(
        self,
        ensemble: torch.Tensor,
        modes: Modes | None = None,
        space: StateSpace | None = None,
    ) -> FittedGaussian:
        size = len(self.mean)
        columns = torch.linalg.cholesky(self.cov).T * (size - 0.5) ** 0.5
        return Gaussian().fit(self.mean + torch.cat((columns, -columns)), modes)


CASES = {
    "P = 1, std 0.5": (torch.eye(1), 0.5),
    "P = 1, std 0.1": (torch.eye(1), 0.1),
    "P = 100, std 0.1": (100 * torch.eye(1), 0.1),
    "two, correlation 0.8, one observed, std 0.5": (torch.tensor([[1.0, 0.8], [0.8, 1.0]]), 0.5),
}
PLAIN = (1.0, 1.0, 1.0)
FORMS = {
    "bridge, ODE": (MASF, BridgeODE(coupled=False), 1),
    "bridge, SDE": (MASF, BridgeSDE(), 20),
    "published, plain sum": (
        PublishedMASF,
        PublishedSDE(prior_scale=PLAIN, guidance_scale=PLAIN),
        151,
    ),
    "published, its scales": (PublishedMASF, PublishedSDE(), 151),
}


def moments(method: MASF, model: ObservationModel, size: int, draws: int) -> list[torch.Tensor]:
    """Return mean and variances of the samples for the observation 1.7."""
    zeros = torch.zeros(1 + draws * size, size)
    with mock.patch.object(rng, "Stream", UnitNoise):
        states = method.update(zeros, torch.tensor([1.7]), model, rng.seeded(0))
    return [states[0], (states[1:] - states[0]).square().sum(0)]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    print("| case | form | evaluations | mean error | ratio of variances |")
    print("|---|---|---|---|---|")
    for case, (cov, std) in CASES.items():
        cov, size = cov.double(), len(cov)
        model = ObservationModel(Select([0]), std=std)
        mean, y = torch.full((size,), 0.3), torch.tensor([1.7])
        R = torch.tensor([[std**2]])
        exact_mean, exact_cov, _ = gaussian_condition(mean, cov, torch.eye(size)[:1], y, R)
        exact = exact_cov.diagonal()
        for form, (kind, sampler, draws) in FORMS.items():
            method = kind(Known(mean, cov), sampler=sampler)
            sample_mean, var = moments(method, model, size, draws)
            error = ((sample_mean - exact_mean) / exact.sqrt()).abs().max()
            ratios = ", ".join(f"{ratio:.3f}" for ratio in var / exact)
            print(f"| {case} | {form} | {sampler.evaluations} | {error:.3f} | {ratios} |")


if __name__ == "__main__":
    main()
