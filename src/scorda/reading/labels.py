"""Labels in the form that reading expects: times as datetimes, and positions in degrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.core.space import StateSpace
from scorda.core.times import ALIASES, unit_ratio
from scorda.reading.roles import role_of_name, roles

if TYPE_CHECKING:
    import xarray

__all__ = ["in_degrees", "in_time_unit", "with_plain_times"]

RADIANS = ("radian", "radians", "rad")
DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}
# Smallest and largest number that may be a date as 20190321.
DATES = 1e7, 3e7


def with_plain_times(dataset: xarray.Dataset, notes: list[str]) -> xarray.Dataset:
    """Name the axis of time ``time``, and make datetimes of dates that are written as numbers.

    Durations become numbers of hours.
    """
    time = roles(dataset).get("time")
    named = time in (None, "time") or "time" in dataset.variables
    if not named and (time in dataset.dims or dataset[time].ndim == 1):
        notes.append(f"took {time!r} for the time")
        if time not in dataset.dims:
            dataset = dataset.swap_dims({str(dataset[time].dims[0]): time})
        dataset = dataset.rename({time: "time"})
    if "time" not in dataset.coords or dataset["time"].ndim != 1:
        return dataset
    times = dataset["time"]
    if times.dtype.kind == "m":
        notes.append("took durations for model time in hours")
        hours = times.values / np.timedelta64(1, "h")
        return dataset.assign_coords(time=("time", hours, {"units": "hours"}))
    if times.dtype.kind in "fiu" and (dates := _dates(times)) is not None:
        notes.append("took numbers such as 20190321 for dates")
        return dataset.assign_coords(time=("time", dates))
    return dataset


def _dates(times: xarray.DataArray) -> np.ndarray | None:
    """Return datetimes of numbers such as 20190321.25, or None where not all are dates."""
    numbers = times.values.astype(float)
    low, high = DATES
    unit = str(times.attrs.get("units", ""))
    said = unit.startswith("day as %Y%m%d")
    if unit.strip().lower() in ALIASES:
        # What counts seconds is no date.
        return None
    whole = bool(np.isfinite(numbers).all()) and (said or bool((numbers % 1 == 0).all()))
    if not numbers.size or not whole or not ((numbers >= low) & (numbers < high)).all():
        return None
    day = numbers // 1
    text = [f"{d:.0f}" for d in day]
    try:
        dates = np.array([f"{t[:4]}-{t[4:6]}-{t[6:]}" for t in text], dtype="M8[us]")
    except ValueError:
        return None
    seconds = np.round((numbers - day) * 86400.0)
    return dates + seconds.astype("m8[s]")


def in_time_unit(dataset: xarray.Dataset, space: StateSpace, notes: list[str]) -> xarray.Dataset:
    """Convert model times with a unit to that of a space."""
    if "time" not in dataset.coords or dataset["time"].dtype.kind not in "fiu":
        return dataset
    times, unit = dataset["time"], str(dataset["time"].attrs.get("units", ""))
    ratio = unit_ratio(unit, space)
    if ratio == 1.0:
        return dataset
    notes.append(f"converted times from {unit} to {space.units['time']}")
    return dataset.assign_coords(time=("time", ratio * times.values))


def in_degrees(dataset: xarray.Dataset, notes: list[str]) -> xarray.Dataset:
    """Convert latitudes and longitudes that are in radians, also those of points."""
    found = {}
    for name, values in dataset.variables.items():
        unit = str(values.attrs.get("units", "")).strip().lower()
        role = values.attrs.get("standard_name", role_of_name(str(name)))
        if unit in RADIANS and role in DEGREES and "time" not in values.dims:
            attributes = values.attrs | {"units": DEGREES[str(role)]}
            # The last digits are those of a radian in decimals: 44.99999999999999 is 45.
            degrees = np.round(np.rad2deg(values.values.astype(float)), 9)
            found[name] = (values.dims, degrees, attributes)
            notes.append(f"converted {name} from radians to degrees")
    return dataset.assign(
        {n: v for n, v in found.items() if n not in dataset.coords}
    ).assign_coords({n: v for n, v in found.items() if n in dataset.coords})
