"""Gaussians in the place of other laws: their analyses end at modes, which quadrature knows."""

import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.special import lambertw
from torch.testing import assert_close

from scorda.assimilation import reweighting
from scorda.assimilation.hybrid import Hybrid
from scorda.assimilation.kalman_algebra import symmetric_transform, white_innovation
from scorda.assimilation.one_analysis import analyse
from scorda.assimilation.reweighting import gaussian_observation
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.denkf import DEnKF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.letkf import LETKF
from scorda.methods.masf.bridge import MASF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Select
from scorda.observations.problem import Problem
from scorda.observations.robust_laws import Huber, Laplace, StudentT
from scorda.observations.value_laws import Bernoulli, Poisson
from scorda.systems.function import FunctionSystem

# Modes of the posterior of a prior N(0, 1) and the scale 0.5, by quadrature.
MODES = {
    StudentT(4.0): {0: 0.0, 1: 0.8293, 2: 1.6294, 4: 2.0, 8: 0.6696},
    Huber(1.345): {0: 0.0, 1: 0.8, 2: 1.6, 4: 2.69, 8: 2.69},
}


def members(count=60):
    """Members with the exact mean 0 and variance 1."""
    x = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    return ((x - x.mean()) / x.std())[:, None]


def analysed(method, law, y, x=None, std=0.5, **where):
    x = members() if x is None else x
    scale = std if law is None or law.scaled else None
    y = torch.as_tensor(y).flatten()
    made = analyse(method, x, x[:, : len(y)], y, scale, law=law, generator=0, **where)
    return made.states[:, 0]


@pytest.mark.parametrize("method", [ETKF(), EnKF(), DEnKF()], ids=lambda m: m.name)
@pytest.mark.parametrize("law", MODES, ids=str)
def test_reweighted_filters_end_at_the_mode(law, method):
    for y, mode in MODES[law].items():
        mean = float(analysed(method, law, float(y)).mean())
        assert mean == pytest.approx(mode, abs=1e-4)  # digits of the table


def test_both_modes_are_found_and_the_higher_one_kept():
    """One degree of freedom: near the observation at y = 3, near the forecast at y = 4.5."""
    x = torch.linspace(-2, 8, 1000001)
    for y, side in ((3.0, 2.9), (4.5, 0.4)):
        density = StudentT(1.0).log_density(torch.tensor(y), x, torch.tensor(0.2)) - x**2 / 2
        mode = float(x[density.argmax()])
        assert abs(mode - side) < 0.2
        found = float(analysed(ETKF(), StudentT(1.0), y, std=0.2).mean())
        assert found == pytest.approx(mode, abs=2e-5)  # spacing of x


@pytest.mark.parametrize(("spread", "y"), [(0.01, 5.0), (0.1, 30.0)])
def test_an_outlier_many_spreads_away_leaves_the_forecast_alone(spread, y):
    """From the observation it is hundreds of the forecast's standard deviations back."""
    h = torch.linspace(-1, y + 1, 2000001)
    density = StudentT(4.0).log_density(torch.tensor(y), h, torch.tensor(1.0))
    mode = float(h[(density - h.square() / (2 * spread**2)).argmax()])
    found = float(analysed(ETKF(), StudentT(4.0), y, spread * members(), 1.0).mean())
    assert found == pytest.approx(mode, abs=2e-5)  # spacing of h


@pytest.mark.parametrize("method", [ETKF, EnKF])
@pytest.mark.parametrize("law", MODES, ids=str)
def test_weights_are_those_about_the_mean_of_a_hybrid_covariance(law, method):
    """The members are ten times as narrow as the climatology, N(0, 1), which makes the gain."""
    states = members(1000)
    system = FunctionSystem(lambda x: x, states, StateSpace((1,)), library="torch")
    hybrid = Hybrid(1.0, draws=1000)
    for y, mode in MODES[law].items():
        observations = Observations(ObservationModel(Select([0]), 0.5, law=law), [0], [[float(y)]])
        problem = Problem(system, observations, 0, 0.1 * members())
        mean = float(method(hybrid=hybrid).assimilate(problem, 60, 0).states.mean())
        assert mean == pytest.approx(mode, abs=5e-3)  # weights settle to a thousandth


