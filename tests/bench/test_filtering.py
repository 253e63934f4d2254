"""Scores from the stream of cycles are those of `scorda.metrics` on the whole run."""

from dataclasses import replace

import pytest
import torch

from scorda import metrics
from scorda.assimilation.filter import Filter
from scorda.bench import run
from scorda.bench.entry import Entry
from scorda.bench.filtering import RunningScores, Setup, Start
from scorda.bench.run import run_benchmark
from scorda.bench.setups.lorenz_gaps import lorenz96_masf_dim, lorenz96_masf_forcing
from scorda.bench.tuning import Length
from scorda.core import rng
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enkf import EnKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.systems.lorenz import Lorenz63


class Blowing(Filter):
    """Leaves the numbers after the second analysis."""

    def analyse(self, forecast, y, model, generator=None):
        return forecast * (1e30 if forecast.abs().max() > 1e20 else 1e25), {}


class Collapsing(Filter):
    """Finds its second forecast degenerate."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def analyse(self, forecast, y, model, generator=None):
        self.calls += 1
        if self.calls == self.at:
            raise ValueError("The ensemble has no spread.")
        return forecast, {}


def small(**changes):
    setup = Setup(
        system=Lorenz63(),
        model=ObservationModel(Select([0]), std=1.0),
        every=3,
        length=Length(6, spinup=2),
        start=Start(1.0),
        entries=(),
        source="test",
    )
    return replace(setup, **changes)


def test_a_method_is_trained_once_and_its_divergence_is_counted(tmp_path, monkeypatch):
    lessons = []

    def train(method):
        lessons.append(method)
        return EnKF(inflation=1.5)

    def blow_up(method):
        raise FloatingPointError("The run to learn from diverged.")

    known, unknown = (Entry("a", EnKF(), 20, trained=make) for make in (train, blow_up))
    setup = small(entries=(known, replace(unknown, label="b"), Entry("c", EnKF(1.5), 20)))
    monkeypatch.setitem(run.PROBLEMS, "small", lambda: setup)
    path = tmp_path / "small.runs.csv"
    a, b, c = run_benchmark("small", seeds=[0, 1], path=path)
    assert lessons == [EnKF()] and a.mean["crps"] == c.mean["crps"]
    assert len(b.failures) == 2 and "learn from" in b.failures[0]
    run_benchmark("small", seeds=[0, 1], path=path, resume=True)
    assert len(lessons) == 1
    assert [entry.label for entry in setup.shortened().entries] == ["c"]
    assert len(replace(setup, entries=(known,)).shortened().entries) == 1
    with pytest.raises(ValueError, match="which is trained"):
        replace(known, grid=({"inflation": 1.0},))


@pytest.mark.slow
@pytest.mark.parametrize("method", [EnKF(), ParticleFilter(resample=0.3), ClosedFormFilter()])
def test_scores_equal_those_of_the_stored_run(method):
    setup, entry = small(), Entry("a", method, 20)
    truth, problem = twin = setup.prepare(3)
    scores = setup.score(entry, twin, 3)
    problem = replace(problem, initial=setup.initial(twin, 20, 3))
    analysis = method.assimilate(problem, 20, rng.at((3, 2), 0))
    late = slice(setup.every * setup.length.spinup + 1, None)
    observed = slice(setup.every * (setup.length.spinup + 1), None, setup.every)
    x, y = analysis.states[:, observed], truth[observed]
    w = None if analysis.weights is None else analysis.weights[:, observed]
    path = None if analysis.weights is None else analysis.weights[:, late]
    expected = {
        "rmse": metrics.rmse(x, y, w),
        "spread": metrics.spread(x, weights=w),
        "crps": metrics.crps(x, y, w),
        "spread_skill": metrics.spread_skill(x, y, w),
        "coverage": metrics.coverage(x, y, w, 0.9),
        "rmse_path": metrics.rmse(analysis.states[:, late], truth[late], path),
    }
    # Sums of float64 in another order.
    for name, value in expected.items():
        assert scores[name] == pytest.approx(float(value), rel=1e-9), name
    if "evaluations" in analysis.info:
        evaluations = analysis.info["evaluations"][setup.length.spinup :].double().mean()
        assert scores["evaluations"] == pytest.approx(float(evaluations))
    else:
        assert "evaluations" not in scores
    assert scores["cycle_seconds"] > 0


@pytest.mark.slow
def test_members_from_the_climate_know_nothing_of_the_truth():
    """Other streams: none is the truth at step 0, nor the prior that the problem draws itself."""
    entries = tuple(Entry(str(n), EnKF(), n) for n in (5, 30))
    setup = small(start=None, entries=entries)
    truth, _ = twin = setup.prepare(3)
    few, many = (setup.initial(twin, n, 3) for n in (5, 30))
    assert torch.equal(few, many[:5])
    others = torch.cat((truth[:1], setup.system.prior(30, rng.seeded(3))))
    # Two draws of a continuous law are never equal; neighbours on the attractor are 0.01 apart.
    assert torch.cdist(many, others).min() > 1e-4
    assert not torch.equal(setup.initial(setup.prepare(4), 5, 4), few)


def test_further_scores_are_means_over_the_analyses():
    setup = small(further={"first": lambda x, y: float((x.mean(0) - y)[0])})
    twin = setup.prepare(3)
    problem = replace(twin[1], initial=setup.initial(twin, 20, 3))
    states = EnKF().assimilate(problem, 20, rng.at((3, 2), 0)).states
    observed = slice(setup.every * (setup.length.spinup + 1), None, setup.every)
    error = (states.mean(0) - twin[0])[observed, 0].mean()
    found = setup.score(Entry("a", EnKF(), 20), twin, 3)
    assert found["first"] == pytest.approx(float(error), rel=1e-9)


def test_divergence_is_raised_by_name_and_so_is_a_degenerate_ensemble():
    setup = small()
    twin = setup.prepare(0)
    with pytest.raises(FloatingPointError, match="members are not finite"):
        setup.score(Entry("a", Blowing(), 5), twin, 0)
    with pytest.raises(FloatingPointError, match="after 1 cycles: The ensemble has no spread"):
        setup.score(Entry("a", Collapsing(2), 5), twin, 0)
    # What fails at once is a mistake of the caller, not of the method.
    with pytest.raises(ValueError, match="no spread"):
        setup.score(Entry("a", Collapsing(1), 5), twin, 0)


def test_running_scores_hold_sums_only():
    """The state does not grow with the cycles."""
    setup, entry, sizes = small(), Entry("a", EnKF(), 20), []
    truth, problem = setup.prepare(0)
    scores = RunningScores()
    for cycle in entry.method.run(problem, 20, rng.seeded(0)):
        scores.add(cycle, truth[cycle.step])
        if cycle.info:
            sizes.append(len(scores._sums))
    assert len(set(sizes)) == 1
    assert not any(isinstance(value, torch.Tensor) for value in scores._sums.values())


def test_options_of_large_problems_are_chosen_in_a_pilot():
    points = lorenz96_masf_dim().points
    small, large = points["dimension=100"], points["dimension=1000"]
    assert large.trial() == replace(large.tuning.pilot, length=Length(20, spinup=10))
    assert large.trial().system.space.size == small.trial().system.space.size == 100
    assert large.system.space.size == 1000 and large.shortened().tuning.pilot is None


def test_a_stronger_forcing_takes_more_steps_in_the_same_time():
    points = lorenz96_masf_forcing().points.values()
    assert {setup.every * setup.system.dt for setup in points} == {0.2}
    assert len({setup.system.dt for setup in points}) == 2
