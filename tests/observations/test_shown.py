"""What a notebook and a prompt show of an object, and the short ways to parts of an analysis."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.core import rng
from scorda.observations.analysis import Analysis
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

EVIL = "<script>alert('x')</script>"
HOURLY = sc.StateSpace((3,), dt=1.0, variables=("a", "b", "c"), units={"time": "hours"})


class Tags(HTMLParser):
    """The tags and the text of a page, which must be closed in their order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def twin(steps=20):
    model = sc.ObservationModel(sc.Select([0, 1]), std=0.5)
    return sc.twin_experiment(Lorenz63(spinup=0.5), model, steps, 5, 0)


def dated(members=4, states=30):
    states = rng.normal(members, (states, 3), 0)
    return Analysis(states, HOURLY, start="2020-02-28T12:00")


def test_a_prompt_shows_one_line():
    _, problem = twin()
    analysis = sc.ETKF(1.02).assimilate(problem, 10, 0)
    for thing in (analysis, problem, problem.instruments[0]):
        assert "\n" not in repr(thing) and len(repr(thing)) < 200
    assert "10" in repr(analysis) and "ETKF" in repr(analysis)


def test_a_notebook_shows_names_that_cannot_be_markup():
    space = sc.StateSpace((2,), variables=("x", "y"), units={"y": EVIL})
    model = sc.ObservationModel(sc.Select([0]), std=1.0)
    seen = sc.Observations(model, [1], np.zeros((1, 1)), notes=(EVIL,))
    problem = sc.Problem(sc.systems.FunctionSystem(lambda x: x, np.zeros((2, 2)), space), seen, 1)
    analysis = Analysis(torch.zeros(2, 2, 2), space, method=EVIL, info={EVIL: 1})
    for thing in (problem, seen, analysis, space):
        page = Tags(thing._repr_html_())
        assert page.seen <= {"div", "b", "table", "tr", "th", "td", "details", "summary"}
        assert EVIL in page.text


def test_a_notebook_shows_a_prior_with_its_space():
    eye = torch.eye(2)
    system = LinearGaussian(0.9 * eye, eye, torch.zeros(2), eye)
    page = Tags(GaussianTrajectory.of(system, 3)._repr_html_())
    assert "GaussianTrajectory" in page.text and "StateSpace" in page.text


def test_a_quantile_leaves_out_members_that_were_dropped():
    states = rng.normal(9, (6, 3), 0)
    whole = Analysis(states, HOURLY)
    torch.testing.assert_close(whole.quantile(0.5), states.median(0).values)
    lost = states.clone()
    lost[2, 4:] = torch.nan
    found = Analysis(lost, HOURLY, dropped={2: 4}).quantile(0.3)
    stay = [i for i in range(9) if i != 2]
    torch.testing.assert_close(found[:4], whole.quantile(0.3)[:4])
    torch.testing.assert_close(found[4:], Analysis(states[stay], HOURLY).quantile(0.3)[4:])


def test_sel_takes_labels_and_dates():
    analysis = dated()
    picked = analysis.sel("b", time="2020-02-29T00:00", ensemble=2)
    assert float(picked) == pytest.approx(float(analysis.states[2, 12, 1]))
    day = analysis.sel(time=slice("2020-02-29", "2020-02-29"))
    assert day.sizes["time"] == 18 and set(day.data_vars) == {"a", "b", "c"}
    with pytest.raises(ValueError, match=r"Unknown variable 'nothing': this space has \['a', 'b'"):
        analysis.sel("nothing")
    for labels in ({"ensemble": 99}, {"nowhere": 1}):
        with pytest.raises(ValueError, match=r"not all there: the axes are .*ensemble.*nearest"):
            analysis.sel("a", **labels)


def test_figures_of_dated_analyses_have_dates_and_others_have_times():
    figure = dated().plot()
    axis = figure.axes[-1].xaxis
    assert "Date" in type(axis.get_major_formatter()).__name__
    plain = Analysis(dated().states, HOURLY).plot().axes[-1]
    assert plain.get_xlabel() == "time (hours)"


def test_dates_come_with_the_table_of_observations():
    table = {"time": ["2020-01-01T03:00", "2020-01-01T06:00"], "variable": ["a", "b"]}
    table |= {"value": [1.0, 2.0], "std": [0.1, 0.1]}
    seen = sc.Observations.from_table(table, HOURLY, start="2020-01-01")
    start = np.random.default_rng(0).normal(size=(8, 3))
    problem = sc.Problem(sc.systems.FunctionSystem(lambda x: x, start, HOURLY), seen, 6)
    analysis = sc.EnKF().assimilate(problem, 8, 0)
    assert analysis.start == "2020-01-01"
    assert str(analysis.sel("a", ensemble=0).time.values[-1]).startswith("2020-01-01T06:00")


@pytest.mark.parametrize("shape", [(3,), (12,), (5, 6)])
def test_plot_draws_what_suits_the_space_and_a_notebook_shows_it(shape):
    variables = ("x", "y", "z") if shape == (3,) else ("t",)
    space = sc.StateSpace(shape, variables=variables)
    figure = Analysis(rng.normal(5, (4, *shape), 0), space).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
