"""Closed-form filter: the explicit mixture, its quantiles, and the filters that are its limits."""

import math

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.methods.closed_form import (
    ClosedFormFilter,
    flow,
    likelihood_bandwidth,
    silverman_bandwidth,
)
from scorda.metrics.distance import wasserstein
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function, Select

Y = torch.tensor([1.7], dtype=torch.float64)
MODEL = ObservationModel(Select([0]), std=0.5)
HIGH = 20.0


def forecast(members, shape=(2,), seed=0):
    """Two groups, correlated components, a mean of 0.3."""
    x = rng.normal(members, shape, rng.seeded(seed))
    x = x + 0.6 * x.roll(1, -1) + 0.3
    x[: members // 3] += 2
    return x


def weights_of(x, y=Y, model=MODEL):
    return model.log_likelihood(y, x).softmax(0)


def denoiser(members, weights):
    """D by its definition, pair by pair."""

    def denoise(x, level):
        square = (x[:, None] - members).square().sum(2)
        return (weights.log() - square / (2 * level**2)).softmax(1) @ members

    return denoise


def distribution(x, members, weights, width):
    """Distribution function of a one-dimensional mixture."""
    return torch.special.ndtr((x - members[:, 0]) / width) @ weights


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-6])
def test_flow_in_one_dimension_keeps_every_quantile(tolerance):
    """An increasing map that carries the law of one level to that of the other."""
    # Two groups of members at even quantiles, so that no draw decides how far apart they are.
    members = 1.6 * torch.special.ndtri((torch.arange(40) + 0.5) / 40)[:, None]
    members[::3] += 2
    weights = weights_of(members)
    x = members.mean() + HIGH * torch.linspace(-2.5, 2.5, 41)[:, None]
    for end in (0.5, 0.1, 0.02):
        moved, evaluations = flow(denoiser(members, weights), x, HIGH, end, tolerance)
        error = distribution(moved, members, weights, end)
        error = error - distribution(x, members, weights, HIGH)
        # The tolerance is of a step, in standard deviations: ten steps, densities of about 0.4.
        assert error.abs().max() < 4 * tolerance
        assert evaluations < 15 * (1 + tolerance**-0.2)
        back, _ = flow(denoiser(members, weights), moved, end, HIGH, tolerance)
        error = distribution(back, members, weights, HIGH)
        error = error - distribution(moved, members, weights, end)
        assert error.abs().max() < 4 * tolerance


@pytest.mark.slow
def test_flow_is_exact_for_one_member():
    """D is constant: x' = x_1 + (s' / s)(x - x_1), whatever the steps."""
    member, x = torch.tensor([[2.0, -1.0]]), rng.normal(5, (2,), rng.seeded(0))
    moved, _ = flow(denoiser(member, torch.ones(1)), x, HIGH, 0.1, 0.5)
    assert_close(moved, member + 0.1 / HIGH * (x - member), rtol=0, atol=1e-12)


def test_flow_that_is_no_longer_finite_says_so():
    with pytest.raises(FloatingPointError, match="failed at"):
        flow(lambda x, level: x / 0, torch.ones(3, 1), HIGH, 0.1, 1e-3)


@pytest.mark.slow
def test_flow_samples_the_same_law_as_the_exact_draw():
    """W1 to an exact draw, over that between two exact draws: 1 up to sampling error."""
    x = forecast(200)

    def draw(kind, seed):
        return ClosedFormFilter(0.3, draw=kind).update(x, Y, MODEL, rng.seeded(seed))

    floor = [wasserstein(draw("mixture", i), draw("mixture", i + 9)) for i in range(4)]
    for kind in ("flow", "coupled"):
        found = [wasserstein(draw(kind, i), draw("mixture", i + 9)) for i in range(4)]
        # Four ratios of two means with a scatter of 10 % each.
        assert sum(found) / sum(floor) < 1.2


def test_coupled_members_move_by_the_increasing_map():
    """In one dimension each noised member keeps its rank: F_post(x') = F_prior(x)."""
    x, b = forecast(40, (1,)), 0.3
    method = ClosedFormFilter(b, draw="coupled", kernel="isotropic", flow_tolerance=1e-6)
    analysis = method.update(x, Y, MODEL, rng.seeded(4))
    std = x.std()
    eps = rng.normal(40, (1,), rng.spawn(rng.seeded(4), 3)[2])
    equal = torch.full((40,), 1 / 40)
    found = distribution(analysis, x, weights_of(x), b * std)
    expected = distribution(x + b * std * eps, x, equal, b * std)
    # At noise of 20 standard deviations both laws are taken as Gaussian: skewness / 20^3.
    assert_close(found, expected, rtol=0, atol=2e-4)


