"""Every class of the library keeps its contract, and each check catches a broken one.

Methods come from the catalogue, each with its `example`; any other class goes into the list of its
kind.
"""

import inspect
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from torch import nn

from networks import online
from scorda import metrics, priors
from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import Filter
from scorda.assimilation.hybrid import Hybrid
from scorda.cli import catalogue
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import BridgeODE, BridgeSDE
from scorda.diffusion.denoisers import GaussianDenoiser, KernelDenoiser, NetworkDenoiser
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector, VarianceExploding
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enff import EnFF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.ensf import EnSF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.nonlinear import NonlinearMASF, ProjectionSDE
from scorda.methods.masf.published import PublishedMASF, PublishedSDE
from scorda.methods.particle import ParticleFilter
from scorda.methods.score_filter import ScoreFilter
from scorda.methods.sda import SDA
from scorda.methods.sf import SF
from scorda.methods.ssls import SSLS
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Chain, Function, Linear, Operator, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.observations.spatial import Average, Blur, Interpolate, Stride
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.priors.local import LocalGaussian
from scorda.priors.mixture import Mixture
from scorda.priors.network.online import OnlineNetwork
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63, Lorenz96
from scorda.testing.declared import check_declaration
from scorda.testing.diffusion import check_denoiser, check_guidance, check_process, check_sampler
from scorda.testing.methods import check_assimilator, check_filter
from scorda.testing.physics import check_operator, check_system
from scorda.testing.robust import check_robust
from scorda.testing.units import check_metric_units, check_prior_units, check_units


def name(value):
    return type(value).__name__ if not isinstance(value, tuple) else "x".join(map(str, value))


def linear():
    transition = torch.tensor([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.1, 0.7]])
    return LinearGaussian(transition, 0.2 * torch.eye(3), torch.ones(3), torch.eye(3))


def linear_problem():
    model = ObservationModel(Select([0]), std=0.5)
    return twin_experiment(linear(), model, 6, 3, rng.seeded(0))[1]


def numpy_model(x):
    return 0.5 * np.roll(x, 1, -1) + 1


def random_states(members, seed):
    # One row after another, so that a member does not depend on how many are drawn.
    return np.random.default_rng(seed).normal(size=(members, 2, 3))


SPACE = StateSpace((2, 3), variables=("q",))
SYSTEMS = {
    "linear": linear,
    "linear deterministic": lambda: LinearGaussian(
        torch.eye(2) / 2, torch.zeros(2, 2), torch.zeros(2), torch.eye(2)
    ),
    "lorenz63": lambda: Lorenz63(spinup=0.5),
    "lorenz63 deterministic": lambda: Lorenz63(noise_std=0, spinup=0.5),
    "lorenz96": lambda: Lorenz96(dim=6, spinup=0.5),
    "lorenz96 stochastic": lambda: Lorenz96(dim=6, noise_std=0.3, spinup=0.5),
    "numpy": lambda: FunctionSystem(numpy_model, random_states, SPACE, noise_std=0.1),
    "torch": lambda: FunctionSystem(
        lambda x: 0.5 * x.sin(), random_states(9, 0), SPACE, library="torch"
    ),
}


@pytest.mark.parametrize("make", SYSTEMS.values(), ids=SYSTEMS.keys())
def test_systems(make):
    check_system(make())


GRID = StateSpace((4, 6), variables=("q",))
OPERATORS = [
    (Select([0, 5]), (6,)),
    (Select([3, 1]), (2, 3)),
    (Mask(torch.tensor([[True, False, True], [False, True, False]])), (2, 3)),
    (Linear(torch.arange(12.0).reshape(2, 6)), (2, 3)),
    (Stride(2), (8,)),
    (Stride(2), (2, 4, 6)),
    (Average(2), (4, 6)),
    (Blur(torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, 1.0]])), (4, 2, 3)),
    (Interpolate(torch.tensor([[0.5, 1.25], [2.0, 3.0]]), GRID), (4, 6)),
    (Pointwise(torch.atan), (2, 3)),
    (Chain(Pointwise(torch.atan), Stride(2)), (4, 6)),
    (Chain(Select([1]), Average(2)), (4, 6)),
    (Function(lambda x: x.square().flatten(1).sum(1, keepdim=True)), (2, 3)),
    (Function(lambda x: np.abs(x), differentiable=False), (2, 3)),
]


