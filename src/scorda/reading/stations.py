"""Tables in data sets: columns along one dimension, and stations of the CF conventions.

Stations, trajectories and profiles (discrete sampling geometries, chapter 9 of CF) come with
dimensions such as ``(station, time)``, or ragged: rows of all stations one after the other, with
the number of rows of each (`sample_dimension`) or the station of each row (`instance_dimension`).
A row is made of each value; what belongs to a station or a time is repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.reading.points import with_places
from scorda.reading.roles import role_of_name, roles

if TYPE_CHECKING:
    import xarray

__all__ = ["is_gridded", "rows_of"]

# What the place of an observation consists of.
PLACE = ("time", "latitude", "longitude", "level")


def rows_of(
    dataset: xarray.Dataset, name: str, variables: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return the columns of a data set: its own, or one row per value of its variables.

    The unit of the values becomes the column ``units``.

    Raises:
        ValueError: If the data set is neither a table nor one of stations.
    """
    dataset = _flattened(_placed(dataset, variables))
    dims = {d for v in dataset.variables.values() for d in v.dims}
    if len(dims) == 1 and not set(variables) & set(map(str, dataset.data_vars)):
        return _columns(dataset)
    known = roles(dataset)
    present = [v for v in variables if v in dataset.data_vars]
    if not present or "time" not in known:
        raise ValueError(
            f"{name} has the variables {list(dataset.variables)} on the dimensions "
            f"{sorted(map(str, dims))}: a table needs the columns time and value, a file of "
            f"stations a time and one of {list(variables) or 'the variables'}; use "
            "Observations.from_array for fields."
        )
    for variable in present:
        try:
            dataset[variable] = dataset[variable].astype(float)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} has no numbers in {variable}, where the values are to be ({error}): give "
                "numbers, and NaN or a fill value where one is missing."
            ) from error
    return _station_rows(dataset, known, present)


def is_gridded(dataset: xarray.Dataset, variables: tuple[str, ...] = ()) -> bool:
    """Say whether some variable has the time and an axis beside it, and no stations."""
    known = roles(_placed(dataset, variables))
    places = [known[r] for r in ("latitude", "longitude") if r in known]
    if "featureType" in dataset.attrs or any(p not in dataset.dims for p in places):
        return False
    return any(v.ndim > 1 and v.dtype.kind in "fiu" for v in dataset.data_vars.values())


def _placed(dataset: xarray.Dataset, variables: tuple[str, ...]) -> xarray.Dataset:
    """Make coordinates of the data variables that say where and when, which a file may not do."""
    dataset = with_places(dataset, variables)
    found = [
        str(name)
        for name, values in dataset.data_vars.items()
        if name not in variables
        and values.ndim == 1
        and (values.attrs.get("standard_name") in PLACE or role_of_name(str(name)) in PLACE)
    ]
    return dataset.set_coords(found)


def _columns(dataset: xarray.Dataset) -> dict[str, np.ndarray]:
    columns = {}
    for name, values in dataset.variables.items():
        if values.ndim:
            columns[str(name)] = _text(values.values)
    for role, name in roles(dataset).items():
        if role not in columns and name in columns:
            columns[role] = columns.pop(name)
    units = dataset["value"].attrs.get("units") if "value" in columns else None
    if units is not None and "units" not in columns:
        columns["units"] = np.full(len(columns["value"]), str(units), dtype=object)
    return columns


def _flattened(dataset: xarray.Dataset) -> xarray.Dataset:
    """Repeat what belongs to a station along its rows, where the rows are ragged."""
    for name, values in dataset.variables.items():
        sample, instance = (
            values.attrs.get(k) for k in ("sample_dimension", "instance_dimension")
        )
        if sample in dataset.dims:
            index = np.repeat(np.arange(values.size), values.values.astype(int))
        elif instance in dataset.dims:
            sample, index = values.dims[0], values.values.astype(int)
        else:
            continue
        station = values.dims[0] if instance is None else instance
        own = [n for n, v in dataset.variables.items() if station in v.dims and n != name]
        spread = {
            n: (sample, dataset[n].values[index], dataset[n].attrs)
            for n in own
            if dataset[n].ndim == 1
        }
        at_rows = dataset.drop_vars([*own, name]).assign(spread)
        return at_rows.set_coords([n for n in spread if n in dataset.coords])
    return dataset


def _station_rows(
    dataset: xarray.Dataset, known: dict[str, str], present: list[str]
) -> dict[str, np.ndarray]:
    """Return a row per value of the variables, with its time and position."""
    import xarray

    columns: dict[str, list[np.ndarray]] = {}
    places = [r for r in ("latitude", "longitude", "level") if r in known]
    for name in present:
        values = dataset[name]
        parts = xarray.broadcast(values, *(dataset[known[r]] for r in ("time", *places)))
        given = {"value": parts[0], "time": parts[1]}
        given |= dict(zip(places, parts[2:], strict=True))
        rows = {n: p.transpose(*parts[0].dims).values.ravel() for n, p in given.items()}
        kept = ~np.isnan(rows["value"])
        rows = {n: v[kept] for n, v in rows.items()}
        rows["variable"] = np.full(int(kept.sum()), name, dtype=object)
        units = str(values.attrs.get("units", ""))
        rows["units"] = np.full(int(kept.sum()), units, dtype=object)
        for column, entries in rows.items():
            columns.setdefault(column, []).append(entries)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
