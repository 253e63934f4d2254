"""Every method takes a law of observations or refuses it with the names of those that do."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from scorda.assimilation.base import REQUIREMENTS
from scorda.assimilation.filter import Filter
from scorda.assimilation.likelihood_score import likelihood_score
from scorda.cli import catalogue
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.particle import ParticleFilter, ParticleSmoother
from scorda.methods.score_filter import ScoreFilter
from scorda.methods.ssls import SSLS
from scorda.methods.variational.filter import FourDVar
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Select
from scorda.observations.problem import Problem
from scorda.observations.robust_laws import Huber, Laplace, StudentT
from scorda.observations.value_laws import (
    Bernoulli,
    Censored,
    LogNormal,
    NegativeBinomial,
    Poisson,
)
from scorda.priors.gaussian import Gaussian
from scorda.systems.linear import LinearGaussian

METHODS = {name: method.load() for name, method in catalogue.listed().items()}
LAWS = {
    "student": (StudentT(4.0), 1.3),
    "laplace": (Laplace(), 1.3),
    "huber": (Huber(), 9.0),
    "lognormal": (LogNormal(), 1.3),
    "censored": (Censored(0.5), 0.5),
    "poisson": (Poisson(), 3.0),
    "negative binomial": (NegativeBinomial(4.0), 3.0),
    "bernoulli": (Bernoulli(), 1.0),
    "own": (None, 1.3),
}


class Counted:
    """A log density of a user, that of Student, which counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, y, h):
        self.calls += 1
        return -2.5 * torch.log1p((y - h).square() / 4)


def system():
    transition = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
    space = StateSpace((2,), variables=("q",), coordinates={"x": np.arange(2)})
    return LinearGaussian(transition, 0.2 * torch.eye(2), torch.ones(2), torch.eye(2), space)


def problem(law, value, std=0.5):
    scaled = not callable(law) and law.scaled
    model = ObservationModel(Select([0]), std=std if scaled else None, law=law)
    return Problem(system(), Observations(model, [1, 3], torch.tensor([[value], [value]])), 3)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "sda")) for n in METHODS]
)
def test_a_method_takes_a_law_or_names_those_that_do(name, law):
    """It asks a density of the user's for every observation that it takes."""
    law, value = law
    mine = Counted()
    task = problem(mine if law is None else law, value)
    method = METHODS[name].example(task)
    law = task.instruments[0].model.law
    members = max(20, method.least_members)
    if not REQUIREMENTS[method.errors][0](task):
        with pytest.raises(ValueError, match=rf"^{method.name} needs .*ParticleFilter"):
            method.assimilate(task, members, rng.seeded(0))
        assert method.errors == "gaussian_errors" or not law.robust
        return
    analysis = method.assimilate(task, members, rng.seeded(0))
    states = analysis.states
    assert states.isfinite().all()
    assert torch.equal(states, method.assimilate(task, members, rng.seeded(0)).states)
    if law.text() == "own:Density":
        assert mine.calls >= 2
    # The law is not the Gaussian with the same number in its place.
    plain = ObservationModel(Select([0]), std=0.5)
    gaussian = Problem(system(), Observations(plain, [1, 3], task.instruments[0].values), 3)
    other = method.assimilate(gaussian, members, rng.seeded(0))
    assert not torch.equal(states, other.states) or not torch.equal(
        analysis.weights, other.weights
    )


def test_the_laws_that_methods_take_are_those_that_the_documentation_says():
    taken = {need: {n for n, m in METHODS.items() if m.errors == need} for need in REQUIREMENTS}
    assert {"enkf", "etkf", "letkf", "denkf", "enks"} <= taken["robust_errors"]
    assert taken["linearised_errors"] == {"gaussian-mixture-filter", "masf"}
    assert {"particle-filter", "particle-smoother", "closed-form-filter", "ensf", "sf", "ssls",
            "score-filter", "sda", "fourdvar",
            "rank-histogram-filter", "normal-score-enkf"} <= taken["density"]  # fmt: skip


