"""The generic score filter against the Kalman analysis, without sampling error.

A Gaussian of the ensemble has the moments of the members exactly, so that the analysis that the
members move to has those of the Kalman analysis; fresh draws give theirs away on unit noise.
"""

import re
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from moments import UnitNoise, forecast
from networks import online
from scorda.assimilation.likelihood_score import settled
from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector, VarianceExploding
from scorda.methods.score_filter import ScoreFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.systems.lorenz import Lorenz63, Lorenz96


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=rng.seeded(seed), dtype=torch.float64)


# Two components of other sizes, and four of full covariance.
COV = {
    "two": torch.tensor([[4.0, -0.6], [-0.6, 0.25]]),
    "four": matrix(4, 4, seed=3) @ matrix(4, 4, seed=3).T + 0.1 * torch.eye(4).double(),
}
MODELS = {
    "entry": (ObservationModel(Select([0]), std=0.5), 1),
    "precise": (ObservationModel(Select([0]), std=0.02), 1),
    "sum": (ObservationModel(Function(lambda x: 3 * x.sum(1, keepdim=True)), std=0.5), 1),
    "correlated errors": (
        ObservationModel(Select([1, 0]), cov=torch.tensor([[0.3, 0.2], [0.2, 0.4]])),
        2,
    ),
    "more than components": (ObservationModel(Linear(matrix(5, 4)), std=0.7), 5),
}
CASES = [
    (size, name)
    for size in COV
    for name in MODELS
    if not (size == "two" and name == "more than components")
]
# Enough iterations for the solver to converge: as many as there are observations.
CONVERGED = ScoreFilter(guidance=MMPS(5))


def kalman(x, y, model):
    size = x.shape[1]
    H = (model.operator(torch.eye(size)) - model.operator(torch.zeros(1, size))).T.to(x)
    R = model.error_cov(tuple(y.shape), y)
    return gaussian_condition(x.mean(0), x.T.cov(), H, y, R)[:2]


def compare(mean, cov, exact_mean, exact_cov, variance=0.03):
    """Mean within 0.03 standard deviations, covariance in units of them within 3 %."""
    std = exact_cov.diagonal().sqrt()
    assert_close((mean - exact_mean) / std, torch.zeros_like(std), rtol=0, atol=0.03)
    white = std[:, None] * std
    assert_close(cov / white, exact_cov / white, rtol=0, atol=variance)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "name"), CASES)
def test_members_move_to_the_kalman_analysis(size, name):
    """Moments of the analysis ensemble itself: there is no sampling error to allow for."""
    x, (model, values) = forecast(12, COV[size]), MODELS[name]
    y = torch.linspace(0.5, 1.5, values)
    analysis = CONVERGED.update(x, y, model, rng.seeded(0))
    compare(analysis.mean(0), analysis.T.cov(), *kalman(x, y, model))


@pytest.mark.parametrize(("size", "name"), CASES)
def test_fresh_draws_have_the_moments_of_the_kalman_analysis(size, name):
    """Responses to unit noise, of an affine map."""
    x, (model, values) = forecast(1 + len(COV[size]), COV[size]), MODELS[name]
    y = torch.linspace(0.5, 1.5, values)
    with mock.patch.object(rng, "Stream", UnitNoise):
        states = ScoreFilter(guidance=MMPS(5), coupled=False).update(x, y, model)
    responses = states[1:] - states[0]
    compare(states[0], responses.T @ responses, *kalman(x, y, model))


@pytest.mark.slow
def test_a_few_iterations_are_not_enough_for_many_observations():
    """The solver's default of 3 with ten values of their own: the test above sees that."""
    cov = torch.diag(torch.logspace(-2, 2, 10, dtype=torch.float64))
    x, y = forecast(40, cov), torch.linspace(-1, 1, 10)
    model = ObservationModel(Select(range(10)), std=torch.logspace(-2, 2, 10))
    exact = kalman(x, y, model)
    for iterations, converged in ((10, True), (1, False)):
        analysis = ScoreFilter(guidance=MMPS(iterations)).update(x, y, model, rng.seeded(0))
        if converged:
            compare(analysis.mean(0), analysis.T.cov(), *exact)
        else:
            with pytest.raises(AssertionError):
                compare(analysis.mean(0), analysis.T.cov(), *exact)


