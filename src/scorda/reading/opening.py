"""Whatever holds labelled arrays is opened as one xarray data set, decoded by the CF conventions.

All reading of arrays begins here. Masked and declared fill values are NaN, packed integers are
unpacked, and times are datetimes of the calendar that the file names. No exception of a library
for files reaches the caller: each becomes one sentence.
"""

from __future__ import annotations

import math
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.reading.blocks import in_blocks
from scorda.reading.blosc import guard
from scorda.reading.declared import within_range
from scorda.reading.units import same_unit

if TYPE_CHECKING:
    import xarray

__all__ = ["Source", "is_labelled", "name_of", "open_data", "readable", "space_of"]

# Of a unit of time; xarray knows it in small letters alone.
SINCE = re.compile(r"\s+since\s+", re.IGNORECASE)
# A path (with * for several files), several paths, or an object of xarray.
Source = Any


def open_data(source: Source, kind: str = "a NetCDF file or a zarr store") -> xarray.Dataset:
    """Open a data set lazily, with CF decoding and times as datetimes or of `cftime`.

    Arguments:
        source: A path, one with ``*`` for several files, several paths, a remote path where
            fsspec knows its protocol, or an xarray Dataset or DataArray. Several files are put
            together by their coordinates.
        kind: What the caller expects there, in the words of the error.

    Raises:
        FileNotFoundError: If there is no such file or store.
        ValueError: If it cannot be read.
    """
    import xarray

    if isinstance(source, xarray.DataArray):
        source = source.to_dataset(name=source.name or "value")
    if isinstance(source, xarray.Dataset):
        return within_range(_decoded(source))
    paths = _paths(source)
    with readable(source, kind):
        datasets = [within_range(_open(path)) for path in paths]
    return datasets[0] if len(datasets) == 1 else _together(datasets, paths, source)


def _together(
    datasets: Sequence[xarray.Dataset], paths: Sequence[str], source: Source
) -> xarray.Dataset:
    """Put the parts of a record together by their coordinates."""
    import xarray

    for other, path in zip(datasets, paths, strict=True):
        for name in set(other.data_vars) & set(datasets[0].data_vars):
            units = [str(d[name].attrs.get("units", "")).strip() for d in (datasets[0], other)]
            if all(units) and not same_unit(*units):
                raise ValueError(
                    f"{path} has {str(name)!r} in {units[1]}, and {paths[0]} in {units[0]}: "
                    "convert one of them."
                )
    try:
        # Blocks keep the parts on the disk until a selection is loaded.
        parts = [in_blocks(dataset) for dataset in datasets]
        return xarray.merge([xarray.combine_by_coords(parts, combine_attrs="override")])
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name_of(source)} cannot be put together ({reason[:200]}): give parts of the same "
            "variables, positions and calendar, whose times follow each other."
        ) from error


def is_labelled(value: Any) -> bool:
    """Say whether a value is an object of xarray with labels, without importing xarray.

    An array whose axes nobody has named (``dim_0``, ``dim_1``, ...) is a plain one.
    """
    xarray = sys.modules.get("xarray")
    if xarray is None or not isinstance(value, xarray.Dataset | xarray.DataArray):
        return False
    unnamed = tuple(f"dim_{i}" for i in range(len(value.dims)))
    return isinstance(value, xarray.Dataset) or bool(value.coords) or value.dims != unnamed


@contextmanager
def readable(source: Source, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence.

    Damaged files make their libraries raise exceptions of any class, also of their own.

    Raises:
        ValueError: If reading fails.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        _drop(error)
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) and reason.startswith(name_of(source)):
            # A sentence of Scorda's own, from a function that this one calls.
            raise
        if reason.startswith("unable to decode time units"):
            raise ValueError(
                f"{name_of(source)} has times that cannot be decoded "
                f"({reason.partition('. Try opening')[0]}): give them units such as "
                "'hours since 2019-01-01', and a calendar of the CF conventions."
            ) from error
        told = "" if not reason or "IO backends" in reason else f" ({reason[:200]})"
        raise ValueError(
            f"{name_of(source)} cannot be read as {kind}{told}: give one, whole and with the "
            "right to read it."
        ) from error


