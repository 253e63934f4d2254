"""``scorda compare``: methods, and grids of their settings, on one's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress, table
from scorda.cli.pose import pose, suited
from scorda.cli.posed import Posed
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["Compare", "compare"]


@dataclass
class Compare(Posed):
    """Settings of a comparison."""

    method: str = "enkf"
    """Methods, with a comma between them and settings behind their names, as in
    "enkf, letkf localization=4, sda prior=lorenz63"."""

    grid: list[str] = field(default_factory=list)
    """Values of a setting to try, as inflation=1,1.02,1.05, for all methods that have it; repeat
    the flag for several settings, of which all combinations are run."""

    seeds: int = 5
    """Number of runs of each method, with the seeds from --seed on."""

    spinup: float = 0.0
    """Share of the observed steps before the first that counts for the truth."""

    executor: str | None = None
    """Workers for the runs: processes:4, threads:4, dask:tcp://host:8786, dask:cluster.toml, or
    your own as module:callable."""

    out: Path = Path("comparison.html")
    """Page to write; the table is beside it, as comparison.csv."""

    def check(self) -> None:
        """Refuse what makes no sense, before anything is read."""
        from scorda.core.engines import check_engine
        from scorda.core.ownership import check_output

        if self.seeds < 1:
            raise UserError(f"Got --seeds {self.seeds}: give at least 1.")
        if self.executor is not None:
            check_engine(self.executor)
        for output in (self.out, self.out.with_suffix(".csv")):
            check_output(output, overwrite=True, make_parents=True)
        super().check()
        if self.truth is None and self.withhold is None:
            from scorda.bench.compare import KEPT_BACK

            self.withhold = KEPT_BACK


def compare(*, settings: Annotated[Compare | None, Parameter(name="*")] = None) -> None:
    """Run methods with several seeds on the same observations: one table, one page.

    Without --truth they are scored with observations that are kept back, a fifth of all or
    --withhold.
    """
    from scorda.core.lock import claimed

    given = settings or Compare()
    given.check()
    with claimed(given.out):
        _compare(given)


def _compare(given: Compare) -> None:
    """Run and write, while no other run has the output."""
    from scorda.bench.compare import compared
    from scorda.bench.run import write_table
    from scorda.cli.built import grid_of, methods_of
    from scorda.cli.workers import engine
    from scorda.report.side_by_side import cell, write_comparison

    methods = _expanded(methods_of(given.method), grid_of(given.grid))
    posed = pose(given, next(_with_prior(methods)))
    methods = {name: suited(given, m, posed.problem.steps) for name, m in methods.items()}
    seeds = range(given.seed, given.seed + given.seeds)
    with progress("compare", "run") as report, engine(given.executor) as executor:
        rows = compared(
            methods,
            posed.problem,
            posed.truth,
            posed.members,
            seeds,
            withheld=posed.withheld,
            spinup=given.spinup,
            progress=report,
            executor=executor,
        )
    scores = list(dict.fromkeys(name for row in rows for name in row.mean))
    lines: list[list[str] | None] = [
        [row.label, *(cell(row, score) for score in scores), f"{row.seconds:.1f}"] for row in rows
    ]
    table(None, ["method", *scores, "seconds"], lines)
    for failure in (f"{row.label}, {failure}" for row in rows for failure in row.failures):
        console().print(f"diverged: {failure}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(rows, given.out.with_suffix(".csv"), "comparison")
    name = getattr(posed.problem.system, "name", type(posed.problem.system).__name__)
    page = write_comparison(rows, given.out, f"Methods on {name}", _facts(given, posed.members))
    console().print(f"table:  {given.out.with_suffix('.csv')}\nreport: {page}")


def _expanded(
    methods: Mapping[str, Assimilator], values: Mapping[str, Sequence[str]]
) -> dict[str, Assimilator]:
    """Return each method with all combinations of those settings of the grid that it has."""
    from scorda.bench.own import setting_words, settings_in
    from scorda.cli.built import tried

    found: dict[str, Assimilator] = {}
    used: set[str] = set()
    for name, method in methods.items():
        own = tried(method, values)
        used |= own.keys()
        for options in settings_in(method, own):
            label = ", ".join(part for part in (name, setting_words(options)) if part)
            found[label] = replace(method, **options)  # type: ignore[type-var]
    for key in values:
        if key.split(".")[0].replace("-", "_") not in used:
            raise UserError(f"Got --grid {key}, a setting that none of the methods has.")
    return found


def _with_prior(methods: Mapping[str, Assimilator]) -> Any:
    """Yield methods, those with a trained prior first, which may stand for a system."""
    yield from sorted(methods.values(), key=lambda method: not hasattr(method, "prior"))


def _facts(given: Compare, members: int) -> dict[str, str]:
    scored = f"{given.withhold:g} of the observations" if given.withhold else "the truth"
    return {
        "Observations": ", ".join(given.observations),
        "Members": str(members),
        "Seeds": f"{given.seed} to {given.seed + given.seeds - 1}",
        "Scored with": scored if given.truth is None else given.truth,
    }