# Mean and variance of the posterior of a prior N(0, 1), scale 0.5, by quadrature.
POSTERIORS = [
    (StudentT(4.0), 0.0, 0.0, 0.2511),
    (StudentT(4.0), 4.0, 1.8074, 1.3329),
    (StudentT(4.0), 8.0, 0.6843, 1.1038),
    (Huber(), 2.0, 1.4694, 0.3272),
    (Huber(), 8.0, 2.69, 1.0),
    (Poisson(), 0.0, -0.6781, 0.6211),
    (Poisson(), 3.0, 0.6873, 0.3228),
    (Bernoulli(), 1.0, 0.4132, 0.8292),
    (Bernoulli(), 0.0, -0.4132, 0.8292),
]


@pytest.mark.parametrize(("law", "y", "mean", "var"), POSTERIORS, ids=str)
def test_particle_weights_are_exact(law, y, mean, var):
    """Members on a fine grid with the prior as their weights: the filter is the quadrature."""
    x = torch.linspace(-9, 9, 20001)[:, None]
    prior = (-0.5 * x[:, 0].square()).softmax(0)
    run = ParticleFilter(resample=0.0).begin(None, prior)
    model = ObservationModel(Select([0]), std=0.5 if law.scaled else None, law=law)
    _, info = run.analyse(x, torch.tensor([y]), model)
    w = info["weights"]
    found = w @ x[:, 0], w @ x[:, 0].square() - (w @ x[:, 0]) ** 2
    assert_close(torch.stack(found), torch.tensor([mean, var]), rtol=0, atol=1e-4)  # of the table


@pytest.mark.parametrize("law", [StudentT(3.0), LogNormal(), Censored(0.2)], ids=str)
def test_particle_methods_agree_with_quadrature(law):
    """Weights of another kind of law: evidence and mean by adaptive quadrature."""
    y, s, prior = torch.tensor([0.9]), torch.tensor(0.5), lambda x: math.exp(-0.5 * (x - 1) ** 2)

    def moment(power):
        def integrand(x):
            h = torch.tensor(float(x))
            return x**power * prior(x) * float(law.log_density(y[0], h, s).exp())

        return integrate.quad(integrand, -8, 10, limit=400, points=[0])[0]

    x = torch.linspace(-8, 10, 40001)[:, None]
    run = ParticleFilter(resample=0.0).begin(None, (-0.5 * (x[:, 0] - 1).square()).softmax(0))
    _, info = run.analyse(x, y, ObservationModel(Select([0]), std=0.5, law=law))
    assert_close(float(info["weights"] @ x[:, 0]), moment(1) / moment(0), rtol=0, atol=1e-4)
    evidence = math.log(moment(0) / math.sqrt(2 * math.pi))
    assert_close(float(info["log_evidence"]), evidence, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("law", "y"), [(StudentT(4.0), 3.0), (Poisson(), 4.0), (Censored(0.5), 0.5)], ids=str
)
def test_the_score_of_the_likelihood_is_that_of_the_law(law, y):
    """What EnSF, SF and SSLS add: the chain rule on the density, in standardised units."""
    z, mean, std = torch.randn(5, 2), torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.5])
    model = ObservationModel(Select([0]), std=0.7 if law.scaled else None, law=law)
    h = (mean + std * z)[:, :1].requires_grad_()
    log_density = law.log_density(torch.tensor([y]), h, torch.tensor(0.7)).sum()
    (slope,) = torch.autograd.grad(log_density, h)
    found = likelihood_score(z, mean, std, torch.tensor([y]), model)
    assert_close(found, torch.cat((slope * std[0], torch.zeros(5, 1)), 1))


