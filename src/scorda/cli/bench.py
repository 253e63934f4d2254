"""``scorda bench``: a benchmark, beside the scores expected of it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scorda.bench.entry import Entry
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

    config: Path | None = None
    """TOML file with these settings; flags win."""


def bench(
    name: str | None = None,
    *,
    settings: Annotated[Bench | None, Parameter(name="*")] = None,
) -> None:
    """Run a benchmark and compare it with the expected scores.

    Arguments:
        name: Name of the benchmark; without it they are listed.
    """
    from scorda.bench.problems import PROBLEMS
    from scorda.bench.run import run_benchmark, write_table
    from scorda.bench.sweep import only
    from scorda.cli.common import use_torch
    from scorda.cli.console import console, progress, table
    from scorda.cli.settings import UserError, check_keys
    from scorda.core.files import atomic

    given, out = settings or Bench(), console()
    if name is None:
        table(None, ["benchmark", "source"], [[n, make().source] for n, make in PROBLEMS.items()])
        return
    check_keys([name], PROBLEMS, "benchmark")
    if given.seeds is not None and given.seeds < 1:
        raise UserError(f"Got --seeds {given.seeds}: give at least 1.")
    make = PROBLEMS[name]
    if given.prior is not None and "prior" not in signature(make).parameters:
        raise UserError(f"Got --prior {given.prior}, but {name} uses no prior: leave it out.")
    use_torch("float32", given.threads)
    setup = make() if given.prior is None else make(given.prior)
    setup = only(setup, given.only) if given.only else setup
    setup = setup.shortened() if given.quick else setup
    given.out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-quick" if given.quick else name
    runs = given.out / f"{stem}.runs.csv"
    if given.only and not given.resume and runs.exists():
        raise UserError(
            f"Got --only, but {runs} has other rows, which would be lost: add --resume, or give "
            "another --out."
        )
    seeds = range(given.seeds or setup.seeds)
    with progress(name) as report:
        rows = run_benchmark(name, seeds, runs, setup, given.resume, report)
    write_table(rows, given.out / f"{stem}.csv", name)
    shown = getattr(setup, "shown", ())
    pictures: dict[str, str] = {}

    def save(figure: Figure, ending: str, caption: str) -> None:
        with atomic(given.out / f"{stem}.{ending}") as partial:
            figure.savefig(partial, format="png")
        pictures[f"{stem}.{ending}"] = caption

    if (figure := _figure(rows, shown)) is not None:
        save(figure, "png", f"Scores, {_taken(setup.statistic, len(seeds))}")
    if getattr(setup, "drawn", 0):
        seed = min(1, len(seeds) - 1)
        save(_paths(setup, rows, seed), "paths.png", f"Truth and ensemble means, seed {seed}")
    for label, scenario, entry in _scenarios(setup):
        ending = "-".join(re.findall(r"\w+", label))
        _draw(scenario, entry, given.out / f"{stem}.{ending}", pictures, save)
    if pictures:
        _record(stem, name, given, make, rows, pictures)
    heading = _taken(setup.statistic, len(seeds))
    if shown:
        _print_wide(rows, shown, heading, compare=not given.quick)
    else:
        _print_long(rows, heading, compare=not given.quick)
    for row in rows:
        for failure in row.failures:
            out.print(f"diverged: {row.label}, {failure}")
    out.print(f"table: {given.out / f'{stem}.csv'}")


def _figure(rows: list[Row], shown: Sequence[str]) -> Figure | None:
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


def _paths(setup: Any, rows: Sequence[Row], seed: int) -> Figure:
    """Truth and ensemble means of one seed, run once more."""
    from scorda.report.comparison import means

    twin = setup.prepare(seed)
    found = {}
    for row in rows:
        try:
            found[row.label] = setup.means(row.entry, twin, seed)
        except FloatingPointError:
            found[row.label] = None
    steps = setup.every * setup.drawn
    return means(twin[0][-steps:], found, setup.system.space.dt, setup.every)


def _scenarios(setup: Any) -> Iterator[tuple[str, Scenario, Entry]]:
    """Scenarios whose trajectories are drawn, with their first entry."""
    from scorda.bench.scenario import Scenario
    from scorda.bench.sweep import Sweep

    points = setup.points if isinstance(setup, Sweep) else {"trajectories": setup}
    for label, point in points.items():
        if isinstance(point, Scenario):
            yield label, point, point.entries[0]


def _draw(
    scenario: Scenario,
    entry: Entry,
    stem: Path,
    pictures: dict[str, str],
    save: Callable[[Figure, str, str], None],
) -> None:
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
    save(figure, stem.name.split(".", 1)[1] + ".png", f"Vorticity, {entry.label}: {budget}")
    moving = animate(analysis, stem.with_name(f"{stem.name}.gif"), given.truth)
    pictures[moving.name] = f"The same, all {scenario.steps + 1} states: {budget}"


def _record(
    stem: str,
    name: str,
    given: Bench,
    make: Callable[..., Any],
    rows: Sequence[Row],
    pictures: dict[str, str],
) -> None:
    """Leave a record for the gallery of the folder."""
    from inspect import getdoc

    import torch

    from scorda.cli.console import console
    from scorda.report.html import Record, add_record

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
    record = Record(stem, title, " ".join(["scorda bench", name, *words]), facts, pictures)
    console().print(f"gallery: {add_record(given.out, record)}")


def _print_long(rows: Sequence[Row], heading: str, compare: bool) -> None:
    """One line per entry and score."""
    from scorda.cli.console import table

    lines: list[list[str] | None] = [
        [row.label, score, _number(row, score), *_verdict(row, [score], compare),
         f"{row.seconds:.1f}"]
        for row in rows
        for score in row.mean
    ]  # fmt: skip
    table(None, ["entry", "score", heading, "expected", "", "seconds"], lines, left=2)


def _print_wide(rows: Sequence[Row], shown: Sequence[str], heading: str, compare: bool) -> None:
    """One line per entry, one column per score; the file has all scores."""
    from scorda.cli.console import table

    extra: dict[str, list[list[str]]] = {}
    compare = compare and any(row.expected for row in rows)
    if compare:
        extra["expected"] = [[" ".join(_verdict(row, shown, True))] for row in rows]
    if any(row.options for row in rows):
        extra["chosen"] = [[row.options] for row in rows]
    lines: list[list[str] | None] = [
        [
            row.label,
            *(_number(row, score) for score in shown),
            f"{row.seconds:.1f}",
            *(column[i][0] for column in extra.values()),
        ]
        for i, row in enumerate(rows)
    ]
    table(heading, ["entry", *shown, "seconds", *extra], lines, left=1)


def _taken(statistic: str, seeds: int) -> str:
    return f"{statistic} of {seeds} seeds" if seeds > 1 else "one seed"


def _number(row: Row, score: str) -> str:
    if score not in row.mean:
        return "–"
    if row.failures:
        return f"{len(row.failures)} of {row.seeds} diverged"
    mean = f"{row.mean[score]:.3f}"
    # One seed does not tell an error.
    return f"{mean} ± {row.error[score]:.3f}" if math.isfinite(row.error[score]) else mean


def _verdict(row: Row, scores: Sequence[str], compare: bool) -> list[str]:
    """What was expected, and whether it came."""
    expected = [f"{row.expected[name]:g}" for name in scores if name in row.expected]
    if not expected or not compare:
        return ["–", ""]
    return [f"{', '.join(expected)} ± {row.tolerance:g}", "ok" if row.passed else "differs"]
