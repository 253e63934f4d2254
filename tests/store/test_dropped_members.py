"""Members that a run has dropped: scores, figures and weights are those of the members left."""

import math
import re

import numpy as np
import pytest
import torch

from scorda import metrics, store
from scorda.core.space import StateSpace
from scorda.methods.enkf import ETKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.report.flow import panels
from scorda.report.html import write_report
from scorda.report.maps import fields, hovmoller
from scorda.report.partial import partial_of
from scorda.report.reliability import rank_histograms, spread_skill
from scorda.report.series import error_and_spread, trajectories
from scorda.store.members import InMemory
from scorda.store.posterior import open_posterior
from scorda.store.scores import distance, score_table, scores
from scorda.store.sums import as_members, state_sums
from scorda.store.withheld import observation_scores
from scorda.systems.function import FunctionSystem
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.mapped import Mapped

pytestmark = pytest.mark.filterwarnings("ignore:The member .* is dropped")

STEPS, MEMBERS = 12, 6
# The step at which the model of a member fails: the member is NaN from the next one on.
FAILS = {0: 2, 3: 7, 5: 10}


class Stop(Exception):
    """What a test stops a run with."""


def step(x, *, member, step, seed):
    if FAILS.get(member) == step:
        raise OSError(f"no convergence of {member}")
    return 0.9 * x + 0.3 * np.random.default_rng(seed).normal(size=x.shape)


def drawn(members, seed):
    return np.random.default_rng(seed).normal(size=(members, 3))


@pytest.fixture
def problem():
    system = FunctionSystem(step, drawn, StateSpace((3,), 0.1), per_member=True)
    model = ObservationModel(Select([0]), std=torch.tensor(0.5))
    observed = Observations(model, [5, 8], torch.tensor([[0.3], [-0.2]]))
    return Problem(Mapped(system, on_failure="drop"), observed, STEPS)


@pytest.fixture
def truth():
    return torch.from_numpy(np.random.default_rng(9).normal(size=(STEPS + 1, 3)))


def left_at(k):
    return [i for i in range(MEMBERS) if k <= FAILS.get(i, STEPS)]


def of_each_step(states, truth, weights, score):
    """A score of the members that are left, by a loop over the steps."""
    found = []
    for k in range(STEPS + 1):
        left = left_at(k)
        w = None if weights is None else weights[left, k : k + 1]
        found.append(float(score(states[left, k : k + 1], truth[k : k + 1], w)))
    return found


@pytest.mark.parametrize("method", [ETKF(), ParticleFilter(resample=0.0)])
@pytest.mark.parametrize("block", [1, 3, 20])
def test_scores_are_those_of_the_members_that_are_left(tmp_path, problem, truth, method, block):
    """Exact: each step is scored by itself, of the members that it has."""
    posterior = store.run(
        method, problem, MEMBERS, tmp_path / "a.zarr", 1, truth=truth, block=block
    )
    assert posterior.dropped == {i: k + 1 for i, k in FAILS.items()}
    analysis, found = posterior.analysis, scores(posterior, spinup=0)
    states = analysis.states.double()
    for name in ("rmse", "spread", "crps", "coverage"):
        each = of_each_step(states, truth, analysis.weights, getattr(metrics, name))
        assert found[name] == pytest.approx(np.mean(each), rel=1e-9)
    assert math.isfinite(found["spread_skill"])


@pytest.mark.parametrize("block", [1, 3, 20])
def test_weights_of_dropped_members_are_zero_before_the_first_weighing(tmp_path, problem, block):
    """Member 0 is lost at step 3, and the first observation is at step 5."""
    filter_ = ParticleFilter(resample=0.0)
    posterior = store.run(filter_, problem, MEMBERS, tmp_path / "a.zarr", 1, block=block)
    in_memory = filter_.assimilate(problem, MEMBERS, 1)
    stored = torch.from_numpy(posterior.to_xarray()["weight"].values)
    for weights in (stored, in_memory.weights.double()):
        torch.testing.assert_close(weights.sum(0), torch.ones(STEPS + 1).double())
        assert (weights[0, 3:] == 0).all()
        # Of equal weight until then; double or single precision.
        assert torch.allclose(weights[:, :3], torch.tensor(1 / 6).double())
        assert torch.allclose(weights[1:, 3:5], torch.tensor(1 / 5).double())


