"""HTML pages: a report on stored posteriors.

This file computes the values that the page shows; its text and layout are a template in
``templates``. The page loads nothing from anywhere, and needs no JavaScript but to sort its table.
The figures are images inside it, and it says which observations each method used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorda.assimilation.innovations import sentences
from scorda.core.ownership import check_output
from scorda.core.space import StateSpace
from scorda.report.base import BLUE, METHODS, colours_of, component_name, instant
from scorda.report.errors import errors
from scorda.report.flow import is_flow, panels
from scorda.report.maps import fields, hovmoller, is_map
from scorda.report.pages import write_page
from scorda.report.parameters import parameters
from scorda.report.partial import Partial, partial_of
from scorda.report.picture import picture_of
from scorda.report.reliability import rank_histograms, spread_skill
from scorda.report.score_columns import COLUMNS, Column
from scorda.report.series import error_and_spread, trajectories
from scorda.store.consistency import errors_of
from scorda.store.corrections import corrections_of
from scorda.store.members import Members
from scorda.store.posterior import Posterior
from scorda.store.scores import by_variable, first_scored, score_table

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["write_report"]

# A figure of trajectories shows at most so many steps legibly.
LAST = 400
# Maps are drawn of so many variables.
MAPPED = 4
# So many steps of a flow are drawn.
FLOWS = 5
# So many methods are named in the head of the page; the table names all.
LISTED = 4


@dataclass(frozen=True)
class _Run:
    """A posterior as the page shows it, with its name, colour, scores and cost.

    The scores have a row for each variable, "" where all are scored together.
    """

    name: str
    posterior: Posterior
    colour: str
    scores: Mapping[str, Mapping[str, float]]
    reference: bool

    @cached_property
    def dataset(self) -> xarray.Dataset:
        return self.posterior.to_xarray()

    @cached_property
    def observations(self) -> xarray.Dataset:
        return self.posterior.observations

    @property
    def time(self) -> np.ndarray:
        return np.asarray(self.dataset["time"].values)

    @property
    def members(self) -> str:
        """The number of members, and from which steps on there are fewer."""
        left = int(self.dataset.attrs["members"])
        parts = [str(left)]
        for step, gone in sorted(Counter(self.posterior.dropped.values()).items()):
            left -= gone
            parts.append(f"{left} from step {step} on")
        return ", ".join(parts)

    @cached_property
    def truth(self) -> Members | None:
        """The truth at the steps of the store."""
        return self.posterior.true_member

    @cached_property
    def partial(self) -> Partial | None:
        """What the store keeps, where that is not the whole ensemble."""
        return partial_of(self.posterior)

    @property
    def steps(self) -> range:
        """The steps of its states."""
        return range(self.posterior.states) if self.partial is None else self.partial.steps

    @property
    def last(self) -> tuple[int, int]:
        """The last of these steps that a figure of trajectories shows, counted among them."""
        return max(0, len(self.steps) - LAST), len(self.steps)

    def shows(self, name: str | None, step: int | None) -> bool:
        """Return whether there is what a figure shows of a variable at a step, or of all."""
        if self.partial is None:
            return True
        if name is None:
            return self.partial.has_band and len(self.steps) > 1
        here = len(self.steps) > 1 if step is None else step in self.steps
        return self.partial.has_moments(name) and here

    @property
    def provenance(self) -> str:
        """Return everything that is needed to run this again, as JSON."""
        attrs, info = self.dataset.attrs, self.posterior.info
        record = {
            "method": {"name": attrs["method"]} | json.loads(attrs["settings"]),
            "members": int(attrs["members"]),
            "seed": int(attrs["seed"]),
            "configuration": self.posterior.configuration,
        }
        # A store that was moved without its record has none of these.
        rest = ("seconds", "client_peak_memory_mb", "threads", "finished", "platform", "versions")
        return json.dumps(record | {n: info[n] for n in rest if n in info}, indent=2)

    def is_floor(self, column: Column) -> bool:
        """Return whether the score is the distance between two draws of the reference itself."""
        return self.reference and column.score == "wasserstein"


@dataclass(frozen=True)
class _Group:
    """Runs whose estimates use the same part of the observations."""

    title: str
    meaning: str
    runs: Sequence[_Run]

    def best(self, column: Column, of: str) -> set[str]:
        """Return the names of the runs with the smallest score of several, where small is good."""
        score = column.score
        rows = [(r, r.scores.get(of, {})) for r in self.runs if not r.is_floor(column)]
        compared = {run.name: row[score] for run, row in rows if score in row}
        if not column.small_is_good or len(compared) < 2:
            return set()
        smallest = min(compared.values())
        return {name for name, value in compared.items() if value == smallest}


@dataclass(frozen=True)
class _View:
    """The figures of the states that suit their space, and a sentence on what to look for.

    `draw` makes one for each of the `variables`, or of all at once where that is None, at a step
    or over all.
    """

    heading: str
    caption: str
    see: str
    draw: Callable[[_Run, str | None], Figure]
    variables: tuple[str | None, ...] = (None,)
    step: int | None = None

    def pictures(self, run: _Run) -> list[tuple[str | None, dict[str, Any]]]:
        """Return the figures of a run, as far as its store has what they show."""
        shown = [name for name in self.variables if run.shows(name, self.step)]
        return [(name, picture_of(self.draw(run, name))) for name in shown]


def write_report(
    posteriors: Mapping[str, Posterior],
    path: str | Path,
    references: Sequence[Posterior] = (),
    title: str | None = None,
    spinup: int | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write one self-contained HTML page about posteriors of one problem, and return its path.

    Arguments:
        posteriors: Complete posteriors of one problem, by the name that each gets on the page.
        path: File to write.
        references: Posteriors that are near exact, as in `score_table`.
        title: Title of the page (default: the name of the system).
        spinup: Steps that do not count, as in `score_table`.
        scores: What `score_table` returned for the same arguments (default: it is called).

    Raises:
        ValueError: If a posterior is incomplete, or they are of different problems, or a file is
            there that Scorda did not write.
    """
    check_output(path, overwrite=True, make_parents=True)
    _check(list(posteriors.values()))
    table = score_table(posteriors, references, spinup) if scores is None else scores
    # No more colours can be told apart; each has a panel of its own.
    many = len(posteriors) > len(METHODS)
    colours = dict.fromkeys(posteriors, BLUE) if many else colours_of(list(posteriors))
    floors = {reference.path for reference in references}
    runs = [
        _Run(name, posterior, colours[name], by_variable(table[name]), posterior.path in floors)
        for name, posterior in posteriors.items()
    ]
    posterior, view = runs[0].posterior, _view(runs)
    rows = [row for run in runs for row in run.scores.values()]
    first = first_scored(posterior, spinup)
    return write_page(
        Path(path),
        "page.html.j2",
        title=title or posterior.to_xarray().attrs["system"],
        observed=_observed(runs[0]),
        withheld=posterior.group("withheld") is not None,
        facts=_facts(runs),
        runs=runs,
        groups=_groups(runs),
        columns=[c for c in COLUMNS if any(c.score in row for row in rows)],
        scored_apart=any("" not in run.scores for run in runs),
        first=first,
        has_reference=bool(references),
        view=view,
        pictures={run.name: view.pictures(run) for run in runs},
        parameters={
            run.name: picture_of(parameters(run.posterior, run.truth, run.time))
            for run in runs
            if posterior.space.parameters and run.partial is None
        },
        partial={run.name: run.partial.kept.words for run in runs if run.partial},
        diagnostics=_diagnostics(runs, first),
        swatches=not many,
        errors=_errors_found(runs, first),
        corrections={run.name: said for run in runs if (said := corrections_of(run.posterior))},
        version=posterior.info.get("versions", {}).get("scorda", "unknown"),
    )


