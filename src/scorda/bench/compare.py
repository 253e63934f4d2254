"""Methods side by side on a problem of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scorda.assimilation.base import Assimilator
from scorda.bench.entry import Entry
from scorda.bench.own import (
    Grid,
    OwnProblem,
    observed_after,
    seeds_of,
    setting_words,
    settings_in,
)
from scorda.bench.run import Row, Run, row_of
from scorda.bench.tuning import attempts
from scorda.core import rng
from scorda.core.progress import Progress, told
from scorda.core.shapes import Float, Tensor
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.observations.withholding import withhold

if TYPE_CHECKING:
    import pandas

__all__ = ["KEPT_BACK", "as_frame", "compare", "compared", "members_of"]

# Share of the observations that is kept back where there is no truth.
KEPT_BACK = 0.2
MEMBERS = 40

Methods = Sequence[Assimilator] | Mapping[str, Assimilator] | Assimilator


def compare(
    methods: Methods,
    problem: Problem,
    truth: Float[Tensor, "time ..."] | None = None,
    members: int | None = None,
    seeds: int | Sequence[int] = 5,
    grid: Grid | None = None,
    withheld: float | Sequence[Observations] | None = None,
    spinup: float = 0.0,
    progress: Progress | bool = True,
    executor: Executor | None = None,
) -> pandas.DataFrame:
    r"""Run methods with several seeds on one problem, and return a table of their scores.

    With a truth x the scores are those of `scorda.metrics`: RMSE of the mean, spread, fair CRPS,
    coverage. Without one, observations y are kept back, and scored by what the members predict of
    them, the mixture of :math:`N(h(x_i), \sigma^2)`: ``observation_rmse``, ``observation_crps``,
    ``observation_coverage`` and ``innovation_chi2``. Each is the mean over the seeds, and the
    column behind it, ``... ±``, the standard error of that mean. The seeds decide the members and
    their noise; truth and observations are the same in all runs, so the error does not tell how
    scores vary between problems. A method that diverged with some seed has no score: the other
    seeds alone would flatter it; ``diverged`` counts these runs.

    Each run holds its whole ensemble, at all steps, in memory.

    Arguments:
        methods: Methods, or a method by the name that it is to have in the table.
        problem: What is to be assimilated.
        truth: True states, ``(time, *state)``, where there are some.
        members: Number of members of each run (default: 40, or those of ``problem.initial``).
        seeds: Number of seeds, from 0 on, or the seeds.
        grid: Values of settings by name, such as ``{"inflation": [1.0, 1.02]}``. Each method is
            run with all combinations of those that it has.
        withheld: Share of the observations to keep back, or observations that `problem` does not
            have (default: 0.2 without a truth, nothing with one).
        spinup: Share of the observed steps before the first that counts for the truth.
        progress: Whether to show a bar, or a function of the runs done and their total.
        executor: Engine for the runs, any `concurrent.futures.Executor`; the scores do not depend
            on it.

    Raises:
        ValueError: If a method refuses a setting, no method has it, two have the same name, or
            the truth has other states.
        TypeError: If a method is none.

    Example:
        With `problem` as in `twin_experiment`:

        >>> table = sc.compare([sc.EnKF(), sc.ETKF()], problem, truth, members=20, seeds=2)
        >>> list(table["method"])
        ['EnKF', 'ETKF']
    """
    given = (methods, problem, truth, members, seeds, grid, withheld, spinup, progress, executor)
    return as_frame(compared(*given))


def compared(
    methods: Methods,
    problem: Problem,
    truth: Float[Tensor, "time ..."] | None = None,
    members: int | None = None,
    seeds: int | Sequence[int] = 5,
    grid: Grid | None = None,
    withheld: float | Sequence[Observations] | None = None,
    spinup: float = 0.0,
    progress: Progress | bool = True,
    executor: Executor | None = None,
) -> list[Row]:
    """Return a row for each method and setting, of which `compare` makes its table."""
    trials = seeds_of(seeds)
    states = (problem.steps + 1, *problem.system.space.shape)
    if truth is not None and tuple(truth.shape) != states:
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)} for {states[0]} states of shape "
            f"{states[1:]}: give one for each step, from step 0 on."
        )
    if withheld is None:
        withheld = () if truth is not None else KEPT_BACK
    if isinstance(withheld, float | int):
        kept, withheld = withhold(problem.instruments, withheld)
        problem = replace(problem, observations=kept)
    entries = _entries(methods, members_of(problem, members), grid or {})
    first = observed_after(problem, spinup)
    own = OwnProblem(problem, entries, _scores, truth, withheld, first, trials)
    keys = {(entry.label, seed): (entry, seed) for entry in entries for seed in trials}
    done: dict[tuple[str, int], Run] = {}
    with told(progress, "compare") as update:
        for key, (scores, seconds, failure) in attempts(own, keys, {}, executor):
            done[key] = Run("", failure, scores, seconds)
            update(len(done), len(keys))
    return [row_of(entry, trials, done) for entry in entries]


def members_of(problem: Problem, members: int | None) -> int:
    """Return the number of members: the given one, that of the initial ensemble, or 40."""
    if members is not None:
        return members
    return MEMBERS if problem.initial is None else len(problem.initial)


def as_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return a table with a line for each row: settings, scores, their errors, seconds."""
    import pandas

    names = list(dict.fromkeys(name for row in rows for name in row.mean))
    lines = []
    for row in rows:
        method, _, settings = row.label.partition(", ")
        line: dict[str, Any] = {"method": method, "settings": settings, "members": row.members}
        line["seeds"] = row.seeds
        for name in names:
            line[name] = row.mean.get(name, float("nan"))
            line[f"{name} ±"] = row.error.get(name, float("nan"))
        lines.append(line | {"seconds": row.seconds, "diverged": len(row.failures)})
    return pandas.DataFrame(lines)


def _scores(
    own: OwnProblem, method: Assimilator, members: int, generator: rng.Seed
) -> dict[str, float]:
    """Run a method, and score all of its analysis."""
    from scorda.store.in_memory import analysis_scores

    analysis = method.assimilate(own.problem, members, rng.as_generator(generator))
    return analysis_scores(analysis, own.truth, own.withheld, own.first)


def _entries(methods: Methods, members: int, values: Grid) -> tuple[Entry, ...]:
    """Return an entry for each method and each combination of its settings."""
    if isinstance(methods, Assimilator):
        methods = [methods]
    named = (
        methods.items()
        if isinstance(methods, Mapping)
        else ((getattr(m, "name", ""), m) for m in methods)
    )
    entries, used = [], set[str]()
    for name, method in named:
        for options in settings_in(method, values):
            label = ", ".join(part for part in (name, setting_words(options)) if part)
            entries.append(Entry(label, replace(method, **options), members))  # type: ignore[type-var]
            used |= options.keys()
    if unknown := [name for name in values if name not in used]:
        raise ValueError(f"No method has the setting {unknown[0]!r}: see `scorda methods`.")
    if not entries:
        raise ValueError("Got no method: give one or several.")
    labels = [entry.label for entry in entries]
    if double := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(
            f"Got {double[0]!r} twice: give a mapping of names to methods, with a name for each."
        )
    return tuple(entries)