def test_coupled_members_without_information_stay():
    """Where the observation says nothing both flows are one path, there and back."""
    x = forecast(40)
    vague = ObservationModel(Select([0]), std=1e6)
    method = ClosedFormFilter(0.3, draw="coupled", flow_tolerance=1e-6)
    analysis = method.update(x, Y, vague, rng.seeded(4))
    cov = x.T.cov()
    moved = torch.linalg.solve_triangular(
        torch.linalg.cholesky(cov), (analysis - x).T, upper=False
    )
    # What is left is the kernel noise, of size b along the covariance.
    assert abs(float(moved.square().mean().sqrt()) - 0.3) < 5 * 0.3 / math.sqrt(2 * 80)
    assert (moved.norm(dim=0) < 0.3 * 4).all()


@pytest.mark.slow
def test_small_bandwidth_gives_the_weights_of_the_particle_filter():
    """Each analysis is a forecast member, drawn as often as its likelihood says."""
    x = forecast(400)
    weights = weights_of(x)
    mean = weights @ x
    error = (weights @ (x - mean).square() / 400).sqrt()
    for kind in ("mixture", "flow", "coupled"):
        for bandwidth in (0.0, 1e-7):
            method = ClosedFormFilter(bandwidth, draw=kind)
            analysis = method.update(x, Y, MODEL, rng.seeded(0))
            assert torch.isfinite(analysis).all()
            distance, index = torch.cdist(analysis, x).min(1)
            # The flow sees no difference between members that are closer than 0.001.
            assert distance.max() < (1e-6 if kind == "mixture" else 2e-3)
            assert ((analysis.mean(0) - mean).abs() < 4 * error).all()
            if kind == "mixture":
                counts = torch.bincount(index, minlength=400)
                assert ((counts - 400 * weights).abs() < 1 + 1e-9).all()


def linear_gaussian(members):
    mean, cov = torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    noise = rng.normal(members, (2,), rng.seeded(0))
    return mean, cov, mean + noise @ torch.linalg.cholesky(cov).T


@pytest.mark.parametrize("sigma_y", [None, 0.7], ids=["likelihood", "simulated"])
@pytest.mark.parametrize("kind", ["mixture", "flow", "coupled"])
def test_many_members_give_the_kalman_update_and_the_variance_of_the_kernel(kind, sigma_y):
    """Mean of Kalman, covariance + b^2 C; a kernel in y adds sigma_y^2 R to the error."""
    members, b = (20_000, 0.2) if kind == "mixture" else (1_000, 0.2)
    mean, cov, x = linear_gaussian(members)
    noise_cov = torch.tensor([[0.25 * (1 + (sigma_y or 0.0) ** 2)]])
    expected, exact_cov, _ = gaussian_condition(
        mean, cov, torch.tensor([[1.0, 0.0]]), Y, noise_cov
    )
    exact_cov = exact_cov + b**2 * cov
    method = ClosedFormFilter(b, draw=kind, observation_bandwidth=sigma_y)
    analysis, info = method.analyse(x, Y, MODEL, rng.seeded(1))
    # Errors of the weighted forecast and of the draws from it.
    size = 1 / (1 / float(info["ess"]) + 1 / members)
    assert ((analysis.mean(0) - expected).abs() < 4 * (exact_cov.diagonal() / size).sqrt()).all()
    outer = exact_cov.square() + torch.outer(exact_cov.diagonal(), exact_cov.diagonal())
    assert ((analysis.T.cov() - exact_cov).abs() < 4 * (outer / size).sqrt()).all()


def test_kernels_have_the_shape_that_they_say():
    """One heavy member: the analysis is that member plus b^2 C."""
    x = torch.cat([torch.tensor([[5.0, 5.0]]), forecast(3999) - 5])
    y, sharp = torch.tensor([5.0]), ObservationModel(Select([0]), std=1e-3)
    cov = x.T.cov()
    shapes = {
        "covariance": cov,
        "variances": cov.diagonal().diag(),
        "isotropic": cov.diagonal().mean() * torch.eye(2),
    }
    for kernel, shape in shapes.items():
        method = ClosedFormFilter(0.1, kernel, draw="mixture")
        analysis = method.update(x, y, sharp, rng.seeded(0))
        # 4 standard errors of 4000 draws: sqrt(2 / 4000) = 2.2 % of the largest entry.
        assert ((analysis.T.cov() - 0.01 * shape).abs() < 0.09 * 0.01 * shape.max()).all()
        assert ((analysis.mean(0) - 5).abs() < 0.1 * (shape.diagonal() / 250).sqrt()).all()