@pytest.mark.parametrize(("operator", "shape"), OPERATORS, ids=name)
def test_operators(operator, shape):
    check_operator(operator, shape)


FEW = Multistep(8, 0, min_noise=1e-2, max_noise=1e2)
NETWORK = online(training_steps=5, fine_tuning_steps=2, width=8, batch=8)
EXAMPLES = [kind.example(linear_problem()) for kind in catalogue.methods().values()]
# Forms of some filters beside their examples.
FORMS = [
    ETKF(rotation=True),
    ETKF(hybrid=Hybrid(0.5)),
    EnKF(hybrid=Hybrid(0.5)),
    ParticleFilter(resample=1.0, scheme="multinomial"),
    ParticleFilter(jitter=0.3),
    MASF(sampler=BridgeODE(coupled=False)),
    MASF(Gaussian(GaspariCohn(2.0)), inflation=1.1),
    MASF(LocalGaussian(GaspariCohn(2.0), block=2), inflation=1.1),
    MASF(Kernel(0.2), sampler=BridgeSDE(), inflation=1.1),
    MASF(Mixture(0.2), sampler=BridgeODE(noise_levels=5)),
    MASF(Mixture(0.5, 0.1, GaspariCohn(2.0), GaspariCohn(1.0)), inflation=1.1),
    PublishedMASF(sampler=PublishedSDE(noise_levels=30), inflation=1.1),
    NonlinearMASF(sampler=ProjectionSDE(noise_levels=50), inflation=1.1),
    MASF(NETWORK),
    NonlinearMASF(NETWORK, sampler=ProjectionSDE(noise_levels=50), inflation=1.1),
    SF(NETWORK, euler_steps=30, inflation=1.1),
    SSLS(NETWORK, langevin_steps=20, inflation=1.1),
    ScoreFilter(NETWORK, guidance=MMPS(1), sampler=FEW),
    ScoreFilter(Gaussian(GaspariCohn(2.0)), guidance=MMPS(1), sampler=FEW, coupled=False),
    ScoreFilter(Kernel(0.2), guidance=InflatedLikelihood(), sampler=FEW, inflation=1.1),
    EnSF("mixture", euler_steps=20, scale="spread"),
    EnFF("ot", "importance"),
    EnFF("ot", "exact", flow_steps=3),
    EnFF("ot", "exact", flow_steps=3, prior=Gaussian(GaspariCohn(2.0))),
    # Kernels as wide as the likelihood of so few members wants them would change the variance.
    ClosedFormFilter(0.3, "variances", observation_bandwidth=0.5, draw="coupled"),
    ClosedFormFilter(0.2, "isotropic", draw="mixture"),
    GaussianMixtureFilter(0.3),
    GaussianMixtureFilter(0.3, rotation=False),
    GaussianMixtureFilter(0.3, localization=GaspariCohn(2.0)),
]
FILTERS = [method for method in EXAMPLES if isinstance(method, Filter)] + FORMS


@pytest.mark.slow
@pytest.mark.parametrize("method", FILTERS, ids=name)
def test_filters(method):
    check_filter(method)


def takes_any_units(method):
    """Not those that are published for states about zero, or in as many steps as few have here."""
    return not isinstance(method, PublishedMASF | NonlinearMASF)


def takes_sums(method):
    """Not those whose observations need a place, and no process of entries alone."""
    placed = isinstance(getattr(method, "prior", None), LocalGaussian)
    return not placed and "positions" not in method.needs and not isinstance(method, PublishedMASF)


