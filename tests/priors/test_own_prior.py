"""Denoisers of other libraries: exact ones in each form, tiny random ones, and a prior of them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.samplers import Multistep
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.own import AzulaDenoiser, DiffusersDenoiser, ModuleDenoiser, OwnPrior
from scorda.priors.trajectory import Standardisation
from scorda.systems.linear import LinearGaussian

VAR = 0.7
LEVELS = (0.02, 0.5, 3.0, 15.0)


def exact(u, nu):
    """Mean of N(0, VAR) given u."""
    return VAR / (VAR + nu**2) * u


class Exact(nn.Module):
    """The exact network of N(0, VAR): its mean, or its noise."""

    def __init__(self, predicts):
        super().__init__()
        self.predicts = predicts

    def forward(self, u, level):
        nu = level.view(-1, *[1] * (u.ndim - 1))
        return exact(u, nu) if self.predicts == "mean" else (u - exact(u, nu)) / nu


class Preserving:
    """alpha = cos, sigma = sin of the time, which azula has as its cosine schedule."""

    def __call__(self, t):
        angle = 0.01 + 1.5 * t
        return angle.cos(), angle.sin()


def of_azula():
    def mean(x_t, t):
        alpha, sigma = (part.view(-1, *[1] * (x_t.ndim - 1)) for part in Preserving()(t))
        return SimpleNamespace(mean=exact(x_t / alpha, sigma / alpha))

    mean.schedule = Preserving()
    return AzulaDenoiser(mean)


class UNet(nn.Module):
    def __init__(self, kind, bars):
        super().__init__()
        self.kind, self.steps = kind, 0.5 * ((1 - bars) / bars).log()

    def forward(self, x, time):
        low = time.long().clamp(max=len(self.steps) - 2)
        log_nu = torch.lerp(self.steps[low], self.steps[low + 1], time - low)
        nu = log_nu.exp()[:, None, None, None]
        alpha = (1 + nu**2).rsqrt()
        mean = exact(x / alpha, nu)
        eps = (x - alpha * mean) / (alpha * nu)
        v = alpha * eps - alpha * nu * mean
        return SimpleNamespace(
            sample={"sample": mean, "epsilon": eps, "v_prediction": v}[self.kind]
        )


def of_diffusers(kind):
    bars = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    scheduler = SimpleNamespace(alphas_cumprod=bars, config=SimpleNamespace(prediction_type=kind))
    return DiffusersDenoiser(UNet(kind, bars), scheduler)


DENOISERS = {
    "mean": lambda: ModuleDenoiser(Exact("mean")),
    "noise": lambda: ModuleDenoiser(Exact("noise"), "noise"),
    "azula": of_azula,
    "sample": lambda: of_diffusers("sample"),
    "epsilon": lambda: of_diffusers("epsilon"),
    "v_prediction": lambda: of_diffusers("v_prediction"),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_an_exact_network_of_any_form_is_the_exact_denoiser(name):
    """To the halvings of the time of azula, and to rounding elsewhere."""
    u = rng.normal(5, (3, 1, 4, 4), rng.seeded(0))
    for nu in LEVELS:
        for noise in (torch.tensor(nu), torch.full((5, 1, 1, 1, 1), nu)):
            found = DENOISERS[name]().denoise(u, noise)
            assert_close(found, exact(u, nu), rtol=1e-8, atol=1e-8)


def test_a_prior_of_an_exact_denoiser_gives_the_draws_of_the_gaussian_prior():
    """The same noise and the same law: the same members, to rounding."""
    system = LinearGaussian(0.9 * torch.eye(2), 0.1 * torch.eye(2), torch.zeros(2), torch.eye(2))
    law = GaussianTrajectory.of(system, 6)

    class Module(nn.Module):
        def forward(self, u, level):
            return law.denoiser(7).denoise(u, level.view(-1, 1, 1))

    sampler = Multistep(12, 0, max_noise=100.0)
    own = OwnPrior(ModuleDenoiser(Module()), law.space, law.standardisation, sampler=sampler)
    assert_close(own.sample(5, 6, 1), law.sample(5, 6, 1, sampler))
    model = sc.ObservationModel(sc.Select([0]), std=0.3)
    _, problem = sc.twin_experiment(system, model, 6, 2, 0)
    guidance = sc.diffusion.MMPS(3)
    made, expected = (
        sc.SDA(prior, guidance=guidance, sampler=sampler)
        .assimilate(sc.Problem(prior, problem.observations, 6), 4, 1)
        .states
        for prior in (own, law)
    )
    assert_close(made, expected)


def test_a_level_for_each_entry_is_refused(unchecked):
    u = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one for each sample"):
        DENOISERS["mean"]().denoise(u, torch.ones(2, 3))
    with pytest.raises(ValueError, match="predicts = 'score'"):
        ModuleDenoiser(Exact("mean"), "score")
    with pytest.raises(ValueError, match="prediction_type = 'flow'"):
        DiffusersDenoiser(nn.Identity(), of("flow"))


def of(kind):
    return SimpleNamespace(config=SimpleNamespace(prediction_type=kind))


def drawn(denoiser, sampler):
    """Draws of a prior of random weights on two variables of a grid of 8 x 8: finite."""
    axes = {"y": torch.arange(8).numpy(), "x": torch.arange(8).numpy()}
    space = StateSpace((2, 8, 8), variables=("u", "v"), coordinates=axes)
    scaling = Standardisation(torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
    prior = OwnPrior(denoiser, space, scaling, sampler=sampler)
    states = prior.sample(2, 0, 1)
    assert states.shape == (2, 1, 2, 8, 8) and states.isfinite().all()


FEW = Multistep(4, 0, min_noise=0.05, max_noise=10.0)


@pytest.mark.slow
def test_a_tiny_random_denoiser_of_azula_is_a_prior():
    noise = pytest.importorskip("azula.noise")
    azula = pytest.importorskip("azula.denoise")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x, t, **others):
            return self.layer(x.flatten(0, 1)).view_as(x)

    denoiser = azula.KarrasDenoiser(Net(), noise.VPSchedule())
    t = torch.tensor([0.3])
    alpha, sigma = denoiser.schedule(t)
    u = rng.normal(1, (1, 2, 8, 8), rng.seeded(0))
    found = AzulaDenoiser(denoiser).denoise(u, sigma / alpha)
    assert_close(found, denoiser(alpha * u, t).mean, rtol=1e-4, atol=1e-5)
    drawn(AzulaDenoiser(denoiser), FEW)


@pytest.mark.slow
def test_a_tiny_random_unet_of_diffusers_is_a_prior():
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).to(torch.get_default_dtype())  # fmt: skip
    scheduler = diffusers.DDPMScheduler()
    bar = scheduler.alphas_cumprod[300].to(torch.get_default_dtype())
    u = rng.normal(1, (1, 2, 8, 8), rng.seeded(0))
    with torch.no_grad():
        found = DiffusersDenoiser(unet, scheduler).denoise(u, ((1 - bar) / bar).sqrt())
        noise = unet(bar.sqrt() * u[:, 0], torch.tensor([300.0])).sample
    assert_close(found[:, 0], u[:, 0] - ((1 - bar) / bar).sqrt() * noise, rtol=1e-4, atol=1e-4)
    drawn(DiffusersDenoiser(unet, scheduler), FEW)