@contextmanager
def space_of(source: Source) -> Iterator[None]:
    """Name the file in an error of the space that is made of it.

    Raises:
        ValueError: If no space can be made of it.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name_of(source)}: {error}") from error


def _drop(error: Exception) -> None:
    """Let go of what a failed reading holds; half-made files complain when they are deleted."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def name_of(source: Source) -> str:
    """Return how an error names a source: its path, or what kind of object it is."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Sequence):
        return f"{name_of(source[0])} and {len(source) - 1} more" if source else "An empty list"
    return f"The {type(source).__name__}"


def _paths(source: Source) -> list[str]:
    """Return the paths that a source names, which exist unless they are remote."""
    if not isinstance(source, str | Path | Sequence):
        raise ValueError(
            f"Got a {type(source).__name__}: give a path, several, or an xarray Dataset."
        )
    given = [source] if isinstance(source, str | Path) else list(source)
    paths: list[str] = []
    for entry in map(str, given):
        if "://" in entry or Path(entry).exists():
            paths.append(entry)
        elif "*" in entry and (found := sorted(glob(entry))):
            paths += found
        else:
            raise FileNotFoundError(f"There is no file or store {entry}: check the path.")
    if not paths:
        raise ValueError("Got no path: give at least one file or store.")
    return paths


def _open(path: str) -> xarray.Dataset:
    import xarray

    guard()
    settings: dict[str, Any] = {"engine": engine} if (engine := _engine(path)) else {}
    if engine == "h5netcdf":
        # Axes without a name get one, without a warning that says so.
        settings["phony_dims"] = "access"
    if engine == "zarr" and "://" not in path and not (Path(path) / ".zmetadata").is_file():
        settings["consolidated"] = False
    with warnings.catch_warnings():
        # Times that NumPy's calendar lacks are those of cftime, which is no loss here.
        warnings.simplefilter("ignore", xarray.SerializationWarning)
        return _since(xarray.open_dataset(path, **_decoding(), **settings))


def _engine(path: str) -> str | None:
    """Return the engine of xarray for a file, by its first bytes; None leaves it to xarray.

    So a file is read alike whatever is installed, and not by the library of NetCDF, which some
    damaged files bring down with the whole program.
    """
    if Path(path).suffix == ".zarr" or Path(path).is_dir():
        return "zarr"
    if "://" in path:
        return None
    with open(path, "rb") as file:
        first = file.read(4)
    return {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(first)


def _decoding() -> dict[str, Any]:
    """Return the settings of xarray's decoding.

    Numbers of hours stay numbers, since model time without a reference is no duration.
    Microseconds reach from the year -290 000 to 290 000.
    """
    from xarray.coders import CFDatetimeCoder

    return {"decode_times": CFDatetimeCoder(time_unit="us"), "decode_timedelta": False}


def _decoded(dataset: xarray.Dataset) -> xarray.Dataset:
    """Decode an object as a file would be; what is decoded already stays as it is.

    Several levels of labels along an axis become an axis each, if they are a grid.
    """
    import pandas
    import xarray

    with readable(dataset, "data of the CF conventions"):
        for axis in [a for a, i in dataset.indexes.items() if a in dataset.dims]:
            index = dataset.indexes[axis]
            if isinstance(index, pandas.MultiIndex):
                levels = index.remove_unused_levels().levels
                whole = index.is_unique and math.prod(map(len, levels)) == len(index)
                dataset = dataset.unstack(axis) if whole else dataset.reset_index(axis)
        return _since(xarray.decode_cf(dataset, **_decoding()))


def _since(dataset: xarray.Dataset) -> xarray.Dataset:
    """Decode times also where their unit is written in capitals, as ``Hours Since 1970-01-01``."""
    import xarray

    found = {}
    for name, values in dataset.variables.items():
        unit = values.attrs.get("units")
        if isinstance(unit, str) and SINCE.search(unit) and values.dtype.kind in "fiu":
            found[name] = values.copy(deep=False)
            found[name].attrs["units"] = SINCE.sub(" since ", unit)
    if not found:
        return dataset
    given = {name: found.get(name, values) for name, values in dataset.variables.items()}
    plain = xarray.Dataset(given, attrs=dataset.attrs).set_coords(list(dataset.coords))
    return xarray.decode_cf(plain, **_decoding())
