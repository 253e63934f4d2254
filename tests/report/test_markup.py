"""What looks like markup in data is text: in a terminal, in figures, and on a page."""

import re
import subprocess

import numpy as np
import pytest
import torch

from scorda import store
from scorda.cli import console
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.report.gallery import Record, add_record
from scorda.report.html import write_report
from scorda.systems.function import FunctionSystem

SCRIPT = "<script>document.title='ran'<!script>"
MARKUPS = ("[nope]", "[red]x", "$x", "$\\frac", "<img src=x onerror=alert(1)>", ":smile:", SCRIPT)


@pytest.mark.parametrize("text", ["[/nope]", "[red]x", ":smile:", "[link=a]b", "[[]]", "[/]"])
def test_a_terminal_shows_markup_as_it_is(capsys, text):
    console.table(text, ["a", text], [[text, "1"], None, ["b", text]], left=2)
    console.console().print(f"file {text}")
    with console.progress(text) as report:
        report(1, 2)
    shown = capsys.readouterr().out
    assert shown.count(text) == 5


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with markup in every name, unit and setting."""
    folder = tmp_path_factory.mktemp("markup")
    names = tuple(m.replace("/", "") + str(i) for i, m in enumerate((*MARKUPS[:2], SCRIPT)))
    names = tuple(n.replace("\\", "") for n in names)
    axis = "$\\frac <b>[axis]".replace("\\", "")
    units = {n: m for n, m in zip((*names, axis, "time"), MARKUPS[2:], strict=False)}
    places = np.arange(4.0)
    space = StateSpace((3, 4), 0.1, names, {axis: places}, {axis: 4.0}, units)
    start = torch.randn(50, 3, 4, generator=rng.seeded(0))
    system = FunctionSystem(lambda x: 0.9 * x, start, space, noise_std=0.3, library="torch")
    object.__setattr__(system, "name", SCRIPT.replace("!", "/"))
    model = ObservationModel(Select(range(12)), std=0.5)
    truth, problem = twin_experiment(system, model, 8, 2, rng.seeded(1))
    evil = {"setting": SCRIPT.replace("!", "/"), SCRIPT.replace("!", "/"): "]]>-->"}
    made = store.run(
        EnKF(1.05), problem, 12, folder / "[nope]$x.zarr", truth=truth, configuration=evil
    )
    title = SCRIPT.replace("!", "/")
    runs = {f"EnKF {title} $x [nope]": made}
    return write_report(runs, folder / "a.html", title=f"{title} & ]]>")


@pytest.mark.slow
def test_markup_in_every_string_is_text_on_the_page(page):
    text = page.read_text()
    # The one that sorts tables.
    assert text.count("<script") == 1 and "onerror=alert(1)>" not in text
    assert "&lt;script&gt;" in text
    (folder,) = {page.parent}
    (folder / "p.png").write_bytes(b"")
    evil = SCRIPT.replace("!", "/")
    gallery = add_record(folder, Record("r", evil, evil, {evil: evil}, {"p.png": evil}))
    assert "<script" not in gallery.read_text()


@pytest.mark.browser
@pytest.mark.slow
def test_no_script_of_the_data_runs_in_a_browser(page, tmp_path, chromium):
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage"
    done = subprocess.run(
        [chromium, *flags.split(), f"--user-data-dir={tmp_path}", "--enable-logging=stderr",
         "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<h1" in done.stdout
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
    assert title != "ran" and "&lt;script&gt;" in title
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
