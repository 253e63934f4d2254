"""Twisted sampling against the law of its own chain, which is known where the prior is Gaussian.

The unguided chain is then affine in its noise, so that unit vectors in place of the noise give its
mean and covariance without sampling error. Conditioned on the observation they are what weighted
samples must be of, whatever the twist.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import VarianceExploding
from scorda.diffusion.twisted import FREE, Twisted, _Walk
from scorda.diffusion.twists import StandardLikelihood, twist
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.observations.laws import Density
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear, Pointwise, Select

PROCESS = VarianceExploding(1e-3, 1e3)
RANGE = {"min_noise": 0.01, "max_noise": 20.0}
RUNS = 20
MEAN, COV = torch.tensor([0.4, -0.3]).double(), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
TWISTS = {
    "standard": StandardLikelihood(),
    "standard, tightly bounded": StandardLikelihood(bound=0.1),
    "standard, wider": StandardLikelihood(3.0, None),
    "inflated, wide": InflatedLikelihood(1.0, None),
    "inflated, narrow": InflatedLikelihood(0.1, None),
    "moments": MMPS(1),
}


def chain_law(denoiser, shape, settings, process=PROCESS):
    """Mean and covariance of the samples of an affine denoiser's unguided chain."""
    size, calls = math.prod(shape), settings.noise_levels + 1
    draws = torch.eye(size * calls).view(size * calls, calls, *shape)
    draws = torch.cat([torch.zeros(1, calls, *shape), draws])
    at = iter(range(calls))
    walk = _Walk(settings, denoiser, process, lambda: draws[:, next(at)], rng.seeded(0), int)
    x = walk.run()[0].flatten(1).double()
    # The order is shuffled: the answer to no noise is drawn alone.
    at = iter(range(calls))
    alone = draws[:1].expand(2, -1, *shape)
    walk = _Walk(settings, denoiser, process, lambda: alone[:, next(at)], rng.seeded(0), int)
    mean = walk.run()[0][0].flatten()
    return mean, (x - mean).mT @ (x - mean)


def observed(std=0.5, y=1.5):
    return ObservationModel(Select([0]), std=std), torch.tensor([y])


def test_variance_of_the_chain_is_that_of_its_recursion():
    """Table 19.5, whose steps are one less than the levels; its start, 20^2, is forgotten."""
    prior = GaussianDenoiser.from_cov(torch.zeros(1), torch.eye(1))
    found = []
    for levels in (33, 65, 129, 257):
        settings = Twisted(levels, 2, upper=0.0, **RANGE)
        cov = chain_law(prior, (1,), settings)[1]
        nu = torch.logspace(math.log10(20), -2, levels)
        v = 1 + nu[0] ** 2
        for s, t in pairwise(nu):
            q = (t / s) ** 2
            v = (q + (1 - q) / (1 + s**2)) ** 2 * v + t**2 * (1 - q)
        v = v / (1 + nu[-1] ** 2) ** 2 + nu[-1] ** 2
        assert_close(cov[0, 0], v)
        found.append(round(float(v), 3))
    assert_close(
        torch.tensor(found), torch.tensor([0.796, 0.890, 0.943, 0.971]), atol=1e-3, rtol=0
    )


def test_variance_between_its_bounds_has_the_error_of_ten_times_as_many_levels():
    """At 64 levels .890 with the lower bound and .997 between them."""
    prior = GaussianDenoiser.from_cov(torch.zeros(1), torch.eye(1))
    cov = chain_law(prior, (1,), Twisted(64, 2, **RANGE))[1]
    assert abs(cov[0, 0] - 1) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", TWISTS)
@pytest.mark.parametrize("upper", [0.0, 0.5])
def test_weighted_samples_are_of_the_chain_given_the_observation(name, upper):
    """Twenty runs of 256 or 1024: their spread is the standard error; 4.5 of them, 10 numbers."""
    prior = GaussianDenoiser.from_cov(MEAN, COV)
    members = 1024 if "narrow" in name or "bounded" in name else 256
    settings = Twisted(32, members, upper=upper, **RANGE)
    model, y = observed()
    mean, cov = chain_law(prior, (2,), settings)
    target = gaussian_condition(mean, cov, torch.eye(2)[:1], y, torch.eye(1) * 0.25)
    bound = TWISTS[name].bind(prior, y, model)
    x, told = settings.draw(bound, PROCESS, (2,), 0, members * RUNS, rng.seeded(3))
    # Moments about the exact mean are averages: unbiased up to the normalised weights, 1 / N.
    rest = (x - target[0]).view(RUNS, members, 2)
    for found, exact in (
        (rest.mean(1), torch.zeros(2)),
        (rest.square().mean(1), target[1].diagonal()),
        (rest.prod(2).mean(1), target[1][0, 1]),
        ((told["log_evidence"] - target[2]).exp(), torch.ones(())),
    ):
        error = found.std(0) / RUNS**0.5
        assert ((found.mean(0) - exact).abs() < 4.5 * error + 0.003).all()


