"""A benchmark chooses the options of its methods, with equal effort for all of them.

Every point of an entry's grid runs the set-up with fewer cycles on seeds that are not reported,
and the point with the smallest mean score is taken. A run that diverges counts as infinitely bad.
All grids of a benchmark have equally many points (`check_effort`).
"""

from __future__ import annotations

import csv
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from scorda.bench.entry import Benchmark, Entry, in_words
from scorda.core.executors import finished, packed, unpacked
from scorda.core.files import atomic
from scorda.core.ownership import check_output

__all__ = ["Length", "Trials", "Tunable", "Tuning", "attempt", "attempts", "check_effort", "tune"]

# Scores of a run, its seconds, and its message if it diverged without scores.
Attempt: TypeAlias = tuple[dict[str, float], float, str]

COLUMNS = ("entry", "options", "seed", "score", "value", "seconds", "failure", "chosen")


@dataclass(frozen=True)
class Length:
    """Length of a run.

    Arguments:
        cycles: Observed steps that are scored.
        spinup: Observed steps before them, left out of the scores.
    """

    cycles: int
    spinup: int


@dataclass(frozen=True)
class Tuning:
    """Settings of the trials that options are chosen from.

    Arguments:
        seeds: Seeds of the trials; none of those that are reported.
        length: Length of a trial.
        score: Score that is minimised: "crps", since the RMSE of a mean rewards too little spread.
        pilot: Set-up of the trials, where that of the benchmark takes too long.
    """

    seeds: tuple[int, ...] = (1000, 1001)
    length: Length = Length(100, 50)
    score: str = "crps"
    pilot: Any = None


@runtime_checkable
class Tunable(Benchmark, Protocol):
    """A benchmark whose entries may have a grid; `trial` returns the set-up of the trials."""

    @property
    def shown(self) -> tuple[str, ...]: ...
    @property
    def tuning(self) -> Tuning: ...
    def shortened(self) -> Tunable: ...
    def trial(self) -> Tunable: ...


