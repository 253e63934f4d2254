"""Tables in data sets: columns along one dimension, and stations of the CF conventions.

Stations, trajectories and profiles (discrete sampling geometries, chapter 9 of CF) come with
dimensions such as ``(station, time)``, or ragged: rows of all stations one after the other, with
the number of rows of each (`sample_dimension`) or the station of each row (`instance_dimension`).
A row is made of each value; what belongs to a station or a time is repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.core.sphere import is_latitude, is_longitude
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

    The unit of the values becomes the column ``units``, that of another column, such as ``std`` or
    ``level``, the column ``std_units`` or ``level_units``.

    Raises:
        ValueError: If the data set is neither a table nor one of stations, or its ragged rows
            belong to no station.
    """
    dataset = _flattened(_placed(dataset, variables), name)
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
    source = {name: name for name in columns}
    for role, name in roles(dataset).items():
        if role not in columns and name in columns:
            columns[role], source[role] = columns.pop(name), source.pop(name)
    for column, name in source.items():
        units = _unit_of(dataset[name])
        told = "units" if column == "value" else f"{column}_units"
        if units and told not in columns:
            columns[told] = np.full(len(columns[column]), units, dtype=object)
    return columns


def _unit_of(values: xarray.DataArray) -> str:
    """Return the unit of a column, "" where it has none, or degrees as every position."""
    units = str(values.attrs.get("units", "")).strip()
    return "" if is_latitude(units) or is_longitude(units) else units


def _flattened(dataset: xarray.Dataset, source: str) -> xarray.Dataset:
    """Repeat what belongs to a station along its rows, where the rows are ragged."""
    for name, values in dataset.variables.items():
        sample, instance = (
            values.attrs.get(k) for k in ("sample_dimension", "instance_dimension")
        )
        if sample in dataset.dims:
            counts = _whole(values.values, str(name), source)
            if counts.sum() != dataset.sizes[sample]:
                raise ValueError(
                    f"{source} has {dataset.sizes[sample]} rows, and {int(counts.sum())} by "
                    f"{str(name)!r}, the number of rows of each station: correct these."
                )
            index = np.repeat(np.arange(values.size), counts)
        elif instance in dataset.dims:
            sample, index = values.dims[0], _whole(values.values, str(name), source)
            if index.max(initial=-1) >= dataset.sizes[instance]:
                raise ValueError(
                    f"{source} has {dataset.sizes[instance]} stations, and {int(index.max())} in "
                    f"{str(name)!r}, the station of each row: count them from 0."
                )
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


def _whole(given: np.ndarray, name: str, source: str) -> np.ndarray:
    """Return numbers of rows or of stations as integers."""
    if given.dtype.kind not in "fiu" or not ((given >= 0) & (given % 1 == 0)).all():
        raise ValueError(
            f"{source} has entries of {name!r} that are no whole numbers from 0 on: correct them; "
            "they say which rows are of which station."
        )
    return given.astype(np.int64)


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
        for role in places:
            if unit := _unit_of(dataset[known[role]]):
                rows[f"{role}_units"] = np.full(int(kept.sum()), unit, dtype=object)
        for column, entries in rows.items():
            columns.setdefault(column, []).append(entries)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
