"""``scorda bench`` runs a benchmark and compares it with the scores expected of it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress, table
from scorda.cli.settings import UserError, check_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scorda.bench.entry import Benchmark, Entry
    from scorda.bench.run import Row
    from scorda.bench.scenario import Scenario

__all__ = ["Bench", "bench"]

# States of a trajectory that are drawn side by side.
PANELS = 6


@dataclass
class Bench:
    """Settings of a benchmark."""

    seeds: int | None = None
    """Number of seeds, counted from 0 (default: the benchmark's)."""

    only: list[str] = field(default_factory=list)
    """Rows to run, by a pattern of their labels such as "gap=10, *", or several (default: all).
    The table is of these alone; the single runs of the others are kept."""

    prior: str | None = None
    """Trained prior to measure in place of the shipped one: its file."""

    out: Path = Path("bench")
    """Folder for NAME.csv, the table, NAME.runs.csv, the single runs, NAME.tuning.csv, the trials
    that options were chosen from, and figures, if any, with gallery.html, a page of them."""

    quick: bool = False
    """A few cycles and one seed: shows that it runs, compares nothing."""

    resume: bool = False
    """Keep the runs and trials that are in these files."""

    threads: int = 1
    """Number of threads; one is fastest for small states."""

    executor: str | None = None
    """Workers for trials and runs: processes:4, threads:4, dask:tcp://host:8786,
    dask:cluster.toml, or your own as module:callable. Scores stay the same, seconds do not."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def bench(
    name: str | None = None, *, settings: Annotated[Bench | None, Parameter(name="*")] = None
) -> None:
    """Run a benchmark and compare it with the expected scores.

    Arguments:
        name: Name of the benchmark; without it they are listed.
    """
    from scorda.bench.problems import PROBLEMS
    from scorda.bench.run import run_benchmark, write_table
    from scorda.cli.common import use_torch
    from scorda.cli.workers import engine
    from scorda.core.engines import check_engine
    from scorda.core.ownership import check_output

    given = settings or Bench()
    if name is None:
        table(None, ["benchmark", "source"], [[n, make().source] for n, make in PROBLEMS.items()])
        return
    check_keys([name], PROBLEMS, "benchmark")
    if given.executor is not None:
        check_engine(given.executor)
    use_torch("float32", given.threads)
    setup = _setup(PROBLEMS[name], name, given)
    stem = given.out / (f"{name}-quick" if given.quick else name)
    runs = stem.with_name(f"{stem.name}.runs.csv")
    _keep_other_rows(runs, given)
    for output in (runs, stem.with_name(f"{stem.name}.csv")):
        check_output(output, overwrite=True, make_parents=True)
    given.out.mkdir(parents=True, exist_ok=True)
    seeds = range(given.seeds or setup.seeds)
    with progress(name, "run") as report, engine(given.executor) as executor:
        rows = run_benchmark(name, seeds, runs, setup, given.resume, report, executor)
    write_table(rows, stem.with_name(f"{stem.name}.csv"), name)
    taken = f"{setup.statistic} of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    pictures = _Pictures(stem)
    pictures.draw(setup, rows, taken)
    if pictures.captions:
        _record(stem, name, given, PROBLEMS[name], rows, pictures.captions)
    _print(rows, getattr(setup, "shown", ()), taken, compare=not given.quick)
    for row in rows:
        for failure in row.failures:
            console().print(f"diverged: {row.label}, {failure}")
    console().print(f"table: {stem}.csv")


def _setup(make: Callable[..., Benchmark], name: str, given: Bench) -> Benchmark:
    """The named set-up with the prior, the rows and the length that were asked for."""
    from scorda.bench.sweep import only

    if given.seeds is not None and given.seeds < 1:
        raise UserError(f"Got --seeds {given.seeds}: give at least 1.")
    if given.prior is not None and "prior" not in signature(make).parameters:
        raise UserError(f"Got --prior {given.prior}, but {name} uses no prior: leave it out.")
    setup = make() if given.prior is None else make(given.prior)
    setup = only(setup, given.only) if given.only else setup
    return setup.shortened() if given.quick else setup


def _keep_other_rows(runs: Path, given: Bench) -> None:
    """Refuse to replace a file that has more rows than those that are asked for."""
    if given.only and not given.resume and runs.exists():
        raise UserError(
            f"Got --only, but {runs} has other rows, which would be lost: add --resume, or give "
            "another --out."
        )


@dataclass
class _Pictures:
    """The figures of a benchmark, in files whose names begin with the stem.

    Arguments:
        stem: Path without an ending.
        captions: Caption of each figure so far, by the name of its file.
    """

    stem: Path
    captions: dict[str, str] = field(default_factory=dict)

    def draw(self, setup: Any, rows: Sequence[Row], taken: str) -> None:
        """Draw the scores, and states of single runs where the set-up has any to draw."""
        from scorda.bench.scenario import Scenario
        from scorda.bench.sweep import Sweep

        if (figure := _scores(rows, getattr(setup, "shown", ()))) is not None:
            self._save(figure, "png", f"Scores, {taken}")
        if getattr(setup, "drawn", 0):
            self._means(setup, rows, seed=min(1, rows[0].seeds - 1))
        points = setup.points if isinstance(setup, Sweep) else {"trajectories": setup}
        for label, point in points.items():
            if isinstance(point, Scenario):
                self._trajectories("-".join(re.findall(r"\w+", label)), point, point.entries[0])

    def _means(self, setup: Any, rows: Sequence[Row], seed: int) -> None:
        """Truth and ensemble means of one seed, which is run once more."""
        from scorda.report.comparison import means

        twin = setup.prepare(seed)
        found = {}
        for row in rows:
            try:
                found[row.label] = setup.means(row.entry, twin, seed)
            except FloatingPointError:
                found[row.label] = None
        steps = setup.every * setup.drawn
        figure = means(twin[0][-steps:], found, setup.system.space.dt, setup.every)
        self._save(figure, "paths.png", f"Truth and ensemble means, seed {seed}")

    def _trajectories(self, ending: str, scenario: Scenario, entry: Entry) -> None:
        """Panels and an animation of one run of the seed 0."""
        import numpy as np

        from scorda.report.flow import animate, panels

        given = scenario.prepare(0)
        analysis = scenario.run(entry, given, 0)
        steps = np.linspace(0, scenario.steps, min(PANELS, scenario.steps + 1)).round().astype(int)
        info = analysis.info
        budget = (
            f"seed 0, {entry.members} members of {info['evaluations']} evaluations, "
            f"{info['seconds'] / entry.members:.1f} s each"
        )
        figure = panels(analysis, steps.tolist(), given.truth, given.problem.instruments)
        self._save(figure, f"{ending}.png", f"Vorticity, {entry.label}: {budget}")
        moving = animate(analysis, self._file(f"{ending}.gif"), given.truth)
        self.captions[moving.name] = f"The same, all {scenario.steps + 1} states: {budget}"

    def _save(self, figure: Figure, ending: str, caption: str) -> None:
        from scorda.core.files import atomic
        from scorda.core.ownership import PICTURE, check_output

        with atomic(check_output(self._file(ending), overwrite=True)) as partial:
            figure.savefig(partial, format="png", metadata={"Comment": PICTURE})
        self.captions[self._file(ending).name] = caption

    def _file(self, ending: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{ending}")


def _scores(rows: Sequence[Row], shown: Sequence[str]) -> Figure | None:
    """The figure that suits the scores, if any."""
    from scorda.report.comparison import comparison, sweep
    from scorda.report.tradeoff import tradeoff

    if {"w1", "sampling_seconds"} <= set(rows[0].mean):
        # Rows with another number of members have another floor.
        return tradeoff([row for row in rows if row.members == rows[0].members])
    if not shown:
        return None
    points = {row.label.split(", ")[0] for row in rows}
    if len(points) > 1 and all(re.fullmatch(r"\w+=[\d.]+", point) for point in points):
        return sweep(rows, shown)
    return comparison(rows, shown)


def _record(
    stem: Path,
    name: str,
    given: Bench,
    make: Callable[..., Any],
    rows: Sequence[Row],
    captions: dict[str, str],
) -> None:
    """Leave a record for the gallery of the folder."""
    from inspect import getdoc

    import torch

    from scorda.report.gallery import Record, add_record

    flags = {"seeds": given.seeds, "prior": given.prior}
    words = [f"--{flag} {value}" for flag, value in flags.items() if value is not None]
    words += [f"--only {shlex.quote(pattern)}" for pattern in given.only]
    words += ["--quick"] if given.quick else []
    facts = {
        "seeds": ", ".join(map(str, range(rows[0].seeds))),
        "seconds of all runs": f"{sum(row.seconds * row.seeds for row in rows):.0f}",
        "threads": str(given.threads),
        "torch": torch.__version__,
    }
    title = " ".join((getdoc(make) or name).split("\n\nArguments:")[0].split())
    command = " ".join(["scorda bench", name, *words])
    record = Record(stem.name, title, command, facts, captions)
    console().print(f"gallery: {add_record(given.out, record)}")


def _print(rows: Sequence[Row], shown: Sequence[str], heading: str, compare: bool) -> None:
    """One line per entry with the scores that are shown, or else one per entry and score."""
    compare = compare and any(row.expected for row in rows)
    if not shown:
        lines: list[list[str] | None] = [
            [row.label, score, _number(row, score), *_verdict(row, [score], compare),
             f"{row.seconds:.1f}"]
            for row in rows
            for score in row.mean
        ]  # fmt: skip
        table(None, ["entry", "score", heading, "expected", "", "seconds"], lines, left=2)
        return
    chosen = any(row.options for row in rows)
    lines = [
        [
            row.label,
            *(_number(row, score) for score in shown),
            f"{row.seconds:.1f}",
            *([" ".join(_verdict(row, shown, True))] if compare else []),
            *([row.options] if chosen else []),
        ]
        for row in rows
    ]
    extra = [*(["expected"] if compare else []), *(["chosen"] if chosen else [])]
    table(heading, ["entry", *shown, "seconds", *extra], lines, left=1)


def _number(row: Row, score: str) -> str:
    if score not in row.mean:
        return "–"
    if row.failures:
        return f"{len(row.failures)} of {row.seeds} diverged"
    mean = f"{row.mean[score]:.3f}"
    # One seed does not tell an error.
    return f"{mean} ± {row.error[score]:.3f}" if math.isfinite(row.error[score]) else mean


def _verdict(row: Row, scores: Sequence[str], compare: bool) -> list[str]:
    """The score that was expected, and whether it was reached."""
    expected = [f"{row.expected[name]:g}" for name in scores if name in row.expected]
    if not expected or not compare:
        return ["–", ""]
    return [f"{', '.join(expected)} ± {row.tolerance:g}", "ok" if row.passed else "differs"]
