"""Scores of predictions are those of their laws, and settings are chosen by them."""

import math

import pytest
import torch
from scipy import stats

import scorda as sc
from scorda.assimilation.filter import Filter
from scorda.bench.compare import compared
from scorda.bench.own import setting_words
from scorda.bench.predictive import Predictive, predict
from scorda.bench.without_truth import tune
from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.observations.value_laws import Poisson
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz96


def linear(steps=40):
    A = torch.tensor([[0.9, 0.2], [-0.2, 0.8]], dtype=torch.float64)
    system = LinearGaussian(A, 0.3 * torch.eye(2), torch.zeros(2), torch.eye(2))
    model = sc.ObservationModel(sc.Select([0]), std=1.0)
    return sc.twin_experiment(system, model, steps, 1, 3)


def test_the_log_score_of_a_large_ensemble_is_the_evidence_of_the_kalman_filter():
    _, problem = linear()
    found = predict(sc.ETKF(), problem, 4000, 0)["log"]
    evidence = sc.KalmanFilter().assimilate(problem, 2, 0).info["log_evidence"]
    # 4000 members: means and variances of the predictions are off by some percent of their std.
    assert found == pytest.approx(-float(evidence.mean()), abs=0.01)


def test_scores_are_those_of_the_predictive_law():
    x = rng.normal(6, (5,), 0).double()
    y, std = torch.linspace(-1, 2, 5).double(), torch.linspace(0.5, 1.5, 5).double()
    found = Predictive()
    found.add(x, None, y, std)
    total = (x.var(0) + std.square()).sqrt()
    law = stats.norm(x.mean(0).numpy(), total.numpy())
    expected = -(law.logpdf(y.numpy()) + std.log().numpy()).mean()
    assert found.result()["log"] == pytest.approx(float(expected))
    # With one location the mixture is a Gaussian, and its CRPS has a closed form.
    same = Predictive()
    same.add(x[:1].expand(6, 5), None, y, std)
    z = (y - x[0]) / std
    normal = torch.distributions.Normal(0.0, 1.0)
    exact = z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi)
    assert same.result()["crps"] == pytest.approx(float(exact.mean()))


def test_members_that_were_dropped_or_weigh_nothing_do_not_count():
    x, y, std = rng.normal(6, (3,), 0).double(), torch.zeros(3), torch.ones(3)
    few, gone, light = Predictive(), Predictive(), Predictive()
    few.add(x[:4], None, y, std)
    gone.add(torch.cat([x[:4], torch.full((2, 3), math.nan)]), None, y, std)
    light.add(x, torch.tensor([0.25] * 4 + [0.0] * 2), y, std)
    for other in (gone, light):
        assert other.result() == pytest.approx(few.result())


@pytest.mark.slow
def test_each_observation_is_predicted_before_it_is_used():
    """A filter that copies the observation into its members gains nothing by that."""

    class Copies(Filter):
        def analyse(self, forecast, y, model, generator=None):
            return y + 1e-3 * forecast, {}

    space = sc.StateSpace((3,))
    start = rng.normal(101, (3,), 0)
    system = sc.systems.FunctionSystem(lambda x: 0 * x, start, space, noise_std=1.0)
    model = sc.ObservationModel(sc.Select(range(3)), std=1.0)
    _, problem = sc.twin_experiment(system, model, 400, 1, 0)
    # Members and truth are independent N(0, 1) before each analysis.
    assert predict(Copies(), problem, 100, 0)["chi2"] == pytest.approx(1, abs=0.1)


def test_a_smoother_is_not_scored_by_what_it_has_seen():
    with pytest.raises(ValueError, match="kept back"):
        predict(sc.EnKS(), linear()[1], 10, 0)


def lorenz(cycles, every=1, observed=range(40), seed=0):
    model = sc.ObservationModel(sc.Select(observed), std=1.0)
    return sc.twin_experiment(Lorenz96(), model, cycles * every, every, seed)


@pytest.mark.slow
def test_the_smallest_score_is_chosen_and_a_run_that_diverges_loses():
    _, problem = lorenz(20)
    values = [1.0, 1.1, 1e30]
    found = tune(sc.ETKF(), problem, {"inflation": values}, 12, 2, progress=False)
    scores = [row.mean["log"] for row in found.rows]
    assert found.settings["inflation"] == values[scores.index(min(scores[:2]))]
    assert len(found.rows[2].failures) == 2 and math.isnan(scores[2])
    assert found.method == sc.ETKF(inflation=found.settings["inflation"])
    assert list(found.table["diverged"]) == [0, 0, 2]
    single = predict(sc.ETKF(1.1), problem, 12, 1, first=5)["log"]
    both = predict(sc.ETKF(1.1), problem, 12, 0, first=5)["log"]
    assert scores[1] == pytest.approx((single + both) / 2)
    with pytest.raises(FloatingPointError, match="every combination"):
        tune(sc.ETKF(), problem, {"inflation": [1e30]}, 12, 1, progress=False)