@pytest.mark.parametrize("s", [0.5, 0.3])
def test_laplace_is_the_gaussian_of_least_divergence(s):
    """Against a search for mean and variance of least KL(q | p), in closed form for this law."""

    def divergence(m, v, y):
        """KL(N(m, v) | p) up to a constant: E |x - y| of a Gaussian is known."""
        e = (m - y) / v**0.5
        distance = v**0.5 * (
            e * math.erf(e / 2**0.5) + (2 / math.pi) ** 0.5 * math.exp(-(e**2) / 2)
        )
        return 0.5 * (m**2 + v) + 2**0.5 / s * distance - 0.5 * math.log(v)

    for y in (0.0, 1.0, 4.0, 5.2, 12.0):
        x = analysed(ETKF(), Laplace(), y, std=s)
        start = [float(x.mean()), float(x.var())]
        found = minimize(
            lambda p, y=y: divergence(p[0], abs(p[1]), y), start, method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-14},
        ).x  # fmt: skip
        # A minimum is flat: half of the digits.
        assert start == pytest.approx(list(found), abs=2e-5)


@pytest.mark.parametrize("count", [5, 40])
def test_laplace_settles_where_observations_are_much_more_precise_than_the_forecast(count):
    """The Gaussian made of the analysis with it is itself, with some gross errors among them."""
    x, y = rng.normal(60, (count,), rng.seeded(1)), rng.normal(1, (count,), rng.seeded(11))[0]
    y[::7] += 8
    model = ObservationModel(Select(range(count)), std=0.05, law=Laplace())
    pseudo, gaussian = gaussian_observation(x, y, model)
    mean_weights, transform = symmetric_transform(*white_innovation(x, pseudo, gaussian))
    A = x - x.mean(0)
    mean, var = x.mean(0) + (mean_weights @ A)[0], (A + transform.increment(A)).var(0)
    residual, again = Laplace().linearised(y, mean, torch.tensor(0.05), spread=var)
    # Variances to 1e-6 of a sweep, of which some tens are left.
    assert_close(again.sqrt(), gaussian.std, rtol=1e-4, atol=0)
    assert_close(mean + residual, pseudo, rtol=0, atol=1e-4)


def test_laplace_has_about_mean_and_variance_of_the_posterior():
    """Quadrature: within 0.05 of the mean, and the variance 0.8 to 1.25 of the exact one."""
    x = torch.linspace(-8, 12, 200001)
    for y in (0.0, 1.0, 2.0, 4.0, 8.0):
        log_density = Laplace().log_density(torch.tensor(y), x, torch.tensor(0.5)) - x**2 / 2
        w = log_density.softmax(0)
        mean = float(w @ x)
        var = float(w @ x**2) - mean**2
        found = analysed(ETKF(), Laplace(), y)
        assert float(found.mean()) == pytest.approx(mean, abs=0.05)
        assert 0.8 < float(found.var()) / var < 1.25


@pytest.mark.parametrize(
    ("law", "y", "mode"),
    [(Poisson(), 0.0, -float(lambertw(1).real)), (Poisson(), 3.0, 0.7921),
     (Bernoulli(), 1.0, 0.4011), (Bernoulli(), 0.0, -0.4011), (Poisson(), 40.0, 3.594706)],
)  # fmt: skip
@pytest.mark.parametrize("method", [GaussianMixtureFilter(1.0, 0.0), MASF()], ids=lambda m: m.name)
def test_counts_are_linearised_at_the_mode(law, y, mode, method):
    """The last one starts 40 prior deviations of the linearisation away from its end."""
    assert float(analysed(method, law, y).mean()) == pytest.approx(mode, abs=1e-4)


