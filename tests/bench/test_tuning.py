"""Options are chosen on other seeds, kept, and chosen alike for all methods."""

import csv
import math
import threading
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import pytest

from scorda.bench import run
from scorda.bench.entry import Entry, grid, in_words
from scorda.bench.run import run_benchmark, write_table
from scorda.bench.sweep import Sweep, only
from scorda.bench.tuning import Trials, Tuning, attempts, tune


@dataclass(frozen=True)
class Method:
    """Scores (factor - 3)^2, plus its seed; diverges for a factor of 5."""

    factor: float = 0.0
    shift: int = 0


@dataclass(frozen=True)
class Known:
    """A set-up whose best options are known; counts its runs."""

    entries: tuple[Entry, ...]
    calls: list
    tuning: Tuning = Tuning(seeds=(7, 8))  # noqa: RUF009
    seeds: int = 2
    statistic: str = "mean"
    shown: tuple[str, ...] = ("crps",)
    source: str = "test"

    def prepare(self, seed):
        return seed / 100

    def score(self, entry, prepared, seed):
        self.calls.append((entry.label, entry.method, seed))
        if entry.method.factor == 5:
            raise FloatingPointError("It diverged: at step 3.")
        return {"crps": (entry.method.factor - 3) ** 2 + entry.method.shift + prepared}

    def trial(self):
        return self

    def shortened(self):
        return self


FACTORS = grid(factor=(5.0, 0.0, 2.5, 4.0))


@pytest.fixture
def known(monkeypatch):
    setup = Known((Entry("a", Method(), 10, FACTORS), Entry("b", Method(1.0), 10)), [])
    monkeypatch.setitem(run.PROBLEMS, "known", lambda: setup)
    return setup


def test_grids_are_all_combinations_in_words():
    points = grid(factor=(1.0, 2.0), shift=(0, 1))
    assert [in_words(p) for p in points][1:3] == ["factor=1, shift=1", "factor=2, shift=0"]
    assert Entry("a", Method(), 1, points).at(3) == Entry("a", Method(2.0, 1), 1)


def test_the_best_point_of_a_known_grid_is_taken(known):
    entry, words = tune(known, known.entries[0])
    assert entry.method == Method(2.5) and words == "factor=2.5" and not entry.grid
    assert tune(known, known.entries[1]) == (known.entries[1], "")


def test_a_trial_takes_the_entry_of_its_own_set_up(known):
    """The same options of another method; reported with that of the large set-up."""

    @dataclass(frozen=True)
    class Large(Known):
        def trial(self):
            return known

    shifted = Entry("a", Method(shift=1), 10, FACTORS)
    entry, _ = tune(Large((shifted,), []), shifted)
    assert entry.method == Method(2.5, 1)
    assert known.calls and all(method.shift == 0 for _, method, _ in known.calls)


def test_a_method_that_always_diverges_takes_its_first_point(known):
    entry = Entry("a", Method(), 1, grid(factor=(5.0,), shift=(0, 1)))
    assert tune(known, entry)[0].method == Method(5.0, 0)


def test_reported_runs_use_the_choice_on_other_seeds_and_tell_it(known, tmp_path):
    seen = []
    rows = run_benchmark("known", path=tmp_path / "k.runs.csv", progress=lambda *n: seen.append(n))
    reported = {(m, seed) for label, m, seed in known.calls if label == "a" and seed < 7}
    assert reported == {(Method(2.5), 0), (Method(2.5), 1)}
    assert rows[0].options == "factor=2.5" and rows[1].options == ""
    assert rows[0].mean["crps"] == pytest.approx(0.25 + 0.005)
    assert rows[0].error["crps"] == pytest.approx(0.005)
    assert seen[-1] == (12, 12) and len(seen) == 12
    trials = list(csv.DictReader(open(tmp_path / "k.tuning.csv")))
    assert {t["options"] for t in trials if t["chosen"]} == {"factor=2.5"}
    assert [t["failure"] for t in trials][:3] == ["It diverged: at step 3."] * 2 + [""]
    write_table(rows, tmp_path / "k.csv", "known")
    assert next(csv.DictReader(open(tmp_path / "k.csv")))["options"] == "factor=2.5"


def test_nothing_is_run_twice_on_resume_and_other_options_are_run_anew(known, tmp_path):
    path = tmp_path / "k.runs.csv"
    first = run_benchmark("known", path=path)
    calls = len(known.calls)
    assert run_benchmark("known", path=path, resume=True) == first
    assert len(known.calls) == calls
    better = replace(known.entries[0], grid=(*FACTORS, {"factor": 3.0}))
    rows = run_benchmark(
        "known", path=path, setup=replace(known, entries=(better, known.entries[1])), resume=True
    )
    # Two trials of the new point, and the entry again with what it chose.
    assert len(known.calls) == calls + 4
    assert rows[0].options == "factor=3" and rows[1] == first[1]


