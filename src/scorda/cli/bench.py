"""``scorda bench``: a benchmark, beside the scores expected of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["Bench", "bench"]


@dataclass
class Bench:
    """Settings of a benchmark."""

    seeds: int | None = None
    """Number of seeds, counted from 0 (default: the benchmark's)."""

    out: Path = Path("bench")
    """Folder for NAME.csv, the table, and NAME.runs.csv, the single runs."""

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

    given, out = settings or Bench(), console()
    if name is None:
        table(None, ["benchmark", "source"], [[n, make().source] for n, make in PROBLEMS.items()])
        return
    check_keys([name], PROBLEMS, "benchmark")
    if given.seeds is not None and given.seeds < 1:
        raise UserError(f"Got --seeds {given.seeds}: give at least 1.")
    use_torch("float32", given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    setup = PROBLEMS[name]().shortened() if given.quick else PROBLEMS[name]()
    stem = f"{name}-quick" if given.quick else name
    seeds = range(given.seeds or setup.seeds)
    with progress(name) as report:
        rows = run_benchmark(
            name, seeds, given.out / f"{stem}.runs.csv", setup, given.resume, report
        )
    write_table(rows, given.out / f"{stem}.csv", name)
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
