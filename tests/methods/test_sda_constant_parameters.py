"""SDA with sweeps where a force is unknown and constant, against the exact smoother."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from scorda import store
from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.core import rng
from scorda.core.distributions import Normal
from scorda.core.space import StateSpace
from scorda.diffusion.guidance import InflatedLikelihood
from scorda.diffusion.samplers import PredictorCorrector
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.sda import SDA
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.store.corrections import corrections_of
from scorda.systems import LinearGaussian, WithParameters
from scorda.systems.base import AdditiveNoise, along

STEPS = 6


@dataclass(frozen=True)
class Pulled(AdditiveNoise):
    """x' = x / 2 + f + e, from a start that does not know f."""

    f: float = 0.0
    noise_std: float = 0.3
    space: StateSpace = field(default_factory=lambda: StateSpace((1,), 1.0, ("x",)))
    name: str = "pulled"
    parameters = ("f",)

    def advance(self, x):
        return 0.5 * x + along(self.f, 1)

    def prior(self, members, generator=None):
        return rng.normal(members, (1,), generator)


def problem():
    system = WithParameters(Pulled(), {"f": Normal(0.0, 1.0)})
    values = torch.tensor([[1.4], [2.0], [1.7]])
    seen = Observations(ObservationModel(Select([0]), std=0.5), (1, 3, 6), values)
    return Problem(system, seen, STEPS)


def linear():
    """The same, as a linear system of two variables."""
    transition = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    noise = torch.diag(torch.tensor([0.09, 0.0]))
    return LinearGaussian(transition, noise, torch.zeros(2), torch.eye(2), problem().space)


def sda(**settings):
    """Few levels and a guidance that is narrow: rough members."""
    prior = GaussianTrajectory.of(linear(), STEPS)
    return SDA(prior, InflatedLikelihood(), PredictorCorrector(16, 0), **settings)


@pytest.mark.slow
def test_sweeps_make_the_smoother_of_rough_members_and_their_force():
    """Moments of all entries within 4 standard errors after 12 sweeps, and not before."""
    members = 1024
    moments = KalmanSmoother().moments(replace(problem(), system=linear()))
    std = moments.covs.diagonal(dim1=1, dim2=2).sqrt()
    for method, right in ((sda(), False), (sda(polish=ConditionalSMC(12, 32)), True)):
        z = (method.assimilate(problem(), members, rng.seeded(1)).states - moments.means) / std
        mean = z.mean(0).abs() * members**0.5
        var = (z.square().mean(0) - 1).abs() * (members / 2) ** 0.5
        assert bool((mean < 4).all() and (var < 4).all()) == right


@pytest.mark.slow
def test_members_depend_on_their_number_alone_and_a_run_goes_on_to_the_same_bytes(tmp_path):
    method, calls, path = sda(polish=ConditionalSMC(2, 8)), [], tmp_path / "run.zarr"
    whole = method.assimilate(problem(), 100, rng.seeded(1)).states
    parts = [
        method.assimilate_members(problem(), low, low + 50, rng.seeded(1)).states
        for low in (0, 50)
    ]
    # Products of a Gaussian denoiser round by the size of a batch; choices of sweeps do not.
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-12, rtol=0)

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(method, problem(), 128, path, seed=1, block=64, progress=stop)
    resumed = store.run(method, problem(), 128, path, seed=1, block=64, resume=True)
    again = store.run(method, problem(), 128, tmp_path / "whole.zarr", seed=1, block=64)
    assert torch.equal(resumed.analysis.states, again.analysis.states)
    report = again.info["report"]
    assert resumed.info["report"]["renewed_parameters"] == report["renewed_parameters"]
    assert "and the parameters of" in " ".join(corrections_of(again))


def test_other_parameters_than_those_of_the_prior_are_told_in_a_sentence():
    method = sda(polish=ConditionalSMC(1, 8))
    lacking = replace(problem(), system=Pulled())
    with pytest.raises(ValueError, match=r"no parameters, the prior the parameters f: give both"):
        method.assimilate(lacking, 4, 1)
    other = WithParameters(Pulled(), {"f": Normal(0.0, 1.0)})
    other.space = replace(other.space, variables=("x", "g"), parameters=("g",))
    for one in (method, sda()):
        with pytest.raises(ValueError, match=r"the parameters g, the prior the parameters f"):
            one.assimilate(replace(problem(), system=other), 4, 1)
