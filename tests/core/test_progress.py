"""Progress is told to a function, to a bar, or to nobody."""

import sys
import types
from contextlib import contextmanager

import pytest

import scorda as sc
from scorda import store
from scorda.core import progress
from scorda.systems.lorenz import Lorenz63


@pytest.fixture
def drawn(monkeypatch):
    """What a bar would show."""
    said = []

    @contextmanager
    def bar(label):
        yield lambda done, total: said.append((label, done, total))
        said.append("closed")

    monkeypatch.setattr(progress, "bar", bar)
    return said


def test_true_is_a_bar_and_false_is_silent(drawn):
    with progress.told(True, "work") as update:
        update(1, 2)
    with progress.told(False, "work") as update:
        update(1, 2)
    heard = []
    with progress.told(lambda *done: heard.append(done), "work") as update:
        update(2, 2)
    assert drawn == [("work", 1, 2), "closed"] and heard == [(2, 2)]


def test_a_stored_run_shows_a_bar_and_has_the_bytes_of_one_that_does_not(drawn, tmp_path):
    model = sc.ObservationModel(sc.Select([0]), std=1.0)
    _, problem = sc.twin_experiment(Lorenz63(spinup=0.5), model, 6, 2, 0)
    states = [
        store.run(
            sc.ETKF(), problem, 5, tmp_path / f"{shown}.zarr", progress=shown
        ).analysis.states
        for shown in (True, False)
    ]
    assert drawn[0] == ("run", 1, 7) and drawn[-1] == "closed"
    assert len(drawn) == drawn.index("closed") + 1
    assert (states[0] == states[1]).all()


def test_without_a_terminal_a_bar_is_silent(capsys):
    with progress.bar("work") as update:
        update(1, 2)
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_one_bar_moves_and_nothing_else_is_written(monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, data, raw):
            assert raw
            shown.append(("moved", data))

    def display(data, raw, display_id):
        assert raw and display_id
        shown.append(("shown", data))
        return Handle()

    notebook = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr(
        "rich.console.Console", lambda **of: types.SimpleNamespace(is_jupyter=True)
    )
    monkeypatch.setattr(progress, "PAUSE", 1e9)
    with progress.bar("<work>") as update:
        for done in (1, 2, 3):
            update(done, 3)
    assert [kind for kind, _ in shown] == ["shown", "moved"]
    last = shown[-1][1]
    assert last["text/plain"] == "<work> 3/3"
    assert last["text/html"].startswith("<pre>&lt;work&gt; <progress value=")
    assert capsys.readouterr() == ("", "")
