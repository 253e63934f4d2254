"""Columns of tables, by name: read from CSV, NetCDF or a mapping, and written.

The fields of a CSV table are read as text. Whether a column holds numbers or datetimes is decided
where it is used, row by row, so that one bad field spoils one row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scorda.core.files import atomic, open_dataset

__all__ = ["numbers", "read_columns", "write_columns"]

# Fields without content, in lower case.
EMPTY = {"", "na", "nan", "nat", "none", "<na>"}


def numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as numbers, NaN where there is none, and where it has text instead."""
    import pandas

    given = pandas.Series(column, dtype=None if column.dtype.kind in "fiu" else object)
    values = pandas.to_numeric(given, errors="coerce").to_numpy(float)
    text = np.isnan(values)
    text[text] = [str(entry).strip().lower() not in EMPTY for entry in column[text]]
    return values, text


def read_columns(table: str | Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the columns of a CSV file (named ``*.csv``), a NetCDF file, or a mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, or the columns have different lengths.
    """
    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise FileNotFoundError(f"There is no table {path}: check the path.")
        return _read_csv(path) if path.suffix.lower() in {".csv", ".txt"} else _read_netcdf(path)
    columns = {str(name): np.asarray(table[name]) for name in table.keys()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"Got columns of shapes {shapes}: each needs one entry per row.")
    return columns


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    from pandas import read_csv
    from pandas.errors import EmptyDataError, ParserError

    try:
        # The header is read as a row, since pandas renames columns of equal names. Its Python
        # engine alone tells a field that is missing from an empty one.
        rows = read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            engine="python",
            encoding="utf-8-sig",
        )
    except EmptyDataError:
        raise ValueError(f"{path} is empty: give a header line and at least one row.") from None
    except (ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no CSV table ({error}): save it as CSV in UTF-8, with fields separated by "
            "commas and text that contains one in quotes."
        ) from error
    names = [name.strip() for name in rows.iloc[0]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has the columns {names}: give each another name.")
    fields = rows.notna().sum(axis=1)
    if (fields < len(names)).any():
        row = int((fields < len(names)).argmax())
        raise ValueError(
            f"Row {row} of {path} has {fields[row]} fields for {len(names)} columns: separate "
            "fields by commas, and leave none out."
        )
    return {name: rows[i][1:].to_numpy(object) for i, name in enumerate(names)}


def _read_netcdf(path: Path) -> dict[str, np.ndarray]:
    with open_dataset(path, "a NetCDF table (one in CSV is named *.csv)") as dataset:
        sizes = {name: v.dims for name, v in dataset.variables.items() if v.ndim > 0}
        dims = set(sizes.values())
        if len(dims) != 1 or len(next(iter(dims))) != 1:
            raise ValueError(
                f"{path} has variables on the dimensions {sorted(dims)}: a table has one "
                "dimension, its rows; use Observations.from_array for fields."
            )
        columns = {str(name): dataset[name].values for name in sizes}
    return {
        n: np.char.decode(c, "utf-8") if c.dtype.kind == "S" else c for n, c in columns.items()
    }


def write_columns(path: str | Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns as a table, CSV (``*.csv``) or NetCDF (``*.nc``), atomically.

    Raises:
        ValueError: If the name has another ending.
    """
    import pandas
    import xarray

    path = Path(path)
    if path.suffix.lower() not in {".csv", ".nc"}:
        raise ValueError(f"Got the table {path}: its name must end in .csv or .nc.")
    with atomic(path) as partial:
        if path.suffix.lower() == ".csv":
            # Numbers have the fewest digits that read back as the same number.
            pandas.DataFrame(dict(columns)).to_csv(
                partial, index=False, lineterminator="\n", date_format="%Y-%m-%dT%H:%M:%S.%f"
            )
        else:
            plain = {n: c.astype(str) if c.dtype.kind == "O" else c for n, c in columns.items()}
            dataset = xarray.Dataset({n: ("row", c) for n, c in plain.items()})
            dataset.attrs["Conventions"] = "CF-1.11"
            dataset.to_netcdf(partial, engine="h5netcdf")