@pytest.mark.parametrize("guidance", [InflatedLikelihood(bound=None), MMPS(2)], ids=str)
@pytest.mark.parametrize(
    ("law", "y"),
    [(StudentT(4.0), 3.0), (Huber(), 3.0), (Laplace(), 0.2), (Poisson(), 4.0),
     (NegativeBinomial(2.0), 0.0), (Bernoulli(), 1.0), (LogNormal(), 2.0), (Censored(0.5), 0.5)],
    ids=str,
)  # fmt: skip
def test_guidance_ends_with_the_score_of_the_likelihood(law, y, guidance):
    """As the noise goes: D(u) -> u, and the displacement is noise^2 times the score, to 1e-5."""
    noise = torch.full((1, 1), 1e-4)
    u = torch.tensor([[0.4], [0.9], [1.7]])
    model = ObservationModel(Select([0]), std=0.5 if law.scaled else None, law=law)
    prior = GaussianDenoiser.from_cov(torch.zeros(1), torch.eye(1))
    mean, shift = guidance.displacement(prior, u, noise, torch.tensor([y]), model)
    x = mean.clone().requires_grad_()
    log_density = law.log_density(torch.tensor([y]), x, torch.tensor(0.5)).sum()
    (score,) = torch.autograd.grad(log_density, x)
    assert_close(shift / noise**2, score, rtol=2e-5, atol=2e-5)


# Distance of the mean of a score filter from that of the posterior, in its standard deviations, as
# measured: a far value is let go late, while the noise goes.
FAR = {(StudentT(4.0), 4.0): 0.34, (StudentT(4.0), 8.0): 1.1, (Huber(), 8.0): 0.67}


@pytest.mark.parametrize(("law", "y", "mean", "var"), POSTERIORS, ids=str)
def test_samples_of_a_score_filter_are_near_the_posterior(law, y, mean, var):
    """Coupled to 200 members of the exact moments, so that there is no sampling error: what is
    left is the Gaussian that stands for the law while there is noise."""
    x = torch.special.ndtri((torch.arange(200) + 0.5) / 200)
    x = ((x - x.mean()) / x.std())[:, None]
    model = ObservationModel(Select([0]), std=0.5 if law.scaled else None, law=law)
    start = LinearGaussian(torch.eye(1), torch.eye(1), torch.zeros(1), torch.eye(1))
    task = Problem(start, Observations(model, [0], torch.tensor([[y]])), 0, x)
    states = ScoreFilter(guidance=MMPS(1)).assimilate(task, 200, rng.seeded(0)).states[:, 0]
    limit = FAR.get((law, y), 0.26)
    assert abs(float(states.mean()) - mean) < (limit + 0.01) * var**0.5
    assert 0.65 < float(states.var()) / var < 1.35


@pytest.mark.parametrize(
    ("law", "y"),
    [
        (StudentT(4.0), 2.0),
        (Huber(), 4.0),
        (Poisson(), 3.0),
        (Bernoulli(), 0.0),
        (Censored(-0.3), -0.3),
    ],
    ids=str,
)
def test_four_d_var_finds_the_mode(law, y):
    """Against the largest value of the log posterior on a fine grid."""
    start = LinearGaussian(torch.eye(1), torch.eye(1), torch.zeros(1), torch.eye(1))
    model = ObservationModel(Select([0]), std=0.5 if law.scaled else None, law=law)
    task = Problem(start, Observations(model, [0], torch.tensor([[y]])), 0)
    x = torch.linspace(-4, 5, 900001)
    log_posterior = law.log_density(torch.tensor(y), x, torch.tensor(0.5)) - 0.5 * x.square()
    found = float(FourDVar().assimilate(task, 1).states[0, 0, 0])
    assert found == pytest.approx(
        float(x[log_posterior.argmax()]), abs=1e-4
    )  # tolerance of 4D-Var