def test_more_components_than_members_stay_in_their_span():
    x = forecast(6, (3, 4))
    analysis = ClosedFormFilter(0.5).update(x, Y, MODEL, rng.seeded(0))
    A, B = ((e - x.mean(0)).flatten(1) for e in (x, analysis))
    assert torch.linalg.lstsq(A.T, B.T).solution.T @ A == pytest.approx(B, abs=1e-9)


def test_a_component_without_spread_keeps_its_value():
    x = forecast(20, (3,))
    x[:, 1] = 4.0
    for kernel in ("covariance", "variances"):
        analysis = ClosedFormFilter(kernel=kernel).update(x, Y, MODEL, rng.seeded(0))
        assert_close(analysis[:, 1], x[:, 1], rtol=0, atol=1e-9)


def test_a_forecast_without_spread_is_refused():
    with pytest.raises(ValueError, match="no spread"):
        ClosedFormFilter().update(torch.full((9, 2), 0.1), Y, MODEL)


def test_an_operator_that_is_not_finite_is_named():
    broken = ObservationModel(Function(lambda x: x[:, :1] / 0), std=1.0)
    with pytest.raises(FloatingPointError, match="finite weight"):
        ClosedFormFilter().update(forecast(9), Y, broken)


def test_a_distant_observation_takes_the_nearest_member():
    """20 and 2000 standard deviations off: one weight, no NaN."""
    x = forecast(50)
    for y in (10.0, 1000.0):
        method = ClosedFormFilter(0.1)
        analysis, info = method.analyse(x, torch.tensor([y]), MODEL, rng.seeded(0))
        assert torch.isfinite(analysis).all() and info["ess"] < 3


def test_evaluations_do_not_grow_with_members_or_dimension():
    counts = []
    for members, size in ((50, 2), (500, 2), (50, 20), (300, 60)):
        x = rng.normal(members, (size,), rng.seeded(0))
        info = ClosedFormFilter().analyse(x, Y, MODEL, rng.seeded(1))[1]
        counts.append(info["evaluations"])
    assert max(counts) <= 37 and min(counts) >= 13  # Six evaluations a step, and one.


def test_cross_validated_bandwidth_maximises_the_likelihood_of_what_is_left_out():
    x = forecast(12)

    def score(b):
        total = 0.0
        for i in range(12):
            logs = [
                -float((x[i] - x[j]).square().sum()) / (2 * b**2) - 2 * math.log(b)
                for j in range(12)
                if j != i
            ]
            total += float(torch.tensor(logs).logsumexp(0))
        return total

    best = likelihood_bandwidth(x)
    assert all(score(best) >= score(best * factor) for factor in (0.8, 0.89, 1.12, 1.25))
    assert 0.01 < best < 3


def test_cross_validated_bandwidth_of_a_gaussian_is_near_silvermans():
    """Both are of the order N^(-1/(d+4)); they minimise different distances of densities."""
    x = rng.normal(500, (2,), rng.seeded(0))
    assert 0.6 < likelihood_bandwidth(x) / silverman_bandwidth(500, 2) < 1.5


def test_cross_validation_sees_two_modes():
    """Narrow groups far apart: their own width decides, not that of the whole ensemble."""
    x = 0.1 * rng.normal(200, (1,), rng.seeded(0))
    x[::2] += 2
    x = x / x.std()
    assert likelihood_bandwidth(x) < 0.3 * silverman_bandwidth(200, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relative_bandwidth": -1.0}, "relative_bandwidth = -1.0"),
        ({"relative_bandwidth": "scott"}, "relative_bandwidth = 'scott'"),
        ({"kernel": "round"}, "kernel = 'round'"),
        ({"observation_bandwidth": 0.0}, "observation_bandwidth = 0.0"),
        ({"draw": "noise"}, "draw = 'noise'"),
        ({"flow_tolerance": 0.0}, "flow_tolerance = 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(unchecked, options, words):
    with pytest.raises(ValueError, match=words):
        ClosedFormFilter(**options)
