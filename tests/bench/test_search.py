"""A search by Optuna: it finds the best of a range, again and again, or says what it needs."""

import sys

import numpy as np
import pytest

import scorda as sc
from scorda.bench.search import by_optuna


def problem():
    system = sc.systems.Lorenz96(dim=8)
    model = sc.ObservationModel(sc.Select(range(8)), std=1.0)
    return sc.twin_experiment(system, model, 24, 2, 0)[1]


def test_a_search_without_optuna_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="needs the package optuna, which is not there"):
        sc.tune(sc.ETKF(), problem(), {"inflation": [1.0, 1.3]}, 8, search="optuna")
    with pytest.raises(ValueError, match="Got search = 'random': choose one of grid, optuna"):
        sc.tune(sc.ETKF(), problem(), {"inflation": [1.0, 1.3]}, 8, search="random")
    with pytest.raises(ValueError, match="Got trials = 9, but a search of a grid tries all"):
        sc.tune(sc.ETKF(), problem(), {"inflation": [1.0, 1.3]}, 8, trials=9)


def test_the_least_of_a_parabola_is_found():
    """A grid of 60 has 20 values for each word, 0.2 apart and up to 0.1 away: this is nearer."""
    pytest.importorskip("optuna")

    def mean(settings):
        x, word = settings["x"], settings["word"]
        return float("nan") if word == "bad" else (x - 1.7) ** 2 + (word == "fair")

    grid = {"x": [0.0, 4.0], "word": ["bad", "good", "fair"], "n": [1, 9]}
    found = by_optuna(grid, 60, 0, mean)
    best = min((s for s in found if s["word"] != "bad"), key=mean)
    assert abs(best["x"] - 1.7) < 0.1 and best["word"] == "good"
    assert {type(s["n"]) for s in found} == {int}
    assert all(1 <= s["n"] <= 9 and float(f"{s['x']:.4g}") == s["x"] for s in found)
    assert found == by_optuna(grid, 60, 0, mean)
    assert found == by_optuna({**grid, "x": np.array([0.0, 4.0])}, 60, 0, mean)
    with pytest.raises(ValueError, match="trials = 0"):
        by_optuna(grid, 0, 0, mean)


@pytest.mark.slow
def test_a_search_is_a_choice_of_what_it_tried():
    pytest.importorskip("optuna")
    found = sc.tune(
        sc.ETKF(), problem(), {"inflation": [1.0, 1.5], "rotation": [True, False]}, 8,
        search="optuna", trials=6, progress=False,
    )  # fmt: skip
    assert 1 <= found.settings["inflation"] <= 1.5
    assert len(found.rows) <= 6
    best = min(found.rows, key=lambda row: row.mean["log"])
    assert f"inflation={found.settings['inflation']:g}" in best.label
    again = sc.tune(sc.ETKF(), problem(), {k: [v] for k, v in found.settings.items()}, 8)
    assert again.rows[0].mean["log"] == best.mean["log"]
