"""``scorda bench``: a benchmark, beside the scores expected of it."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["Bench", "bench"]


@dataclass
class Bench:
    """Settings of a benchmark."""

    seeds: int | None = None
    """Number of seeds, counted from 0 (default: the benchmark's)."""

    prior: str | None = None
    """Trained prior to measure in place of the shipped one: its file."""

    out: Path = Path("bench")
    """Folder for NAME.csv, the table, NAME.runs.csv, the single runs, and NAME.png, if any."""

    quick: bool = False
    """A few cycles and one seed: shows that it runs, compares nothing."""

    resume: bool = False
    """Keep the runs that are in NAME.runs.csv."""

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
    from scorda.cli.console import console, progress, table
    from scorda.cli.run import use_torch
    from scorda.cli.settings import UserError, check_keys
    from scorda.files import atomic

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
    setup = setup.shortened() if given.quick else setup
    given.out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-quick" if given.quick else name
    seeds = range(given.seeds or setup.seeds)
    with progress(name) as report:
        rows = run_benchmark(
            name, seeds, given.out / f"{stem}.runs.csv", setup, given.resume, report
        )
    write_table(rows, given.out / f"{stem}.csv", name)
    if {"w1", "sampling_seconds"} <= set(rows[0].mean):
        from scorda.plot import tradeoff

        # Rows with another number of members have another floor.
        alike = [row for row in rows if row.members == rows[0].members]
        with atomic(given.out / f"{stem}.png") as partial:
            tradeoff(alike).savefig(partial, format="png")
    lines: list[list[str] | None] = []
    for row in rows:
        for score, mean in row.mean.items():
            expected = row.expected.get(score)
            verdict = ["–", ""]
            if expected is not None and not given.quick:
                verdict = [f"{expected:g} ± {row.tolerance:g}", "ok" if row.passed else "differs"]
            lines.append(
                [row.label, score, f"{mean:.3f} ± {row.error[score]:.3f}", *verdict,
                 f"{row.seconds:.1f}"]
            )  # fmt: skip
    head = [
        "entry",
        "score",
        f"{setup.statistic} of {len(seeds)} seeds",
        "expected",
        "",
        "seconds",
    ]
    table(None, head, lines, left=2)
    out.print(f"table: {given.out / f'{stem}.csv'}")