@pytest.mark.slow
def test_another_process_and_a_full_covariance_of_errors():
    """Correlated errors of two linear observations, variance preserving: as before."""
    prior, process = GaussianDenoiser.from_cov(MEAN, COV), VariancePreserving(1e-3, 1e-3)
    H, R = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    y = torch.tensor([1.0, -0.6])
    settings = Twisted(32, 256, **RANGE)
    mean, cov = chain_law(prior, (2,), settings, process)
    target = gaussian_condition(mean, cov, H, y, R)
    for guidance in (StandardLikelihood(), MMPS(2)):
        bound = guidance.bind(prior, y, ObservationModel(Linear(H), cov=R))
        x, told = settings.draw(bound, process, (2,), 0, 256 * RUNS, rng.seeded(4))
        runs = x.view(RUNS, 256, 2).mean(1)
        assert ((runs.mean(0) - target[0]).abs() < 4.5 * runs.std(0) / RUNS**0.5 + 0.003).all()
        ratio = (told["log_evidence"] - target[2]).exp()
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / RUNS**0.5 + 0.003


class Mixture:
    """Exact denoiser of a mixture of Gaussians."""

    def __init__(self, weights, means, covs):
        self.weights, self.means, self.covs = weights, means, covs

    def denoise(self, u, noise):
        S = self.covs + noise.flatten()[:1].square() * torch.eye(u.shape[1])
        rest = u[:, None] - self.means
        solved = torch.linalg.solve(S, rest[..., None])[..., 0]
        log = self.weights.log() - 0.5 * ((rest * solved).sum(-1) + torch.logdet(S))
        inner = self.means + (self.covs @ solved[..., None])[..., 0]
        return (log.softmax(1)[..., None] * inner).sum(1)


TWO = Mixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[-2.0, -1.0], [2.0, 1.0]]).double(),
    torch.tensor([[[0.3, 0.0], [0.0, 0.5]], [[0.5, 0.2], [0.2, 0.3]]]).double(),
)


@pytest.mark.slow
@pytest.mark.parametrize(("var", "exact"), [(0.5, 0.406), (0.02, 0.633)])
@pytest.mark.parametrize("guidance", [StandardLikelihood(), MMPS(1)], ids=["standard", "moments"])
def test_weights_of_two_modes_are_mended(var, exact, guidance):
    """Table 19.6 b, 10 runs of 256: 4 standard errors, and .012 that 64 levels leave (R = .02).

    The guided chain alone is off for every number of members where the error is small.
    """
    model, y = ObservationModel(Select([1]), std=var**0.5), torch.tensor([-0.2])
    settings = Twisted(64, 256, **RANGE)
    bound = guidance.bind(TWO, y, model)
    x, told = settings.draw(bound, PROCESS, (2,), 0, 2560, rng.seeded(1))
    left = (x[:, 0] < 0).double().view(10, 256).mean(1)
    assert abs(left.mean() - exact) < 4 * left.std() / 10**0.5 + 0.012
    assert (told["lowest_ess"] > 0.25).all()
    if var == 0.02 and isinstance(guidance, StandardLikelihood):
        never = Twisted(64, 2560, 0.0, **RANGE)
        noise = rng.Stream((1, 2), 0, 2560, (2,))
        walk = _Walk(never, bound, PROCESS, noise, rng.seeded(0), int)
        walk._pick = lambda log_w: torch.arange(len(log_w))
        plain = (walk.run()[0][:, 0] < 0).double().mean()
        assert abs(plain - exact) > 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guidance", "share"), [(MMPS(1), 0.939), (InflatedLikelihood(1.0, None), 0.748)]
)
def test_effective_sample_size_of_one_observed_direction(guidance, share):
    """Table 19.7, R = .25, 64 levels: the mean over ten quantiles of what is observed."""
    prior = GaussianDenoiser.from_cov(torch.zeros(1), torch.eye(1))
    settings = Twisted(64, 1000, 0.0, 0.0, **RANGE)
    places = (torch.arange(10) + 0.5) / 10
    found = []
    for y in torch.distributions.Normal(0.0, 1.25**0.5).icdf(places)[:, None].double():
        bound = guidance.bind(prior, y, ObservationModel(Select([0]), std=0.5))
        found.append(settings.draw(bound, PROCESS, (1,), 0, 1000, 5)[1]["final_ess"])
    # An effective sample size of 1000 members scatters by some 0.01; the tails beyond the
    # quantiles are left out.
    assert abs(torch.cat(found).mean() - share) < 0.03


