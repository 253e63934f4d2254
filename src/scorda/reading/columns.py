"""Columns of tables, by name, from every kind of source: the same rows come of each.

A table is a CSV file (also compressed, or separated by tabs or semicolons), a Parquet file, a
NetCDF file or zarr store with one dimension or with stations of the CF conventions (discrete
sampling geometries), a data frame of pandas or polars, an xarray Dataset, or a mapping of columns.

A column of a CSV table that holds numbers alone is read as numbers, any other as text, and names
of variables and units always. Whether a column of text holds numbers or datetimes is decided where
it is used, row by row, so that one bad field spoils one row alone.
"""

from __future__ import annotations

import csv
import lzma
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorda.core.columns import distinct, is_text
from scorda.reading.opening import Source, name_of, open_data, readable
from scorda.reading.stations import rows_of

if TYPE_CHECKING:
    import pandas

__all__ = ["is_text_table", "read_columns"]

TEXT = {".csv", ".txt", ".tsv", ".dat"}
COMPRESSED = {".gz", ".bz2", ".xz", ".zip", ".zst"}
PARQUET = {".parquet", ".pq"}
# Of damaged archives, and of integers that no float holds.
BROKEN = (EOFError, OverflowError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
# A table of more columns is one of fields, with which pandas takes minutes.
MOST_COLUMNS = 10_000
# Rows of a table in NetCDF, all of which are in memory: 2 GB for each column.
MOST_ROWS = 2**28
# Fields of a table of text that are read at once, and rows of all of it.
TOGETHER, WHOLE = 2**18, 2**62
# Columns of observations, whose names may have capitals, and one with another usual name.
NAMES = {n: n for n in ("time", "value", "std", "variable", "units", "since", "law")}
NAMES |= {"unit": "units"}
# Columns that are text even where all of it is digits.
LABELS = ("variable", "units", "unit")
# A number as it is written where commas separate no fields, and one that has a point.
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")
DECIMAL_POINT = re.compile(r"\s*[+-]?[\d,]*\.\d*(?:[eE][+-]?\d+)?\s*")
# No text has the separator of units (ASCII 31): with it a line is one field.
WHOLE_LINES: dict[str, Any] = {"sep": "\x1f", "quoting": csv.QUOTE_NONE}
# The header is read as a row, since pandas renames columns of equal names.
AS_TEXT: dict[str, Any] = {
    "header": None, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig",
}  # fmt: skip


def is_text_table(path: str | Path) -> bool:
    """Say whether the name of a file is that of a table of text."""
    endings = [ending.lower() for ending in Path(path).suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    return bool(endings) and endings[-1] in TEXT


def read_columns(table: Source, variables: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read the columns of a table; text is stripped of blanks, and masked entries are absent.

    Arguments:
        table: A path, or a data frame, Dataset or mapping, as said above.
        variables: Variables that a file of stations may hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed or too large, or columns have different lengths.
    """
    columns = _columns_of(table, variables)
    named: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        usual = NAMES.get(name.strip().lower(), name)
        named[name if usual in columns or usual in named else usual] = column
    return named


def _columns_of(table: Source, variables: tuple[str, ...]) -> dict[str, np.ndarray]:
    import xarray

    if isinstance(table, str | Path):
        path = Path(table)
        if "://" not in str(table) and not path.exists():
            raise FileNotFoundError(f"There is no table {path}: check the path.")
        if is_text_table(path):
            return _read_text(path)
        if path.suffix.lower() in PARQUET:
            return _read_parquet(path)
    if isinstance(table, str | Path | xarray.Dataset):
        return _of_data(table, variables)
    if hasattr(table, "to_pandas") and not isinstance(table, Mapping):
        table = table.to_pandas()
    if hasattr(table, "reset_index"):
        return _of_frame(table)
    if not isinstance(table, Mapping):
        raise ValueError(
            f"Got a table of type {type(table).__name__}: give a path, a data frame, an xarray "
            "Dataset or a mapping of columns."
        )
    columns = {str(name): _column(table[name]) for name in table}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"Got columns of shapes {shapes}: each needs one entry per row.")
    return columns


def _of_data(table: Source, variables: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the columns of a NetCDF file, a zarr store or a data set."""
    import pandas

    if not isinstance(table, str | Path):
        # Levels of labels are columns here, not axes.
        indexes = {a: i for a, i in table.indexes.items() if a in table.dims}
        several = [a for a, i in indexes.items() if isinstance(i, pandas.MultiIndex)]
        table = table.reset_index(several)
    dataset = open_data(table, "a NetCDF table (one in CSV is named *.csv)")
    for name, values in dataset.variables.items():
        if values.size > MOST_ROWS:
            raise ValueError(
                f"{name_of(table)} has {values.size} values of {name!r}, of which a table has "
                f"at most {MOST_ROWS}: give a part of them."
            )
    with readable(table, "a table"):
        dataset = dataset.load()
    return rows_of(dataset, name_of(table), variables)


def _column(values: Any) -> np.ndarray:
    """Return a column as an array of numbers, datetimes (UTC) or objects, NaN where masked."""
    if hasattr(values, "to_pandas") and not hasattr(values, "dtype"):
        values = values.to_pandas()
    if hasattr(values, "dt") and hasattr(values, "array") and not hasattr(values, "dims"):
        return _of_series(values)
    if isinstance(values, np.ma.MaskedArray):
        absent = np.ma.getmaskarray(values)
        numeric = values.dtype.kind in "fiu"
        out = np.array(values.data, dtype=float if numeric else object)
        out[absent] = np.nan if numeric else None
        return out
    if hasattr(values, "detach"):
        from scorda.core.arrays import as_tensor

        values = as_tensor(values, "a column").numpy(force=True)
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise _complex()
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8").astype(object)
    if array.dtype.kind in "fiu" and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _complex() -> ValueError:
    return ValueError("Got complex numbers in a table: give real ones.")


def _of_series(values: pandas.Series) -> np.ndarray:
    import pandas

    kind = values.dtype
    if pandas.api.types.is_complex_dtype(kind):
        raise _complex()
    if isinstance(kind, pandas.DatetimeTZDtype):
        return values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("M8[us]")
    if isinstance(kind, pandas.PeriodDtype):
        return values.dt.to_timestamp().to_numpy("M8[us]")
    if isinstance(kind, pandas.CategoricalDtype):
        return values.astype(object).to_numpy()
    if pandas.api.types.is_numeric_dtype(kind) and kind.kind in "fiu":
        return values.to_numpy(dtype=float, na_value=np.nan)
    if isinstance(kind, pandas.StringDtype):
        return _shared(values, np.nan)
    return values.to_numpy()


def _shared(column: pandas.Series, absent: Any) -> np.ndarray:
    """Return text as objects, one for all entries that are equal, and another for absent ones."""
    import pandas

    code, found = pandas.factorize(column)
    # The code of what is absent is -1, the last.
    return np.append(np.asarray(found, dtype=object), [absent])[code]


def _of_frame(frame: pandas.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns of a frame, with the levels of its index that have a name."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    if named:
        frame = frame.reset_index()
    columns = {str(name): _of_series(frame[name]) for name in frame.columns}
    if len(columns) < len(frame.columns):
        raise ValueError(f"Got the columns {list(frame.columns)}: give each another name.")
    return columns


def _read_text(path: Path) -> dict[str, np.ndarray]:
    import pandas
    from pandas.errors import EmptyDataError, ParserError

    try:
        head = pandas.read_csv(path, engine="c", nrows=1, **WHOLE_LINES, **AS_TEXT)
        sep = max((",", ";", "\t"), key=str(head.iloc[0, 0]).count)
        header = pandas.read_csv(path, engine="c", sep=sep, nrows=1, **AS_TEXT)
        names = [str(name).strip() for name in header.iloc[0]]
        _check_width(path, len(names))
        columns = _typed(path, sep, names, list(header.iloc[0]))
        rows = _as_text(path, sep) if columns is None else header
    except EmptyDataError:
        raise ValueError(f"{path} is empty: give a header line and at least one row.") from None
    except _Wide:
        raise
    except ImportError as error:
        raise ValueError(
            f"{path} needs another package to be unpacked ({_reason(error)}): install it, or "
            "give the table as it is."
        ) from error
    except (ParserError, OSError, csv.Error, ValueError, *BROKEN) as error:
        raise ValueError(
            f"{path} is no CSV table ({_reason(error)}): save it as CSV in UTF-8, "
            "with fields separated by commas and text that contains one in quotes."
        ) from error
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has the columns {names}: give each another name.")
    fields = rows.notna().sum(axis=1)
    if (fields < len(names)).any():
        row = int((fields < len(names)).argmax())
        raise ValueError(
            f"Row {row} of {path} has {fields[row]} fields for {len(names)} columns: separate "
            "fields by commas, and leave none out."
        )
    columns = columns or {name: rows[i][1:].to_numpy(object) for i, name in enumerate(names)}
    return columns if sep == "," else {n: _with_points(c) for n, c in columns.items()}


def _with_points(column: np.ndarray) -> np.ndarray:
    """Return text in which numbers have a decimal point in place of a comma.

    Beside numbers that have a point a comma may stand for thousands: such text is left as it is.
    """
    if not is_text(column):
        return column
    code, found = distinct(column)
    odd = [k for k, entry in enumerate(found) if DECIMAL_COMMA.fullmatch(entry)]
    if any(DECIMAL_POINT.fullmatch(entry) for entry in found):
        return column
    found[odd] = [entry.replace(",", ".") for entry in found[odd]]
    return found[code]


class _Wide(ValueError):
    """A table has more columns than observations have."""


def _check_width(path: Path, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise _Wide(
            f"{path} has {columns} columns, more than {MOST_COLUMNS}: give a table with a row for "
            "each observation."
        )


def _typed(
    path: Path, sep: str, names: list[str], header: list[str]
) -> dict[str, np.ndarray] | None:
    """Return the columns, numbers where a column holds nothing else; None if some row is odd."""
    import pandas
    from pandas.errors import ParserError

    labels = [raw for name, raw in zip(names, header, strict=True) if name.lower() in LABELS]

    def read(kind: Any, rows: int) -> list[pandas.DataFrame]:
        with pandas.read_csv(
            path, engine="c", sep=sep, header=0, dtype=dict.fromkeys(labels, kind),
            keep_default_na=False, na_values=[""], encoding="utf-8", low_memory=False,
            chunksize=rows,
        ) as parts:  # fmt: skip
            return list(parts)

    def parts_of(rows: int) -> list[pandas.DataFrame]:
        # Few names and units are distinct. Where all are digits pandas makes numbers of them.
        parts = read("category", rows)
        kinds = {p[label].cat.categories.dtype.kind for p in parts for label in labels}
        return read(str, rows) if kinds & set("biuf") else parts

    try:
        # The parser also holds as text what it reads at once.
        parts = parts_of(max(TOGETHER // len(names), 1))
        if len({tuple(part.dtypes.drop(labels)) for part in parts}) > 1:
            # All of a column says whether it is of numbers, and of which.
            parts = parts_of(WHOLE)
    except ParserError:
        return None
    # Of rows that are longer than the header pandas makes an index.
    if any(
        len(part.columns) < len(names) or not isinstance(part.index, pandas.RangeIndex)
        for part in parts
    ):
        return None
    if any(kind.kind == "b" for part in parts for kind in part.dtypes):
        return None
    absent = any(part.iloc[:, -1].isna().any() for part in parts)
    if absent and _may_lack_fields(path, sep, len(names)):
        return None
    return {
        name: np.concatenate([_plain(part.iloc[:, i]) for part in parts])
        for i, name in enumerate(names)
    }


def _plain(column: pandas.Series) -> np.ndarray:
    """Return numbers, or text that is empty where it is absent."""
    if column.dtype.kind in "fiu":
        return column.to_numpy()
    return _shared(column, "")


def _may_lack_fields(path: Path, sep: str, count: int) -> bool:
    """Say whether some row may have fewer fields than the header, rather than empty ones."""
    import pandas

    lines = pandas.read_csv(path, engine="c", **WHOLE_LINES, **AS_TEXT)[0].str
    return bool((lines.count(sep) + 1 != count).any() or lines.contains('"').any())


def _as_text(path: Path, sep: str) -> pandas.DataFrame:
    """Return all fields as text, the header as the first row, and None where one is missing."""
    import pandas

    rows = pandas.read_csv(path, engine="c", sep=sep, **AS_TEXT)
    if len(rows) and (rows.iloc[:, -1] == "").any():
        # The slower engine alone tells a field that is missing from an empty one.
        rows = pandas.read_csv(path, engine="python", sep=sep, **AS_TEXT)
    return rows


def _reason(error: Exception) -> str:
    return " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    import pandas

    with readable(path, "a Parquet table"):
        return _of_frame(pandas.read_parquet(path))
