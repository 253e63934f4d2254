"""Localization as an object: equal to Gaspari-Cohn where it says the same, and its own limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.assimilation.correlations import (
    CorrelationTaper,
    CorrelationThreshold,
    SamplingError,
    error_factor,
    sampling_factors,
)
from scorda.assimilation.localization import ByVariable, Layered, Taper
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import EnKF
from scorda.methods.enks import EnKS
from scorda.methods.ensrf import EnSRF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.letkf import LETKF
from scorda.methods.variational.filter import FourDVar
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.function import FunctionSystem
from scorda.systems.lorenz import Lorenz96
from scorda.testing import check_filter, check_reproducible

METHODS = [EnKF, LETKF, GaussianMixtureFilter]
LEVELS, COLUMNS = 3, 6
ONES = Taper(lambda a, b: torch.ones(len(a), len(b)))


def layered_problem(members=12, std=0.5):
    """Two variables on three levels of a line, of which one value of each is observed."""
    space = StateSpace(
        (2, LEVELS, COLUMNS),
        variables=("u", "v"),
        coordinates={"level": 100.0 * np.arange(LEVELS), "x": np.arange(COLUMNS)},
    )
    system = FunctionSystem(lambda x: x, lambda n, s: None, space, library="torch")
    initial = rng.normal(members, space.shape, rng.seeded(4))
    observed = Select([2, LEVELS * COLUMNS + 4 + COLUMNS])
    observations = Observations(ObservationModel(observed, std), [0], [[1.0, -2.0]])
    return Problem(system, observations, 0, initial)


def analysed(method, localization, problem=None, members=12):
    problem = layered_problem(members) if problem is None else problem
    made = method(localization=localization)
    return made.assimilate(problem, len(problem.initial), 0).states[:, 0]


def columns(a, b, column):
    return (a[:, None, column] - b[None, :, column]).abs()


@pytest.mark.parametrize("method", METHODS)
def test_a_function_of_two_positions_is_what_it_says(method):
    """Gaspari-Cohn written as a function is Gaspari-Cohn, to rounding."""
    taper = GaspariCohn(60.0)
    own = Taper(lambda a, b: taper(torch.cdist(a, b)))
    assert_close(analysed(method, own), analysed(method, taper), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_one_are_no_localization(method):
    """Also an infinite radius along each axis, and a threshold that keeps all."""
    wide = analysed(method, GaspariCohn(math.inf))
    keeps_all = CorrelationThreshold(1e-12)
    for localization in (ONES, Layered(math.inf, math.inf), keeps_all):
        assert_close(analysed(method, localization), wide, rtol=1e-9, atol=1e-9)
    if method is EnKF:
        assert_close(wide, analysed(EnKF, None), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_an_axis_may_have_a_radius_of_its_own(method):
    """The product of two tapers, written down; half a vertical reach leaves other levels alone."""
    horizontal, vertical = GaspariCohn(1.5), GaspariCohn(40.0)
    own = Taper(lambda a, b: horizontal(columns(a, b, 1)) * vertical(columns(a, b, 0)))
    layered = analysed(method, Layered(1.5, 40.0))
    assert_close(layered, analysed(method, own), rtol=1e-9, atol=1e-9)
    thin = analysed(method, Layered(1.5, 10.0))
    before = layered_problem().initial
    # The first level of v sees nothing of the second, where v is observed, but all of u's.
    assert torch.equal(thin[:, :, 2], before[:, :, 2])
    assert not torch.equal(thin[:, 1, 1], before[:, 1, 1])


@pytest.mark.parametrize("method", METHODS)
def test_pairs_of_variables_have_factors_or_tapers_of_their_own(method):
    taper = GaspariCohn(60.0)
    plain = analysed(method, taper)
    ones = ByVariable(taper, {("u", "v"): 1.0, ("u", "u"): taper})
    assert_close(analysed(method, ones), plain, rtol=1e-9, atol=1e-9)
    problem = layered_problem()
    apart = analysed(method, ByVariable(taper, {("v", "u"): 0.0}))
    # Without v's observation u's analysis is the same: nothing passes between them.
    other = replace(problem, observations=[_with_value(problem, 7.0)])
    other = analysed(method, ByVariable(taper, {("v", "u"): 0.0}), other)
    assert_close(apart[:, 0], other[:, 0], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(apart[:, 1], other[:, 1])


def _with_value(problem, value):
    (instrument,) = problem.instruments
    return replace(instrument, values=torch.tensor([[1.0, value]]))


def test_few_members_have_no_significant_correlation():
    """With n <= 9 members the threshold of 3 standard deviations is 1: nothing is updated."""
    before = layered_problem(9).initial
    for method in METHODS:
        assert torch.equal(analysed(method, CorrelationThreshold(), members=9), before)
    assert not torch.equal(analysed(EnKF, CorrelationThreshold(), members=60), before)


def test_each_component_is_updated_by_its_own_observations():
    """The analysis written down, one component after another, for enlarged errors."""
    problem = layered_problem(30)
    x = problem.initial.flatten(1)
    y, model = problem.observed()[0]
    for localization in (CorrelationThreshold(1.0), CorrelationTaper()):
        found = analysed(LETKF, localization, problem).flatten(1)
        z = model.operator(x.reshape(problem.initial.shape))
        r = torch.corrcoef(torch.cat((x, z), 1).T)[: x.shape[1], x.shape[1] :].abs()
        for k in range(x.shape[1]):
            if isinstance(localization, CorrelationThreshold):
                kept, factor = r[k] > 1 / math.sqrt(30), torch.ones(2)
            else:
                kept, factor = torch.ones(2).bool(), error_factor(r[k])
            expected = x[:, k]
            if kept.any():
                R = torch.diag((0.5 * factor[kept]) ** 2)
                cov = torch.cat((x[:, k : k + 1], z[:, kept]), 1).T.cov()
                gain = torch.linalg.solve(cov[1:, 1:] + R, cov[1:, 0])
                mean = x[:, k].mean() + gain @ (y - z.mean(0))[kept]
                var = cov[0, 0] - gain @ cov[1:, 0]
                assert_close(found[:, k].mean(), mean, rtol=1e-8, atol=1e-8)
                assert_close(found[:, k].var(), var, rtol=1e-8, atol=1e-8)
            else:
                assert torch.equal(found[:, k], expected)


def test_the_enkf_has_the_mean_of_the_letkf_where_errors_are_localized():
    """Perturbations are centred, so that both have the mean of the same regression."""
    for localization in (CorrelationThreshold(1.0), CorrelationTaper()):
        pair = [analysed(m, localization, members=30).mean(0) for m in (EnKF, LETKF)]
        assert_close(*pair, rtol=1e-8, atol=1e-8)


def test_the_spread_of_localized_errors_is_that_of_the_kalman_update():
    """Perturbations have the enlarged error too: 20 000 members, standard error 0.5 %."""
    localization = Taper(lambda a, b: torch.full((len(a), len(b)), 0.25))
    object.__setattr__(localization, "errors", True)
    space = StateSpace((1,), variables=("q",), coordinates={"x": np.zeros(1)})
    system = FunctionSystem(lambda x: x, lambda n, s: None, space, library="torch")
    initial = rng.normal(20_000, (1,), rng.seeded(4))
    observations = Observations(ObservationModel(Select([0]), 0.5), [0], [[1.0]])
    states = analysed(EnKF, localization, Problem(system, observations, 0, initial))
    # R / 0.25 is 1, and half of the variance is left.
    assert_close(states.var(), initial.var() / 2, rtol=0.03, atol=0)


def test_the_error_factor_has_the_published_values():
    """As the docstring of the reference implementation has them."""
    found = error_factor(torch.tensor([0.4, 0.5, 0.6, 0.7, 1.0, 0.3, 0.0]))
    assert_close(found, torch.tensor([2.889, 1.465, 1.043, 1, 1, 8, 8]), atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (10, [0.72, 0.73, 0.73, 0.74, 0.80, 0.89]),
        (20, [0.86, 0.84, 0.85, 0.87, 0.90, 0.96]),
        (40, [0.95, 0.91, 0.92, 0.93, 0.95, 0.98]),
        (80, [0.95, 0.95, 0.96, 0.97, 0.98, 0.99]),
    ],
)
def test_sampling_factors_are_those_of_a_simulation(members, expected):
    """Of true correlations from U(-1, 1), in bins; its error is .03 at |r| = .1, .01 beyond."""
    at = [round(r * 400) for r in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)]
    found = sampling_factors(members)[at]
    assert_close(found[:1], torch.tensor(expected[:1]), atol=0.035, rtol=0)
    assert_close(found[1:], torch.tensor(expected[1:]), atol=0.015, rtol=0)
    assert (sampling_factors(members).diff() > -1e-3).all()


def test_sampling_factors_are_the_conditional_mean_of_draws():
    """A million pairs of 6 members: E[rho | r near 0.5] / 0.5, with a standard error of .003."""
    true = 2 * rng.uniform(1_000_000, (), rng.seeded(0)) - 1
    x, e = rng.normal(1_000_000, (2, 6), rng.seeded(1)).unbind(1)
    z = true[:, None] * x + (1 - true**2).sqrt()[:, None] * e
    x, z = x - x.mean(1, keepdim=True), z - z.mean(1, keepdim=True)
    r = (x * z).sum(1) / (x.square().sum(1) * z.square().sum(1)).sqrt()
    near = (r - 0.5).abs() < 0.02
    expected = float(sampling_factors(6)[200])
    assert float(true[near].mean()) / 0.5 == pytest.approx(expected, abs=0.02)


def test_sampling_error_multiplies_the_regression():
    """One observation: the increment without localization, times the factor of its correlation."""
    problem = layered_problem(15)
    observations = Observations(ObservationModel(Select([2]), 0.5), [0], [[1.0]])
    problem = replace(problem, observations=[observations])
    x = problem.initial.flatten(1)
    plain = analysed(EnKF, None, problem).flatten(1) - x
    damped = analysed(EnKF, SamplingError(), problem).flatten(1) - x
    r = torch.corrcoef(x.T)[2].abs().clamp_max(1)
    expected = torch.from_numpy(np.interp(r, np.linspace(0, 1, 401), sampling_factors(15)))
    assert_close(damped, plain * expected, rtol=1e-9, atol=1e-12)
    both = analysed(EnKF, SamplingError(GaspariCohn(60.0)), problem).flatten(1) - x
    where = problem.space.positions().repeat(2, 1)
    rho = GaspariCohn(60.0)(problem.space.distance(where[2:3], where)[0])
    assert_close(both, damped * rho, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("localization", [SamplingError(), CorrelationTaper()])
def test_no_positions_are_needed_by_correlations(localization):
    """An operator without positions, in a space without coordinates."""
    space = StateSpace((3,))
    system = FunctionSystem(lambda x: x, lambda n, s: None, space, library="torch")
    operator = Function(lambda x: x[:, :1].exp())
    observations = Observations(ObservationModel(operator, 0.5), [0], [[1.0]])
    problem = Problem(system, observations, 0, rng.normal(12, (3,), rng.seeded(0)))
    for method in METHODS:
        assert analysed(method, localization, problem).isfinite().all()
    with pytest.raises(ValueError, match="positions"):
        analysed(LETKF, GaspariCohn(1.0), problem)


def test_past_states_are_tapered_by_the_steps_between():
    """An infinite radius is none; a short one leaves what is beyond its reach as the filter's."""
    _, problem = twin_experiment(Lorenz96(8), ObservationModel(Select([0, 3]), 1.0), 8, 8, 0)
    plain, wide, near = (
        EnKS(lag_radius=radius).assimilate(problem, 10, 0).states
        for radius in (None, math.inf, 1.0)
    )
    assert_close(wide, plain, rtol=1e-12, atol=1e-12)
    filtered = EnKS(lag=0).assimilate(problem, 10, 0).states
    assert torch.equal(near[:, :5], filtered[:, :5])
    rho = GaspariCohn(1.0)(torch.tensor(2.0))
    expected = filtered[:, 6] + rho * (plain[:, 6] - filtered[:, 6])
    assert_close(near[:, 6], expected, rtol=1e-12, atol=1e-12)


