"""Pages and figures of stores that keep a part of the ensemble."""

import base64
import re

import numpy as np
import pytest
import torch

from scorda import metrics, store
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.report import fields, hovmoller, trajectories
from scorda.report.html import write_report
from scorda.report.partial import Partial, partial_of
from scorda.store import Keep
from scorda.systems.function import FunctionSystem
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63, Lorenz96


def system_of(kind):
    if kind == "points":
        return Lorenz63(spinup=1.0)
    if kind == "line":
        return Lorenz96(dim=12, spinup=1.0)
    axes = {"y": np.arange(3.0), "x": np.arange(4.0)}
    space = StateSpace((2, 3, 4), variables=("t", "s"), coordinates=axes, units={"t": "K"})
    start = rng.normal(60, (2, 3, 4), rng.seeded(1))
    return FunctionSystem(lambda x: 0.9 * x, start, space, noise_std=0.5)


@pytest.fixture(scope="module", params=["points", "line", "map"])
def runs(request, tmp_path_factory):
    """A function that runs an EnKF on a problem of a kind, and keeps what is asked for."""
    folder = tmp_path_factory.mktemp(request.param)
    model = ObservationModel(Select([0]), std=0.5)
    system = system_of(request.param)
    truth, problem = twin_experiment(system, model, 20, 2, rng.seeded(0))

    def run(name, keep):
        path = folder / f"{name}.zarr"
        return store.run(EnKF(1.05), problem, 10, path, truth=truth, keep=keep, overwrite=True)

    return run


KEPT = {
    "moments": Keep(statistics=("mean", "std")),
    "quantiles": Keep(statistics=("q05", "q50", "q95")),
    "members": Keep(members=3, steps=2, statistics=("mean", "std", "q05", "q95")),
    "steps": Keep(steps=4),
    "last": Keep(steps="last"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_a_page_shows_what_there_is_and_says_what_is_kept(runs, tmp_path, name):
    posterior, full = runs(name, KEPT[name]), runs("full", None)
    page = write_report({"some": posterior}, tmp_path / "a.html").read_text()
    assert f"some keeps {posterior.kept.words}" in page
    assert "Error and spread over time" in page and "Rank of the truth" not in page
    both = write_report({"some": posterior, "all": full}, tmp_path / "b.html", [full]).read_text()
    assert "Rank of the truth" in both
    assert {"some", "all"} <= set(re.findall(r"</span>(\w+)</td>", both))
    for text in re.findall(r"base64,([^\"]+)", page):
        assert b"<svg" in base64.b64decode(text)


@pytest.mark.slow
def test_a_page_shows_runs_of_different_parts(tmp_path):
    """Also where one of them has no truth, and more steps than a figure shows."""
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(Lorenz63(spinup=1.0), model, 450, 50, rng.seeded(0))

    def run(name, keep, truth=truth):
        return store.run(EnKF(1.05), problem, 5, tmp_path / name, truth=truth, keep=keep)

    full, some = run("full.zarr", None), run("some.zarr", Keep(steps=9))
    blind = run("blind.zarr", Keep(statistics=("mean", "std")), None)
    whole = run("whole.zarr", None, None)
    for kinds in ([full, some], [some, full], [blind, full], [some, whole], [full, blind]):
        named = {f"run {number}": posterior for number, posterior in enumerate(kinds)}
        page = write_report(named, tmp_path / "a.html").read_text()
        assert page.count('alt="Last steps (400 at most) of the trajectories of run') == 2
        assert "Error and spread over time" in page
        assert ("Rank of the truth" in page) == (full in kinds)


@pytest.mark.slow
def test_a_page_of_a_flow_shows_maps_where_a_run_is_a_part(tmp_path):
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(KolmogorovFlow(16), model, 2, 1, rng.seeded(0))
    pair = {
        name: store.run(EnKF(), problem, 3, tmp_path / f"{name}.zarr", truth=truth, keep=keep)
        for name, keep in (("full", None), ("some", Keep(statistics=("mean", "std"))))
    }
    page = write_report(pair, tmp_path / "a.html").read_text()
    assert re.search(r"Fields at step \d of u, full", page)
    assert re.search(r"Fields at step \d of u, some", page)


def test_a_page_of_a_run_that_stopped_before_what_it_keeps_has_its_scores(tmp_path):
    axes = {"y": np.arange(3.0), "x": np.arange(4.0)}
    space = StateSpace((1, 3, 4), variables=("t",), coordinates=axes)
    start = rng.normal(10, (1, 3, 4), rng.seeded(1))
    system = FunctionSystem(lambda x: 10.0**40 * x, start, space, noise_std=0.5)
    problem = Problem(
        system, Observations(ObservationModel(Select([0]), std=1.0), [0, 5], torch.zeros(2, 1)), 9
    )
    truth = torch.zeros(10, 1, 3, 4)
    with pytest.raises(DivergenceError):
        store.run(EnKF(), problem, 10, tmp_path / "a.zarr", truth=truth, keep=Keep(steps="last"))
    posterior = store.open_posterior(tmp_path / "a.zarr")
    page = write_report({"a": posterior}, tmp_path / "a.html").read_text()
    assert "Error and spread over time" in page


def test_the_band_is_that_of_the_members(runs):
    full, cut = runs("full", None), slice(0, 21)
    name = full.space.variables[0]
    for kind in ("quantiles", "members"):
        partial = partial_of(runs(kind, KEPT[kind]))
        assert isinstance(partial, Partial)
        states = full.analysis.states[:, list(partial.steps)]
        x = full.space.field(states, name).reshape(10, len(partial.steps), -1)[..., :1]
        band = partial.band(name, 0, cut)
        for level, values in ((0.05, band.low), (0.95, band.high)):
            expected = metrics.quantile(x.double(), level)[:, 0]
            # Stored in the precision of the states.
            torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
        assert partial.lines(name, 0, cut).shape == (partial.kept.members, len(partial.steps))
    moments = partial_of(runs("moments", KEPT["moments"]))
    band = moments.band(name, 0, cut)
    assert band.words == "mean ± 1.645 std"
    mean, std = moments.moments(name, cut)
    assert torch.equal(band.middle, mean.reshape(21, -1)[:, 0])
    torch.testing.assert_close(band.high - band.middle, 1.645 * std.reshape(21, -1)[:, 0])


def test_figures_are_drawn_of_what_is_kept(runs):
    posterior = runs("members", KEPT["members"])
    truth, seen, axes = posterior.true_member, posterior.observations, posterior.space.axes
    if len(axes) == 2:
        figure = fields(posterior, 4, truth, seen)
        titles = [panel.get_title(loc="left") for panel in figure.axes]
        assert {"Truth", "Mean", "Spread", "Member 0", "Member 1"} <= set(titles)
    elif axes:
        figure = hovmoller(posterior, truth, posterior.to_xarray()["time"].values)
    else:
        figure = trajectories(posterior, truth, seen)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert {"90 %", "mean", "members", "truth"} <= set(labels)
    figure.canvas.draw()
