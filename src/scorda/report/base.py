"""What all figures share: colours, settings of matplotlib, names of components and axes.

The colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.observations.problem import Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "INK",
    "MUTED",
    "OBSERVED",
    "TRUTH",
    "Columns",
    "Row",
    "axis_label",
    "channel_of",
    "colours_of",
    "columns_of",
    "component_name",
    "label_time",
    "log_ticks",
    "style",
    "subplots",
    "times_of",
]


@runtime_checkable
class Row(Protocol):
    """Scores of one method over its seeds, as a benchmark makes them."""

    @property
    def label(self) -> str:
        """Name of the method."""
        ...

    @property
    def members(self) -> int:
        """Number of members."""
        ...

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        ...

    @property
    def mean(self) -> Mapping[str, float]:
        """Mean over the seeds, by score."""
        ...

    @property
    def error(self) -> Mapping[str, float]:
        """Standard error of the mean, by score."""
        ...

    @property
    def failures(self) -> Sequence[str]:
        """Messages of the runs that diverged."""
        ...


INK, MUTED, TRUTH, OBSERVED = "#222222", "#767676", "#000000", "#D55E00"
BLUE = "#0072B2"
METHODS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A6A00")
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

Columns = Mapping[str, Any]


@contextmanager
def style() -> Iterator[None]:
    """Settings of matplotlib for these figures, inside the block only."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, STYLE)):
        yield


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """One colour per name, in their order."""
    return {name: METHODS[i % len(METHODS)] for i, name in enumerate(dict.fromkeys(names))}


def component_name(space: StateSpace, component: int) -> str:
    """Name of a component of the flattened state, such as ``x`` or ``x[12]``."""
    index = np.unravel_index(component, space.shape)
    if not space.has_channels:
        return f"{space.variables[0]}[{', '.join(str(int(i)) for i in index)}]"
    place = ", ".join(str(int(i)) for i in index[1:])
    return space.variables[int(index[0])] + (f"[{place}]" if place else "")


def channel_of(values: Tensor, channel: int, space: StateSpace) -> Tensor:
    """One variable of states with any leading axes."""
    return values.select(-len(space.shape), channel) if space.has_channels else values


def columns_of(observations: Sequence[Observations] | Columns | None, space: StateSpace) -> Any:
    """Columns of observations, given as such or as a sequence of instruments."""
    if observations is None or hasattr(observations, "keys"):
        return observations
    from scorda.store.groups import observation_table

    return observation_table(observations, space)


def times_of(analysis: Analysis, time: np.ndarray | None) -> np.ndarray:
    """Times on the axis: those given, or model times."""
    if time is not None:
        return np.asarray(time)
    return analysis.space.dt * np.arange(analysis.states.shape[1])


def label_time(axis: Axis, times: np.ndarray, space: StateSpace) -> None:
    """Label an axis of times: with their unit, or as dates."""
    if times.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=7)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))
        return
    unit = space.units.get("time", "")
    axis.set_label_text(f"time ({unit})" if unit else "time")


def axis_label(space: StateSpace, name: str) -> str:
    """Label of an axis of a coordinate."""
    unit = space.units.get(name, "")
    return f"{name} ({unit})" if unit else name


def subplots(
    rows: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``(rows, columns)``."""
    # Not pyplot: it would keep each figure alive and choose a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes: np.ndarray[Any, np.dtype[Any]] | Axes = figure.subplots(
        rows, columns, squeeze=False, sharex=rows > 1 and columns == 1, sharey=sharey
    )
    return figure, np.asarray(axes)


def log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade, as plain numbers, for an axis that is logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
