"""Figures of two-dimensional flows: panels of the vorticity at chosen steps, and animations."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.files import atomic
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.fluid import Vorticity
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Gather, Operator, Pointwise, Select
from scorda.observations.problem import Analysis
from scorda.report.base import Columns, style, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["animate", "is_flow", "panels"]

DIVERGING, SEQUENTIAL, BLANK = "RdBu_r", "Purples", "#ededed"
# The few strongest vortices must not wash out the rest.
SHOWN = 0.998
# Side of a panel, and what its label takes, in inches.
SIDE, LABEL = 1.25, 0.3
VORTICITY = "vorticity"
# Observations at less than this share of the grid points are drawn as dots.
SPARSE = 0.25


def panels(
    analysis: Analysis,
    steps: Sequence[int],
    truth: Float[Tensor, "time ..."] | None = None,
    observations: Sequence[Observations] | Observations | Columns | None = None,
    members: int = 3,
) -> Figure:
    """Vorticity at chosen steps, one column each: truth, observation, members, mean and std.

    All share one symmetric scale but the std, and an observation of something else than
    velocities or vorticity, which have their own. Observed velocities are shown as vorticity
    where their neighbours are observed too, and by their first observed component else. A step
    without an observation has an empty panel.

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
    space, curl = analysis.space, _vorticity(analysis.space)
    steps = list(steps)
    states = curl(analysis.states[:, steps].double())
    mean, std = _moments(states, analysis, steps)
    rows: dict[str, Any] = {}
    if truth is not None:
        rows["Truth"] = curl(truth[steps].double())
    if observations is not None:
        observed = [_observed(observations, step, space) for step in steps]
        rows |= {"Observed": observed} if any(observed) else {}
    rows |= {f"Member {i}": states[i] for i in range(min(members, len(states)))}
    rows |= {"Mean": mean, "Std": std}
    limit = _limit(rows.get("Truth", states))
    seen = [found for found in rows.get("Observed", []) if found and found[1] != VORTICITY]
    other = _limit(torch.cat([field.flatten() for field, _ in seen])) if seen else 0.0
    with style():
        width = SIDE * len(steps) + LABEL + 0.9
        figure, axes = subplots(len(rows), len(steps), width, SIDE * len(rows) + LABEL)
        bars: dict[str, tuple[Any, dict[str, np.ndarray]]] = {}
        for (name, row), line in zip(rows.items(), axes, strict=True):
            for k, panel in enumerate(line):
                _frame(panel)
                panel.set_aspect(_aspect(space))
                kind, top, field = VORTICITY, limit, row[k]
                if name == "Std":
                    kind, top = "std", float(std.max())
                elif name == "Observed":
                    if field is None:
                        continue
                    field, kind = field
                    top = limit if kind == VORTICITY else other
                image = _draw(panel, field, space, top, kind == "std")
                bars.setdefault(kind, (image, {}))[1][name] = line
            line[0].set_ylabel(name, fontsize=9)
        for step, panel in zip(steps, axes[0], strict=True):
            panel.set_title(_when(space, step), fontsize=9, fontweight="normal", loc="center")
        for kind, (image, lines) in bars.items():
            if seen and kind == VORTICITY:
                # Beside the rows below that of the observation, which has a bar of its own.
                lines.pop("Truth", None)
            beside = np.concatenate(list(lines.values())).tolist()
            bar = figure.colorbar(image, ax=beside, shrink=0.9, aspect=9 * len(lines), pad=0.02)
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
    """Write an animation of the vorticity, truth, mean and members side by side.

    A GIF, or where ffmpeg is installed an MP4, by the end of the path.

    Arguments:
        analysis: The posterior, of velocities on a periodic grid.
        path: File to write, ``*.gif`` or ``*.mp4``.
        truth: True states, ``(time, *state)``.
        members: How many members to show.
        steps: Which steps (default: all).
        frames_per_second: How many steps are shown in a second.
        dpi: Pixels per inch; a field is 2 inches wide.

    Raises:
        ValueError: If the path ends otherwise, ffmpeg is missing, or the states are not velocities
            on a periodic grid.
    """
    path = Path(path)
    writer = _writer(path, frames_per_second)
    space, curl = analysis.space, _vorticity(analysis.space)
    steps = list(range(analysis.states.shape[1]) if steps is None else steps)
    fields = {} if truth is None else {"Truth": curl(truth[steps].double())}
    fields["Mean"] = curl(analysis.mean[steps].double())
    for i in range(min(members, len(analysis.states))):
        fields[f"Member {i}"] = curl(analysis.states[i, steps].double())
    limit = _limit(next(iter(fields.values())))
    # A writer knows the format by the end of the name, which an unfinished file has not.
    with style(), atomic(path) as partial, TemporaryDirectory() as folder:
        figure, axes = subplots(1, len(fields), 2 * len(fields) + 0.8, 2 * _aspect(space) + 0.6)
        images = []
        for panel, (name, series) in zip(axes[0], fields.items(), strict=True):
            _frame(panel)
            panel.set_title(name)
            images.append(_draw(panel, series[0], space, limit, False))
        bar = figure.colorbar(images[0], ax=axes, shrink=0.85, aspect=18, pad=0.02)
        bar.set_label(VORTICITY)
        made = Path(folder, path.name)
        with writer.saving(figure, str(made), dpi):
            for k, step in enumerate(steps):
                for image, series in zip(images, fields.values(), strict=True):
                    image.set_data(series[k].numpy(force=True))
                axes[0, 0].set_ylabel(_when(space, step), fontsize=10)
                writer.grab_frame()
        shutil.copyfile(made, partial)
    return path