def test_the_mean_is_that_of_the_members_that_are_left(problem):
    for method in (ETKF(), ParticleFilter(resample=0.0)):
        analysis = method.assimilate(problem, MEMBERS, 1)
        assert analysis.dropped == {i: k + 1 for i, k in FAILS.items()}
        for k in range(STEPS + 1):
            states = analysis.states[left_at(k), k]
            w = torch.full((len(states),), 1 / len(states))
            if analysis.weights is not None:
                w = analysis.weights[left_at(k), k]
            torch.testing.assert_close(analysis.mean[k], torch.einsum("e,es->s", w, states))


def test_a_member_that_is_nan_and_not_named_stays_nan(truth):
    states = torch.randn(MEMBERS, STEPS + 1, 3, generator=torch.Generator().manual_seed(0))
    states[2, 6:] = torch.nan
    unnamed = InMemory(Analysis(states, StateSpace((3,), 0.1)))
    named = InMemory(Analysis(states, StateSpace((3,), 0.1), dropped={2: 6}))
    for members, whole in ((unnamed, False), (named, True)):
        error = state_sums(members, as_members(truth, members.space))["x1"]["error"]
        assert error[:6].isfinite().all()
        assert error[6:].isfinite().all() == whole


def test_the_mean_of_the_members_left_is_of_the_precision_of_the_states():
    """Where numbers of torch are single by default, as outside of tests."""
    torch.set_default_dtype(torch.float32)
    states = torch.full((4, 2, 3), 1e5, dtype=torch.float64)
    states[1, 1] = torch.nan
    mean = Analysis(states, StateSpace((3,), 0.1), dropped={1: 1}).mean
    # Three products and their sum are rounded.
    torch.testing.assert_close(mean, torch.full_like(mean, 1e5), rtol=1e-15, atol=0)


def test_withheld_values_are_predicted_by_the_members_that_are_left(tmp_path, problem):
    """A score of a value after a loss is that of an ensemble without the member."""
    model = problem.instruments[0].model
    held = Observations(model, [2, 9, 11], torch.tensor([[0.1], [0.4], [-0.3]]))
    posterior = store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1, withheld=(held,))
    found = scores(posterior)
    table = posterior.group("withheld").load()
    each = [
        observation_scores(table.isel(observation=[i], ensemble=left_at(k)))
        for i, k in enumerate([2, 9, 11])
    ]
    for name in ("innovation_chi2", "observation_crps", "observation_coverage"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-9)


def test_the_distance_to_a_reference_is_of_the_members_that_stay(problem, truth):
    analysis = ETKF().assimilate(problem, MEMBERS, 1)
    staying = [1, 2, 4]
    alone = Analysis(analysis.states[staying], analysis.space)
    assert distance(analysis, alone) == 0
    other = Analysis(truth[None].expand(3, -1, -1).float(), analysis.space)
    assert distance(analysis, other) == distance(alone, other) > 0


def test_a_resumed_run_names_members_that_were_dropped_before(tmp_path, problem):
    def stop(done, total):
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1, block=3, progress=stop)
    problem.system.dropped.clear()
    posterior = store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1, block=3, resume=True)
    assert posterior.dropped == {i: k + 1 for i, k in FAILS.items()}
    assert "no convergence of 0" in posterior.info["dropped"]["0"]["reason"]


def lines_of(figure):
    return [line.get_ydata() for panel in figure.axes for line in panel.get_lines()]


