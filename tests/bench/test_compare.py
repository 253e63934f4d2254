"""A comparison gives each method the runs and the scores that it has alone."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas
import pytest

import scorda as sc
from scorda import metrics
from scorda.bench.compare import compared
from scorda.observations.withholding import withhold
from scorda.systems.lorenz import Lorenz63


@pytest.fixture(scope="module")
def twin():
    model = sc.ObservationModel(sc.Select([0, 2]), std=1.0)
    return sc.twin_experiment(Lorenz63(spinup=0.5), model, 40, 4, 0)


def quiet(*args, **how):
    return sc.compare(*args, **how, progress=False)


@pytest.mark.slow
def test_scores_are_those_of_each_method_alone(twin):
    truth, problem = twin
    grid = {"rotation": [False, True]}
    table = quiet([sc.ETKF(1.1), sc.EnKF()], problem, truth, 12, 3, grid)
    assert list(table["method"]) == ["ETKF", "ETKF", "EnKF"]
    assert list(table["settings"]) == ["rotation=False", "rotation=True", ""]
    runs = [sc.ETKF(1.1, rotation=True).assimilate(problem, 12, seed) for seed in range(3)]
    rmse = pandas.Series([float(metrics.rmse(r.states[:, 4:], truth[4:])) for r in runs])
    crps = pandas.Series([float(metrics.crps(r.states[:, 4:], truth[4:])) for r in runs])
    row = table.iloc[1]
    # Scores of runs are summed in double precision.
    assert row["rmse"] == pytest.approx(rmse.mean(), rel=1e-5)
    assert row["rmse ±"] == pytest.approx(rmse.std() / math.sqrt(3), rel=1e-4)
    assert row["crps"] == pytest.approx(crps.mean(), rel=1e-5)


def test_without_a_truth_observations_are_kept_back(twin):
    _, problem = twin
    kept, held = withhold(problem.instruments, 0.3, 5)
    table = quiet([sc.ETKF(1.05)], replace(problem, observations=kept), None, 12, 1, withheld=held)
    states = sc.ETKF(1.05).assimilate(replace(problem, observations=kept), 12, 0).states
    (one,) = held
    predicted = states[:, list(one.steps)][..., [0, 2]].mean(0)
    errors = (predicted - one.values)[~one.values.isnan()]
    by_kind = table.filter(like="observation_rmse")
    # Two variables are observed: the pooled score is in standard deviations, which are 1.
    found = by_kind["observation_rmse[error std]"].item()
    assert found == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-4)
    assert "rmse" not in table


def test_a_method_that_diverged_has_no_score(twin):
    truth, problem = twin
    table = quiet({"fine": sc.ETKF(), "wild": sc.ETKF(1e30)}, problem, truth, 8, 2)
    assert list(table["diverged"]) == [0, 2]
    assert math.isnan(table["rmse"][1]) and table["rmse"][0] > 0


@pytest.mark.slow
def test_workers_change_no_score_and_progress_is_told(twin):
    truth, problem = twin
    methods, said = [sc.ETKF(), sc.EnKF(1.05)], []
    here = compared(methods, problem, truth, 8, 2, progress=lambda *done: said.append(done))
    with ThreadPoolExecutor(2) as engine:
        away = compared(methods, problem, truth, 8, 2, progress=False, executor=engine)
    assert [row.mean for row in here] == [row.mean for row in away]
    assert said == [(i, 4) for i in range(1, 5)]


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_told_before_anything_runs(twin):
    truth, problem = twin
    for methods, how, words in (
        ([sc.ETKF(), sc.ETKF()], {}, "twice"),
        ([sc.ETKF()], {"grid": {"inflatoin": [1]}}, "No method has"),
        ([sc.ETKF()], {"grid": {"inflation": [0.1]}}, "at least 1"),
        ([sc.ETKF()], {"seeds": 0}, "seed"),
        ([sc.ETKF()], {"withheld": 1e-9}, "keeps back nothing"),
        ([sc.ETKF()], {"withheld": 2}, "leaves nothing"),
        ([], {}, "no method"),
        (["etkf"], {}, "an instance"),
        ([sc.ETKF], {}, "an instance"),
        ([sc.ETKF()], {"seeds": "ab"}, "whole numbers"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            quiet(methods, problem, truth, 8, **({"seeds": 1} | how))
    with pytest.raises(ValueError, match="truth of shape"):
        quiet([sc.ETKF()], problem, truth[:3], 8, 1)