def test_an_interrupted_tuning_goes_on_where_it_stopped(known, tmp_path):
    file = tmp_path / "k.tuning.csv"
    tune(known, known.entries[0], Trials(file))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:4]) + "\n")
    calls = len(known.calls)
    assert tune(known, known.entries[0], Trials.open(file, True))[1] == "factor=2.5"
    assert len(known.calls) == calls + 5


def test_divergence_has_no_score_and_is_told(known, tmp_path):
    setup = replace(known, entries=(Entry("a", Method(5.0), 10), Entry("b", Method(3.0), 10)))
    rows = run_benchmark("known", path=tmp_path / "k.runs.csv", setup=setup)
    assert rows[0].failures == tuple(f"seed {s}: It diverged: at step 3." for s in (0, 1))
    assert "crps" not in rows[0].mean and not rows[1].failures
    assert run_benchmark("known", path=tmp_path / "k.runs.csv", setup=setup, resume=True) == rows
    write_table(rows, tmp_path / "k.csv", "known")
    line = next(csv.DictReader(open(tmp_path / "k.csv")))
    assert (line["score"], line["mean"]) == ("diverged", "2")


def test_one_divergence_spoils_the_mean(known):
    class Sometimes(Known):
        def score(self, entry, prepared, seed):
            if seed == 1:
                raise FloatingPointError("It diverged.")
            return {"crps": 1.0}

    setup = Sometimes((Entry("a", Method(), 1),), [])
    (row,) = run_benchmark("known", setup=setup)
    assert math.isnan(row.mean["crps"]) and len(row.failures) == 1


def test_effort_is_equal_and_seeds_are_not_shared(known):
    uneven = replace(known, entries=(known.entries[0], Entry("c", Method(), 1, FACTORS[:2])))
    with pytest.raises(ValueError, match=r"points, such as for 'c' and 'a'"):
        run_benchmark("known", setup=uneven)
    with pytest.raises(ValueError, match="seeds"):
        run_benchmark("known", seeds=[6, 7])


def test_a_sweep_runs_each_point_with_its_own_choice(known):
    far = replace(known, entries=(Entry("a", Method(), 10, grid(factor=(0.0, 4.0, 9.0, 5.0))),))
    setup = Sweep({"N=1": known, "N=2": far}, "test")
    rows = run_benchmark("known", setup=setup)
    assert [row.label for row in rows] == ["N=1, a", "N=1, b", "N=2, a"]
    assert [row.options for row in rows] == ["factor=2.5", "", "factor=4"]
    assert rows[2].mean["crps"] == pytest.approx(1.005)


def test_rows_are_picked_by_patterns(known):
    sweep = Sweep({"N=1": known, "N=2": known}, "test")

    def labels(setup, *patterns):
        return [entry.label for entry in only(setup, patterns).entries]

    assert labels(sweep, "N=2, *") == ["N=2, a", "N=2, b"]
    assert labels(sweep, "*, b", "N=1, *") == ["N=1, a", "N=1, b", "N=2, b"]
    assert labels(known, "b") == ["b"]
    with pytest.raises(ValueError, match="No row matches 'a': the rows are N=1, a; N=1, b"):
        only(sweep, ["N=1, *", "a"])


class Backwards(Executor):
    """Finishes what it is given in the reverse order, once it is asked to."""

    def __init__(self):
        self.left = []

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        self.left.append((future, function, args))
        timer = threading.Timer(0.05, self.work)
        timer.start()
        return future

    def work(self):
        while self.left:
            future, function, args = self.left.pop()
            future.set_result(function(*args))
            time.sleep(0.005)


def without_seconds(path):
    with path.open(newline="") as file:
        return [[v for k, v in row.items() if k != "seconds"] for row in csv.DictReader(file)]


def test_an_engine_changes_neither_choice_nor_files(known, tmp_path):
    for name, engine in (("serial", None), ("engine", Backwards())):
        (tmp_path / name).mkdir()
        path, seen = tmp_path / name / "k.runs.csv", []
        rows = run_benchmark(
            "known", path=path, progress=lambda *n, to=seen: to.append(n), executor=engine
        )
        assert [row.mean["crps"] for row in rows] == pytest.approx([0.255, 4.005])
        assert seen == [(n, 12) for n in range(1, 13)]
    for file in ("k.runs.csv", "k.tuning.csv"):
        assert without_seconds(tmp_path / "serial" / file) == without_seconds(
            tmp_path / "engine" / file
        )


def test_what_is_trained_is_trained_here_once(known):
    trained = []

    def train(method):
        trained.append(method)
        return method

    entry = Entry("c", Method(), 10, trained=train)

    @dataclass(frozen=True)
    class Training(Known):
        def score(self, entry, prepared, seed):
            return {"crps": float(entry.ready.factor)}

    setup = Training((entry,), [])
    runs = {seed: (entry, seed) for seed in (0, 1)}
    assert [key for key, _ in attempts(setup, runs, {}, Backwards())] == [0, 1]
    assert len(trained) == 1