# Those of a system with a prior of its own are made of a problem each.
UNITS = [*FORMS, *(m for m in EXAMPLES if not isinstance(m, SDA)), SDA.example]


@pytest.mark.slow
@pytest.mark.parametrize("method", UNITS, ids=name)
def test_methods_are_the_same_in_any_units(method):
    if isinstance(method, Assimilator):
        check_units(method, trained=is_trained(method), sums=takes_sums(method))
    else:
        check_units(method)


def is_trained(method):
    return isinstance(getattr(method, "prior", None), OnlineNetwork)


PRIORS = [
    Gaussian(),
    Gaussian(GaspariCohn(2.0)),
    Kernel(0.3),
    LocalGaussian(GaspariCohn(2.0), block=2),
    Mixture(0.3),
    Mixture(0.3, 0.1, GaspariCohn(2.0), GaspariCohn(1.0)),
    NETWORK,
]


def test_every_prior_of_an_ensemble_is_in_the_list():
    """Amortised networks are trained on many forecasts, which have units of their own."""
    kinds = {type(prior).__name__ for prior in PRIORS} | {"AmortisedNetwork"}
    assert kinds == {
        n
        for n in priors.__all__
        if isinstance(kind := getattr(priors, n), type)
        and issubclass(kind, EnsemblePrior)
        and not inspect.isabstract(kind)
    }


@pytest.mark.parametrize("prior", PRIORS, ids=name)
def test_priors_are_the_same_in_any_units(prior):
    check_prior_units(prior, trained=isinstance(prior, OnlineNetwork))


@dataclass
class Residuals:
    """Observations that a trajectory predicts by itself."""

    values: torch.Tensor

    def predict(self, states):
        return states


# Power of the unit that a score has.
SCORES = {
    "rmse": (metrics.rmse, 1, (5, 3)),
    "spread": (metrics.spread, 1, (5, 3)),
    "spread_skill": (metrics.spread_skill, 0, (5, 3)),
    "crps": (metrics.crps, 1, (5, 3)),
    "pointwise_crps": (metrics.pointwise_crps, 1, (5, 3)),
    "gaussian_crps": (lambda x, y: metrics.gaussian_crps(x.mean(0), x.std(0), y), 1, (5, 3)),
    "quantile": (lambda x, y: metrics.quantile(x, 0.3), 1, (5, 3)),
    "coverage": (metrics.coverage, 0, (5, 3)),
    "rank_histogram": (
        lambda x, y: metrics.rank_histogram(x, y, generator=rng.seeded(0)).counts,
        0,
        (5, 3),
    ),
    "energy_score": (metrics.energy_score, 1, (5, 3)),
    "wasserstein": (lambda x, y: metrics.wasserstein(x, x + y), 1, (5, 3)),
    "autocorrelation": (lambda x, y: metrics.autocorrelation(x, 2), 0, (5, 3)),
    "residual_std": (lambda x, y: metrics.residual_std(x, Residuals(y)), 1, (5, 3)),
    "csi": (lambda x, y: metrics.csi(x, y, level=0.6), 0, (5, 3)),
    "ssim": (metrics.ssim, 0, (2, 12, 12)),
    "spectrum": (lambda x, y: metrics.spectrum(x), 2, (2, 12, 12)),
}


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_the_same_in_any_unit(score):
    if score == "ssim":
        pytest.importorskip("skimage")
    function, power, shape = SCORES[score]
    check_metric_units(function, power, shape)


def test_every_score_is_in_the_list():
    """A log density is in no unit: that of `log_prior` shifts by the log of the factor."""
    functions = {n for n in metrics.__all__ if not isinstance(getattr(metrics, n), type)}
    assert functions == SCORES.keys() | {"log_prior"}


@pytest.mark.slow
@pytest.mark.parametrize("method", FILTERS, ids=name)
def test_filters_are_robust(method):
    check_robust(method, any_units=takes_any_units(method))


def default(method):
    """That with the default settings, for which a class declares its cost."""
    required = [f.name for f in fields(method) if f.init and f.default is f.default_factory]
    return type(method)(**{key: getattr(method, key) for key in required})