def _check(posteriors: Sequence[Posterior]) -> None:
    if not posteriors:
        raise ValueError("Got no posterior: name at least one store, such as run.zarr.")
    shapes = [(p.space.shape, p.states) for p in posteriors]
    for posterior, shape in zip(posteriors, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{posterior.path} has other states or times than {posteriors[0].path}: put runs "
                "of one problem into one report."
            )


def _observed(run: _Run) -> dict[str, Any]:
    """Return the numbers of observed values and times, and the names of the variables."""
    table, space = run.observations, run.posterior.space
    components = table["component"].values[:1000]
    names = {component_name(space, int(i)) for i in components if i >= 0}
    if (components < 0).any():
        # Between grid points.
        names = set(map(str, table["variable"].values))
        names = set(space.variables) if "" in names else names
    return {
        "number": table.sizes["observation"],
        "times": len(np.unique(table["step"].values)),
        "names": ", ".join(sorted(names)) if 0 < len(names) <= 4 else "the state",
    }


def _facts(runs: Sequence[_Run]) -> dict[str, str]:
    dataset, space = runs[0].dataset, runs[0].posterior.space
    steps, unit = runs[0].posterior.states - 1, space.units.get("time", "")
    unit = unit.removesuffix("s") if space.dt == 1 and unit != "s" else unit
    size = " × ".join(map(str, space.shape))
    return {
        "System": dataset.attrs["system"],
        "State": f"{size} number" + "s" * (size != "1"),
        "Length": f"{steps} step{'s' * (steps != 1)} of {space.dt:g} {unit}".strip(),
        "Observation error": _errors(runs[0].observations, space),
        "Methods": ", ".join(run.name for run in runs) if len(runs) <= LISTED else str(len(runs)),
    }


def _errors(table: xarray.Dataset, space: StateSpace) -> str:
    """Return the range of the error std of each variable that was observed."""
    variable, std = table["variable"].values, table["std"].values
    names, parts = sorted(set(map(str, variable))), []
    for name in names:
        if "law" in table and (laws := set(table["law"].values[variable == name])) != {"gaussian"}:
            parts.append(f"{name or 'unnamed'} {', '.join(sorted(laws))}")
            continue
        low, high = float(std[variable == name].min()), float(std[variable == name].max())
        text = f"std {low:.3g}" + ("" if np.isclose(low, high) else f" to {high:.3g}")
        if len(names) > 1:
            text = f"{name or 'unnamed'} {text}"
        parts.append(f"{text} {space.units.get(name, '')}".strip())
    return ", ".join(parts)


