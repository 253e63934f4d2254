"""The normal-score EnKF: exact scalar posteriors, the ETKF as its limit, and its maps."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, truncnorm

from scorda.core import rng
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.normal_score import NormalScoreEnKF, Scores
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear, Pointwise, Select
from scorda.observations.robust_laws import Huber, StudentT
from scorda.observations.value_laws import Bernoulli, Poisson

LEVELS = (torch.arange(4000) + 0.5) / 4000


def moments(members, y, std):
    """Mean and variance of the score of a scalar, given an observation of it."""
    model = ObservationModel(Select([0]), std=std)
    mean, var = Scores.of(members[:, None]).posterior(torch.tensor([y]), model)
    return mean[0], var[0]


def test_lognormal_has_its_posterior_in_closed_form():
    """Prior ln x ~ N(0, 1/2), ln y = ln x + N(0, 1/4), y = 2: mean 1.7254 and variance 0.5399."""
    x = (math.sqrt(0.5) * torch.special.ndtri(LEVELS)).exp()[:, None]
    model = ObservationModel(Pointwise(torch.log), std=0.5)
    analysis = NormalScoreEnKF().update(x, torch.tensor([math.log(2.0)]), model)
    # The outermost of 4000 quantiles leave out about 1 / 4000 of the variance.
    assert float(analysis.mean()) == pytest.approx(1.7254, abs=1e-3)
    assert float(analysis.var()) == pytest.approx(0.5399, abs=2e-3)


@pytest.mark.parametrize("y", [-3.0, 0.3, 8.0])
@pytest.mark.parametrize("std", [1e-6, 0.3, 5.0])
def test_moments_are_those_of_the_product_with_the_likelihood(y, std):
    """Gaussian members, whose map is linear: the posterior of a score is in closed form."""
    members = 1 + 2 * torch.special.ndtri(LEVELS)
    mean, var = moments(members, y, std)
    ratio = (std / 2) ** 2
    assert float(mean) == pytest.approx((y - 1) / 2 / (1 + ratio), rel=2e-3, abs=2e-3)
    assert float(var) == pytest.approx(ratio / (1 + ratio), rel=0.02)


def test_moments_of_a_curved_map_are_those_of_a_fine_sum():
    """Few members, so that the map has kinks; the sum has a million points."""
    members = torch.tensor([0.1, 0.2, 0.5, 1.5, 4.0])
    q = norm.ppf((np.arange(5) + 0.5) / 5)
    q, s = q / q.std(ddof=1), members.numpy()
    slopes = (s[1] - s[0]) / (q[1] - q[0]), (s[-1] - s[-2]) / (q[-1] - q[-2])
    z = np.linspace(-20, 20, 1_000_001)
    ends = s[0] + slopes[0] * (-20 - q[0]), s[-1] + slopes[1] * (20 - q[-1])
    x = np.interp(z, [-20, *q, 20], [ends[0], *s, ends[1]])
    w = np.exp(-(z**2) / 2 - (0.9 - x) ** 2 / 2 / 0.6**2)
    w /= w.sum()
    mean, var = moments(members, 0.9, 0.6)
    # The sum of 401 points of a density with kinks is right to about the square of its step.
    assert float(mean) == pytest.approx(w @ z, abs=1e-4)
    assert float(var) == pytest.approx(w @ (z - w @ z) ** 2, abs=1e-4)


@pytest.mark.parametrize("full", [False, True], ids=["independent", "correlated"])
def test_many_gaussian_members_have_the_analysis_of_the_etkf(full):
    """Their maps are linear but for sampling: 4000 members have errors of 1 / 60."""
    forecast = rng.normal(4000, (3,), rng.seeded(0)) @ rng.normal(3, (3,), rng.seeded(1))
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.8]])
    error = {"cov": cov} if full else {"std": cov.diagonal().sqrt()}
    model = ObservationModel(Linear(torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])), **error)
    y = torch.tensor([1.0, -0.5])
    expected, analysis = (m.update(forecast, y, model) for m in (ETKF(), NormalScoreEnKF()))
    scale = forecast.std(0)
    assert ((analysis.mean(0) - expected.mean(0)).abs() < 0.05 * scale).all()
    assert ((analysis.T.cov() - expected.T.cov()).abs() < 0.05 * scale * scale[:, None]).all()


def test_the_scores_of_a_variable_do_not_depend_on_a_map_of_it():
    """A monotone function of what is observed moves the analysis along, but for the tails."""
    forecast = rng.normal(30, (2,), rng.seeded(0)) @ torch.tensor([[1.0, 0.7], [0.0, 0.7]])
    model, y = ObservationModel(Select([0]), std=0.7), torch.tensor([0.4])
    plain = NormalScoreEnKF().update(forecast, y, model)
    curved = torch.stack((forecast[:, 0], forecast[:, 1] ** 3), 1)
    other = NormalScoreEnKF().update(curved, y, model)
    assert torch.equal(plain[:, 0], other[:, 0])
    # Between the same members, though not at the same place between them.
    low, high = forecast[:, 1].min(), forecast[:, 1].max()
    inside = (plain[:, 1] > low) & (plain[:, 1] < high)
    ranks = [
        torch.searchsorted(f.sort().values, a)
        for f, a in (
            (forecast[:, 1], plain[:, 1]),
            (curved[:, 1].contiguous(), other[:, 1].contiguous()),
        )
    ]
    assert inside.sum() > 25
    assert torch.equal(ranks[0][inside], ranks[1][inside])


def test_equal_members_stay_equal_in_an_unobserved_variable_and_share_a_score():
    forecast = rng.normal(20, (2,), rng.seeded(0))
    forecast[:, 1] = 3.0
    model, y = ObservationModel(Select([0]), std=0.5), torch.tensor([1.0])
    assert (NormalScoreEnKF().update(forecast, y, model)[:, 1] == 3).all()
    # An atom at 0, as of days without rain: its members move together.
    forecast[:, 0] = forecast[:, 0].clamp_min(0)
    analysis = NormalScoreEnKF().update(forecast, y, model)[:, 0]
    assert len(analysis[forecast[:, 0] == 0].unique()) == 1


POSTERIORS = [
    (StudentT(4.0), 4.0, 1.8074, 1.3329),
    (Huber(), 8.0, 2.69, 1.0),
    (Poisson(), 0.0, -0.6781, 0.6211),
    (Poisson(), 3.0, 0.6873, 0.3228),
    (Bernoulli(), 1.0, 0.4132, 0.8292),
]


@pytest.mark.parametrize(("law", "y", "mean", "var"), POSTERIORS, ids=str)
def test_other_laws_have_the_moments_of_their_posteriors(law, y, mean, var):
    """By quadrature, for a prior N(0, 1) and scale 0.5; a variance above 1 is taken to be 1."""
    x = torch.special.ndtri(LEVELS)[:, None]
    model = ObservationModel(Select([0]), std=0.5 if law.scaled else None, law=law)
    analysis = NormalScoreEnKF().update(x, torch.tensor([y]), model)
    assert float(analysis.mean()) == pytest.approx(mean, abs=0.002)
    assert float(analysis.var()) == pytest.approx(min(var, 1), rel=0.003)


def test_rotation_keeps_the_moments_of_the_scores():
    forecast = rng.normal(20, (2,), rng.seeded(0))
    model, y = ObservationModel(Select([0]), std=0.5), torch.tensor([1.0])
    plain = NormalScoreEnKF().update(forecast, y, model)
    turned = NormalScoreEnKF(rotation=True).update(forecast, y, model, rng.seeded(1))
    # Back in scores by the inverse of the map, beyond whose knots this sample does not go.
    s = forecast.sort(0).values
    q = Scores.of(forecast).knots.numpy()
    back = [[np.interp(x[:, k], s[:, k], q) for k in range(2)] for x in (plain, turned)]
    inside = [((x > s[0]) & (x < s[-1])).all(0) for x in (plain, turned)]
    assert inside[0][0] and inside[1][0]
    for moment in (np.mean, np.var):
        assert moment(back[1][0]) == pytest.approx(moment(back[0][0]), abs=1e-12)
    assert (turned - plain).abs().max() > 0.1


def distance(members, exact):
    """W1 of members and quantiles of the exact posterior."""
    return float((members.sort().values - exact).abs().mean())


@pytest.mark.parametrize("problem", ["bimodal", "bounded"])
def test_it_beats_the_enkf_where_the_prior_is_not_gaussian(problem):
    """The problems of the rank histogram filter, 60 draws of 40 members each."""
    levels = (torch.arange(40) + 0.5) / 40
    if problem == "bimodal":
        y, std, most = 0.8, 1.0, 0.5
        means = [(m / 0.16 + y) / (1 / 0.16 + 1) for m in (-1.5, 1.5)]
        weights = np.array([norm.pdf(y, m, math.sqrt(1.16)) for m in (-1.5, 1.5)])
        weights, width = weights / weights.sum(), math.sqrt(1 / (1 / 0.16 + 1))
        grid = np.linspace(-4, 4, 20_001)
        cdf = sum(w * norm.cdf(grid, m, width) for w, m in zip(weights, means, strict=True))
        exact = torch.from_numpy(np.interp(levels, cdf, grid))
    else:
        y, std, most = 0.1, 0.5, 0.6
        mean = y - std**2
        exact = torch.from_numpy(truncnorm(-mean / std, math.inf, mean, std).ppf(levels))
    found = {"scores": [], "enkf": []}
    model = ObservationModel(Select([0]), std=std)
    for seed in range(60):
        draw = rng.uniform(40, (1,), rng.seeded(seed))
        members = -torch.log1p(-draw)
        if problem == "bimodal":
            noise = rng.normal(40, (1,), rng.seeded(1000 + seed))
            members = torch.where(draw < 0.5, -1.5, 1.5) + 0.4 * noise
        for name, method in (("scores", NormalScoreEnKF()), ("enkf", EnKF())):
            analysis = method.update(members, torch.tensor([y]), model, rng.seeded(seed))
            found[name].append(distance(analysis[:, 0], exact))
    assert np.mean(found["scores"]) < most * np.mean(found["enkf"]), found


def test_scores_are_those_of_mean_ranks_and_tails_go_on():
    """Three equal members of five; with five, the outer tenth is one interval."""
    scores = Scores.of(torch.tensor([[5.0], [0.0], [1.0], [0.0], [0.0]]))
    q = norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])
    q = torch.from_numpy(q / q.std(ddof=1))
    expected = torch.stack((q[4], q[1], q[3], q[1], q[1]))
    torch.testing.assert_close(scores.members[:, 0], expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        scores.values(scores.members.mT)[0].sort().values,
        torch.tensor([0.0, 0.0, 0.0, 1.0, 5.0]),
        atol=1e-14,
        rtol=0,
    )
    step = q[4] - q[3]
    beyond = scores.values(torch.stack((q[0] - step, q[4] + step / 2))[None])[0]
    torch.testing.assert_close(beyond, torch.tensor([0.0, 7.0]), atol=1e-12, rtol=0)