@pytest.mark.slow
def test_the_report_is_of_the_members_that_are_left_and_says_how_many(tmp_path, problem, truth):
    posterior = store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1, truth=truth)
    page = write_report({"ETKF": posterior}, tmp_path / "r.html").read_text()
    assert "6, 5 from step 3 on, 4 from step 8 on, 3 from step 11 on" in page
    assert "left out of scores" in page
    assert not re.search(r"<td[^>]*>nan", page)
    named = {"A": {"ETKF": posterior}}
    for line in lines_of(error_and_spread(named, truth.double())):
        assert np.isfinite(line).all()
    rank_histograms({"ETKF": posterior}, truth)
    for line in lines_of(spread_skill({"ETKF": posterior}, truth)):
        assert np.isfinite(line).all()
    *members, median = lines_of(trajectories(posterior, components=[1], members=6))
    states = posterior.analysis.states[..., 1]
    np.testing.assert_array_equal(np.stack(members), states)
    medians = [np.median(states[left_at(k), k]) for k in range(STEPS + 1)]
    np.testing.assert_allclose(median, medians, rtol=1e-6)


@pytest.mark.slow
def test_maps_are_of_the_members_that_are_left():
    """Exact: figures of an ensemble with a lost member are those of the others."""
    plane = StateSpace((4, 5), 0.1, ("t",), {"y": np.arange(4.0), "x": np.arange(5.0)})
    line = StateSpace((5,), 0.1, ("t",), {"x": np.arange(5.0)})
    flow = KolmogorovFlow(16).space
    generator = torch.Generator().manual_seed(0)
    for space, draw in (
        (plane, lambda analysis: fields(analysis, -1)),
        (line, hovmoller),
        (flow, lambda analysis: panels(analysis, [0, 2])),
    ):
        states = torch.randn(5, 3, *space.shape, generator=generator)
        lost = states.clone()
        lost[0] = torch.nan
        one = draw(Analysis(lost, space, dropped={0: 0}))
        other = draw(Analysis(states[1:], space))
        for panel, same in zip(one.axes, other.axes, strict=True):
            for a, b in zip(panel.collections, same.collections, strict=True):
                np.testing.assert_array_equal(a.get_array(), b.get_array())
            for a, b in zip(panel.images, same.images, strict=True):
                np.testing.assert_array_equal(a.get_array(), b.get_array())
        titles = " ".join(t for p in one.axes for t in (p.get_title("left"), p.get_ylabel()))
        assert "Member 0" not in titles
        assert space is line or "Member 1" in titles


@pytest.mark.slow
@pytest.mark.parametrize("method", [ETKF(), ParticleFilter(resample=0.0)])
def test_figures_of_all_members_at_some_steps_are_of_those_that_are_left(
    tmp_path, problem, method
):
    full = store.run(method, problem, MEMBERS, tmp_path / "a.zarr", 1, block=5)
    keep = store.Keep(steps=2)
    partial = partial_of(
        store.run(method, problem, MEMBERS, tmp_path / "b.zarr", 1, block=5, keep=keep)
    )
    mean, _ = partial.moments("x1", slice(1, None, 2))
    torch.testing.assert_close(mean, full.analysis.mean[2::4, 1].double())
    *_, median = lines_of(trajectories(full, components=[1]))
    torch.testing.assert_close(
        partial.band("x1", 0, slice(None)).middle, torch.from_numpy(median[::2])
    )
    # Step 12.
    assert list(partial.first_left("x1", 6, 2)) == [1, 2]


def test_a_record_names_the_members_of_a_run_that_was_stopped(tmp_path, problem, monkeypatch):
    monkeypatch.setitem(FAILS, 1, 11)
    monkeypatch.setitem(FAILS, 2, 11)
    with pytest.raises(ValueError, match="members"):
        store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1)
    posterior = open_posterior(tmp_path / "a.zarr")
    assert posterior.stopped and posterior.dropped == {0: 3, 3: 8, 5: 11}


def test_a_store_without_its_record_has_scores_but_no_cost(tmp_path, problem, truth):
    posterior = store.run(ETKF(), problem, MEMBERS, tmp_path / "a.zarr", 1, truth=truth)
    (tmp_path / "a.zarr.json").unlink()
    alone = score_table({"ETKF": open_posterior(posterior.path)})["ETKF"]
    assert "seconds" not in alone and math.isnan(alone["rmse"])
