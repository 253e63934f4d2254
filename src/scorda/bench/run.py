"""Run every entry of a benchmark with every seed, and write one table of the result."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorda.bench.entry import Benchmark, Entry
from scorda.bench.problems import PROBLEMS, expected_scores
from scorda.bench.tuning import Trials, Tunable, attempts, check_effort, tune
from scorda.core.files import atomic
from scorda.core.ownership import check_output
from scorda.core.progress import Progress, heard, with_bar

__all__ = ["Row", "Run", "row_of", "run_benchmark", "write_table"]

# Columns of the file of runs before and after those of the scores.
BEFORE, AFTER = ("entry", "seed", "options", "failure"), ("seconds",)
# Keys of an expected score that are not scores.
ABOUT = ("tolerance", "source", "options")


@dataclass(frozen=True)
class Row:
    """The scores of one entry over its seeds.

    Arguments:
        label: Name of the entry.
        members: Number of members.
        seeds: Number of seeds.
        mean: Mean over the seeds, or their median where the benchmark says so, by score. It is NaN
            where a run diverged, since the other runs alone would flatter the entry.
        error: Standard error of the mean, by score; NaN for one seed.
        seconds: Mean time of one run.
        expected: Expected value, by score, where there is one.
        tolerance: Accepted distance from it.
        entry: The entry with the options chosen for it.
        options: These, in words.
        failures: Messages of the runs that diverged, with their seeds.
    """

    label: str
    members: int
    seeds: int
    mean: Mapping[str, float]
    error: Mapping[str, float]
    seconds: float
    expected: Mapping[str, float]
    tolerance: float
    entry: Entry | None = None
    options: str = ""
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Return whether every score that has an expected value is within the tolerance of it."""
        return all(
            abs(self.mean.get(name, math.nan) - value) <= self.tolerance
            for name, value in self.expected.items()
        )


@dataclass(frozen=True)
class Run:
    """One finished run: options in words, how it diverged, scores, seconds."""

    options: str
    failure: str
    scores: Mapping[str, float]
    seconds: float


Runs = dict[tuple[str, int], Run]


@with_bar
def run_benchmark(
    name: str,
    seeds: Sequence[int] | None = None,
    path: str | Path | None = None,
    setup: Benchmark | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
) -> list[Row]:
    """Tune each entry that has a grid, and run it with all seeds.

    Each finished run is added to the file at once, so that an interrupted benchmark resumes.

    Arguments:
        name: Name of the benchmark.
        seeds: Seeds, one twin experiment each, the same for all entries (default: as many as
            the benchmark has, from 0).
        path: CSV file of single runs, ``NAME.runs.csv``: entry, seed, options chosen, how it
            diverged, a column per score, seconds. ``NAME.tuning.csv`` in the same folder has the
            trials that the options were chosen from.
        setup: Other set-up than the named one, such as a `shortened` one.
        resume: Keep the runs and trials that are in the files if their options still are those of
            the entry.
        progress: Called with the runs done and their total, trials included; True: a bar.
        executor: Engine for the trials and the runs of an entry, any
            `concurrent.futures.Executor`. The scores do not depend on it; the seconds do, where
            runs share cores.

    Raises:
        ValueError: If there is no benchmark of that name, if the grids of its entries differ in
            size, or if a seed is one that options are chosen on.
    """
    if name not in PROBLEMS:
        raise ValueError(f"Unknown benchmark {name!r}: choose one of {sorted(PROBLEMS)}.")
    setup = setup or PROBLEMS[name]()
    seeds = range(setup.seeds) if seeds is None else seeds
    check_effort(setup.entries)
    path = None if path is None else Path(path)
    done = _read(path) if path is not None and resume else {}
    count = _Counter(heard(progress), setup, len(seeds))
    choose = _chooser(setup, seeds, path, resume, count, executor)
    prepared: dict[int, Any] = {}
    chosen: list[Entry] = []
    # One entry after another, so that an interrupted sweep has whole points.
    for raw in setup.entries:
        entry, options = choose(raw)
        chosen.append(entry)
        keys = {(entry.label, seed): (entry, seed) for seed in seeds}
        left = {k: r for k, r in keys.items() if k not in done or done[k].options != options}
        for _ in range(len(keys) - len(left)):
            count()
        for key, (scores, seconds, failure) in attempts(setup, left, prepared, executor):
            done[key] = Run(options, failure, scores, seconds)
            if path is not None:
                _write(path, done)
            count()
        if executor is not None and left:
            # They came in any order.
            done |= {key: done.pop(key) for key in left}
            if path is not None:
                _write(path, done)
    expected = expected_scores(name)
    typical = np.median if setup.statistic == "median" else np.mean
    return [row_of(entry, seeds, done, expected.get(entry.label, {}), typical) for entry in chosen]


