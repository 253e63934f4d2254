"""Scores against brute force, closed forms, scoringrules, and their own identities."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, wasserstein_distance
from torch.testing import assert_close

from scorda import metrics

scoringrules = pytest.importorskip("scoringrules")

SCORES = [metrics.rmse, metrics.spread, metrics.crps, metrics.energy_score]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_weights(*shape, seed=5):
    weights = draw(*shape, seed=seed).square()
    return weights / weights.sum(0)


def test_rmse_is_the_time_mean_of_the_spatial_root():
    truth = torch.zeros(2, 2)
    ensemble = torch.tensor([[[0.0, 2.0], [6.0, 0.0]], [[2.0, 4.0], [6.0, 16.0]]])
    # Means (1, 3) and (6, 8): roots of 5 and of 50.
    assert_close(metrics.rmse(ensemble, truth, per_step=True), torch.tensor([5.0, 50.0]).sqrt())
    assert_close(metrics.rmse(ensemble, truth), torch.tensor((math.sqrt(5) + math.sqrt(50)) / 2))


def test_a_truth_with_one_axis_is_one_state():
    ensemble, truth = draw(5, 4), draw(4, seed=1)
    for score in SCORES:
        assert_close(score(ensemble, truth), score(ensemble[:, None], truth[None]))


def test_spread_is_the_root_of_the_unbiased_variance():
    ensemble = draw(7, 3, 4)
    expected = ensemble.var(0, unbiased=True).mean(1).sqrt()
    assert_close(metrics.spread(ensemble, per_step=True), expected)
    assert_close(metrics.spread(ensemble), expected.mean())


@pytest.mark.parametrize("members", [2, 5, 50])
def test_spread_skill_is_one_for_a_reliable_ensemble_of_any_size(members):
    ratio = metrics.spread_skill(draw(members, 100, 100), draw(100, 100, seed=1))
    # Two mean squares over 1e4 independent values: relative std of each at most sqrt(2 / 1e4),
    # so of their ratio's root 0.01; five times that. Without the factor, 0.82 for two members.
    assert_close(ratio, torch.tensor(1.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3), (6, 4, 3), (7, 2, 3, 2)])
def test_crps_matches_the_double_sum(shape):
    ensemble, truth = draw(*shape), draw(*shape[1:], seed=1)
    members = shape[0]
    pairs = (ensemble[:, None] - ensemble[None]).abs().sum((0, 1))
    expected = (ensemble - truth).abs().mean(0) - pairs / (2 * members * (members - 1))
    assert_close(metrics.pointwise_crps(ensemble, truth), expected)
    assert_close(metrics.crps(ensemble, truth), expected.mean())


def test_weighted_crps_matches_the_double_sum():
    ensemble, truth, weights = draw(6, 4, 3), draw(4, 3, seed=1), random_weights(6, 4)
    w = weights[..., None]
    pairs = (w[:, None] * w[None] * (ensemble[:, None] - ensemble[None]).abs()).sum((0, 1))
    expected = (w * (ensemble - truth).abs()).sum(0) - pairs / 2 / (1 - w.square().sum(0))
    assert_close(metrics.pointwise_crps(ensemble, truth, weights), expected)


def test_equal_weights_give_the_form_of_ranks_the_value_of_the_form_of_gaps():
    """Also where the mean is 1e8 times the spread: 1e-15 of it, one rounding of the members."""
    equal = torch.full((9, 4), 0.3)
    for offset, atol in ((0.0, 1e-14), (1e8, 1e-7)):
        ensemble, truth = offset + draw(9, 4, 3), offset + draw(4, 3, seed=1)
        expected = metrics.pointwise_crps(ensemble, truth, equal)
        assert_close(metrics.pointwise_crps(ensemble, truth), expected, atol=atol, rtol=0)
        for level in (0.02, 0.1, 0.37, 0.5, 0.95):
            expected = metrics.quantile(ensemble, level, equal)
            assert_close(metrics.quantile(ensemble, level), expected, atol=atol, rtol=0)


def test_crps_matches_scoringrules():
    ensemble, truth = draw(9, 4, 3), draw(4, 3, seed=1)
    expected = scoringrules.crps_ensemble(
        truth.numpy(), ensemble.numpy(), m_axis=0, estimator="fair"
    )
    assert_close(metrics.pointwise_crps(ensemble, truth), torch.as_tensor(expected))


def test_fair_crps_does_not_depend_on_the_size_of_the_ensemble():
    truth = draw(40_000, 1, seed=1)
    exact = metrics.gaussian_crps(torch.zeros_like(truth), torch.ones(1), truth).mean()
    for members in (2, 10):
        score = metrics.crps(draw(members, 40_000, 1, seed=members), truth)
        # std of one score is below 1.2 for two members: standard error .006, five of them.
        # The biased estimator is off by .28 and .06.
        assert_close(score, exact, atol=0.03, rtol=0)


def test_gaussian_crps_matches_scoringrules_and_a_large_ensemble():
    mean, std, truth = draw(3, 2), draw(3, 2, seed=1).exp(), draw(3, 2, seed=2)
    score = metrics.gaussian_crps(mean, std, truth)
    expected = scoringrules.crps_normal(truth.numpy(), mean.numpy(), std.numpy())
    assert_close(score, torch.as_tensor(expected))
    levels = (torch.arange(4000) + 0.5) / 4000
    members = mean + std * torch.special.ndtri(levels)[:, None, None]
    # The quantiles of 4000 equal bins stand for the Gaussian: error about 1 / 4000 of std.
    assert_close(metrics.pointwise_crps(members, truth), score, atol=2e-3, rtol=0)


def test_energy_score_matches_the_double_sum_and_scoringrules():
    ensemble, truth = draw(6, 4, 3), draw(4, 3, seed=1)
    pairs = (ensemble[:, None] - ensemble[None]).norm(dim=-1).sum((0, 1))
    skill = (ensemble - truth).norm(dim=-1).mean(0)
    assert_close(metrics.energy_score(ensemble, truth, per_step=True), skill - pairs / (2 * 6 * 5))
    fair = scoringrules.es_ensemble(
        truth.numpy(), ensemble.numpy(), m_axis=0, v_axis=-1, estimator="fair"
    )
    assert_close(metrics.energy_score(ensemble, truth, per_step=True), torch.as_tensor(fair))


def test_energy_score_does_not_depend_on_the_blocks(monkeypatch):
    ensemble, truth, weights = draw(9, 2, 3), draw(2, 3, seed=1), random_weights(9)
    whole = metrics.energy_score(ensemble, truth, weights)
    monkeypatch.setattr("scorda.metrics.distance.BLOCK", 18)
    assert_close(metrics.energy_score(ensemble, truth, weights), whole)


@pytest.mark.parametrize("weighted", [False, True])
def test_energy_score_in_one_dimension_is_the_crps(weighted):
    ensemble, truth = draw(6, 4, 1), draw(4, 1, seed=1)
    weights = random_weights(6, 4) if weighted else None
    assert_close(
        metrics.energy_score(ensemble, truth, weights), metrics.crps(ensemble, truth, weights)
    )


@pytest.mark.parametrize("score", [*SCORES, metrics.spread_skill, metrics.coverage])
def test_equal_weights_change_nothing(score):
    ensemble, truth = draw(6, 4, 3), draw(4, 3, seed=1)
    assert_close(score(ensemble, truth, torch.full((6,), 2.0)), score(ensemble, truth))
    assert_close(score(ensemble, truth, torch.full((6, 4), 0.5)), score(ensemble, truth))


@pytest.mark.parametrize("score", [metrics.rmse, metrics.crps, metrics.energy_score])
def test_one_member_scores_its_distance(score):
    ensemble, truth = draw(1, 4, 1), draw(4, 1, seed=1)
    distance = (ensemble[0] - truth).abs().mean()
    assert_close(score(ensemble, truth), distance)
    # A particle filter that has collapsed on one particle is that particle.
    collapsed = torch.cat([ensemble, draw(2, 4, 1, seed=2)])
    assert_close(score(collapsed, truth, torch.tensor([1.0, 0.0, 0.0])), distance)


@pytest.mark.parametrize("score", SCORES)
@given(members=st.integers(1, 6), steps=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_perfect_deterministic_forecast_scores_zero(score, members, steps, seed):
    truth = draw(steps, 3, seed=seed)
    ensemble = truth.expand(members, steps, 3)
    # Means of equal numbers round: a few units of 1e-16.
    assert_close(score(ensemble, truth), torch.tensor(0.0), atol=1e-14, rtol=0)


@pytest.mark.parametrize("score", [*SCORES, metrics.spread_skill, metrics.coverage])
@given(members=st.integers(2, 8), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_members_may_be_permuted_with_their_weights(score, members, seed):
    ensemble, truth = draw(members, 3, 2, seed=seed), draw(3, 2, seed=seed + 1)
    weights = random_weights(members, seed=seed)
    order = torch.randperm(members, generator=torch.Generator().manual_seed(seed))
    assert_close(score(ensemble[order], truth, weights[order]), score(ensemble, truth, weights))


@pytest.mark.parametrize("score", SCORES)
@given(scale=st.floats(0.1, 10), shift=st.floats(-10, 10), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_scores_have_the_unit_of_the_state(score, scale, shift, seed):
    ensemble, truth = draw(4, 3, 2, seed=seed), draw(3, 2, seed=seed + 1)
    moved = score(scale * ensemble + shift, scale * truth + shift)
    assert_close(moved, scale * score(ensemble, truth), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    "score", [*SCORES, metrics.spread_skill, metrics.coverage, metrics.rank_histogram]
)
def test_absent_values_are_left_out(score):
    ensemble, truth = draw(5, 4, 3), draw(4, 3, seed=1)
    gaps = truth.clone()
    gaps[:, 1] = math.nan
    gaps[2] = math.nan
    kept = [0, 1, 3]
    few, few_truth = ensemble[:, kept][..., [0, 2]], truth[kept][:, [0, 2]]
    if score is metrics.rank_histogram:
        counts = score(ensemble, gaps).counts
        assert counts.sum() == few_truth.numel()
    else:
        assert_close(score(ensemble, gaps), score(few, few_truth))


@pytest.mark.parametrize("score", [*SCORES, metrics.spread_skill, metrics.coverage])
def test_a_diverged_member_shows(score):
    ensemble = draw(5, 4, 3)
    ensemble[2, 1] = math.nan
    assert score(ensemble, draw(4, 3, seed=1)).isnan()


@pytest.mark.parametrize("level", [-0.1, 2, math.nan])
def test_a_level_of_a_quantile_is_a_probability(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.quantile(draw(5, 4), level)


def test_a_diverged_member_has_no_quantile_and_no_rank():
    ensemble, truth = draw(5, 4, 3), draw(4, 3, seed=1)
    ensemble[2, 1] = math.nan
    assert metrics.quantile(ensemble, 0.5).isnan().sum(1).tolist() == [0, 3, 0, 0]
    with pytest.raises(ValueError, match="members that are NaN at 3 values of the truth"):
        metrics.rank_histogram(ensemble, truth)
    truth[1] = math.nan
    assert metrics.rank_histogram(ensemble, truth).counts.sum() == 9
    assert metrics.coverage(ensemble, truth).isfinite()


def test_wasserstein_in_one_dimension_is_that_of_the_sorted_members():
    x, y = draw(40, 1), draw(40, 1, seed=1)
    assert_close(metrics.wasserstein(x, y), (x.sort(0)[0] - y.sort(0)[0]).abs().mean())


@pytest.mark.parametrize(("n", "m"), [(12, 30), (8, 16), (7, 11)])
def test_wasserstein_of_unequal_clouds_matches_the_linear_programme(n, m):
    x, y = draw(n, 2, 3), draw(m, 2, 3, seed=1) + 1
    programme = metrics.wasserstein(x, y, torch.ones(n), torch.ones(m))
    assert_close(metrics.wasserstein(x, y), programme)


def test_wasserstein_of_weighted_clouds_matches_the_quantile_form():
    x, y, u, v = draw(9, 1), draw(6, 1, seed=1), random_weights(9), random_weights(6, seed=6)
    expected = wasserstein_distance(x[:, 0], y[:, 0], u, v)
    assert_close(metrics.wasserstein(x, y, u, v), torch.tensor(expected))


@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_wasserstein_is_a_metric_on_clouds(seed):
    x, y, z = (draw(6, 2, 2, seed=3 * seed + i) for i in range(3))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    # Distances of equal points are exactly 0; the others round at 1e-15.
    assert metrics.wasserstein(x, x[order]) == 0
    assert_close(metrics.wasserstein(x, y), metrics.wasserstein(y[order], x))
    through = metrics.wasserstein(x, y) + metrics.wasserstein(y, z)
    assert metrics.wasserstein(x, z) <= through + 1e-12
    shift = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert_close(metrics.wasserstein(x, x + shift), torch.tensor(5.0))


@pytest.mark.slow
def test_wasserstein_of_1024_paths_takes_seconds():
    x, y = draw(1024, 65, 3), draw(1024, 65, 3, seed=1)
    # Clouds in 195 dimensions: every pair is sqrt(2 * 195) apart within a few per cent.
    assert_close(metrics.wasserstein(x, y), torch.tensor(math.sqrt(2 * 195)), rtol=0.15, atol=0)


def test_quantile_is_type_six():
    members = torch.tensor([3.0, 1.0, 2.0])[:, None]
    for level, expected in [(0.25, 1.0), (0.5, 2.0), (0.625, 2.5), (0.01, 1.0), (0.99, 3.0)]:
        assert_close(metrics.quantile(members, level), torch.tensor([expected]))
    many = draw(11, 4, 3).numpy()
    import numpy as np

    expected = np.quantile(many, 0.3, axis=0, method="weibull")
    assert_close(metrics.quantile(torch.as_tensor(many), 0.3), torch.as_tensor(expected))


def test_weighted_quantile_mirrors():
    members, weights = draw(7, 3), random_weights(7)
    low, high = (metrics.quantile(s * members, p, weights) for s, p in ((1, 0.2), (-1, 0.8)))
    assert_close(low, -high)


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_coverage_of_a_reliable_ensemble_is_the_level(level):
    ensemble, truth = draw(19, 200, 100).abs(), draw(200, 100, seed=1).abs()
    # (N + 1) (1 - level) / 2 is a whole rank, so the level is exact for any distribution;
    # 2e4 independent values: standard error .0035, five of them.
    assert_close(
        metrics.coverage(ensemble, truth, level=level), torch.tensor(level), atol=0.018, rtol=0
    )


def test_coverage_of_hand_made_values():
    ensemble = torch.arange(1.0, 10.0)[:, None].expand(9, 4)[:, None]
    truth = torch.tensor([[0.5, 2.01, 7.99, 8.1]])
    # Nine members: the quantiles at .2 and .8 are the members 2 and 8.
    assert_close(metrics.coverage(ensemble, truth, level=0.6), torch.tensor(0.5))


def test_rank_histogram_counts_the_members_below():
    ensemble = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 1, 5)
    truth = torch.tensor([[0.0, 1.5, 1.7, 2.5, 9.0]])
    assert metrics.rank_histogram(ensemble, truth).counts.tolist() == [1, 2, 1, 1]


def test_rank_histogram_breaks_ties_at_random():
    histogram = metrics.rank_histogram(
        torch.zeros(3, 1, 4000), torch.zeros(1, 4000), generator=torch.Generator().manual_seed(0)
    )
    assert histogram.counts.sum() == 4000
    # All four members are equal, so every rank is as likely: std 27 of 1000, five of them.
    assert ((histogram.counts - 1000).abs() < 137).all()


def test_rank_histogram_band_is_binomial():
    histogram = metrics.rank_histogram(draw(19, 10, 200), draw(10, 200, seed=1), level=0.9)
    assert (histogram.low, histogram.high) == (
        binom.ppf(0.05, 2000, 1 / 20),
        binom.ppf(0.95, 2000, 1 / 20),
    )
    # Two of 20 bins are expected outside; six or more have probability 1%.
    assert histogram.outside < 0.3
    narrow = metrics.rank_histogram(0.5 * draw(19, 10, 200), draw(10, 200, seed=1), level=0.9)
    assert narrow.outside > 0.8
    assert narrow.counts[0] > histogram.high


@pytest.mark.parametrize("bins", [4, 7])
def test_rank_histogram_is_flat_for_any_number_of_bins(bins):
    counts = metrics.rank_histogram(
        draw(5, 100, 200),
        draw(100, 200, seed=1),
        weights=torch.full((5, 100), 0.2),
        bins=bins,
        generator=torch.Generator().manual_seed(0),
    ).counts
    # Binomial standard deviation, five of them.
    bound = 5 * math.sqrt(20_000 / bins)
    assert ((counts - 20_000 / bins).abs() < bound).all()


def test_autocorrelation_of_an_autoregression():
    noise, states = draw(200, 400, 2), []
    for k in range(400):
        states.append(noise[:, k] if k == 0 else 0.8 * states[-1] + 0.6 * noise[:, k])
    found = metrics.autocorrelation(torch.stack(states, 1), lags=5)
    expected = 0.8 ** torch.arange(6.0)
    # 8e4 values with a memory of 9 steps: standard error about .01.
    assert_close(found, expected[:, None].expand(6, 2), atol=0.03, rtol=0)


def test_autocorrelation_matches_the_sums():
    states = draw(3, 7, 2)
    anomalies = states - states.mean((0, 1))
    expected = sum(
        (anomalies[i, k] * anomalies[i, k + 2]) / 15 for i in range(3) for k in range(5)
    ) / anomalies.square().mean((0, 1))
    assert_close(metrics.autocorrelation(states, 2)[2], expected)


def test_log_prior_sums_the_transitions():
    class Walk:
        def log_transition(self, x, x_next):
            return torch.distributions.Normal(x, 2.0).log_prob(x_next).sum(-1)

    states = draw(4, 6, 3)
    expected = torch.stack(
        [sum(Walk().log_transition(s[k], s[k + 1]) for k in range(5)) for s in states]
    )
    assert_close(metrics.log_prior(states, Walk()), expected)


@pytest.mark.parametrize("score", [*SCORES, metrics.coverage])
def test_dtype_is_kept_and_inputs_are_untouched(score):
    ensemble, truth = draw(5, 4, 3).float(), draw(4, 3, seed=1).float()
    copies = ensemble.clone(), truth.clone()
    result = score(ensemble, truth)
    assert result.dtype == torch.float32
    assert result.shape == ()
    assert torch.equal(ensemble, copies[0])
    assert torch.equal(truth, copies[1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: metrics.rmse(x, y[:2]), "truth needs the ensemble's shape"),
        (lambda x, y: metrics.crps(x, y, torch.ones(4)), r"weights are \(5,\) or \(5, 4\)"),
        (lambda x, y: metrics.crps(x, y, -torch.ones(5)), "not negative"),
        (lambda x, y: metrics.rmse(x, y * math.nan), "NaN everywhere"),
        (lambda x, y: metrics.coverage(x, y, level=90.0), "between 0 and 1"),
        (lambda x, y: metrics.wasserstein(x, y), "members of one shape"),
        (lambda x, y: metrics.wasserstein(x, x * math.inf), "not finite"),
        (lambda x, y: metrics.wasserstein(x, x, torch.ones(3)), "one weight per member"),
        (lambda x, y: metrics.wasserstein(draw(9001, 1), draw(9000, 1)), "too large"),
        (lambda x, y: metrics.gaussian_crps(y, 0 * y, y), "positive"),
        (lambda x, y: metrics.autocorrelation(x, 4), "0 to 3 lags"),
        (lambda x, y: metrics.rank_histogram(x, y, bins=0), "at least one bin"),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw(5, 4, 3), draw(4, 3, seed=1))


@pytest.mark.parametrize("weights", [0.9, [0.5, 0.5]])
def test_weights_of_another_shape_are_refused(unchecked, weights):
    """As a level that is given in their place."""
    with pytest.raises(ValueError, match="weights of shape"):
        metrics.coverage(draw(5, 4, 2), draw(4, 2), weights)