def _groups(runs: Sequence[_Run]) -> list[_Group]:
    """Return the filters and the smoothers among the runs, as far as there are any."""
    filters = [run for run in runs if not run.posterior.smoother]
    smoothers = [run for run in runs if run.posterior.smoother]
    past = "filters: an estimate uses the observations up to its own time"
    whole = "smoothers: every estimate uses the observations before and after it"
    groups = _Group("Past data only", past, filters), _Group("All data", whole, smoothers)
    return [group for group in groups if group.runs]


def _diagnostics(runs: Sequence[_Run], first: int) -> list[dict[str, Any]]:
    """Draw the figures that compare the ensembles with the truth, of each group where it is known.

    A group has "title" and "error_and_spread", and "ranks" and "spread_skill" where a whole
    ensemble and the truth are kept.
    """
    whole = [run for run in runs if run.partial is None]
    truth = next((run.truth for run in whole if run.truth is not None), None)
    # A part of an ensemble is compared with a truth of its own alone, where it was made.
    scored = [run for run in runs if run.truth or (truth and run.partial is None)]
    colours = {run.name: run.colour for run in runs}
    made = []
    for group in _groups(scored):
        some = truth or group.runs[0].truth
        assert some is not None
        curves = {group.title: {run.name: run.posterior for run in group.runs}}
        time = group.runs[0].posterior.times
        figures = {"error_and_spread": error_and_spread(curves, some, colours, time)}
        analyses = {run.name: run.posterior for run in group.runs if run.partial is None}
        if truth is not None and analyses:
            figures["ranks"] = rank_histograms(analyses, truth, first, colours=colours)
            figures["spread_skill"] = spread_skill(analyses, truth, first, colours=colours)
        pictures = {name: picture_of(figure) for name, figure in figures.items()}
        made.append({"title": group.title} | pictures)
    return made


def _errors_found(runs: Sequence[_Run], first: int) -> dict[str, Any]:
    """Draw what runs tell of the errors of instruments, with sentences, by the name of the run."""
    told = {run.name: errors_of(run.posterior, first) for run in runs}
    return {
        name: {"picture": picture_of(errors(found)), "sentences": sentences(found)}
        for name, found in told.items()
        if found
    }


def _view(runs: Sequence[_Run]) -> _View:
    """Choose between vorticity, a map, a field over time, and trajectories."""
    run, space = runs[0], runs[0].posterior.space
    # A run that was stopped has no states at later observations, and a part of one not all.
    steps = np.unique(run.observations["step"].values)
    steps = steps[np.isin(steps, run.steps)]
    # One that was stopped before the first step that it keeps has none.
    steps = steps if len(steps) else np.array(run.steps[-1:] or [0])
    if is_flow(space) and all(run.partial is None for run in runs):
        chosen = steps[np.linspace(0, len(steps) - 1, min(FLOWS, len(steps))).round().astype(int)]
        return _View(
            "Vorticity",
            "Vorticity at observed steps",
            "Members share what is known of the flow and differ where the std is large.",
            lambda run, _: panels(run.posterior, chosen.tolist(), run.truth, run.observations),
        )
    pieces = {name: space.piece_of(name) for name in space.variables}
    maps = [name for name, piece in pieces.items() if is_map(piece)][:MAPPED]
    lines = [n for n, piece in pieces.items() if len(piece.axes) == 1 and n not in maps][:MAPPED]
    if maps:
        step = int(steps[len(steps) // 2])
        when = instant(run.posterior.times, step) or f"step {step}"
        return _View(
            "Fields",
            f"Fields at {when}",
            "Members share the large scales of the mean and differ where the spread is large; "
            "the spread is small near observations.",
            lambda run, name: fields(run.posterior, step, run.truth, run.observations, name),
            tuple(maps),
            step,
        )
    if lines:
        return _View(
            "Fields over time",
            "The field over time",
            "Where the error is large the spread should be large too.",
            lambda run, name: hovmoller(run.posterior, run.truth, run.time, name),
            tuple(lines),
        )
    long = any(len(run.steps) > LAST for run in runs)
    bands = "Bands hold the central 90 % of the members"
    if run.partial is not None and not run.partial.has_quantiles:
        bands = "Bands would hold the central 90 % of Gaussian members"
    escape = "; the truth (dashed) should leave them one time in ten."
    return _View(
        "Trajectories",
        f"Last steps ({LAST} at most) of the trajectories" if long else "Trajectories",
        bands + ("." if run.truth is None else escape),
        lambda run, _: trajectories(
            run.posterior, run.truth, run.observations, time=run.time, steps=run.last
        ),
    )