@dataclass
class Trials:
    """The trials so far, kept in a file so that an interrupted benchmark resumes.

    Arguments:
        path: CSV file, or None to keep them in memory only.
        rows: Finished trials by (entry, options, seed).
    """

    path: Path | None = None
    rows: dict[tuple[str, str, int], dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None, resume: bool) -> Trials:
        """Read the trials of a file, if it is there."""
        trials = cls(path)
        if path is not None and resume and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    trials.rows[line["entry"], line["options"], int(line["seed"])] = line
        return trials

    def add(self, entry: str, options: str, seed: int, **values: str) -> None:
        """Add a trial and write the file."""
        line = {"entry": entry, "options": options, "seed": str(seed), "chosen": "", **values}
        self.rows[entry, options, seed] = line
        self.write()

    def choose(self, entry: str, options: str) -> None:
        """Mark the options of an entry that were taken."""
        for (label, words, _), line in self.rows.items():
            if label == entry:
                line["chosen"] = "yes" if words == options else ""
        self.write()

    def order(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Bring trials into the order of their keys, after all others."""
        for key in keys:
            self.rows[key] = self.rows.pop(key)

    def write(self) -> None:
        """Write the file, if there is one."""
        if self.path is None:
            return
        real = check_output(self.path, overwrite=True)
        with atomic(real) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows.values())


def tune(
    setup: Tunable,
    entry: Entry,
    trials: Trials | None = None,
    prepared: dict[int, Any] | None = None,
    progress: Callable[[], None] | None = None,
    executor: Executor | None = None,
) -> tuple[Entry, str]:
    """Return the entry with the options chosen for it, and these in words.

    Arguments:
        setup: The set-up that is to be reported; trials run its `trial`.
        entry: The entry; without a grid it is returned as it is.
        trials: Trials done before, to which new ones are added.
        prepared: Results of `prepare` by seed, which the entries of a set-up share.
        progress: Called after each trial.
        executor: Engine for the trials, any `concurrent.futures.Executor`; the choice is the same.
    """
    if not entry.grid:
        return entry, ""
    trials = Trials() if trials is None else trials
    prepared = {} if prepared is None else prepared
    trial, label = setup.trial(), entry.label
    # A smaller set-up may need other methods for the same options, such as smaller blocks.
    same = (e for e in trial.entries if e.label == label and len(e.grid) == len(entry.grid))
    tried, score = next(same, entry), setup.tuning.score
    keys = {
        (label, in_words(options), seed): (tried.at(point), seed)
        for point, options in enumerate(entry.grid)
        for seed in setup.tuning.seeds
    }
    left = {key: run for key, run in keys.items() if key not in trials.rows}
    for _ in range(len(keys) - len(left)):
        _tell(progress)
    for key, (value, seconds, failure) in attempts(trial, left, prepared, executor):
        found = repr(value.get(score, math.nan))
        trials.add(*key, score=score, value=found, seconds=f"{seconds:.3g}", failure=failure)
        _tell(progress)
    if executor is not None:
        # They came in any order.
        trials.order(keys)
    means = []
    for options in entry.grid:
        words = in_words(options)
        values = [float(trials.rows[label, words, s]["value"]) for s in setup.tuning.seeds]
        mean = sum(values) / len(values)
        means.append(mean if math.isfinite(mean) else math.inf)
    best = min(range(len(means)), key=means.__getitem__)
    chosen = in_words(entry.grid[best])
    trials.choose(label, chosen)
    return entry.at(best), chosen


def attempts(
    setup: Benchmark,
    runs: Mapping[Any, tuple[Entry, int]],
    prepared: dict[int, Any],
    executor: Executor | None = None,
) -> Iterator[tuple[Any, Attempt]]:
    """Run entries with seeds, and yield the key of each with the result of `attempt`.

    Arguments:
        setup: The set-up.
        runs: Entry and seed of each run, by a key.
        prepared: Results of `prepare` by seed.
        executor: Engine for the runs, whose results come in any order. An entry that has to be
            trained is run here, so that it is trained once.
    """
    here = {k: r for k, r in runs.items() if executor is None or r[0].trained is not None}
    if executor is not None:
        away = {key: run for key, run in runs.items() if key not in here}
        content = packed(setup)
        calls = ((key, (content, packed(entry), seed)) for key, (entry, seed) in away.items())
        yield from finished(executor, _attempt_away, calls)
    for key, (entry, seed) in here.items():
        if seed not in prepared:
            prepared[seed] = setup.prepare(seed)
        yield key, attempt(setup, entry, prepared[seed], seed)


def _attempt_away(setup: bytes, entry: bytes, seed: int) -> Attempt:
    """Run an entry in a worker."""
    return attempt(unpacked(setup), unpacked(entry), _prepared(setup, seed), seed)


@functools.lru_cache(maxsize=4)
def _prepared(setup: bytes, seed: int) -> Any:
    return unpacked(setup).prepare(seed)


def _tell(progress: Callable[[], None] | None) -> None:
    if progress is not None:
        progress()


def attempt(setup: Benchmark, entry: Entry, prepared: Any, seed: int) -> Attempt:
    """Return the scores of a run, its seconds, and its message if it diverged without scores."""
    begin = time.perf_counter()
    try:
        scores, failure = setup.score(entry, prepared, seed), ""
    except FloatingPointError as error:
        scores, failure = {}, str(error)
    return scores, time.perf_counter() - begin, failure


def check_effort(entries: Sequence[Entry]) -> None:
    """Check that no method is tuned harder than another.

    Raises:
        ValueError: If grids differ in their number of points.
    """
    points = {entry.label: len(entry.grid) for entry in entries if entry.grid}
    if len(set(points.values())) > 1:
        raise ValueError(
            f"Got grids of {sorted(set(points.values()))} points, such as for "
            f"{min(points, key=points.__getitem__)!r} and {max(points, key=points.__getitem__)!r}:"
            " give every method as many, or leave its grid out."
        )
