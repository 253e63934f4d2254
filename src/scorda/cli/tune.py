"""``scorda tune``: settings of a method are chosen by the observations alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console, progress, table
from scorda.cli.pose import pose, suited
from scorda.cli.posed import Posed
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.bench.without_truth import Tuned

__all__ = ["Tune", "tune"]


@dataclass
class Tune(Posed):
    """Settings of a choice."""

    grid: list[str] = field(default_factory=list)
    """Values of a setting to try, as inflation=1,1.02,1.05; repeat the flag for several settings,
    of which all combinations are tried."""

    score: str = "log"
    """Score to minimise, of what the members predict of each observation before it is used: log,
    which tells settings apart with fewer observations, or crps, which a few outliers move less.
    With --withhold, of those that are kept back."""

    search: str = "grid"
    """How settings are tried: grid, all combinations; or optuna, which is a package to be
    installed: --trials, each of which follows from those before. Two numbers of --grid are then
    the ends of a range, as in inflation=1,1.3."""

    trials: int | None = None
    """Number of settings that a search by optuna tries (default: 50)."""

    seeds: int = 2
    """Number of runs of each combination, with the seeds from --seed on."""

    spinup: float = 0.2
    """Share of the observed steps before the first that counts."""

    executor: str | None = None
    """Workers for the runs: processes:4, threads:4, dask:tcp://host:8786, dask:cluster.toml, or
    your own as module:callable."""

    out: Path = Path("tuned.toml")
    """File to write, with the settings of `scorda assimilate` for the best; a picture of the score
    over the settings is beside it, as tuned.png."""

    def check(self) -> None:
        """Refuse what makes no sense, before any code of a user is imported."""
        from scorda.core.engines import check_engine
        from scorda.core.ownership import check_output

        if not self.grid:
            raise UserError("Give --grid, values of a setting to try, as inflation=1,1.02,1.05.")
        if self.seeds < 1:
            raise UserError(f"Got --seeds {self.seeds}: give at least 1.")
        if self.out.suffix != ".toml":
            raise UserError(f"Got --out {self.out}: its name must end in .toml.")
        if self.executor is not None:
            check_engine(self.executor)
        for output in (self.out, self.out.with_suffix(".png")):
            check_output(output, overwrite=True)
        super().check()


def tune(given: Tune, made: Callable[[], Any], prior: str | None) -> None:
    """Choose settings of a method without a truth, by how well it predicts the observations."""
    from scorda.core.lock import claimed

    method = made()
    given.check()
    with claimed(given.out):
        _tune(given, method, prior)


def _tune(given: Tune, method: Any, prior: str | None) -> None:
    """Choose and write, while no other run has the output."""
    from scorda.bench.without_truth import tune as tuned_by
    from scorda.cli.built import grid_of, tried
    from scorda.cli.catalogue import options_of
    from scorda.cli.settings import check_keys
    from scorda.cli.workers import engine

    texts = grid_of(given.grid)
    known = [key.split(".")[0].replace("-", "_") for key in texts]
    check_keys(known, options_of(type(method)), f"setting of {given.method}")
    grid = tried(method, texts)
    posed = pose(given, method)
    method = suited(given, method, posed.problem.steps)
    seeds = range(given.seed, given.seed + given.seeds)
    with progress(f"tune {given.method}", "run") as report, engine(given.executor) as executor:
        found = tuned_by(
            method,
            posed.problem,
            grid,
            posed.members,
            seeds,
            given.score,
            given.spinup,
            posed.withheld or None,
            report,
            executor,
            given.search,
            given.trials,
        )
    _tell(found)
    _write(given, found, posed.problem.steps, posed.members, prior)
    console().print(f"settings: {given.out}\npicture:  {given.out.with_suffix('.png')}")
    console().print(f"run:      scorda assimilate --config {given.out}")


def _tell(found: Tuned) -> None:
    """Print a line for each combination of settings, the best first."""
    from scorda.bench.own import setting_words
    from scorda.report.side_by_side import cell

    def rank(row: Any) -> tuple[bool, float]:
        return bool(row.failures), row.mean.get(found.score, 0.0)

    best = setting_words(found.settings)
    lines: list[list[str] | None] = []
    for row in sorted(found.rows, key=rank):
        words = row.label.partition(", ")[2]
        line = [words, cell(row, found.score), f"{row.seconds:.1f}"]
        lines.append([*line, "best" if words == best else ""])
    table(None, ["settings", f"{found.score} of observations", "seconds", ""], lines)
    for row in found.rows:
        for failure in row.failures:
            console().print(f"diverged: {row.label}, {failure}")


def _write(given: Tune, found: Tuned, steps: int, members: int, prior: str | None) -> None:
    """Write the settings of a run of the best, and the picture."""
    from scorda.cli.assimilate import Assimilate, resolved
    from scorda.cli.common import write_settings
    from scorda.core.files import atomic
    from scorda.core.ownership import PICTURE, check_output

    run = Assimilate(**{f.name: getattr(given, f.name) for f in fields(Posed)})
    configuration = resolved(run, found.method, steps, members, prior)
    write_settings(check_output(given.out, overwrite=True), configuration)
    picture = check_output(given.out.with_suffix(".png"), overwrite=True)
    with atomic(picture) as partial:
        found.plot().savefig(partial, format="png", metadata={"Comment": PICTURE})