def write_table(rows: Sequence[Row], path: str | Path, name: str) -> None:
    """Write one row per entry and score, with the options that were chosen for the entry.

    The score "diverged" is the number of seeds that did.
    """
    columns = "benchmark entry members seeds score mean standard_error expected tolerance"
    real = check_output(path, overwrite=True)
    with atomic(real) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns.split(), "seconds", "options"])
        for row in rows:
            head = [name, row.label, row.members, row.seeds]
            tail = [f"{row.seconds:.3g}", row.options]
            for score, mean in row.mean.items():
                expected = row.expected.get(score)
                known = ["", ""] if expected is None else [expected, row.tolerance]
                numbers = [f"{mean:.6g}", f"{row.error[score]:.3g}"]
                writer.writerow([*head, score, *numbers, *known, *tail])
            if row.failures:
                writer.writerow([*head, "diverged", len(row.failures), "", "", "", *tail])


class _Counter:
    """A counter of runs and trials."""

    def __init__(self, progress: Progress | None, setup: Benchmark, seeds: int) -> None:
        trials = 0
        if isinstance(setup, Tunable):
            trials = sum(len(entry.grid) for entry in setup.entries) * len(setup.tuning.seeds)
        self._progress, self._total, self._done = progress, trials + len(setup.entries) * seeds, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _chooser(
    setup: Benchmark,
    seeds: Sequence[int],
    path: Path | None,
    resume: bool,
    count: _Counter,
    executor: Executor | None,
) -> Callable[[Entry], tuple[Entry, str]]:
    """Return a function that gives an entry its best options, and these in words."""
    if not isinstance(setup, Tunable) or not any(entry.grid for entry in setup.entries):
        return lambda entry: (entry, "")
    if both := set(seeds) & set(setup.tuning.seeds):
        raise ValueError(
            f"Got seeds {sorted(both)}, on which options are chosen: report others than "
            f"{setup.tuning.seeds}."
        )
    file = None
    if path is not None:
        file = path.with_name(path.name.removesuffix(".csv").removesuffix(".runs") + ".tuning.csv")
    trials = Trials.open(file, resume)
    prepared: dict[int, Any] = {}
    return lambda entry: tune(setup, entry, trials, prepared, count, executor)


def row_of(
    entry: Entry,
    seeds: Sequence[int],
    done: Runs,
    expected: Mapping[str, Any] | None = None,
    typical: Callable[..., Any] = np.mean,
) -> Row:
    """Return the row of an entry: the typical scores of its runs, and their errors."""
    expected = expected or {}
    runs = {seed: done[entry.label, seed] for seed in seeds}
    names = list(dict.fromkeys(name for run in runs.values() for name in run.scores))
    values = {
        name: np.array([run.scores.get(name, math.nan) for run in runs.values()]) for name in names
    }
    return Row(
        label=entry.label,
        members=entry.members,
        seeds=len(runs),
        mean={name: float(typical(v)) for name, v in values.items()},
        error={
            name: float(v.std(ddof=1) / math.sqrt(len(v))) if len(v) > 1 else math.nan
            for name, v in values.items()
        },
        seconds=float(np.mean([run.seconds for run in runs.values()])),
        expected={name: value for name, value in expected.items() if name not in ABOUT},
        tolerance=expected.get("tolerance", math.inf),
        entry=entry,
        options=next(iter(runs.values())).options,
        failures=tuple(f"seed {s}: {run.failure}" for s, run in runs.items() if run.failure),
    )


def _read(path: Path) -> Runs:
    if not path.is_file():
        return {}
    runs: Runs = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line.pop("entry"), int(line.pop("seed"))
            options, failure = line.pop("options", ""), line.pop("failure", "")
            seconds = float(line.pop("seconds"))
            scores = {name: float(value) for name, value in line.items() if value}
            runs[key] = Run(options, failure, scores, seconds)
    return runs


def _write(path: Path, done: Runs) -> None:
    names = list(dict.fromkeys(name for run in done.values() for name in run.scores))
    real = check_output(path, overwrite=True)
    with atomic(real) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*BEFORE, *names, *AFTER])
        for (label, seed), run in done.items():
            values = (repr(run.scores[name]) if name in run.scores else "" for name in names)
            writer.writerow([label, seed, run.options, run.failure, *values, repr(run.seconds)])