def is_flow(space: StateSpace) -> bool:
    """Whether states are velocities on a periodic grid, which have a vorticity."""
    try:
        _vorticity(space)
    except ValueError:
        return False
    return True


def _vorticity(space: StateSpace) -> Vorticity:
    if len(space.axes) == 2 and len(space.period) == 2:
        y, x = (space.period[name] for name in space.axes)
        operator = Vorticity((y, x))
    else:
        operator = Vorticity()
    operator.check(space)
    return operator


def _moments(states: Tensor, analysis: Analysis, steps: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and std over the members of ``(ensemble, time, y, x)``."""
    if analysis.weights is None:
        w = states.new_full(states.shape[:2], 1 / len(states))
    else:
        w = analysis.weights[:, steps].to(states)
    mean = torch.einsum("et,etyx->tyx", w, states)
    return mean, torch.einsum("et,etyx->tyx", w, (states - mean).square()).sqrt()


def _limit(fields: Tensor) -> float:
    """Largest absolute value of a symmetric scale."""
    values = fields[fields.isfinite()].abs().numpy(force=True)
    if not values.size:
        raise ValueError("Got fields without a finite value: there is nothing to draw.")
    return max(float(np.quantile(values, SHOWN)), 1e-12)


def _observed(
    observations: Sequence[Observations] | Observations | Columns, step: int, space: StateSpace
) -> tuple[Tensor, str] | None:
    """Field of what was observed at a step, NaN elsewhere, and what it is."""
    if isinstance(observations, Mapping):
        component = np.asarray(observations["component"])
        here = (np.asarray(observations["step"]) == step) & (component >= 0)
        values = torch.as_tensor(np.asarray(observations["value"])[here]).double()
        return _as_field(Select(component[here].tolist()), values, space) if here.any() else None
    for instrument in (observations,) if isinstance(observations, Observations) else observations:
        for k, entry in enumerate(instrument.steps):
            if entry == step and instrument.observed(k):
                operator = instrument.model.operator
                return _as_field(operator, instrument.values[k].double(), space)
    return None


def _as_field(operator: Operator, values: Tensor, space: StateSpace) -> tuple[Tensor, str] | None:
    field, parts = _unflattened(operator, values, space.shape), _parts(operator)
    if field.ndim == 2:
        units = (None, _vorticity(space).period)
        known = any(isinstance(part, Vorticity) and part.period in units for part in parts)
        return field, VORTICITY if known and operator.linear else "observed"
    if field.ndim != 3:
        return None
    # Central differences need three points.
    if operator.linear and len(field) == 2 and min(field.shape[1:]) > 2:
        curl = _vorticity(space)(field[None])[0]
        if not curl.isnan().all():
            return curl, VORTICITY
    first = next((k for k, part in enumerate(field) if not part.isnan().all()), 0)
    return field[first], space.variables[first] if operator.linear else "observed"


def _unflattened(operator: Operator, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Put the picked values back where they were on the grid; others stay as they are."""
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


def _frame(panel: Axes) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor(BLANK)
    for side in panel.spines.values():
        side.set_visible(False)


def _draw(panel: Axes, field: Tensor, space: StateSpace, top: float, sequential: bool) -> Any:
    """Draw a field over the whole domain, or its few points as dots; returns what has colours."""
    low = 0.0 if sequential else -top
    colours: dict[str, Any] = {"cmap": SEQUENTIAL if sequential else DIVERGING}
    colours |= {"vmin": low, "vmax": top}
    panel.set_aspect(_aspect(space))
    values = field.numpy(force=True)
    present = np.isfinite(values)
    if present.mean() < SPARSE:
        y, x = ((i + 0.5) / n for i, n in zip(np.nonzero(present), values.shape, strict=True))
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        size = 0.4 * 72**2 * SIDE**2 / max(len(x), 30)
        return panel.scatter(x, y, c=values[present], s=min(size, 14), linewidths=0, **colours)
    return panel.imshow(
        values,
        origin="lower",
        extent=(0, 1, 0, 1),
        aspect=_aspect(space),
        interpolation="none",
        **colours,
    )


def _aspect(space: StateSpace) -> float:
    """Height of the domain over its width."""
    y, x = (space.period[name] for name in space.axes)
    return y / x


def _when(space: StateSpace, step: int) -> str:
    unit = space.units.get("time", "")
    return f"t = {step * space.dt:.4g}{f' {unit}' if unit else ''}"


def _writer(path: Path, frames_per_second: float) -> Any:
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if path.suffix == ".gif":
        return PillowWriter(fps=frames_per_second)  # type: ignore[arg-type]
    if path.suffix != ".mp4" or not FFMpegWriter.isAvailable():
        raise ValueError(
            f"Got the path {str(path)!r}: an animation ends in .gif, or, where ffmpeg is "
            "installed, in .mp4."
        )
    return FFMpegWriter(fps=frames_per_second)  # type: ignore[arg-type]
