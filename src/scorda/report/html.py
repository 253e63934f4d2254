"""One self-contained HTML page about one run or several on the same problem.

The page loads nothing from anywhere: its style is inline and its figures are images inside it. It
needs no JavaScript, prints well, and says of each method which observations it used.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scorda import report as plot
from scorda.core.files import atomic
from scorda.core.shapes import Float, Tensor
from scorda.observations.problem import Analysis
from scorda.store.posterior import Posterior
from scorda.store.scores import first_scored, score_table

__all__ = ["write_report"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = {False: "Past data only", True: "All data"}
EXPLAINED = {
    False: "filters: an estimate uses the observations up to its own time",
    True: "smoothers: every estimate uses the observations before and after it",
}
# Steps that a figure of trajectories can show legibly.
LAST = 400
# Steps of a flow that are drawn.
FLOWS = 5
# How much larger than its size in inches, at 96 pixels each, a figure may be shown.
LARGEST = 1.3
# Name of a score, its heading, what stands below the heading, and whether small is good.
COLUMNS: tuple[tuple[str, str, str, bool], ...] = (
    ("rmse", "RMSE", "of the mean", True),
    ("spread", "Spread", "", False),
    ("spread_skill", "Spread/skill", "1 is reliable", False),
    ("crps", "CRPS", "fair", True),
    ("coverage", "Coverage", "of the 90 % interval", False),
    ("wasserstein", "W1", "to the reference", True),
    ("observation_rmse", "RMSE", "withheld values", True),
    ("innovation_chi2", "χ²", "1 is reliable", False),
    ("observation_crps", "CRPS", "withheld values", True),
    ("observation_coverage", "Coverage", "of the 90 % interval", False),
    ("evaluations", "Evaluations", "of the network", False),
    ("seconds", "Seconds", "", False),
)


@dataclass(frozen=True)
class _Run:
    """A posterior under the name that it has on the page, read once."""

    name: str
    posterior: Posterior

    @cached_property
    def analysis(self) -> Analysis:
        return self.posterior.analysis


def write_report(
    posteriors: Mapping[str, Posterior],
    path: str | Path,
    references: Sequence[Posterior] = (),
    title: str | None = None,
    spinup: int | None = None,
) -> Path:
    """Write the page; returns its path.

    Arguments:
        posteriors: Complete posteriors of one problem, by the name that each gets on the page.
        path: File to write.
        references: As in `score_table`.
        title: Title of the page (default: the name of the system).
        spinup: As in `score_table`.

    Raises:
        ValueError: If a posterior is incomplete, or they are of different problems.
    """
    runs = [_Run(name, posterior) for name, posterior in posteriors.items()]
    _check(runs)
    table = score_table(posteriors, references, spinup)
    first = runs[0].posterior
    title = title or str(first.to_xarray().attrs["system"])
    colours = plot.colours_of([run.name for run in runs])
    body = [
        _header(runs, title),
        _scores(runs, table, colours, references, first_scored(first, spinup)),
        *_figures(runs, colours, first_scored(first, spinup)),
        _provenance(runs),
    ]
    style = resources("scorda.report").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        # Without an icon of its own a browser asks the server for one.
        f'<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _check(runs: list[_Run]) -> None:
    if not runs:
        raise ValueError("Got no posterior: name at least one store, such as run.zarr.")
    first = runs[0].posterior
    for run in runs:
        size = run.posterior.to_xarray().sizes["time"]
        if (run.posterior.space.shape, size) != (
            first.space.shape,
            first.to_xarray().sizes["time"],
        ):
            raise ValueError(
                f"{run.posterior.path} has other states or times than {first.path}: put runs of "
                "one problem into one report."
            )


def _header(runs: list[_Run], title: str) -> str:
    posterior = runs[0].posterior
    dataset, space = posterior.to_xarray(), posterior.space
    table = posterior.observations
    steps, values = dataset.sizes["time"] - 1, table.sizes["observation"]
    times = len(np.unique(table["step"].values))
    components = table["component"].values[:1000]
    names = {plot.component_name(space, int(i)) for i in components if i >= 0}
    if (components < 0).any():
        # Between grid points: of which variable is not in the table.
        names = set(space.variables)
    observed = ", ".join(sorted(names)) if 0 < len(names) <= 4 else "the state"
    against = "the truth is known" if posterior.truth is not None else "the truth is not known"
    if posterior.group("withheld") is not None:
        against += ", and some observations were kept back to score"
    lead = f"{values} observations of {observed} at {times} times; {against}."
    lead += "".join(f" {run.posterior.stopped}" for run in runs if run.posterior.stopped)
    facts = {
        "System": dataset.attrs["system"],
        "State": f"{' × '.join(map(str, space.shape))} numbers",
        "Length": f"{steps} steps of {space.dt:g} {space.units.get('time', '')}".strip(),
        "Observation error": _range(table["std"].values),
        "Methods": ", ".join(run.name for run in runs),
    }
    items = "".join(
        f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd></div>"
        for k, v in facts.items()
    )
    return (
        f'<header>\n<p class="kicker">Scorda · posterior report</p>\n'
        f"<h1>{html.escape(title)}</h1>\n"
        f'<p class="lead">{html.escape(lead)}</p>\n<dl class="facts">{items}</dl>\n</header>'
    )


def _scores(
    runs: list[_Run],
    table: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    references: Sequence[Posterior],
    first: int,
) -> str:
    columns = [c for c in COLUMNS if any(c[0] in row for row in table.values())]
    head = "".join(
        f"<th>{heading}{f'<small>{below}</small>' if below else ''}</th>"
        for _, heading, below, _ in columns
    )
    floors = {reference.path for reference in references}

    def is_floor(run: _Run, name: str) -> bool:
        return name == "wasserstein" and run.posterior.path in floors

    rows = []
    for smoother, group in GROUPS.items():
        members = [run for run in runs if run.posterior.smoother == smoother]
        if not members:
            continue
        rows.append(
            f'<tr class="group"><th colspan="{len(columns) + 2}">{group} '
            f"<span>– {EXPLAINED[smoother]}</span></th></tr>"
        )
        best = {}
        for name, _, _, small in columns:
            values = [
                table[run.name][name]
                for run in members
                if name in table[run.name] and not is_floor(run, name)
            ]
            if small and len(values) > 1:
                best[name] = min(values)
        for run in members:
            cells = ""
            for name, *_ in columns:
                value = table[run.name].get(name)
                mark = " class=best" if value is not None and value == best.get(name) else ""
                floor = " <i>floor</i>" if is_floor(run, name) else ""
                cells += f"<td{mark}>{_number(name, value)}{floor}</td>"
            swatch = f'<span class="swatch" style="background:{colours[run.name]}"></span>'
            size = run.posterior.to_xarray().sizes["ensemble"]
            rows.append(f"<tr><td>{swatch}{html.escape(run.name)}</td><td>{size}</td>{cells}</tr>")
    note = [f"Scores are means over the steps from {first} on; bold is the best of its group."]
    if references:
        note.append(
            "W1 is the exact Wasserstein distance between the states of the ensemble and those of "
            "the reference, mean over the steps; the row of a reference shows the distance "
            "between two of its own draws, the floor for ensembles of that size."
        )
    return (
        f'<section>\n<h2>Scores and cost</h2>\n<div class="scroll"><table>\n'
        f"<thead><tr><th>Method</th><th>Members</th>{head}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
        f'<p class="note">{" ".join(note)}</p>\n</section>'
    )


def _figures(runs: list[_Run], colours: Mapping[str, str], first: int) -> list[str]:
    posterior = runs[0].posterior
    truth, space = posterior.truth, posterior.space
    sections = [_states(runs, truth, len(space.axes))]
    if truth is None:
        return sections
    groups = {
        GROUPS[kind]: {r.name: r.analysis for r in runs if r.posterior.smoother == kind}
        for kind in GROUPS
    }
    groups = {title: group for title, group in groups.items() if group}
    analyses = {run.name: run.analysis for run in runs}
    time = _time_axis(posterior)
    sections.append(
        "<section>\n<h2>Error and spread over time</h2>\n"
        + _figure(
            plot.error_and_spread(groups, truth, colours, time),
            "Error of the ensemble mean (solid) and ensemble spread (dashed).",
            "A reliable ensemble keeps the two together; a dashed line below its solid one means "
            "overconfidence. Both fall when observations arrive and grow in between.",
        )
        + "\n</section>"
    )
    sections.append(
        "<section>\n<h2>Reliability</h2>\n"
        + _figure(
            plot.rank_histograms(analyses, truth, first, colours=colours),
            "Rank of the truth among the members.",
            "Flat is reliable, U-shaped overconfident, a hump underconfident, a slope biased. "
            "The grey band holds 95 % of the bars of a reliable ensemble if all values were "
            "independent; values that follow each other in time scatter more.",
        )
        + _figure(
            plot.spread_skill(analyses, truth, first, colours=colours),
            "Error against spread.",
            "Values are sorted by their spread into bins of equal size. On the line the ensemble "
            "knows how large its error is.",
        )
        + "\n</section>"
    )
    return sections


def _states(runs: list[_Run], truth: Float[Tensor, "time ..."] | None, axes: int) -> str:
    """Trajectories or fields: what uses past data on the left, what uses all data on the right."""
    draw: Callable[[_Run], Figure]
    steps = np.unique(runs[0].posterior.observations["step"].values)
    if plot.is_flow(runs[0].posterior.space):
        chosen = steps[np.linspace(0, len(steps) - 1, min(FLOWS, len(steps))).round().astype(int)]
        heading, caption = "Vorticity", "Vorticity at observed steps"
        see = "Members share what is known of the flow and differ where the std is large."

        def draw(run: _Run) -> Figure:
            return plot.panels(run.analysis, chosen.tolist(), truth, _observed(run))

    elif axes == 2:
        step = int(steps[len(steps) // 2])
        heading, caption = "Fields", f"Fields at step {step}"
        see = (
            "Members share the large scales of the mean and differ where the spread is large; "
            "the spread is small near observations."
        )

        def draw(run: _Run) -> Figure:
            return plot.fields(run.analysis, step, truth, _observed(run))

    elif axes == 1:
        heading, caption = "Fields over time", "The field over time"
        see = "Where the error is large the spread should be large too."

        def draw(run: _Run) -> Figure:
            return plot.hovmoller(run.analysis, truth, _time_axis(run.posterior))

    else:
        heading, caption = "Trajectories", "Trajectories"
        states = runs[0].analysis.states.shape[1]
        shown = (max(0, states - LAST), states)
        if states > LAST:
            caption = f"Last {LAST} steps of the trajectories"
        see = (
            "Bands hold the central 90 % of the members; the truth (dashed) should leave them one "
            "time in ten."
            if truth is not None
            else "Bands hold the central 90 % of the members."
        )

        def draw(run: _Run) -> Figure:
            time, table = _time_axis(run.posterior), _observed(run)
            return plot.trajectories(run.analysis, truth, table, time=time, steps=shown)

    columns = []
    for smoother, group in GROUPS.items():
        figures = [
            _figure(draw(run), f"{caption} of {run.name}.", see if i == 0 else "")
            for i, run in enumerate(r for r in runs if r.posterior.smoother == smoother)
        ]
        if figures:
            columns.append(f"<div>\n<h3>{group}</h3>\n{''.join(figures)}</div>")
    return f'<section>\n<h2>{heading}</h2>\n<div class="pair">{"".join(columns)}</div>\n</section>'


def _provenance(runs: list[_Run]) -> str:
    parts = []
    for run in runs:
        attrs, info = run.posterior.to_xarray().attrs, run.posterior.info
        record = {
            "method": {"name": attrs["method"]} | json.loads(attrs["settings"]),
            "members": int(attrs["members"]),
            "seed": int(attrs["seed"]),
            "configuration": run.posterior.configuration,
            "seconds": round(info["seconds"], 3),
            "peak_memory_mb": info["peak_memory_mb"],
            "threads": info["threads"],
            "finished": info["finished"],
            "platform": info["platform"],
            "versions": info["versions"],
        }
        text = html.escape(json.dumps(record, indent=2))
        parts.append(
            f"<details><summary>{html.escape(run.name)}</summary><pre>{text}</pre></details>"
        )
    version = runs[0].posterior.info["versions"]["scorda"]
    return (
        "<section>\n<h2>Provenance</h2>\n<p>Everything that is needed to run this again.</p>\n"
        f"{''.join(parts)}\n</section>\n<footer>Written by Scorda {html.escape(version)}.</footer>"
    )


def _figure(figure: Figure, title: str, see: str = "") -> str:
    import matplotlib

    buffer = io.BytesIO()
    # Names of elements are drawn from the salt: the same page has the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "scorda"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=150)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    # Never much larger than drawn: one small panel must not fill the page.
    width = round(figure.get_size_inches()[0] * 96 * LARGEST)
    return (
        f'<figure><img alt="{html.escape(title)}" style="max-width:{width}px" '
        f'src="data:image/svg+xml;base64,{data}">'
        f"<figcaption><b>{html.escape(title)}</b> {html.escape(see)}</figcaption></figure>"
    )


def _observed(run: _Run) -> dict[str, np.ndarray]:
    return {str(name): column.values for name, column in run.posterior.observations.items()}


def _time_axis(posterior: Posterior) -> np.ndarray:
    return np.asarray(posterior.to_xarray()["time"].values)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "evaluations":
        return f"{value:.0f}"
    if name in ("coverage", "observation_coverage"):
        return f"{100 * value:.0f} %"
    if name == "seconds":
        return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"std {low:.3g}" if np.isclose(low, high) else f"std {low:.3g} to {high:.3g}"
