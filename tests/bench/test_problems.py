"""Named problems run in their quick form, and what they rely on holds."""

import re
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from scorda.bench import filtering
from scorda.bench.entry import Entry
from scorda.bench.problems import PROBLEMS
from scorda.bench.run import run_benchmark
from scorda.bench.setups import kolmogorov_filters, lorenz63_bimodal
from scorda.bench.setups.linear_gaussian import linear_gaussian
from scorda.bench.setups.lorenz63_bimodal import Bimodal
from scorda.bench.sweep import Sweep
from scorda.bench.tuning import Length, check_effort
from scorda.core import rng
from scorda.methods.kalman import KalmanFilter
from scorda.methods.particle import ParticleFilter
from scorda.observations.problem import twin_experiment
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.report.comparison import comparison, means, sweep

ROOT = Path(__file__).parents[2]
NEW = [
    "lorenz63-bimodal",
    "lorenz63-masf",
    "lorenz96-10",
    "lorenz96-20",
    "lorenz96-masf-dim",
    "lorenz96-masf-forcing",
    "lorenz96-masf-gap",
    "lorenz96-sda",
]


FLOWS = [name for name in PROBLEMS if name.startswith("kolmogorov-masf")]


def test_expected_scores_and_documentation_name_benchmarks_that_exist():
    text = files("scorda.bench.setups").joinpath("expected.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text).keys() <= PROBLEMS.keys()
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = [re.findall(r"scorda bench ([a-z0-9-]+\w)", page.read_text()) for page in pages]
    assert {name for names in named for name in names} <= PROBLEMS.keys()


@pytest.mark.parametrize("name", [*NEW, *FLOWS])
def test_effort_is_equal_and_labels_are_unique(name):
    setup = PROBLEMS[name]()
    check_effort(setup.entries)
    labels = [entry.label for entry in setup.entries]
    assert len(set(labels)) == len(labels) and setup.source
    assert not set(range(setup.seeds)) & set(setup.tuning.seeds)


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_the_quick_form_runs_and_has_a_figure(name, monkeypatch, tmp_path):
    monkeypatch.setattr(filtering, "QUICK_CYCLES", 1)
    setup = PROBLEMS[name]().shortened()
    rows = run_benchmark(name, path=tmp_path / "runs.csv", setup=setup)
    assert len(rows) == len(setup.entries)
    for row in rows:
        assert row.failures or set(setup.shown) <= {*row.mean, "evaluations"}
    figure = sweep if isinstance(setup, Sweep) else comparison
    figure(rows, setup.shown).savefig(tmp_path / "a.png")
    if getattr(setup, "drawn", 0):
        twin = setup.prepare(0)
        found = {row.label: setup.means(row.entry, twin, 0) for row in rows}
        steps = setup.drawn * setup.every
        assert {len(mean) for mean in found.values()} == {min(steps, len(twin[0]))}
        means(twin[0][-steps:], found, setup.system.space.dt, setup.every)


@pytest.mark.benchmark
@pytest.mark.slow
def test_filters_of_a_flow_start_from_the_climate(monkeypatch, tmp_path):
    """The first two of its methods, at the shortest gap: the others take minutes."""
    pytest.importorskip("skimage")
    monkeypatch.setattr(filtering, "QUICK_CYCLES", 1)
    setup = PROBLEMS["kolmogorov-masf"]().shortened()
    (point,) = setup.points.values()
    assert point.start is None
    point = replace(point, entries=point.entries[:2])
    rows = run_benchmark("kolmogorov-masf", path=tmp_path / "runs.csv", setup=point)
    for row in rows:
        assert not row.failures and set(point.shown) <= set(row.mean)
        assert row.mean["rmse"] < 1.0 and 0 < row.mean["ssim"] < 1


@pytest.mark.benchmark
@pytest.mark.slow
def test_a_network_for_a_flow_is_trained_with_truths_of_its_own(monkeypatch, tmp_path):
    """At the shortest gap, on the second forecasts of two truths."""
    pytest.importorskip("skimage")
    seeds = []

    def recorded(*given):
        seeds.append(given[-1].initial_seed())
        return twin_experiment(*given)

    monkeypatch.setattr(kolmogorov_filters, "twin_experiment", recorded)
    lessons = kolmogorov_filters.Lessons(runs=2, cycles=2, dropped=1, radius=0.4, steps=4)
    point = kolmogorov_filters._flow(kolmogorov_filters.GAPS[0], lessons=lessons)
    (entry,) = (e for e in point.entries if e.label == "MASF bridge, amortised")
    point = replace(point, entries=(entry,), length=Length(1, 0), seeds=1)
    (row,) = run_benchmark("kolmogorov-masf", path=tmp_path / "runs.csv", setup=point)
    used = (*range(point.seeds), *point.tuning.seeds)
    assert len(set(seeds)) == 2
    assert not set(seeds) & {rng.seeded(k).initial_seed() for k in used}
    prior = row.entry.ready.prior
    assert isinstance(prior, AmortisedNetwork)
    # An analysis of the first forecast halves the error of the climate, whose std is about 1.
    assert not row.failures and row.mean["rmse"] < 0.75


@pytest.mark.benchmark
@pytest.mark.slow
def test_the_residual_of_a_scenario_is_the_expected_one(tmp_path):
    """Half the members of the benchmark; three truths of 384 values: standard error 0.02."""
    name = "kolmogorov-extrapolation"
    setup = PROBLEMS[name]()
    setup = replace(setup, entries=(replace(setup.entries[0], members=4),))
    (row,) = run_benchmark(name, path=tmp_path / "runs.csv", setup=setup)
    assert row.expected["residual"] == 1.0 and row.tolerance == 0.05 and row.passed
    assert row.mean["evaluations"] <= 512 / 4


def test_exact_draws_have_no_bias():
    """4000 draws: standard errors of a mean .016 / sqrt(2), of a variance .022 / sqrt(2)."""
    setup = replace(linear_gaussian(), cycles=4)
    scores = setup.score(Entry("exact", KalmanFilter(), 4000), setup.prepare(0), 0)
    for name, value in scores.items():
        if "error" in name:
            assert value < 0.06
        else:
            assert value == pytest.approx(1.0 if "variance" in name else 0.0, abs=0.06), name


def test_bias_is_positive_where_the_mean_moves_too_far():
    """A filter that doubles the exact step has the step itself as its bias."""
    setup = replace(linear_gaussian(), cycles=2)
    problem, exact = setup.prepare(1)

    class Overshooting:
        def assimilate(self, problem, members, generator=None):
            analysis = KalmanFilter().assimilate(problem, members, generator)
            step = exact.means[1:] - exact.means[:-1] @ setup.system.transition.double().mT
            analysis.states[:, 1:] += step.to(analysis.states)
            return analysis

    entry = Entry("a", KalmanFilter(), 4000)
    plain = setup.score(entry, (problem, exact), 0)
    far = setup.score(replace(entry, method=Overshooting()), (problem, exact), 0)
    step = exact.means[1] - setup.system.transition.double() @ exact.means[0]
    size = step.abs() / exact.covs[1].diagonal().sqrt()
    for group, components in {"observed": [0, 2], "unobserved": [1, 3]}.items():
        moved = far[f"bias/{group}"] - plain[f"bias/{group}"]
        assert moved == pytest.approx(float(size[components].mean()), rel=1e-5)


@pytest.mark.slow
def test_the_reference_of_the_bimodal_problem_is_symmetric():
    """What is observed is blind to the signs of x and y; 20 000 members leave 0.02 at most."""
    lorenz63_bimodal._reference.cache_clear()
    setup = Bimodal((), particles=20_000, draws=5000, spinup=1, cycles=1)
    posterior = setup.prepare(0)
    for x in posterior.reference.values():
        share = (x[:, 0] > 0).double().mean()
        # 0.5 +- 4 sqrt(.25 / 5000), and the resampling of the few that survive.
        assert abs(share - 0.5) < 0.1
        assert x[:, 0].abs().mean() > 1


@pytest.mark.slow
def test_w1_falls_with_the_members_of_the_reference_filter():
    """A particle filter is consistent; 20 members leave several units of W1."""
    setup = Bimodal((), particles=4000, draws=500, spinup=0, cycles=2)
    posterior = setup.prepare(1)
    entry = Entry("particle filter", ParticleFilter(resample=1.0), 500)
    scores = setup.score(entry, posterior, 1)
    poor = setup.score(replace(entry, members=20), posterior, 1)
    assert 1 < scores["w1/floor"] and 1.5 * scores["w1"] < poor["w1"]
    assert torch.tensor(list(scores.values())).isfinite().all()
