"""Forecasts are the run going on without observations, and are scored by closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray

import scorda as sc
from scorda import store
from scorda.observations.operators import Select
from scorda.observations.value_laws import Poisson
from scorda.report.leads import lead_times
from scorda.store.ending import Ending
from scorda.store.in_memory import analysis_scores
from scorda.store.scores import scores
from scorda.store.verification import COLUMNS
from scorda.systems.lorenz import Lorenz96

MODEL = sc.ObservationModel(Select(range(0, 40, 2)), std=1.0)


@pytest.fixture
def twin():
    return sc.twin_experiment(Lorenz96(noise_std=0.1), MODEL, 12, 3, 3)


def of_first_half(twin, folder, method=None):
    """A run up to step 6."""
    problem = twin[1]
    one = problem.instruments[0]
    part = replace(one, steps=one.steps[:2], values=one.values[:2])
    half = replace(problem, observations=part, steps=6)
    return store.run(method or sc.ParticleFilter(), half, 12, folder / "half.zarr", 4)


def test_a_forecast_is_the_run_going_on_without_observations(twin, tmp_path):
    before = of_first_half(twin, tmp_path)
    system = twin[1].system
    found = sc.forecast(before, system, 5, tmp_path / "forecast.zarr")
    free = sc.Problem(system, (), 5)
    after = Ending.of(before)
    method = sc.ParticleFilter()
    same = store.run(method, free, 12, tmp_path / "same.zarr", 4, after=after)
    assert torch.equal(found.analysis.states, same.analysis.states)
    assert torch.equal(found.analysis.weights, same.analysis.weights)
    assert torch.equal(found.analysis.states[:, 0], before.analysis.states[:, -1])
    opened = xarray.open_zarr(found.path)
    np.testing.assert_allclose(opened["time"], 0.05 * np.arange(6, 12))
    # Another one goes on from it.
    more = sc.forecast(found, system, 2, tmp_path / "more.zarr")
    longer = sc.forecast(before, system, 7, tmp_path / "longer.zarr")
    assert torch.equal(more.analysis.states, longer.analysis.states[:, 5:])


def integral_of_squares(x, w, y, std):
    """The CRPS of a mixture of normals by its definition, on a grid."""
    t = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    below = (w[:, None] * torch.special.ndtr((t - x[:, None]) / std)).sum(0)
    return float(((below - (t >= y).double()) ** 2).sum() * (t[1] - t[0]))


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_the_definitions(weighted, twin, tmp_path):
    truth = twin[0][6:12]
    before = of_first_half(twin, tmp_path, None if weighted else sc.ETKF())
    found = sc.forecast(before, twin[1].system, 5, tmp_path / "forecast.zarr")
    later = sc.Observations(MODEL, [3, 5], twin[1].instruments[0].values[2:])
    rows = sc.verify(found, later, truth)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["step"] for row in rows if row["against"] == "observations"] == [3, 5]
    assert [row["lead"] for row in rows[:2]] == [0.15, 0.25]
    analysis = found.analysis
    w = torch.full((12, 6), 1 / 12) if analysis.weights is None else analysis.weights
    w = w.double()
    for row, y in zip(rows[:2], later.values.double(), strict=True):
        at = row["step"]
        x = analysis.states[:, at, ::2].double()
        mean = w[:, at] @ x
        own = w[:, at].square().sum()
        var = (w[:, at] @ (x - mean) ** 2) / (1 - own)
        assert row["values"] == 20
        assert row["rmse"] == pytest.approx(float(((y - mean) ** 2).mean().sqrt()), rel=1e-6)
        assert row["spread"] == pytest.approx(float(var.mean().sqrt()), rel=1e-6)
        expected = ((1 + own) * var + 1).mean().sqrt()
        assert row["expected"] == pytest.approx(float(expected), rel=1e-6)
        # The fair score is the plain one less the pairs that a member makes with itself.
        plain = [integral_of_squares(x[:, j], w[:, at], y[j], 1.0) for j in range(20)]
        gap = torch.tensor(
            [
                float(
                    (w[:, None, at] * w[None, :, at] * _norm(x[:, None, j] - x[None, :, j])).sum()
                )
                for j in range(20)
            ]
        )
        alone = 2 / np.sqrt(np.pi)
        pairs = gap.mean()
        fair = np.mean(plain) + float(pairs / 2 - (pairs - own * alone) / (2 * (1 - own)))
        # 1e-4: the step of the grid.
        assert row["crps"] == pytest.approx(fair, abs=1e-4)
        normal = torch.distributions.Normal(x, 1.0)
        density = (w[:, at, None] * normal.log_prob(y).exp()).sum(0)
        assert row["log"] == pytest.approx(-float(density.log().mean()), rel=1e-9)
    true = [row for row in rows if row["against"] == "truth"]
    weights = analysis.weights
    for name in ("rmse", "spread", "crps"):
        score = getattr(sc.metrics, name)
        expected = score(analysis.states, truth, weights=weights, per_step=True)
        np.testing.assert_allclose([row[name] for row in true], expected, rtol=1e-4)


def _norm(difference):
    """E |N(d, 2)|, of the pairs of two members with unit errors."""
    z = difference / np.sqrt(2)
    density = torch.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.sqrt(2) * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density)


def test_a_forecast_of_perfect_members_has_the_error_that_is_expected(tmp_path):
    """Truth and members are draws of one law, so that the mean squares agree."""
    system = sc.systems.LinearGaussian([[0.9]], [[0.09]], [0.0], [[1.0]])
    members = torch.randn(60, 1, generator=sc.rng.seeded(1))
    free = sc.Problem(system, (), 0, members)
    before = store.run(sc.EnKF(), free, 60, tmp_path / "run.zarr", 2)
    found = sc.forecast(before, system, 4, tmp_path / "forecast.zarr")
    model = sc.ObservationModel(Select([0] * 20), std=0.5)
    ratios = []
    for seed in range(40):
        x = torch.randn(1, 1, generator=sc.rng.seeded(100 + seed))
        path = system.trajectory(x, 4, seed)[0]
        y = path[[2, 4]] + 0.5 * torch.randn(2, 20, generator=sc.rng.seeded(200 + seed))
        rows = sc.verify(found, sc.Observations(model, [2, 4], y))
        ratios.append([row["rmse"] ** 2 / row["expected"] ** 2 for row in rows])
    # The mean of 40 chi-square of about one degree of freedom, partly: 4 standard errors.
    assert np.abs(np.mean(ratios, 0) - 1).max() < 4 * np.std(ratios, 0).max() / np.sqrt(40)


def test_what_cannot_be_scored_is_said_in_a_sentence(twin, tmp_path):
    before = of_first_half(twin, tmp_path)
    found = sc.forecast(before, twin[1].system, 5, tmp_path / "forecast.zarr")
    with pytest.raises(ValueError, match="neither observations nor a truth"):
        sc.verify(found)
    with pytest.raises(ValueError, match="at step 6 of a forecast of 5 steps"):
        sc.verify(found, sc.Observations(MODEL, [6], torch.zeros(1, 20)))
    with pytest.raises(ValueError, match="several steps"):
        sc.verify(found, sc.Observations(MODEL, [(1, 2)], torch.zeros(1, 20)))
    with pytest.raises(ValueError, match=r"a truth of shape \(3, 40\)"):
        sc.verify(found, truth=torch.zeros(3, 40))
    with pytest.raises(ValueError, match="at least 1"):
        sc.forecast(before, twin[1].system, 0, tmp_path / "other.zarr")
    with pytest.raises(ValueError, match="last axes must be"):
        sc.forecast(before, Lorenz96(7), 2, tmp_path / "other.zarr")
    keep = store.Keep(statistics=("mean",))
    part = sc.forecast(before, twin[1].system, 5, tmp_path / "part.zarr", keep=keep)
    with pytest.raises(ValueError, match="needs all members"):
        sc.verify(part, truth=twin[0][6:12])


def test_members_that_were_dropped_do_not_count(twin, tmp_path):
    class Failing(Lorenz96):
        drops = True
        dropped = {}  # noqa: RUF012

        def step(self, x, generator=None):
            made = super().step(x, generator)
            if len(x) == 12:
                made[4] = float("nan")
            return made

    before = of_first_half(twin, tmp_path, sc.ETKF())
    found = sc.forecast(before, Failing(noise_std=0.1), 3, tmp_path / "forecast.zarr")
    rows = sc.verify(found, truth=twin[0][6:10])
    staying = [i for i in range(12) if i != 4]
    states = found.analysis.states[staying, -1]
    expected = sc.metrics.rmse(states[:, None], twin[0][9][None])
    assert rows[-1]["rmse"] == pytest.approx(float(expected), rel=1e-5)


def test_a_path_stands_for_a_store_and_none_for_no_observations(tmp_path):
    system = Lorenz96(dim=8)
    model = sc.ObservationModel(sc.Select(range(8)), std=1.0)
    truth, problem = sc.twin_experiment(system, model, 4, 2, 0)
    store.run(sc.ETKF(), problem, 8, tmp_path / "run.zarr", 1)
    found = sc.forecast(tmp_path / "run.zarr", system, 2, tmp_path / "next.zarr")
    rows = sc.verify(str(tmp_path / "next.zarr"), None, truth[:3])
    assert rows == sc.verify(found, (), truth[:3])
    with pytest.raises(ValueError, match="neither observations nor a truth"):
        sc.verify(found, None)
    with pytest.raises(TypeError, match="Got the system 'lorenz96', which has no space"):
        sc.ETKF().start("lorenz96", 10)


def test_counts_are_scored_by_the_density_of_the_mixture_alone(twin, tmp_path):
    """Of 12 members with the Poisson law of each, by its formula."""
    before = of_first_half(twin, tmp_path)
    found = sc.forecast(before, twin[1].system, 3, tmp_path / "forecast.zarr")
    counted = sc.ObservationModel(sc.Select([0, 3]), law=Poisson())
    seen = sc.Observations(counted, [1, 3], [[2.0, 0.0], [1.0, float("nan")]])
    rows = sc.verify(found, seen)
    x = found.analysis.states.double()
    w = torch.full((12, 4), 1 / 12) if found.analysis.weights is None else found.analysis.weights
    for row, (step, entries, y) in zip(rows, ((1, [0, 3], [2, 0]), (3, [0], [1])), strict=True):
        eta, y = x[:, step][:, entries], torch.tensor(y, dtype=torch.float64)
        log_density = y * eta - eta.exp() - torch.lgamma(y + 1)
        density = (w[:, step, None].double() * log_density.exp()).sum(0)
        assert row["log"] == pytest.approx(-float(density.log().mean()), rel=1e-9)
        assert row["values"] == len(entries)
        assert all(np.isnan(row[name]) for name in ("rmse", "spread", "expected", "crps"))
    assert lead_times(rows, found.space).axes[0].get_ylabel() == "minus log density"


def test_withheld_counts_are_scored_by_the_density_of_the_mixture(twin, tmp_path):
    """Beside Gaussian values, whose scores stay; in a store and in memory."""
    problem = twin[1]
    counted = sc.ObservationModel(sc.Select([0, 3]), law=Poisson())
    counts = sc.Observations(counted, [1, 3], [[2.0, 0.0], [1.0, float("nan")]])
    held = (counts, replace(problem.instruments[0], values=problem.instruments[0].values + 0.1))
    found = store.run(sc.ETKF(), problem, 12, tmp_path / "run.zarr", 1, withheld=held)
    scored = scores(found)
    (name,) = (n for n in scored if n.startswith("observation_log"))
    analysis = found.analysis
    logs = []
    for step, entries, y in ((1, [0, 3], [2, 0]), (3, [0], [1])):
        eta, y = analysis.states[:, step][:, entries].double(), torch.tensor(y).double()
        log_density = y * eta - eta.exp() - torch.lgamma(y + 1)
        logs += (-log_density.exp().mean(0).log()).tolist()
    assert scored[name] == pytest.approx(np.mean(logs), rel=1e-6)
    alone = store.run(sc.ETKF(), problem, 12, tmp_path / "alone.zarr", 1, withheld=held[1:])
    for score, value in scores(alone).items():
        assert scored[f"{score}[x, instrument 2]"] == pytest.approx(value, rel=1e-12)
    in_memory = analysis_scores(analysis, withheld=held)
    assert in_memory[name] == pytest.approx(scored[name], rel=1e-6)
    own = replace(counts, model=sc.ObservationModel(sc.Select([0, 3]), law=lambda y, h: y - h))
    with pytest.raises(ValueError, match="a law of your own"):
        store.run(sc.ETKF(), problem, 12, tmp_path / "own.zarr", 1, withheld=(own,))
