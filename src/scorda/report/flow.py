"""Figures of two-dimensional flows: panels of the vorticity at chosen steps, and animations."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.files import atomic
from scorda.core.ownership import PICTURE, check_output
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.fluid import Vorticity
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Gather, Operator, Pointwise, Select
from scorda.report.base import (
    Columns,
    Source,
    Truth,
    instant,
    members_of,
    style,
    subplots,
    times_of,
)
from scorda.report.partial import states_of
from scorda.store.members import LARGEST, InMemory, Members
from scorda.store.sums import as_members

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["animate", "is_flow", "panels"]

BLANK = "#ededed"
# The few strongest vortices must not wash out the rest.
SHOWN = 0.998
# Side of a panel, and what its label takes, in inches.
SIDE, LABEL = 1.25, 0.3
VORTICITY, STD = "vorticity", "std"
# Observations at less than this share of the grid points are drawn as dots.
SPARSE = 0.25


def panels(
    analysis: Source,
    steps: Sequence[int],
    truth: Truth | None = None,
    observations: Sequence[Observations] | Observations | Columns | None = None,
    members: int = 3,
) -> Figure:
    """Draw the vorticity at chosen steps, one column each: truth, observation, members, mean, std.

    All share one symmetric scale, except the std and an observation of something else than
    velocities or vorticity, which have their own. Observed velocities are shown as vorticity
    where their neighbours are observed too, and otherwise by their first observed component. A
    step without an observation has an empty panel.

    Arguments:
        analysis: The posterior, of velocities on a periodic grid.
        steps: Which steps, from left to right.
        truth: True states, ``(time, *state)``.
        observations: What was observed; of several instruments the first that saw a step counts.
            Or the columns of a stored group ``observations``, of which those at grid points count.
        members: How many members to show.

    Raises:
        ValueError: If the states are not velocities on a periodic grid.
    """
    source = members_of(analysis)
    steps = [range(source.shape[1])[step] for step in steps]
    space, curl = source.space, _vorticity(source.space)
    numbers = _first_left(source, max(steps), members)
    mean, std, states = _moments(source, steps, curl, numbers)
    true = None
    if truth is not None:
        (true,) = _moments(as_members(truth, source.space), steps, curl, [0])[2]
    rows: dict[str, list[_Field | None]] = {}
    if true is not None:
        rows["Truth"] = _fields(true)
    if observations is not None:
        observed = [_observed(observations, step, space) for step in steps]
        rows |= {"Observed": observed} if any(observed) else {}
    rows |= {f"Member {i}": _fields(v) for i, v in zip(numbers, states, strict=True)}
    rows |= {"Mean": _fields(mean), "Std": _fields(std, STD)}
    limits = {VORTICITY: _limit(states if true is None else true), STD: float(std.max())}
    others = [f for f in rows.get("Observed", []) if f is not None and f.kind not in limits]
    if others:
        limit = _limit(torch.cat([field.values.flatten() for field in others]))
        limits |= {field.kind: limit for field in others}
    with style():
        width = SIDE * len(steps) + LABEL + 0.9
        figure, axes = subplots(len(rows), len(steps), width, SIDE * len(rows) + LABEL)
        for step, panel in zip(steps, axes[0], strict=True):
            panel.set_title(_when(analysis, step), fontsize=9, fontweight="normal", loc="center")
        for name, line in zip(rows, axes[:, 0], strict=True):
            line.set_ylabel(name, fontsize=9)
        drawn = _draw_rows(rows, axes, limits, space)
        if others:
            # The observation has a bar of its own, so this one stands beside the rows below it.
            drawn[VORTICITY][1].pop("Truth", None)
        for kind, (image, lines) in drawn.items():
            beside, aspect = [*np.concatenate(list(lines.values()))], 9 * len(lines)
            bar = figure.colorbar(image, ax=beside, shrink=0.9, aspect=aspect, pad=0.02)
            bar.set_label(kind)
    return figure


def animate(
    analysis: Analysis,
    path: str | Path,
    truth: Float[Tensor, "time ..."] | None = None,
    members: int = 2,
    steps: Sequence[int] | None = None,
    frames_per_second: float = 8,
    dpi: int = 80,
) -> Path:
    """Write an animation of the vorticity: truth, mean and members side by side.

    It is a GIF or, where ffmpeg is installed, an MP4, by the end of the path.

    Arguments:
        analysis: The posterior, of velocities on a periodic grid.
        path: File to write, ``*.gif`` or ``*.mp4``.
        truth: True states, ``(time, *state)``.
        members: How many members to show.
        steps: Which steps (default: all).
        frames_per_second: How many steps are shown in a second.
        dpi: Pixels per inch; a field is 2 inches wide.

    Raises:
        ValueError: If the path ends otherwise, ffmpeg is missing, the states are not velocities on
            a periodic grid, or a file is there that Scorda did not write.
    """
    path = Path(path)
    real = check_output(path, overwrite=True)
    writer = _writer(path, frames_per_second)
    space, curl = analysis.space, _vorticity(analysis.space)
    steps = list(range(analysis.states.shape[1]) if steps is None else steps)
    shown = {} if truth is None else {"Truth": truth}
    shown["Mean"] = analysis.mean
    numbers = _first_left(InMemory(analysis), max(steps), members)
    shown |= {f"Member {i}": analysis.states[i] for i in numbers}
    series = {name: curl(states[steps].double()) for name, states in shown.items()}
    limit = _limit(next(iter(series.values())))
    # A writer knows the format by the end of the name, which an unfinished file has not.
    with style(), atomic(real) as partial, TemporaryDirectory() as folder:
        figure, axes = subplots(1, len(series), 2 * len(series) + 0.8, 2 * _aspect(space) + 0.6)
        images = []
        for panel, (name, frames) in zip(axes[0], series.items(), strict=True):
            _frame(panel, space)
            panel.set_title(name)
            images.append(_draw(panel, _Field(frames[0], VORTICITY), limit))
        bar = figure.colorbar(images[0], ax=axes, shrink=0.85, aspect=18, pad=0.02)
        bar.set_label(VORTICITY)
        made = Path(folder, path.name)
        with writer.saving(figure, str(made), dpi):
            for k, step in enumerate(steps):
                for image, frames in zip(images, series.values(), strict=True):
                    image.set_data(frames[k].numpy(force=True))
                axes[0, 0].set_ylabel(_when(analysis, step), fontsize=10)
                writer.grab_frame()
        shutil.copyfile(made, partial)
        if path.suffix == ".gif":
            _comment(partial)
    return path


def is_flow(space: StateSpace) -> bool:
    """Return whether states are velocities on a periodic grid, which have a vorticity."""
    try:
        _vorticity(space)
    except ValueError:
        return False
    return True


def _first_left(members: Members, step: int, number: int) -> list[int]:
    """Return the numbers of the first members that are left at a step."""
    there: list[int] = members.left(slice(step, step + 1))[:, 0].nonzero()[:, 0].tolist()
    return there[:number]


def _moments(
    members: Members, steps: Sequence[int], curl: Vorticity, shown: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, std and some members of the vorticity at each step, a batch at a time."""
    mean, std, first = [], [], []
    size = members.space.size
    for step in steps:
        cut = slice(step, step + 1)
        every, weights = members.states(cut)[:, 0], members.weights(cut)
        there = members.left(cut)[:, 0]
        states, number = every[there], int(there.sum())
        w = torch.full((number,), 1 / number) if weights is None else weights[there, 0]
        shift = curl(states[:1].double())
        one, two = torch.zeros_like(shift[0]), torch.zeros_like(shift[0])
        for batch in torch.arange(number).split(max(LARGEST // size, 1)):
            # From the first member, so that the squares do not hide the variance.
            fields = curl(states[batch].double()) - shift
            one += torch.tensordot(w[batch].double(), fields, 1)
            two += torch.tensordot(w[batch].double(), fields.square(), 1)
        mean.append(shift[0] + one)
        std.append((two - one.square()).clamp_min(0).sqrt())
        first.append(curl(every[shown].double()))
    return torch.stack(mean), torch.stack(std), torch.stack(first, 1)


def _vorticity(space: StateSpace) -> Vorticity:
    if len(space.axes) == 2 and len(space.period) == 2:
        y, x = (space.period[name] for name in space.axes)
        operator = Vorticity((y, x))
    else:
        operator = Vorticity()
    operator.check(space)
    return operator


@dataclass(frozen=True)
class _Field:
    """Values on the grid, NaN where there are none, and the name of the quantity."""

    values: Float[Tensor, "y x"]
    kind: str


def _fields(values: Float[Tensor, "time y x"], kind: str = VORTICITY) -> list[_Field | None]:
    return [_Field(field, kind) for field in values]


def _limit(fields: Tensor) -> float:
    """Return the largest absolute value of a symmetric scale."""
    values = fields[fields.isfinite()].abs().numpy(force=True)
    if not values.size:
        raise ValueError("Got fields without a finite value: there is nothing to draw.")
    return max(float(np.quantile(values, SHOWN)), 1e-12)


def _observed(
    observations: Sequence[Observations] | Observations | Columns, step: int, space: StateSpace
) -> _Field | None:
    """Return the field that was observed at a step, or None if nothing was."""
    if isinstance(observations, Mapping):
        component = np.asarray(observations["component"])
        here = (np.asarray(observations["step"]) == step) & (component >= 0)
        values = torch.as_tensor(np.asarray(observations["value"])[here]).double()
        return _as_field(Select(component[here].tolist()), values, space) if here.any() else None
    for instrument in (observations,) if isinstance(observations, Observations) else observations:
        for k, entry in enumerate(instrument.steps):
            if entry == step and instrument.observed(k):
                operator = instrument.operator(k)
                return _as_field(operator, instrument.values[k].double(), space)
    return None


def _as_field(operator: Operator, values: Tensor, space: StateSpace) -> _Field | None:
    field = _unflattened(operator, values, space.shape)
    if field.ndim == 2:
        units = (None, _vorticity(space).period)
        known = any(isinstance(p, Vorticity) and p.period in units for p in _parts(operator))
        return _Field(field, VORTICITY if known and operator.linear else "observed")
    if field.ndim != 3:
        return None
    # Central differences need three points.
    if operator.linear and len(field) == 2 and min(field.shape[1:]) > 2:
        curl = _vorticity(space)(field[None])[0]
        if not curl.isnan().all():
            return _Field(curl, VORTICITY)
    first = next((k for k, part in enumerate(field) if not part.isnan().all()), 0)
    return _Field(field[first], space.variables[first] if operator.linear else "observed")


def _unflattened(operator: Operator, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Put picked values back where they were on the grid, and leave others as they are."""
    if isinstance(operator, Chain):
        if isinstance(operator.outer, Pointwise):
            return _unflattened(operator.inner, values, shape)
        between = tuple(operator.inner(torch.zeros(1, *shape)).shape[1:])
        return _unflattened(operator.outer, values, between)
    if isinstance(operator, Gather) and values.ndim == 1:
        field = values.new_full((math.prod(shape),), math.nan)
        field[operator.entries(shape)] = values
        return field.reshape(shape)
    return values


def _parts(operator: Operator) -> list[Operator]:
    if isinstance(operator, Chain):
        return _parts(operator.outer) + _parts(operator.inner)
    return [operator]


def _draw_rows(
    rows: Mapping[str, Sequence[_Field | None]],
    axes: np.ndarray,
    limits: Mapping[str, float],
    space: StateSpace,
) -> dict[str, tuple[Any, dict[str, np.ndarray]]]:
    """Draw all fields; return one image of each kind, and the axes of the rows of that kind."""
    drawn: dict[str, tuple[Any, dict[str, np.ndarray]]] = {}
    for (name, row), line in zip(rows.items(), axes, strict=True):
        for panel, field in zip(line, row, strict=True):
            _frame(panel, space)
            if field is not None:
                image = _draw(panel, field, limits[field.kind])
                drawn.setdefault(field.kind, (image, {}))[1][name] = line
    return drawn


def _frame(panel: Axes, space: StateSpace) -> None:
    panel.set(xticks=[], yticks=[], facecolor=BLANK, aspect=_aspect(space))
    panel.spines[:].set_visible(False)


def _draw(panel: Axes, field: _Field, top: float) -> Any:
    """Draw a field over the whole domain, or its few points as dots; return the artist."""
    low, cmap = (0.0, "Purples") if field.kind == STD else (-top, "RdBu_r")
    colours: dict[str, Any] = {"cmap": cmap, "vmin": low, "vmax": top}
    values, aspect = field.values.numpy(force=True), panel.get_aspect()
    present = np.isfinite(values)
    if present.mean() < SPARSE:
        y, x = ((i + 0.5) / n for i, n in zip(np.nonzero(present), values.shape, strict=True))
        panel.set(xlim=(0, 1), ylim=(0, 1))
        size = 0.4 * 72**2 * SIDE**2 / max(len(x), 30)
        return panel.scatter(x, y, c=values[present], s=min(size, 14), linewidths=0, **colours)
    where: dict[str, Any] = {"origin": "lower", "extent": (0, 1, 0, 1), "aspect": aspect}
    return panel.imshow(values, interpolation="none", **where, **colours)


def _aspect(space: StateSpace) -> float:
    """Return the height of the domain over its width."""
    y, x = (space.period[name] for name in space.axes)
    return y / x


def _when(source: Source, step: int) -> str:
    space, date = source.space, instant(times_of(source, states_of(source)), step)
    return date or f"t = {step * space.dt:.4g} {space.units.get('time', '')}".strip()


def _comment(gif: Path) -> None:
    """Add the mark of Scorda to a GIF: a comment before the semicolon that ends it."""
    text = PICTURE.encode()
    block = b"\x21\xfe" + bytes([len(text)]) + text + b"\x00"
    gif.write_bytes(gif.read_bytes()[:-1] + block + b";")


def _writer(path: Path, frames_per_second: float) -> Any:
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if path.suffix == ".gif":
        return PillowWriter(fps=frames_per_second)  # type: ignore[arg-type]
    if path.suffix == ".mp4" and FFMpegWriter.isAvailable():
        told = {"comment": PICTURE}
        return FFMpegWriter(fps=frames_per_second, metadata=told)  # type: ignore[arg-type]
    raise ValueError(
        f"Got the path {str(path)!r}: an animation ends in .gif, or, where ffmpeg is "
        "installed, in .mp4."
    )