DEFAULTS = [default(method) for method in EXAMPLES if isinstance(method, Filter)]


@pytest.mark.parametrize("method", FILTERS, ids=name)
def test_filters_need_what_they_declare(method):
    check_declaration(method, costs=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", DEFAULTS, ids=name)
def test_filters_cost_what_they_declare(method):
    check_declaration(method)


# Filters have a contract of their own, above; a few show that the two agree.
FEW_FILTERS = {"EnKF", "ETKF", "DEnKF", "ParticleFilter"}
ASSIMILATORS = [m for m in EXAMPLES if not isinstance(m, Filter) or m.name in FEW_FILTERS]


@pytest.mark.slow
@pytest.mark.parametrize("method", ASSIMILATORS, ids=name)
def test_assimilators(method):
    check_assimilator(method, linear_problem())


PROCESSES = [VariancePreserving(), VarianceExploding(), VarianceExploding(1e-3, 50.0)]


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_processes(process):
    check_process(process)


class _Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=torch.float32)

    def forward(self, x, noise):
        return torch.tanh(self.linear(x))


def denoisers():
    samples = rng.normal(8, (2, 3), rng.seeded(0))
    return [
        GaussianDenoiser.from_cov(torch.zeros(2, 3), torch.eye(6)),
        GaussianDenoiser.from_samples(samples),
        KernelDenoiser(samples, 0.3),
        KernelDenoiser(samples, 0.0),
        NetworkDenoiser(_Network()),
    ]


@pytest.mark.parametrize("number", range(5))
def test_denoisers(number):
    check_denoiser(denoisers()[number], (2, 3))


GUIDANCE = [InflatedLikelihood(), InflatedLikelihood(bound=None), MMPS(), MMPS(solver="cg"), DPS()]


@pytest.mark.slow
@pytest.mark.parametrize("guidance", GUIDANCE, ids=name)
def test_guidance(guidance):
    check_guidance(guidance, ignores_error=isinstance(guidance, DPS))


