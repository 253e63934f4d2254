"""Priors of trajectories that carry their parameters as constant channels."""

import pytest
import torch

import scorda as sc
from scorda.cli import main
from scorda.core import rng
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Ancestral, PredictorCorrector
from scorda.diffusion.training import Training
from scorda.priors import GaussianTrajectory
from scorda.priors.from_system import train_on_system
from scorda.priors.recipe import Recipe
from scorda.systems import LinearGaussian, Lorenz63, Uniform, WithParameters

RECIPE = Recipe(series=64, length=12, architecture="temporal-conv", width=8, blocks=1)
QUICK = Training(training_steps=20, batch=8, segment=9, every=20)


@pytest.mark.slow
def test_sda_samples_states_and_a_constant_force_together():
    """With the exact prior and MMPS: the moments of the smoother, to 5 standard errors and 0.03.

    The last is the error of 64 noise levels.
    """
    steps, members = 6, 500
    transition = torch.tensor([[0.9, 0.5], [0.0, 1.0]])
    system = LinearGaussian(
        transition, torch.diag(torch.tensor([0.09, 0.0])), torch.zeros(2), torch.eye(2)
    )
    model = sc.ObservationModel(sc.Select([0]), std=0.5)
    truth = system.trajectory(system.prior(1, rng.seeded(5)), steps, rng.seeded(6))[0]
    observed = list(range(1, steps + 1))
    y = model.sample(truth[observed], rng.seeded(7))
    problem = sc.Problem(system, sc.Observations(model, observed, y), steps)
    prior = GaussianTrajectory.of(system, steps)
    sampler = PredictorCorrector(64, corrections=0)
    method = sc.SDA(prior, guidance=MMPS(4, bound=None), sampler=sampler)
    force = method.assimilate(problem, members, rng.seeded(0)).states[..., 1]
    exact = sc.KalmanSmoother().moments(problem)
    var = exact.covs[:, 1, 1]
    error = 5 * (var / members).sqrt() + 0.03
    assert ((force.mean(0) - exact.means[:, 1]).abs() < error).all()
    assert ((force.var(0) - var).abs() < (0.03 + 5 * (2 / members) ** 0.5) * var).all()
    assert float(force.std(1).mean()) < 0.05 * float(var[0].sqrt())


def test_a_trained_prior_keeps_bounds_also_from_its_file(tmp_path, single):
    """Its samples, those given observations, and those of the prior that is read back."""
    system = WithParameters(Lorenz63(spinup=1), {"rho": Uniform(20, 35)})
    prior = train_on_system(system, RECIPE, QUICK)
    assert abs(float(prior.standardisation.std[3]) - system.laws["rho"].spread) < 0.5
    prior.save(tmp_path / "prior.safetensors")
    again = sc.load(tmp_path / "prior.safetensors")
    assert again.space == system.space
    sampler = Ancestral(noise_levels=4, corrections=0)
    model = sc.ObservationModel(sc.Select([0]), std=1.0)
    observations = sc.Observations(model, [0, 4], torch.zeros(2, 1))
    problem = sc.Problem(again, observations, 8)
    drawn = [
        prior.sample(16, 8, rng.seeded(0), sampler),
        sc.SDA(prior, sampler=sampler).assimilate(problem, 16, rng.seeded(0)).states,
        sc.SDA(again, sampler=sampler).assimilate(problem, 16, rng.seeded(0)).states,
    ]
    for states in drawn:
        assert ((states[..., 3] > 20) & (states[..., 3] < 35)).all()
    assert torch.equal(drawn[1], drawn[2])


@pytest.mark.slow
def test_a_prior_with_parameters_is_trained_and_used_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rho = "--parameter rho=uniform:20,35"
    assert main(f"simulate lorenz63 {rho} --steps 8 --every 4 --out sim".split()) == 0
    sizes = "--series 16 --length 12 --width 8 --blocks 1 --training-steps 4 --batch 4 --segment 9"
    trained = f"train --system lorenz63 {rho} {sizes} --out prior.safetensors"
    assert main(trained.split()) == 0
    given = "assimilate --method sda --prior prior.safetensors --observations sim/observations.csv"
    assert main(f"{given} --truth sim/truth.nc --members 4".split()) == 0
    posterior = sc.open_posterior("run.zarr")
    values = posterior.to_xarray()["rho"]
    assert ((values > 20) & (values < 35)).all() and posterior.space.parameters == ("rho",)