def test_methods_that_take_gaspari_cohn_alone_name_those_that_take_any():
    for kind in (EnSRF, FourDVar):
        # Past the check of types that the tests make.
        method = kind()
        object.__setattr__(method, "localization", SamplingError())
        with pytest.raises(ValueError, match="EnKF, LETKF and GaussianMixtureFilter take any"):
            method.__post_init__()


def test_gaspari_cohn_is_positive_where_its_docstring_says():
    """On the sphere while 2c is half of the circumference at most; wider it is not."""
    u = rng.normal(600, (3,), rng.seeded(0))
    u = u / u.norm(dim=1, keepdim=True)
    arc = torch.atan2(torch.linalg.cross(u[:, None], u[None]).norm(dim=-1), u @ u.T)
    chord = 2 * (arc / 2).sin()

    def least(c, distance):
        return float(torch.linalg.eigvalsh(GaspariCohn(c / 1.82)(distance)).min())

    assert least(math.pi / 2, arc) > -1e-10 and least(2.5, chord) > -1e-10
    assert least(2.5, arc) < -0.1


@pytest.mark.slow
@pytest.mark.parametrize("localization", [SamplingError(), CorrelationThreshold(2.0), ONES])
def test_filters_keep_their_promises_with_any_localization(localization):
    for method in (EnKF(localization=localization), LETKF(localization=localization)):
        check_filter(method)
        check_reproducible(method)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CorrelationThreshold(0.0), "positive"),
        (lambda: Layered(1.0, 0.0), "positive"),
        (lambda: ByVariable(GaspariCohn(1.0), {("u", "v"): 2.0}), "in \\[0, 1\\]"),
        (lambda: analysed(EnKF, ByVariable(GaspariCohn(1.0), {("u", "w"): 1.0})), "'w'"),
        (lambda: analysed(EnKF, Layered(1.0, 1.0, axis="z")), "level, x"),
        (lambda: analysed(EnKF, Taper(lambda a, b: torch.ones(3))), "an array of shape"),
        (lambda: analysed(EnKF, Taper(lambda a, b: 2 * torch.ones(len(a), len(b)))), "in \\["),
        (lambda: analysed(EnKF, SamplingError(), members=3), "at least 4"),
        (lambda: LETKF(localization=ONES, block=2), "GaspariCohn alone"),
        (
            lambda: GaussianMixtureFilter(localization=ONES, weight_localization=GaspariCohn(1.0)),
            "GaspariCohn alone",
        ),
    ],
)
def test_what_does_not_fit_a_localization_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_localizations_are_public_names():
    assert sc.assimilation.SamplingError is SamplingError and sc.assimilation.Layered is Layered


def test_weights_that_make_no_covariance_are_told():
    """Observations that are alike, but whose weights say that they are not."""
    problem = layered_problem()
    observations = Observations(ObservationModel(Select([2, 3, 4]), 1e-3), [0], [[1.0, 0.0, 1.0]])
    x = problem.initial.clone()
    x[:, 0, 0, 3] = x[:, 0, 0, 4] = x[:, 0, 0, 2]
    problem = replace(problem, observations=[observations], initial=x)

    def chain(a, b):
        return (columns(a, b, 1) < 1.5).double()

    with pytest.raises(FloatingPointError, match="not positive definite"):
        analysed(EnKF, Taper(chain), problem)
    assert analysed(LETKF, Taper(chain), problem).isfinite().all()
