"""Figures: what is drawn is what was computed."""

import numpy as np
import pytest
import torch

from scorda import report as plot
from scorda.bench.run import Row
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.report import maps
from scorda.report.base import OTHERS
from scorda.report.reliability import _binned
from scorda.store import members
from scorda.store.members import InMemory
from scorda.store.sums import as_members
from scorda.systems.lorenz import Lorenz63

SPACE = StateSpace((4,))


def reliable(members=40, steps=300, size=4, seed=0):
    """Truth and members that are draws of one distribution, wider at later steps."""
    draws = rng.normal(members + 1, (steps, size), rng.seeded(seed))
    draws = draws * torch.linspace(0.5, 5, steps)[None, :, None]
    return Analysis(draws[1:], SPACE), draws[0]


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_trajectories_tell_the_unit_of_a_variable():
    space = StateSpace((2,), variables=("level", "rate"), units={"level": "m"})
    figure = plot.trajectories(Analysis(rng.normal(5, (4, 2), rng.seeded(1)), space))
    assert [axes.get_ylabel() for axes in figure.axes] == ["level (m)", "rate"]


def test_trajectories_show_truth_observations_and_the_band():
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(Lorenz63(spinup=0.5), model, 16, 4, rng.seeded(0))
    states = rng.normal(50, (17, 3), rng.seeded(1))
    figure = plot.trajectories(
        Analysis(states, problem.space), truth, problem.observations, steps=(5, 17)
    )
    x, y, z = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["x", "y", "z"]
    np.testing.assert_allclose(lines(y)["truth"][:, 1], truth[5:, 1])
    np.testing.assert_allclose(lines(y)["truth"][:, 0], 0.025 * np.arange(5, 17))
    np.testing.assert_allclose(lines(y)["median"][:, 1], states[:, 5:, 1].quantile(0.5, 0))
    (bars,) = x.containers
    assert len(bars.lines[0].get_xdata()) == 3 and not z.containers


def test_error_and_spread_are_those_of_the_metrics():
    analysis, truth = reliable()
    figure = plot.error_and_spread({"a": {"one": analysis}, "b": {"two": analysis}}, truth)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    solid, dashed = figure.axes[0].get_lines()
    error = (analysis.states.mean(0) - truth).square().mean(1).sqrt()
    np.testing.assert_allclose(solid.get_ydata(), error)
    np.testing.assert_allclose(dashed.get_ydata(), analysis.states.var(0).mean(1).sqrt())


def test_of_three_methods_each_has_a_panel_with_the_others_behind():
    analysis, truth = reliable()
    group = {name: analysis for name in ("one", "two", "a name that is far too long for a panel")}
    for figure in (plot.error_and_spread({"a": group}, truth), plot.spread_skill(group, truth)):
        shown = [axes for axes in figure.axes if axes.get_visible()]
        titles = [axes.get_title(loc="left") for axes in shown]
        assert titles == ["one", "two", "a name that is far too\nlong for a panel"]
        own = [
            line
            for line in shown[1].get_lines()
            if line.get_color() == plot.colours_of(list(group))["two"]
        ]
        pale = [line for line in shown[1].get_lines() if line.get_color() == OTHERS]
        assert own and len(pale) == 2
        np.testing.assert_array_equal(own[0].get_xydata(), pale[0].get_xydata())


def test_maps_name_the_units_of_positions_and_of_both_bars():
    space = StateSpace(
        (6, 5),
        variables=("t",),
        coordinates={"lat": np.arange(6.0), "lon": np.arange(5.0)},
        units={"t": "K", "lat": "degrees_north", "lon": "degrees_east"},
    )
    figure = plot.fields(Analysis(rng.normal(8, (3, 6, 5), 0), space), 1)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("lon (°E)", "lat (°N)")
    assert {"spread (K)", "t (K)"} <= {axes.get_ylabel() for axes in figure.axes}


def test_bars_of_a_rank_histogram_have_mean_one():
    analysis, truth = reliable()
    figure = plot.rank_histograms({"a": analysis, "b": analysis}, truth, bins=10)
    for axes in figure.axes:
        bars = axes.containers[0]
        assert len(bars) == 10
        assert np.mean([bar.get_height() for bar in bars]) == pytest.approx(1)


def binned(analysis, truth):
    members = InMemory(analysis)
    return _binned(members, as_members(truth, members.space), 0, 5)


def test_a_reliable_ensemble_is_on_the_line():
    analysis, truth = reliable(members=400, steps=4000)
    spread, error = binned(analysis, truth)
    # 3200 values per bin: the error of a root mean square is 1.3 %; 4 standard errors.
    np.testing.assert_allclose(error / spread, 1, atol=0.05)
    assert spread[-1] > 4 * spread[0]


def test_equal_weights_change_no_figure():
    analysis, truth = reliable()
    weighted = Analysis(analysis.states, SPACE, torch.full((40, 300), 1 / 40))
    pair = zip(binned(analysis, truth), binned(weighted, truth), strict=True)
    for first, second in pair:
        np.testing.assert_allclose(first, second)