def test_a_mode_of_many_observations_has_no_gradient():
    """Correlated predictions: the gradient of the log posterior is zero in observation space."""
    mix = torch.tensor([[1.0, 0.6, 0.2], [0.0, 0.8, 0.5], [0.3, 0.0, 1.0]])
    x = rng.normal(50, (3,), rng.seeded(1)) @ mix
    y, law = torch.tensor([1.0, -6.0, 0.5]), Huber()
    model = ObservationModel(Select([0, 1, 2]), std=torch.tensor([0.5, 0.4, 0.9]), law=law)
    a = analyse(ETKF(), x, x, y, model.std, law=law).states[:, 0]
    mean = a.mean(0).requires_grad_()
    log_posterior = model.log_likelihood(y, mean[None])[0]
    d = mean - x.mean(0)
    log_posterior = log_posterior - 0.5 * d @ torch.linalg.solve(x.T.cov(), d)
    (gradient,) = torch.autograd.grad(log_posterior, mean)
    assert_close(gradient, torch.zeros(3), rtol=0, atol=1e-5)  # 1e-6 in the weights


def test_a_localized_filter_that_sees_all_is_the_one_that_is_not():
    """LETKF and EnKF with an infinite radius, which iterate as a whole, against ETKF."""
    x = rng.normal(30, (4,), rng.seeded(2))
    space = StateSpace((4,), variables=("q",), coordinates={"x": torch.arange(4.0).numpy()})
    system = FunctionSystem(torch.clone, lambda members, seed: x, space, library="torch")
    everywhere = GaspariCohn(math.inf)

    def run(method, law):
        model = ObservationModel(Select([0, 1, 2]), std=0.5, law=law)
        seen = Observations(model, [0], torch.tensor([[0.5, 7.0, -1.0]]))
        return method.assimilate(Problem(system, seen, 0, x), 30, rng.seeded(0)).states[:, 0]

    for law in (StudentT(4.0), Laplace(), Huber()):
        local = run(LETKF(localization=everywhere), law)
        # Weights settle to a thousandth.
        assert_close(local, run(ETKF(), law), rtol=1e-3, atol=1e-3)
    mean = run(EnKF(localization=everywhere), Huber()).mean(0)
    assert_close(mean, run(EnKF(), Huber()).mean(0), rtol=1e-3, atol=1e-3)


def test_one_analysis_with_localization_says_what_reweighting_needs():
    x = members()
    with pytest.raises(ValueError, match="LETKF with localization reweights errors by h of"):
        analysed(LETKF(localization=GaspariCohn(1.0)), Huber(), 1.0, x)


def test_a_vague_law_is_as_good_as_none():
    x = members()
    for law in (StudentT(4.0), Laplace(), Huber()):
        assert_close(analysed(ETKF(), law, 0.3, x, std=1e8), x, rtol=1e-6, atol=1e-6)


def test_many_degrees_of_freedom_are_gaussian():
    x = members()
    plain = analysed(ETKF(), None, 1.5, x)
    assert_close(analysed(ETKF(), StudentT(1e9), 1.5, x), plain, rtol=1e-6, atol=1e-6)
    assert_close(analysed(ETKF(), Huber(1e3), 1.5, x), plain, rtol=1e-9, atol=1e-9)


def test_an_operator_that_is_curved_is_seen_by_its_predictions():
    """The Gaussian is of the predictions alone, as in an ensemble Kalman filter."""
    x, y = members(), torch.tensor([2.0])
    model = ObservationModel(Function(lambda x: x[:, :1] ** 3), std=0.5, law=Huber())
    cubes = ObservationModel(Select([0]), std=0.5, law=Huber())
    found = gaussian_observation(x, y, model)
    expected = gaussian_observation(x**3, y, cubes)
    assert_close(found[0], expected[0])
    assert_close(found[1].error_std((1,), y), expected[1].error_std((1,), y))


def test_gross_errors_are_of_gaussian_errors():
    with pytest.raises(ValueError, match=r"gross_error_check with errors of StudentT"):
        analysed(ETKF(gross_error_check=5.0), StudentT(), 1.0)


def test_weights_that_do_not_settle_are_told(monkeypatch):
    monkeypatch.setattr(reweighting, "SWEEPS", 2)
    with pytest.warns(UserWarning, match="not settled in 2 sweeps: its mean still moves by"):
        analysed(ETKF(), Huber(1.345), 8.0)