def test_a_sample_of_four_d_var_is_that_of_the_gaussian_at_the_mode():
    """Mean and variance of 4000 members: those of the curvature at the mode, 4 standard errors."""
    start = LinearGaussian(torch.eye(1), torch.eye(1), torch.zeros(1), torch.eye(1))
    model = ObservationModel(Select([0]), law=Poisson())
    task = Problem(start, Observations(model, [0], torch.tensor([[3.0]])), 0)
    x = FourDVar().assimilate(task, 4000, rng.seeded(0)).states[:, 0, 0]
    mode = 0.79206  # of e^x + x = 3
    var = 1 / (1 + math.exp(mode))
    assert float(x.mean()) == pytest.approx(mode, abs=4 * (var / 4000) ** 0.5)
    assert float(x.var()) == pytest.approx(var, rel=4 * (2 / 4000) ** 0.5)


def test_langevin_steps_of_a_law_are_stable():
    """The bound on the step is that of the largest curvature at the members: e^h of a count."""
    z = torch.tensor([[0.0], [2.0]])
    model = ObservationModel(Linear(torch.eye(1)), law=Poisson())
    method, y = SSLS(Gaussian(), step_size=None), torch.tensor([5.0])
    step = method.stable_step(z, torch.zeros(1), torch.ones(1), y, model)
    assert step == pytest.approx(0.1 * 2 / (math.exp(2.0) + method.noise_level**-2), rel=1e-6)


def test_simulated_observations_need_a_gaussian():
    """The published form of the closed-form filter has a kernel of the observation error."""
    task = problem(StudentT(), 1.0)
    with pytest.raises(ValueError, match="ClosedFormFilter needs Gaussian errors of observation"):
        ClosedFormFilter(observation_bandwidth=1.0).assimilate(task, 30, rng.seeded(0))


def test_correlated_errors_beside_another_law_are_refused():
    correlated = ObservationModel(Select([1]), cov=torch.eye(1))
    parts = [
        problem(StudentT(), 1.0).instruments[0],
        Observations(correlated, [1], torch.ones(1, 1)),
    ]
    with pytest.raises(ValueError, match=r"correlated errors .* that are not Gaussian"):
        Problem(system(), parts, 3)


def test_laws_of_several_instruments_meet_at_a_step():
    """Weights of both: against the product of their densities, in a run without resampling."""
    count = Observations(ObservationModel(Select([1]), law=Poisson()), [0], torch.ones(1, 1))
    far = ObservationModel(Select([0]), std=0.5, law=StudentT())
    both = Problem(system(), [count, Observations(far, [0], torch.ones(1, 1))], 0)
    analysis = ParticleFilter(resample=0.0).assimilate(both, 50, rng.seeded(0))
    x = analysis.states[:, 0]
    logs = Poisson().log_density(torch.ones(1), x[:, 1], torch.ones(1))
    logs = logs + StudentT().log_density(torch.ones(1), x[:, 0], torch.tensor(0.5))
    assert_close(analysis.weights[:, 0], logs.softmax(0))


@pytest.mark.parametrize("guidance", [DPS(), InflatedLikelihood(), MMPS(1)], ids=str)
def test_the_score_filter_takes_every_guidance(guidance):
    task = problem(Poisson(), 3.0)
    states = ScoreFilter(guidance=guidance).assimilate(task, 30, rng.seeded(0)).states
    assert states.isfinite().all()


def test_a_smoother_of_particles_weighs_by_the_law():
    """The final ensemble at the observed step, against importance weights of the same prior."""
    task = problem(Bernoulli(), 1.0)
    x = ParticleSmoother(20000).assimilate(task, 20000, rng.seeded(0)).states[:, 1, 0]
    free = task.system.trajectory(task.system.prior(20000, rng.seeded(1)), 3, rng.seeded(2))
    logs = -torch.nn.functional.softplus(-free[:, [1, 3], 0]).sum(1)
    expected = logs.softmax(0) @ free[:, 1, 0]
    assert float(x.mean()) == pytest.approx(float(expected), abs=0.04)  # 4 standard errors


def test_every_filter_is_judged():
    assert all(issubclass(m, Filter) or m.smoother or m.errors == "gaussian_errors"
               for m in METHODS.values())  # fmt: skip