@pytest.mark.parametrize("prior", [Gaussian(), Kernel(0.3)])
def test_a_vague_observation_leaves_the_members_where_they_are(prior):
    """Up to the steps there and back; a kernel density moves its draws within their kernels."""
    x = forecast(40, COV["two"])
    model = ObservationModel(Select([0]), std=1e8)
    analysis = ScoreFilter(prior).update(x, torch.tensor([5.0]), model, rng.seeded(0))
    std = x.std(0)
    kernel = prior.std if isinstance(prior, Kernel) else 0.0
    assert ((analysis - x) / std).square().mean().sqrt() < 0.02 + 1.1 * kernel


@pytest.mark.slow
def test_fewer_members_than_components_stay_in_their_span():
    x = forecast(12, COV["four"])[:3]
    model = ObservationModel(Select([0]), std=0.5)
    y = torch.tensor([1.0])
    analysis = CONVERGED.update(x, y, model, rng.seeded(0))
    compare(analysis.mean(0), analysis.T.cov(), *kalman(x, y, model))
    basis = torch.linalg.svd(x - x.mean(0))[2][:2]
    moved = analysis - x.mean(0)
    assert_close(moved @ basis.T @ basis, moved, rtol=0, atol=1e-9)


def test_localized_prior():
    """With a taper: the mean of the Kalman analysis of the tapered covariance."""
    x, taper = matrix(6, 8, seed=2), GaspariCohn(2.0)
    model = ObservationModel(Select([1, 4]), std=0.3)
    system = Lorenz96(dim=8)
    problem = Problem(system, Observations(model, (1,), torch.zeros(1, 2)), 1)
    space = system.space
    P = taper(space.distance(space.positions(), space.positions())) * x.T.cov()
    y = torch.tensor([0.5, -1.0])
    exact, _, _ = gaussian_condition(
        x.mean(0), P, torch.eye(8)[[1, 4]], y, model.error_cov((2,), y)
    )
    method = ScoreFilter(Gaussian(taper), guidance=MMPS(2), coupled=False).begin(problem)
    with mock.patch.object(rng, "Stream", UnitNoise):
        mean = method.update(x, y, model)[0]
    assert_close(mean, exact, rtol=0, atol=0.03 * 0.3)


def test_the_gradient_of_a_network_prior_reaches_the_guidance():
    """Against finite differences; single precision of the network: 1e-3."""
    x = forecast(20, COV["two"])
    prior = online(training_steps=30, width=8, batch=16, seed=1)
    fitted = prior.fit(x)
    object.__setattr__(fitted.network, "corrects", True)
    u, level, v = x[:3].clone().requires_grad_(), torch.full((1, 1), 0.7), matrix(3, 2)
    (gradient,) = torch.autograd.grad(fitted.denoise(u, level), u, v)
    step = 1e-2 * matrix(3, 2, seed=5)
    with torch.no_grad():
        difference = fitted.denoise(u + step, level) - fitted.denoise(u - step, level)
    assert_close((difference * v).sum() / 2, (gradient * step).sum(), rtol=1e-2, atol=1e-4)
    assert not fitted.denoise(x[:3], level).requires_grad


@pytest.mark.slow
def test_cycles_with_a_network_and_a_nonlinear_observation():
    model = ObservationModel(Pointwise(lambda x: (x / 10) ** 3), std=0.3)
    truth, problem = twin_experiment(Lorenz63(spinup=2.0), model, 16, 4, rng.seeded(0))
    network = online(training_steps=20, fine_tuning_steps=5, width=16, batch=16)
    found = ScoreFilter(network).assimilate(problem, 40, rng.seeded(1))
    free = problem.system.trajectory(problem.system.prior(40, rng.seeded(1)), 16, rng.seeded(2))
    error, without = (
        (s[:, 4:].mean(0) - truth[4:]).square().mean().sqrt() for s in (found.states, free)
    )
    assert error < 0.7 * without
    keys = {"innovation", "chi2", "ess", "loss", "evaluations", "spread", "seconds"}
    assert keys <= found.info.keys()