@pytest.mark.parametrize(
    ("grid", "how", "words"),
    [
        ({"inflatoin": [1.0]}, {}, "inflatoin"),
        ({"inflation": [0.5]}, {}, "at least 1"),
        ({"inflation": []}, {}, "no value"),
        ({}, {}, "no values to try"),
        ({"inflation": [1.0]}, {"score": "rmse"}, "choose one of"),
        ({"inflation": [1.0]}, {"spinup": 1.0}, "spin-up"),
        ({"inflation": [1.0]}, {"seeds": 0}, "seed"),
    ],
)
def test_what_cannot_be_chosen_is_told(grid, how, words):
    with pytest.raises(ValueError, match=words):
        tune(sc.ETKF(), lorenz(3)[1], grid, 5, **({"seeds": 1} | how), progress=False)


@pytest.mark.slow
def test_a_smoother_is_tuned_by_observations_that_are_kept_back():
    _, problem = linear(20)
    found = tune(sc.EnKS(), problem, {"lag": [0, 5]}, 60, 1, progress=False)
    assert found.settings == {"lag": 5}
    figure = found.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["log"]


PROBLEMS = {
    "ETKF, all sites each step": (
        sc.ETKF(rotation=True),
        28,
        {"every": 1},
        {"inflation": [1.0, 1.01, 1.02, 1.04, 1.08, 1.16]},
    ),
    "LETKF, every second site each step": (
        sc.LETKF(localization=GaspariCohn(4.0)),
        10,
        {"every": 1, "observed": range(0, 40, 2)},
        {
            "inflation": [1.0, 1.02, 1.05, 1.1],
            "localization": [GaspariCohn(2.0), GaspariCohn(4.0), GaspariCohn(6.0)],
        },
    ),
    "EnKF, all sites every fourth step": (
        sc.EnKF(),
        40,
        {"every": 4},
        {"inflation": [1.02, 1.06, 1.1, 1.15, 1.2, 1.3]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_lorenz96_is_tuned_as_well_as_with_the_truth(name):
    """The issue's bound: 3 % of the RMSE, on the problem that the settings were chosen on."""
    method, members, how, values = PROBLEMS[name]
    truth, problem = lorenz(300, **how)
    rows = compared([method], problem, truth, members, 1, values, spinup=0.2, progress=False)
    rmse = {row.label.partition(", ")[2]: row.mean.get("rmse", math.inf) for row in rows}
    found = tune(method, problem, values, members, 1, progress=False)
    assert rmse[setting_words(found.settings)] <= 1.03 * min(rmse.values())


@pytest.mark.slow
def test_the_score_is_drawn_over_the_first_setting_if_that_is_a_number():
    _, problem = lorenz(6)
    values = {"localization": [GaspariCohn(2.0), GaspariCohn(4.0)], "inflation": [1.0, 1.1]}
    found = tune(
        sc.LETKF(localization=GaspariCohn(2.0)), problem, values, 6, 1, spinup=0, progress=False
    )
    (axes,) = found.plot().axes
    assert axes.get_xlabel() == "localization"
    drawn = [container.get_label() for container in axes.containers]
    assert drawn == ["inflation=1", "inflation=1.1"]
    turned = tune(
        sc.LETKF(localization=GaspariCohn(2.0)),
        problem,
        {"inflation": [1.0, 1.1], "localization": values["localization"]},
        *(6, 1),
        spinup=0,
        progress=False,
    ).plot()
    turned.draw_without_rendering()
    ends = turned.legends[0].get_window_extent()
    assert turned.bbox.x0 <= ends.x0 and ends.x1 <= turned.bbox.x1
    laws = {"inflation": [sc.RTPS(0.5), sc.Multiplicative(1.05)]}
    shown = tune(sc.ETKF(), problem, laws, 6, 1, spinup=0, progress=False)
    assert shown.rows[0].label == "ETKF, inflation=RTPS(0.5)"
    assert shown.plot().axes


def test_a_law_of_counts_is_tuned_by_its_density():
    """The log score of a run is minus the mean log density of the mixture of Poisson laws."""
    system = Lorenz96(dim=8, noise_std=0.1)
    model = sc.ObservationModel(sc.Select(range(4)), law=Poisson())
    values = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 3.0, 1.0, 0.0]])
    problem = sc.Problem(system, sc.Observations(model, [1, 3], values), 4)
    method = sc.ParticleFilter()
    expected, w = [], torch.full((30,), 1 / 30)
    for cycle in method.run(problem, 30, rng.seeded(2)):
        if cycle.forecast is not None:
            y, h = values[(1, 3).index(cycle.step)].double(), cycle.forecast[:, :4].double()
            density = (y * h - h.exp() - torch.lgamma(y + 1)).exp()
            expected += (w.double() @ density).log().tolist()
        w = w if cycle.weights is None else cycle.weights
    found = predict(method, problem, 30, rng.seeded(2))
    assert found == {"log": pytest.approx(-sum(expected) / len(expected), rel=1e-6)}
    tuned = sc.tune(method, problem, {"resample": [0.2, 0.9]}, 30, progress=False)
    assert tuned.settings["resample"] in (0.2, 0.9)
    with pytest.raises(
        ValueError, match=r"poisson.*no scores but the log density, and this is crps"
    ):
        sc.tune(method, problem, {"resample": [0.2, 0.9]}, 30, score="crps")
