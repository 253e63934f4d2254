r"""Records of gridded fields: read from a file, on regular times, with their daily cycle.

A record is what a prior is learned from: states ``(time, *state)``, their space, and the datetime
of the first. The *daily cycle* is the mean field of each time of day; *phase* is the number of
steps since midnight UTC.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.files import open_dataset
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import SECONDS, Start, parse_start, time_unit

if TYPE_CHECKING:
    import xarray

__all__ = ["Fields", "daily_phases", "phases_of", "read_fields"]


@dataclass(frozen=True, eq=False)
class Fields:
    """States on regular times.

    Arguments:
        states: ``(time, *state)``, finite, in the units of the space.
        space: Their space; its `dt` is the time between them.
        start: Datetime of the first, if known.
    """

    states: Float[Tensor, "time ..."]
    space: StateSpace
    start: np.datetime64 | None = None

    def __post_init__(self) -> None:
        self.space.check(self.states, "the fields")

    def __len__(self) -> int:
        return len(self.states)


def read_fields(
    path: str | Path,
    variable: str | Sequence[str] = (),
    since: Start | None = None,
    until: Start | None = None,
) -> Fields:
    """Read variables on ``(time, ...)`` from a NetCDF file or a zarr store.

    The dimensions after ``time`` are the coordinates of the space, in increasing order (latitudes
    often fall in a file). Datetimes give a time step in hours.

    Arguments:
        path: The file.
        variable: Variable or variables. Default: all that have a time.
        since: First datetime to use (default: all).
        until: Last datetime to use; a date without a time means the whole day.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, a variable is missing, times are not regular, or
            values are not finite.
    """
    record, names = _read(path, variable)
    kept = _within(record["time"].values, since, until, path)
    dims = [str(d) for d in record[names[0]].dims if d != "time"]
    record = record.isel(time=kept).sortby(dims).transpose("time", *dims)
    times, attributes = record["time"].values, {n: record[n].attrs for n in (*names, *dims)}
    units = {n: str(given["units"]) for n, given in attributes.items() if "units" in given}
    start = times[0].astype("M8[us]") if times.dtype.kind == "M" else None
    if start is not None:
        units["time"] = "hours"
    arrays = [record[n].values for n in names]
    states = np.stack(arrays, 1) if len(names) > 1 or not dims else arrays[0]
    places = {d: record[d].values for d in dims}
    space = StateSpace(states.shape[1:], _step(times, path), tuple(names), places, units=units)
    return Fields(torch.from_numpy(np.ascontiguousarray(states, np.float64)), space, start)


def _read(path: str | Path, variable: str | Sequence[str]) -> tuple[xarray.Dataset, list[str]]:
    """Read the variables that have a time, or those that are asked for, and return their names."""
    with open_dataset(path) as dataset:
        timed = [str(n) for n, v in dataset.items() if "time" in v.dims]
        names = [variable] if isinstance(variable, str) else list(variable) or timed
        missing = [n for n in names if n not in timed]
        if missing or not names or "time" not in dataset.coords:
            raise ValueError(
                f"{path} has the variables {list(dataset)}: it needs {missing or 'one'} on the "
                "dimension time, with coordinates."
            )
        return dataset[names].load(), names


def _within(
    times: np.ndarray, since: Start | None, until: Start | None, path: str | Path
) -> np.ndarray:
    """Return which times lie between two datetimes."""
    kept = np.ones(len(times), dtype=bool)
    if times.dtype.kind != "M":
        if since is not None or until is not None:
            raise ValueError(f"The times of {path} are no datetimes: leave since, until out.")
        return kept
    if since is not None:
        kept &= times >= parse_start(since)
    if until is not None:
        kept &= times <= _end(until)
    if kept.sum() < 2:
        first, last = (np.datetime_as_string(t, unit="m") for t in times[[0, -1]])
        raise ValueError(
            f"{path} has {kept.sum()} times from {since or first} to {until or last}: its "
            f"times are {first} to {last}, and at least two are needed."
        )
    return kept


def _end(until: Start) -> np.datetime64:
    """Return the last datetime that counts: the end of the day where only a date is given."""
    try:
        day = datetime.date.fromisoformat(str(until).strip())
    except ValueError:
        return parse_start(until)
    return np.datetime64(day, "us") + np.timedelta64(1, "D") - np.timedelta64(1, "us")


def _step(times: np.ndarray, path: str | Path) -> float:
    """Return the step between regular times, in hours where they are datetimes."""
    if len(times) < 2:
        raise ValueError(f"{path} has {len(times)} times: at least two are needed.")
    dated = times.dtype.kind == "M"
    elapsed = (times - times[0]) / np.timedelta64(1, "h") if dated else times.astype(float)
    gaps = np.diff(elapsed)
    if not gaps[0] > 0 or not np.allclose(gaps, gaps[0], rtol=1e-6):
        raise ValueError(f"The times of {path} are not regular: give equal steps, increasing.")
    return float(gaps[0])


def daily_phases(space: StateSpace) -> int:
    """Return the steps per day; 1 where a day is no whole number of them or time has no unit."""
    if "time" not in space.units:
        return 1
    steps = 86400.0 / (space.dt * SECONDS[time_unit(space)])
    return max(round(steps), 1) if abs(steps - round(steps)) < 1e-6 * steps else 1


def phases_of(start: Start, states: int, space: StateSpace) -> Int[Tensor, "states"]:
    """Return the phase of each of so many states from a datetime on, which is a step of the day.

    Raises:
        ValueError: If `start` is no datetime or lies between two steps.
    """
    steps, first = daily_phases(space), parse_start(start)
    seconds = (first - first.astype("M8[D]")).astype("m8[us]").astype(np.int64) / 1e6
    phase = seconds / (86400.0 / steps)
    if abs(phase - round(phase)) > 1e-6:
        raise ValueError(
            f"Got start = {start!r} between two of the {steps} steps of a day: start on a step."
        )
    return (torch.arange(states) + round(phase)) % steps