def test_members_depend_on_their_number_and_group_alone():
    prior, (model, y) = GaussianDenoiser.from_cov(MEAN, COV), observed()
    settings, bound = Twisted(8, 16), StandardLikelihood().bind(prior, y, model)
    whole, told = settings.draw(bound, PROCESS, (2,), 0, 40, 7)
    assert len(whole) == 40 and len(told["log_evidence"]) == 3 and told["evaluations"] == 8
    assert len(told["ess"]) == 3 * (8 + 1)
    part, one = settings.draw(bound, PROCESS, (2,), 18, 21, 7)
    assert torch.equal(part, whole[18:21])
    assert torch.equal(one["log_evidence"], told["log_evidence"][1:2])


def test_nothing_is_resampled_at_the_last_levels():
    prior, (model, y) = GaussianDenoiser.from_cov(MEAN, COV), observed(0.01)
    bound = InflatedLikelihood(0.1).bind(prior, y, model)
    always, never = (
        Twisted(12, 16, share).draw(bound, PROCESS, (2,), 0, 16, 7)[1] for share in (1.0, 0.0)
    )
    # Weights that are equal have nothing to choose among.
    assert always["resampled"] == 12 - FREE
    assert never["resampled"] == 0 and never["roots"] <= 16


def test_without_observation_the_chain_is_ancestral():
    """Evidence 1, nothing resampled, every start kept; the noise of the last level is added."""
    prior = GaussianDenoiser.from_cov(MEAN, COV)
    x, told = Twisted(16, 64).draw(prior, PROCESS, (2,), 0, 64, 3)
    assert told["log_evidence"] == 0 and told["resampled"] == 0 and told["roots"] == 64
    assert len(x.unique(dim=0)) == 64


def test_logarithm_of_a_twist_is_the_density_of_its_covariance():
    """Of a nonlinear operator; V is neglected in the gradient alone."""
    prior, u, nu = GaussianDenoiser.from_cov(MEAN, COV), rng.normal(5, (2,), 1), torch.tensor(0.7)
    model, y = ObservationModel(Pointwise(torch.sin), std=0.3), torch.tensor([0.2, -0.1])
    mean = prior.denoise(u, nu)
    slope = mean.cos()
    share = 0.49 / 1.49
    S = COV @ torch.linalg.inv(COV + 0.49 * torch.eye(2)) * 0.49
    covs = {
        StandardLikelihood(2.0): torch.diag_embed(2 * share * slope**2),
        InflatedLikelihood(0.2): torch.diag_embed(0.2 * 0.49 * slope**2),
        MMPS(1): slope[:, :, None] * S * slope[:, None],
    }
    for guidance, cov in covs.items():
        found = twist(guidance.bind(prior, y, model), u, nu)
        law = torch.distributions.MultivariateNormal(mean.sin(), cov + 0.09 * torch.eye(2))
        assert_close(found.log, law.log_prob(y))
        assert_close(found.mean, mean)
        q = torch.linalg.solve(cov + 0.09 * torch.eye(2), (y - mean.sin())[..., None])[..., 0]
        shift = 0.49 * (q * slope) @ (COV @ torch.linalg.inv(COV + 0.49 * torch.eye(2)))
        limit = float("inf") if guidance.bound is None else 0.7 * guidance.bound
        assert_close(found.shift, shift.clamp(-limit, limit))


def test_what_has_no_twist_is_refused():
    prior, (model, y) = GaussianDenoiser.from_cov(MEAN, COV), observed()
    settings = Twisted(8, 16)
    with pytest.raises(TypeError, match="needs the density of a twist"):
        settings.draw(DPS().bind(prior, y, model), PROCESS, (2,), 0, 4, 1)
    law = ObservationModel(Select([0]), law=Density(lambda y, h: -(y - h).abs()))
    with pytest.raises(TypeError, match="Gaussian errors"):
        settings.draw(StandardLikelihood().bind(prior, y, law), PROCESS, (2,), 0, 4, 1)
    many = ObservationModel(Linear(torch.ones(65, 2)), std=1.0)
    with pytest.raises(ValueError, match="65 observed values"):
        settings.draw(MMPS().bind(prior, torch.zeros(65), many), PROCESS, (2,), 0, 4, 1)
    for wrong in ({"noise_levels": 3}, {"group": 1}, {"resample": 2.0}, {"upper": 2.0}):
        with pytest.raises(ValueError, match="Got"):
            Twisted(**wrong)
    with pytest.raises(ValueError, match="gamma"):
        StandardLikelihood(0.0)
