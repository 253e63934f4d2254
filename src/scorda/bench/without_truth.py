"""Settings are chosen without a truth, by what the members predict of observations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import Filter
from scorda.bench.compare import KEPT_BACK, as_frame, members_of
from scorda.bench.entry import Entry, in_words
from scorda.bench.own import (
    Grid,
    OwnProblem,
    observed_after,
    seeds_of,
    setting_words,
    settings_in,
)
from scorda.bench.predictive import SCORES, Predictive, predict
from scorda.bench.run import Row, Run, row_of
from scorda.bench.search import by_optuna
from scorda.bench.tuning import Trials, tune as choose
from scorda.core import rng
from scorda.core.progress import Progress, told
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.observations.withholding import withhold

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["Tuned", "tune"]

SEARCHES = ("grid", "optuna")
# Settings that a search tries where no number is given.
TRIALS = 50


@dataclass(frozen=True)
class Tuned:
    """What was tried, and the best of it.

    Arguments:
        method: The method with the chosen settings.
        settings: These.
        score: Name of the score that was minimised.
        rows: A row for each combination of settings, with the mean of the score over the seeds.
    """

    method: Assimilator
    settings: Mapping[str, Any]
    score: str
    rows: Sequence[Row]

    @property
    def table(self) -> pandas.DataFrame:
        """A line for each combination of settings, the best first, diverged ones last."""
        frame = as_frame(self.rows).rename(columns={self.score: f"{self.score} (predicted)"})
        return frame.sort_values(f"{self.score} (predicted)", kind="stable", ignore_index=True)

    def plot(self) -> Figure:
        """Draw the score over the first setting, a line for each value of the others."""
        from scorda.report.comparison import comparison, sweep

        swept = [_swept(row.label) for row in self.rows]
        if None in swept:
            return comparison(self.rows, [self.score])
        pairs = zip(self.rows, swept, strict=True)
        return sweep([replace(row, label=str(label)) for row, label in pairs], [self.score])

    def __repr__(self) -> str:
        words, tried = setting_words(self.settings), len(self.rows)
        return f"<Tuned: {self.method.name} with {words}, the least {self.score} of {tried}>"


def tune(
    method: Assimilator,
    problem: Problem,
    grid: Grid,
    members: int | None = None,
    seeds: int | Sequence[int] = 2,
    score: str = "log",
    spinup: float = 0.2,
    withheld: float | Sequence[Observations] | None = None,
    progress: Progress | bool = True,
    executor: Executor | None = None,
    search: str = "grid",
    trials: int | None = None,
) -> Tuned:
    """Choose settings of a method by the observations alone: no truth is needed.

    Every combination of values assimilates all of the problem. A filter is scored by what its
    members predict of each observation before it is used, a smoother by what they tell of
    observations that are kept back (see ``scorda.bench.predictive``). The smallest mean score over
    the seeds wins. A run that diverges loses, and does not end the choice.

    The score is one of forecasts, so the choice is that of the best forecast; where the next
    observation comes soon, this is near that of the best analysis.

    Arguments:
        method: The method with the settings that stay.
        problem: What is to be assimilated.
        grid: Values to try by name of the setting, such as ``{"inflation": [1.0, 1.02, 1.05]}``.
        members: Number of members (default: 40, or those of ``problem.initial``).
        seeds: Number of seeds of each combination, from 0 on, or the seeds.
        score: "log", which tells settings apart with fewer observations, and is there for any
            law of their errors; or "crps", which a few outliers move less.
        spinup: Share of the observed steps before the first that counts.
        withheld: Share of the observations to keep back for the score, or observations that
            `problem` does not have; None: 0.2 for a smoother, and each observation before it is
            used for a filter.
        progress: Whether to show a bar, or a function of the runs done and their total.
        executor: Engine for the runs; the choice does not depend on it.
        search: "grid", all combinations; or "optuna", which needs the package: so many `trials`,
            each of which follows from those before. Two numbers of `grid` are then the ends of a
            range, of whole numbers where both are; other values are choices.
        trials: Number of trials of such a search (default: 50).

    Raises:
        ImportError: If Optuna is asked for and not installed.
        ValueError: If there is no such score, search or setting, or the method refuses a value.
        FloatingPointError: If every combination diverged.

    Example:
        With `problem` as in `twin_experiment`:

        >>> chosen = sc.tune(sc.EnKF(), problem, {"inflation": [1.0, 1.05]}, members=20, seeds=1)
        >>> chosen.method.inflation in (1.0, 1.05)
        True
    """
    _check(score, search, grid, trials)
    trials = TRIALS if trials is None else trials
    options = settings_in(method, grid)
    if unknown := [name for name in grid if name not in (options or [{}])[0]]:
        raise ValueError(f"{method.name} has no setting {unknown[0]!r}, or no value for it.")
    if withheld is None:
        withheld = () if isinstance(method, Filter) else KEPT_BACK
    if isinstance(withheld, float | int):
        kept, withheld = withhold(problem.instruments, withheld)
        problem = replace(problem, observations=kept)
    for instrument in (*problem.instruments, *withheld) if score != "log" else ():
        instrument.check_gaussian(f"scores but the log density, and this is {score}")
    numbers, size, done = seeds_of(seeds), members_of(problem, members), Trials()
    first = observed_after(problem, spinup)
    total = (trials if search == "optuna" else len(options)) * len(numbers)

    def chosen_of(options: Sequence[dict[str, Any]]) -> tuple[OwnProblem, Entry, Entry, str]:
        entry = Entry(method.name, method, size, tuple(options))
        own = OwnProblem(problem, (entry,), _scores, None, withheld, first, numbers, score)
        best, words = choose(own, entry, done, {}, lambda: update(len(done.rows), total), executor)
        return own, entry, best, words

    def mean(options: dict[str, Any]) -> float:
        _, entry, _, words = chosen_of([options])
        values = [float(done.rows[entry.label, words, seed]["value"]) for seed in numbers]
        return sum(values) / len(values)

    with told(progress, f"tune {method.name}") as update:
        if search == "optuna":
            options = by_optuna(grid, trials, numbers[0], mean)
        own, entry, best, chosen = chosen_of(options)
    rows = [_row(own, entry, point, done) for point in range(len(options))]
    if all(row.failures for row in rows):
        raise FloatingPointError(
            f"{method.name} diverged with every combination of settings: {rows[0].failures[0]}"
        )
    settings = next(found for found in options if in_words(found) == chosen)
    return Tuned(best.method, settings, score, rows)


def _check(score: str, search: str, grid: Grid, trials: int | None) -> None:
    """Check what is asked for."""
    if score not in SCORES:
        raise ValueError(f"Got score = {score!r}: choose one of {', '.join(SCORES)}.")
    if search not in SEARCHES:
        raise ValueError(f"Got search = {search!r}: choose one of {', '.join(SEARCHES)}.")
    if trials is not None and search == "grid":
        raise ValueError(
            f"Got trials = {trials}, but a search of a grid tries all combinations: leave it out, "
            'or give search = "optuna".'
        )
    if not grid:
        raise ValueError('Got no values to try: give some, such as {"inflation": [1.0, 1.02]}.')


def _scores(
    own: OwnProblem, method: Assimilator, members: int, generator: rng.Seed
) -> dict[str, float]:
    """Run a method, and score what it tells of observations that it has not used."""
    if not own.withheld:
        return predict(method, own.problem, members, generator, own.first)
    from scorda.store.in_memory import predictions

    analysis = method.assimilate(own.problem, members, rng.as_generator(generator))
    found = Predictive()
    for one in own.withheld:
        rows = [k for k in range(len(one)) if one.observed(k)]
        for k, predicted in zip(rows, predictions(analysis, one), strict=True):
            entry = one.steps[k]
            step = entry[-1] if isinstance(entry, tuple) else entry
            if step >= own.first:
                y, model = one.at(k)
                w = None if analysis.weights is None else analysis.weights[:, step]
                if model.law is not None:
                    found.add_law(predicted, w, y, model)
                else:
                    found.add(predicted, w, y, model.error_std(tuple(y.shape), y))
    return found.result()


def _row(own: OwnProblem, entry: Entry, point: int, trials: Trials) -> Row:
    """Return the row of one combination of settings."""
    options, score = entry.grid[point], own.chosen_by
    label = f"{entry.label}, {setting_words(options)}"
    runs = {}
    for seed in own.trials:
        line = trials.rows[entry.label, in_words(options), seed]
        runs[label, seed] = Run(
            "", line["failure"], {score: float(line["value"])}, float(line["seconds"])
        )
    return row_of(replace(entry.at(point), label=label), own.trials, runs)


def _swept(label: str) -> str | None:
    """Return a label as `sweep` reads it: the first setting, if it is one number, and the rest."""
    method, first, *rest = label.split(", ")
    found = re.fullmatch(r"(\w+)=(?:\w+\()?([-+.\de]+)\)?", first)
    return None if found is None else f"{found[1]}={found[2]}, {', '.join(rest) or method}"
