"""The report: one file that needs no other, every figure there, no error in a browser."""

import base64
import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scorda import store
from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.core.space import StateSpace
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.particle import ParticleFilter
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.report.html import write_report
from scorda.store.scores import score_table
from scorda.systems.function import FunctionSystem
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.lorenz import Lorenz63, Lorenz96

TEMPLATES = Path(store.__file__).parents[1] / "report" / "templates"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two filters and a smoother of one problem."""
    folder = tmp_path_factory.mktemp("runs")
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(Lorenz63(spinup=1.0), model, 48, 8, rng.seeded(0))
    methods = {"EnKF": EnKF(1.02), "PF": ParticleFilter(1.0), "EnKS <lagged>": EnKS(1.02, lag=16)}
    return {
        name: store.run(method, problem, 24, folder / f"{i}.zarr", truth=truth)
        for i, (name, method) in enumerate(methods.items())
    }


def figures(page):
    """Alternative texts and images of a page."""
    found = re.findall(
        r'<img alt="([^"]*)" style="[^"]*" src="data:image/svg\+xml;base64,([^"]*)"', page
    )
    return {html.unescape(alt): base64.b64decode(data) for alt, data in found}


@pytest.mark.slow
def test_the_page_holds_scores_figures_and_provenance(runs, tmp_path):
    path = write_report(runs, tmp_path / "new" / "report.html", [runs["PF"]], "A <title>")
    page = path.read_text()
    # A trajectory of each, and error, ranks and reliability of filters and of smoothers.
    assert len(figures(page)) == 3 + 2 * 3
    assert all(image.startswith(b"<?xml") for image in figures(page).values())
    table = page[page.index("<table>") : page.index("</table>")]
    assert table.index("Past data only") < table.index("EnKF") < table.index("All data")
    assert table.index("All data") < table.index("EnKS &lt;lagged&gt;")
    assert "A &lt;title&gt;" in page and "<title>A <" not in page
    assert table.count("<i>floor</i>") == 1
    for word in ('"inflation": 1.02', '"seed": 0', '"torch"'):
        assert html.escape(word).replace("&quot;", "&#34;") in page


def test_the_page_loads_nothing(runs, tmp_path):
    page = write_report(runs, tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "url(" not in page and "@import" not in page
    assert page.count("<script") == 1 and (TEMPLATES / "sort.js").read_text() in page
    for image in figures(page).values():
        links = re.findall(r'(?:xlink:)?href="([^"]*)"', image.decode())
        assert all(link.startswith(("#", "data:")) for link in links)


@pytest.mark.slow
def test_the_same_posteriors_give_the_same_bytes(runs, tmp_path):
    first = write_report(runs, tmp_path / "a.html").read_bytes()
    assert first == write_report(runs, tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_fields_and_runs_without_a_truth_have_their_figures(tmp_path):
    system = Lorenz96(dim=8, spinup=1.0)
    model = ObservationModel(Select(range(0, 8, 2)), std=0.5)
    truth, problem = twin_experiment(system, model, 12, 4, rng.seeded(0))
    one = store.run(ETKF(), problem, 8, tmp_path / "a.zarr", truth=truth)
    held = problem.instruments
    other = store.run(ETKF(), problem, 8, tmp_path / "b.zarr", withheld=held)
    page = write_report({"ETKF": one}, tmp_path / "a.html").read_text()
    assert "The field over time of ETKF." in figures(page)
    page = write_report({"ETKF": other}, tmp_path / "b.html").read_text()
    assert len(figures(page)) == 1 and "χ²" in page

    space = StateSpace((6, 5), variables=("t",), units={"time": "hours"})
    flat = FunctionSystem(lambda x: 0.9 * x, lambda n, seed: rng.seeded(seed) and _noise(n), space)
    seen = Observations(ObservationModel(Select([3, 17]), std=0.1), [2, 4], _noise(2)[:, 0, :2])
    field = store.run(EnKF(), Problem(flat, seen, 5), 8, tmp_path / "c.zarr")
    page = write_report({"EnKF": field}, tmp_path / "c.html").read_text()
    assert list(figures(page)) == ["Fields at step 4 of EnKF."]
    start = np.datetime64("2019-03-21T06:00")
    dated = store.run(EnKF(), Problem(flat, seen, 5), 8, tmp_path / "d.zarr", start=start)
    page = write_report({"EnKF": dated}, tmp_path / "d.html").read_text()
    assert list(figures(page)) == ["Fields at 2019-03-21 10:00 of EnKF."]


def _noise(n):
    return rng.normal(n, (6, 5), rng.seeded(0))


def test_runs_of_two_problems_and_none_are_refused(runs, tmp_path):
    model = ObservationModel(Select([0]), std=0.5)
    _, problem = twin_experiment(Lorenz63(spinup=1.0), model, 8, 8, rng.seeded(0))
    other = store.run(EnKF(), problem, 8, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="other states or times"):
        write_report(runs | {"other": other}, tmp_path / "report.html")
    with pytest.raises(ValueError, match="no posterior"):
        write_report({}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


PROBE = """<script>addEventListener("load", () => {
  const widths = [...document.images].map((image) => image.naturalWidth);
  const wide = document.documentElement.scrollWidth > innerWidth + 1;
  const body = document.querySelector("tbody");
  const names = () => [...body.rows].slice(1).map((row) => row.cells[0].innerText.trim());
  const heads = [...document.querySelectorAll("thead button")];
  const orders = [names()];
  for (const word of ["Method", "Method", "RMSE"]) {
    heads.find((head) => head.innerText.includes(word)).click();
    orders.push(names());
  }
  document.body.dataset.probe = JSON.stringify({widths, wide, orders});
});</script>"""


def probed(page, folder, chromium, width):
    """What PROBE finds in a browser of a width, and what its console says."""
    (folder / "probed.html").write_text(page.replace("</body>", PROBE + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --disable-dev-shm-usage"
    result = subprocess.run(
        [
            chromium,
            *flags.split(),
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            f"--window-size={width},2000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "probed.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-probe="([^"]*)"', result.stdout)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_figure_without_an_error(runs, tmp_path, chromium, width):
    named = {"A_name_without_a_space" * 4: runs["EnKF"], **runs}
    page = write_report(named, tmp_path / "report.html", [runs["PF"]]).read_text()
    found, console = probed(page, tmp_path, chromium, width)
    assert len(found["widths"]) == len(figures(page))
    assert all(value > 0 for value in found["widths"])
    assert not found["wide"], "the page scrolls sideways"
    assert console == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_press_on_a_heading_sorts_the_rows_of_each_group(runs, tmp_path, chromium):
    page = write_report(runs, tmp_path / "report.html").read_text()
    scores = score_table(runs)
    orders = probed(page, tmp_path, chromium, 1280)[0]["orders"]
    assert orders[:3] == [["EnKF", "PF"], ["EnKF", "PF"], ["PF", "EnKF"]]
    assert orders[3] == sorted(("EnKF", "PF"), key=lambda name: scores[name]["rmse"])


@pytest.mark.slow
def test_the_style_is_inside(runs, tmp_path):
    assert (TEMPLATES / "report.css").read_text() in write_report(
        runs, tmp_path / "report.html"
    ).read_text()


def test_a_flow_is_shown_by_its_vorticity(tmp_path):
    system = KolmogorovFlow(8, 16, spinup=0.4)
    model = ObservationModel(Mask.grid(system.space, 2), std=0.1)
    truth, problem = twin_experiment(system, model, 4, 2, rng.seeded(0))
    run = store.run(EnKF(), problem, 6, tmp_path / "a.zarr", truth=truth)
    page = write_report({"EnKF": run}, tmp_path / "a.html").read_text()
    (image,) = (i for alt, i in figures(page).items() if "Vorticity at observed steps of" in alt)
    assert b"<!-- Observed -->" in image


def test_a_flow_that_was_stopped_is_shown_as_far_as_it_came(tmp_path):
    system = KolmogorovFlow(8, 16, spinup=0.4)
    model = ObservationModel(Mask.grid(system.space, 2), std=0.1)
    _, problem = twin_experiment(system, model, 4, 2, rng.seeded(0))
    # One particle has all the weight after the first analysis.
    with pytest.raises(DegenerateEnsemble):
        store.run(ParticleFilter(1.0), problem, 6, tmp_path / "a.zarr")
    run = store.open_posterior(tmp_path / "a.zarr")
    page = write_report({"PF": run}, tmp_path / "a.html").read_text()
    assert html.escape(run.stopped) in page
    assert list(figures(page)) == ["Vorticity at observed steps of PF."]