def test_ess_is_that_of_the_likelihood():
    x, y = forecast(30, COV["two"]), torch.tensor([0.7])
    model = ObservationModel(Select([0]), std=0.4)
    w = model.log_likelihood(y, x).softmax(0)
    _, info = ScoreFilter().analyse(x, y, model, rng.seeded(0))
    assert_close(info["ess"], 1 / w.square().sum())


@pytest.mark.slow
def test_evaluations_are_counted():
    calls = []

    class Counting(Kernel):
        def fit(self, ensemble, modes=None, space=None):
            fitted = super().fit(ensemble, modes, space)
            denoise = fitted.denoise

            def counted(u, noise):
                calls.append(1)
                return denoise(u, noise)

            object.__setattr__(fitted, "denoise", counted)
            return fitted

    x, model = forecast(10, COV["two"]), ObservationModel(Select([0]), std=1.0)
    for method, products in (
        (ScoreFilter(Counting(0.5)), 3),
        (ScoreFilter(Counting(0.5), guidance=InflatedLikelihood(), coupled=False), 0),
    ):
        calls.clear()
        _, info = method.analyse(x, torch.tensor([0.0]), model, rng.seeded(0))
        assert info["evaluations"] == len(calls) + 32 * products


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": Ancestral(16, 0)}, "draws noise"),
        ({"sampler": PredictorCorrector(16, 1)}, "corrections=0"),
        ({"process": VarianceExploding()}, r"from 0\.002 to 10:"),
        ({"inflation": 0.9}, "inflation"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ScoreFilter(**options)


@pytest.mark.slow
def test_parts_are_free():
    """Any process, guidance and sampler: finite, and towards the observation."""
    x, model = forecast(30, COV["two"]), ObservationModel(Pointwise(torch.atan), std=0.1)
    y = torch.atan(torch.tensor([2.0, 0.5]))
    for guidance in (MMPS(2, "cg"), InflatedLikelihood(), DPS()):
        for sampler in (Ancestral(24, 1), Multistep(24, 0), PredictorCorrector(24, 0)):
            for process in (
                VarianceExploding(min_noise=1e-3, max_noise=50.0),
                ScoreFilter().process,
            ):
                coupled = sampler.deterministic
                method = ScoreFilter(Kernel(0.4), process, guidance, sampler, coupled)
                analysis = method.update(x, y, model, rng.seeded(0))
                assert analysis.isfinite().all()
                before, after = ((torch.atan(s.mean(0)) - y).norm() for s in (x, analysis))
                assert after < before


def test_a_black_box_is_refused_before_the_run():
    box = ObservationModel(Function(lambda s: s, differentiable=False), std=1.0)
    _, problem = twin_experiment(Lorenz63(spinup=0.5), box, 4, 2, rng.seeded(0))
    with pytest.raises(ValueError, match=re.compile("ScoreFilter needs .*gradient")):
        ScoreFilter().assimilate(problem, 5)


def test_components_in_which_members_agree_stay():
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [1.0, 2.5, 5.0]])
    moved = settled(x + 10, x)
    assert torch.equal(moved, x + torch.tensor([0.0, 10.0, 10.0]))
    # Kernels have a width there too, so that the walk alone would move it.
    still = forecast(10, torch.eye(2)).double()
    still[:, 1] = 2.0
    model = ObservationModel(Select([0]), std=1.0)
    method = ScoreFilter(Kernel(0.5))
    analysis = method.update(still, torch.zeros(1), model, rng.seeded(0))
    assert (analysis[:, 1] == 2).all() and not torch.equal(analysis, still)