SAMPLERS = [
    PredictorCorrector(64, corrections=0),
    PredictorCorrector(64, corrections=1, tau=0.25),
    PredictorCorrector(64, corrections=0, grid="time"),
    Ancestral(64, corrections=0),
    Multistep(16, corrections=0),
    StochasticMultistep(32, corrections=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_samplers(sampler):
    # In 6 dimensions tau = 0.25 makes steps of tau E[6 / chi^2] = 0.38: standard deviations 11 %
    # too large for a white Gaussian, more for this correlated one.
    check_sampler(sampler, tolerance=0.3 if sampler.corrections else 0.1)


# --- each check catches what it promises to catch ------------------------------------------------


class _LeakySystem(Lorenz63):
    def step(self, x, generator=None):
        return super().step(x, generator) + 0.01 * x.roll(1, 0)


class _UnseededSystem(Lorenz96):
    def advance(self, x):
        return x + torch.rand_like(x)


class _BiasedOperator(Operator):
    linear = True

    def __call__(self, x):
        return x.flatten(1) + 1


class _DoublePrecisionOperator(Operator):
    def __call__(self, x):
        return x.flatten(1).double()


class _Broken(Filter):
    """A filter that keeps its contract; each subclass breaks one promise."""

    def analyse(self, forecast, y, model, generator=None):
        return forecast.clone(), {}


class _InPlace(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast.mul_(0.99), {}


class _Unseeded(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + 1e-3 * torch.rand_like(forecast), {}


class _Flattening(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast.flatten(1), {}


class _Doubling(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast.double(), {}


class _Overconfident(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast.mean(0) + 0.5 * (forecast - forecast.mean(0)), {}


class _Diverging(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast * float("inf"), {}


class _Huge(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + (y.max() > 10) * torch.finfo(forecast.dtype).max, {}


class _InMetres(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast - 0.02 * (forecast - forecast.mean(0)).square().mean(0), {}


class _FixedNoise(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + 0.1 * rng.normal(*_sizes(forecast), generator, forecast), {}


def _sizes(x):
    return len(x), tuple(x.shape[1:])


class _Greedy(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        model.operator(forecast)
        return forecast + 0 * model.operator(forecast).sum(), {}


class _Modest(_Broken):
    def begin(self, problem, weights=None):
        if not problem.observed()[1][1].operator.linear:
            raise ValueError("No.")
        return self


class _Careless(_Broken):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + 1e-3, {}


class _IgnoresAbsence(KalmanSmoother):
    def assimilate(self, problem, members, generator=None):
        analysis = super().assimilate(problem, members, generator)
        analysis.states += sum(len(part) for part in problem.observations)
        return analysis


@dataclass(frozen=True)
class _WrongTransition(VariancePreserving):
    def transition(self, s, t):
        law = super().transition(s, t)
        return law._replace(var=1.01 * law.var)


class _BatchNorm:
    def denoise(self, u, noise):
        return u - u.mean(0)


@dataclass(frozen=True)
class _Away(InflatedLikelihood):
    def displacement(self, *arguments):
        mean, shift = super().displacement(*arguments)
        return mean, -shift


@dataclass(frozen=True)
class _Narrow(PredictorCorrector):
    def move(self, u, mean, previous, levels, noise):
        return mean + 0.9 * levels[2] / levels[1] * (u - mean)


BROKEN = {
    "leak": (check_system, (_LeakySystem(spinup=0),), "influence another"),
    "seed": (check_system, (_UnseededSystem(dim=6, spinup=0.5),), "same seed"),
    "linear": (check_operator, (_BiasedOperator(), (2, 3)), "linear = True"),
    "dtype of h": (check_operator, (_DoublePrecisionOperator(), (2, 3)), "float32 into"),
    "in place": (check_filter, (_InPlace(),), "changes the forecast or"),
    "seed of filter": (check_filter, (_Unseeded(),), "same seed"),
    "shape": (check_filter, (_Flattening(),), "returns the shape"),
    "dtype": (check_filter, (_Doubling(),), "into torch.float64"),
    "huge error": (check_filter, (_Overconfident(),), "variance by more than 4 standard errors"),
    "finite": (check_filter, (_Diverging(),), "not finite"),
    "outlier": (check_robust, (_Huge(),), "fails with an observation 20 standard"),
    "agreement": (check_robust, (_Careless(),), "moves a component in which"),
    "units": (check_robust, (_InMetres(),), "in Pa and single precision"),
    "any units": (check_units, (_FixedNoise(),), "must be the same in any units"),
    "units of a prior": (check_prior_units, (Kernel(0.3, "none"),), "same in any units"),
    "cost": (check_declaration, (_Greedy(),), "2 evaluations of the operator per member, not 1"),
    "needs": (check_declaration, (_Modest(),), "refuses a black-box operator without"),
    "absence": (check_assimilator, (_IgnoresAbsence(), linear_problem), "row of NaN"),
    "transition": (check_process, (_WrongTransition(),), "does not lead to its own"),
    "batch": (check_denoiser, (_BatchNorm(), (2, 3)), "influence another"),
    "direction": (check_guidance, (_Away(),), "away from the observation"),
    "moments": (check_sampler, (_Narrow(64, corrections=0),), "standard deviations"),
}


@pytest.mark.parametrize(("check", "arguments", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_promise_is_caught_and_named(unchecked, check, arguments, words):
    arguments = [linear_problem() if a is linear_problem else a for a in arguments]
    with pytest.raises(AssertionError, match=words) as caught:
        check(*arguments)
    assert str(caught.value).startswith(type(arguments[0]).__name__)


@pytest.mark.slow
def test_the_filter_that_does_nothing_keeps_its_contract():
    """So that the broken filters above fail for what they break."""
    check_filter(_Broken())
    check_robust(_Broken())