def test_fields_have_one_panel_for_each_thing():
    space = StateSpace((2, 6, 5), variables=("u", "v"))
    states = rng.normal(8, (3, 2, 6, 5), rng.seeded(0))
    model = ObservationModel(Select([31, 40]), std=1.0)
    table = {"step": [2, 2], "value": [0.0, 1.0], "std": [1, 1], "y": [0, 2], "x": [1, 0]}
    assert model.operator.linear
    figure = plot.fields(Analysis(states, space), 2, states[0], table, "v")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [t for t in titles if t] == [
        "Truth", "Observations", "Mean", "Spread", "Member 0", "Member 1"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="two"):
        plot.fields(*reliable()[:1], 0)


def test_a_negative_step_counts_from_the_end():
    space = StateSpace((6, 5), variables=("u",))
    states, model = rng.normal(8, (3, 6, 5), 0), ObservationModel(Select([7, 20]), std=1.0)
    seen = [Observations(model, [2], torch.tensor([[5.0, 6.0]]))]
    pair = [plot.fields(Analysis(states, space), step, states[0], seen) for step in (2, -1)]
    pair.append(plot.fields(Analysis(states, space), 2, states[0], *seen))
    images = [[axes.collections[0].get_array() for axes in f.axes[:6]] for f in pair]
    for first, second, alone in zip(*images, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, alone)


def test_a_truth_may_be_an_array_of_numpy(unchecked):
    space = StateSpace((6, 5), variables=("u",))
    states = rng.normal(8, (3, 6, 5), 0)
    pair = [plot.fields(Analysis(states, space), 1, t) for t in (states[0], states[0].numpy())]
    images = [figure.axes[0].collections[0].get_array() for figure in pair]
    np.testing.assert_array_equal(*images)


def test_observations_of_another_variable_are_not_drawn():
    space = StateSpace((2, 6, 5), variables=("u", "v"))
    states = rng.normal(8, (3, 2, 6, 5), rng.seeded(0))
    model = ObservationModel(Select([7, 31, 40]), std=1.0)
    seen = Observations(model, [2], torch.tensor([[5.0, 6.0, 7.0]]))
    figure = plot.fields(Analysis(states, space), 2, None, [seen], "v")
    (dots,) = figure.axes[0].collections
    assert dots.get_array().tolist() == [6.0, 7.0]


def test_a_line_of_sites_over_time_shows_error_beside_spread():
    space = StateSpace((12,), variables=("x",))
    states = rng.normal(8, (30, 12), rng.seeded(0))
    figure = plot.hovmoller(Analysis(states, space), states[0])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:4] == ["Truth", "Mean", "|Mean − truth|", "Spread"]
    with pytest.raises(ValueError, match="needs one"):
        plot.hovmoller(*reliable()[:1])


@pytest.mark.filterwarnings("error")
def test_of_many_steps_every_nth_is_drawn_whatever_the_blocks(monkeypatch):
    monkeypatch.setattr(maps, "DRAWN", 60)
    # Blocks of two steps: every other one has none that is drawn.
    monkeypatch.setattr(members, "LARGEST", 2 * 30 * 12)
    space = StateSpace((12,), variables=("x",))
    states = rng.normal(30, (17, 12), rng.seeded(0))
    figure = plot.hovmoller(Analysis(states, space), states[0])
    panels = {axes.get_title(loc="left"): axes.collections[0] for axes in figure.axes[:4]}
    for title, expected in (("Mean", states.mean(0)), ("Spread", states.std(0))):
        np.testing.assert_allclose(panels[title].get_array(), expected[::4], rtol=1e-5, atol=1e-6)


def test_figures_leave_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot.rank_histograms({"a": reliable()[0]}, reliable()[1])
    assert dict(matplotlib.rcParams) == before


def test_components_have_names():
    channels = StateSpace((2, 3), variables=("u", "v"))
    assert plot.component_name(channels, 4) == "v[1]"
    assert plot.component_name(StateSpace((3,), variables=("x", "y", "z")), 2) == "z"
    assert plot.component_name(StateSpace((2, 3), variables=("t",)), 5) == "t[1, 2]"


def test_tradeoff_has_a_line_per_method_in_the_order_of_cost():
    def row(label, evaluations, w1):
        mean = {"w1": w1, "evaluations": evaluations, "sampling_seconds": evaluations / 10}
        return Row(label, 256, 8, mean, {}, 0.0, {}, 0.0)

    rows = [
        row("low, ancestral 32, corrections 1", 63.0, 1.1),
        row("low, ancestral 16, corrections 1", 31.0, 1.3),
        row("low, multistep 16", 16.0, 1.6),
        row("high, multistep 16", 16.0, 1.2),
    ]
    left, right, high, _ = plot.tradeoff(rows).axes
    np.testing.assert_allclose(lines(left)["ancestral"], [[31, 1.3], [63, 1.1]])
    np.testing.assert_allclose(lines(right)["ancestral"], [[3.1, 1.3], [6.3, 1.1]])
    assert "ancestral" not in lines(high) and len(lines(high)["multistep"]) == 1
