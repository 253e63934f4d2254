"""Run a benchmark: every entry with every seed, resumable, and one table of the result."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorda.bench.entry import Entry
from scorda.bench.prior import Generation
from scorda.bench.problems import PROBLEMS, Setup, expected_scores
from scorda.bench.smoothing import Smoothing
from scorda.files import atomic

__all__ = ["Row", "run_benchmark", "write_table"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """Scores of one entry over its seeds.

    Arguments:
        label: Name of the entry.
        members: Number of members.
        seeds: Number of seeds.
        mean: Mean over the seeds, or their median where the benchmark says so, by score.
        error: Standard error of the mean, by score; NaN for one seed.
        seconds: Mean time of one run.
        expected: Expected value, by score, where there is one.
        tolerance: Accepted distance from it.
    """

    label: str
    members: int
    seeds: int
    mean: Mapping[str, float]
    error: Mapping[str, float]
    seconds: float
    expected: Mapping[str, float]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every score with an expected value is within the tolerance of it."""
        return all(abs(self.mean[name] - v) <= self.tolerance for name, v in self.expected.items())


def run_benchmark(
    name: str,
    seeds: Sequence[int] | None = None,
    path: str | Path | None = None,
    setup: Setup | Smoothing | Generation | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Run all entries of a benchmark with all seeds.

    Each finished run is added to the file at once, so that an interrupted benchmark resumes.

    Arguments:
        name: Name of the benchmark.
        seeds: Seeds, one twin experiment each, the same for all entries (default: as many as
            the benchmark has, from 0).
        path: CSV file of single runs: entry, seed, seconds, and a column per score.
        setup: Other set-up than the named one, such as a `shortened` one.
        resume: Keep the runs that are in the file.
        progress: Called with the runs done and their total.

    Raises:
        ValueError: If there is no benchmark of that name.
    """
    if name not in PROBLEMS:
        raise ValueError(f"Unknown benchmark {name!r}: choose one of {sorted(PROBLEMS)}.")
    setup = setup or PROBLEMS[name]()
    seeds = range(setup.seeds) if seeds is None else seeds
    done = _read(Path(path)) if path is not None and resume else {}
    total = len(setup.entries) * len(seeds)
    for seed in seeds:
        todo = [entry for entry in setup.entries if (entry.label, seed) not in done]
        prepared: Any = setup.prepare(seed) if todo else None
        for entry in todo:
            begin = time.perf_counter()
            scores = setup.score(entry, prepared, seed)
            done[entry.label, seed] = scores | {"seconds": time.perf_counter() - begin}
            if path is not None:
                _write(Path(path), done)
            if progress is not None:
                progress(len(done), total)
    expected = expected_scores(name)
    typical = np.median if setup.statistic == "median" else np.mean
    return [
        _row(entry, seeds, done, expected.get(entry.label, {}), typical) for entry in setup.entries
    ]


def write_table(rows: Sequence[Row], path: str | Path, name: str) -> None:
    """Write one row per entry and score: mean, standard error, expected value, seconds."""
    columns = "benchmark entry members seeds score mean standard_error expected tolerance seconds"
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.split())
        for row in rows:
            for score, mean in row.mean.items():
                expected = row.expected.get(score)
                writer.writerow(
                    [
                        name,
                        row.label,
                        row.members,
                        row.seeds,
                        score,
                        f"{mean:.6g}",
                        f"{row.error[score]:.3g}",
                        "" if expected is None else expected,
                        "" if expected is None else row.tolerance,
                        f"{row.seconds:.3g}",
                    ]
                )


def _row(
    entry: Entry,
    seeds: Sequence[int],
    done: Mapping[tuple[str, int], Mapping[str, float]],
    expected: Mapping[str, Any],
    typical: Callable[..., Any],
) -> Row:
    runs = [done[entry.label, seed] for seed in seeds]
    names = [name for name in runs[0] if name != "seconds"]
    values = {name: np.array([run[name] for run in runs]) for name in names}
    return Row(
        label=entry.label,
        members=entry.members,
        seeds=len(runs),
        mean={name: float(typical(v)) for name, v in values.items()},
        error={
            name: float(v.std(ddof=1) / math.sqrt(len(v))) if len(v) > 1 else math.nan
            for name, v in values.items()
        },
        seconds=float(np.mean([run["seconds"] for run in runs])),
        expected={name: expected[name] for name in names if name in expected},
        tolerance=expected.get("tolerance", math.inf),
    )


def _read(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (line.pop("entry"), int(line.pop("seed"))): {n: float(v) for n, v in line.items()}
            for line in csv.DictReader(file)
        }


def _write(path: Path, done: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    names = [*next(iter(done.values()))]
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["entry", "seed", *names])
        for (label, seed), scores in done.items():
            writer.writerow([label, seed, *(repr(scores[name]) for name in names)])
