"""Colours, settings of matplotlib, and names of components and axes that all figures share.

Black, blue and vermilion are those of Okabe & Ito (2008). The colours of methods have a contrast
of 3 to 1 with white, as the WCAG ask of graphics, and colour-blind readers can tell them apart:
``tests/report/test_colours.py`` holds both.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import dates_after
from scorda.observations.analysis import Analysis
from scorda.observations.observations import Observations
from scorda.store.members import InMemory, Members
from scorda.store.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "INK",
    "METHODS",
    "MUTED",
    "OBSERVED",
    "OTHERS",
    "TOGETHER",
    "TRUTH",
    "Columns",
    "Row",
    "Source",
    "Truth",
    "colours_of",
    "columns_of",
    "component_name",
    "folded",
    "instant",
    "label_time",
    "log_ticks",
    "members_of",
    "moments",
    "panel_for_each",
    "style",
    "subplots",
    "times_of",
    "with_unit",
]


@runtime_checkable
class Row(Protocol):
    """The scores of one method over its seeds, as a benchmark makes them.

    ``mean`` and ``error`` have the mean of each score over the seeds and the standard error of
    that mean; ``failures`` has the messages of the runs that diverged.
    """

    @property
    def label(self) -> str: ...
    @property
    def members(self) -> int: ...
    @property
    def seeds(self) -> int: ...
    @property
    def mean(self) -> Mapping[str, float]: ...
    @property
    def error(self) -> Mapping[str, float]: ...
    @property
    def failures(self) -> Sequence[str]: ...


INK, MUTED, TRUTH, OBSERVED = "#222222", "#767676", "#000000", "#D55E00"
BLUE = "#0072B2"
METHODS = (BLUE, "#B18F00", "#9B0C61", "#00A87D", "#F02A5C", "#626100", "#0E582A")
# Curves of more methods than these get a panel each, with those of the others pale behind.
TOGETHER, OTHERS = 2, "#cfcfcf"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    # Names come from data: a dollar is no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
}

# Units of positions as they are written on an axis.
DEGREES = {"degrees_north": "°N", "degrees_east": "°E"}

Columns = Mapping[Any, Any]
# A figure is drawn of an analysis in memory, or of a posterior on disk, which is read in parts.
Source = Analysis | Posterior
Truth = Float[Tensor, "time ..."] | Members


@contextmanager
def style() -> Iterator[None]:
    """Set matplotlib up for these figures, inside the block only."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, STYLE)):
        yield


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return one colour per name, in their order."""
    return {name: METHODS[i % len(METHODS)] for i, name in enumerate(dict.fromkeys(names))}


def component_name(space: StateSpace, component: int) -> str:
    """Return the name of a component of the flattened state, such as ``x`` or ``x[12]``."""
    name = space.variables[space.variable_of(np.array([component]))[0]]
    index = np.unravel_index(component - space.entries(name).start, space.only(name).grid)
    place = ", ".join(str(int(i)) for i in index)
    return name + (f"[{place}]" if place else "")


def columns_of(
    observations: Observations | Sequence[Observations] | Columns | None, space: StateSpace
) -> Any:
    """Return the columns of observations, given as such, as an instrument or as several."""
    if observations is None or hasattr(observations, "keys"):
        return observations
    from scorda.observations.observations import Observations as Instrument
    from scorda.store.groups import observation_table

    several = (observations,) if isinstance(observations, Instrument) else observations
    return observation_table(several, space)


def members_of(source: Source) -> Members:
    """Return the members that a figure is drawn of."""
    return source.members if isinstance(source, Posterior) else InMemory(source)


def times_of(source: Source, states: int, time: np.ndarray | None = None) -> np.ndarray:
    """Return the times on the axis: those given; else dates where they are known; else numbers."""
    if time is not None:
        return np.asarray(time)
    if isinstance(source, Posterior):
        # Of a store that keeps part of the steps a figure has these, or all of the run.
        whole = source.times
        return whole if len(whole) == states else source.to_xarray()["time"].values
    elapsed = source.space.dt * np.arange(states)
    return elapsed if source.start is None else dates_after(source.start, elapsed, source.space)


def moments(
    states: Float[Tensor, "ensemble time ..."], weights: Float[Tensor, "ensemble time"] | None
) -> tuple[Float[Tensor, "time ..."], Float[Tensor, "time ..."]]:
    """Return the mean and the standard deviation of the members at each step."""
    equal = states.new_full(states.shape[:2], 1 / len(states))
    w = equal if weights is None else weights.to(states)
    mean = torch.einsum("et,et...->t...", w, states)
    return mean, torch.einsum("et,et...->t...", w, (states - mean).square()).sqrt()


def label_time(axis: Axis, times: np.ndarray, space: StateSpace) -> None:
    """Label an axis of times with their unit, or as dates."""
    if times.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=7)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))
        return
    axis.set_label_text(with_unit(space, "time"))


def with_unit(space: StateSpace, name: str, shown: str | None = None) -> str:
    """Return the name of a variable, a coordinate or the time, with its unit if it has one.

    The unit may follow other words that are shown instead of the name.
    """
    unit, shown = space.units.get(name, ""), name if shown is None else shown
    return f"{shown} ({DEGREES.get(unit, unit)})" if unit else shown


def instant(times: np.ndarray, step: int) -> str | None:
    """Return the date and time of a step, to the minute, where it is known."""
    known = times.dtype.kind == "M"
    return str(times[step].astype("M8[m]")).replace("T", " ") if known else None


def folded(name: str, width: float) -> str:
    """Return a name in lines that fit into a panel of so many inches, as its bold title."""
    lines = textwrap.wrap(name, max(int(9 * width), 8), max_lines=3, placeholder=" …")
    return "\n".join(lines)


def subplots(
    rows: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes ``(rows, columns)``."""
    # Not pyplot: it would keep each figure alive and choose a window system.
    from scorda.report.notebook import ShownFigure

    figure = ShownFigure(figsize=(width, height))
    axes: np.ndarray[Any, np.dtype[Any]] | Axes = figure.subplots(
        rows, columns, squeeze=False, sharex=rows > 1 and columns == 1, sharey=sharey
    )
    return figure, np.asarray(axes)


def panel_for_each(
    names: Sequence[str], width: float, height: float
) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure with a panel for each name, two in a row; all share their axes.

    Two panels in a row are legible on a phone.
    """
    from scorda.report.notebook import ShownFigure

    columns = min(len(names), 2)
    rows = math.ceil(len(names) / columns)
    figure = ShownFigure(figsize=(width * columns + 0.4, height * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    panels = dict(zip(names, axes.flat, strict=False))
    for name, panel in panels.items():
        panel.set_title(folded(name, width))
    for place in range(len(names), rows * columns):
        axes.flat[place].set_visible(False)
        axes.flat[place - columns].tick_params(labelbottom=True)
    return figure, panels


def log_ticks(axis: Axis) -> None:
    """Set ticks of a logarithmic axis at 1, 2 and 5 of each decade, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
