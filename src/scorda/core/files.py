"""Files that are whole or not there: tensors with a JSON header, and columns of tables.

Everything is written under a temporary name in the same directory, brought to the disk, and then
renamed: whoever kills the program finds the old file or the new one, never half of one. Tensors
are kept as safetensors, which hold numbers only: nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scorda.core.shapes import Tensor

__all__ = [
    "atomic",
    "atomic_directory",
    "numbers",
    "read_columns",
    "read_tensors",
    "write_columns",
    "write_tensors",
]

# The one key of the safetensors metadata that holds our header.
HEADER = "scorda"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; at the end of the block it becomes `path`.

    If the block raises, the temporary file is removed and `path` is as it was before.

    Raises:
        FileNotFoundError: If the directory of `path` does not exist.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give a temporary directory to fill; at the end of the block it becomes `path`.

    If the block raises, the temporary directory is removed and `path` is as it was before. A
    directory that is there already is replaced; since that takes two renames, a kill between them
    leaves the old one whole under a hidden name beside `path`.
    """
    path = Path(path)
    partial, old = _partial(path), _partial(path)
    try:
        partial.mkdir()
        yield partial
        for root, _, names in os.walk(partial):
            for name in names:
                _sync(Path(root, name))
            _sync(Path(root))
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write named tensors and a JSON header as one safetensors file, atomically.

    The same tensors and header give the same bytes.

    Raises:
        ValueError: If the header holds something that JSON cannot (NaN and infinity included).
    """
    from safetensors.torch import save

    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The header of {path} cannot be written as JSON ({error}): give finite numbers, "
            "strings, lists and dictionaries."
        ) from error
    # Copies, since the format refuses tensors that share memory.
    copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with atomic(path) as partial:
        partial.write_bytes(save(copies, metadata={HEADER: text}))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read ``(tensors, header)`` as written by `write_tensors`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no safetensors file, or has no header of Scorda.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: tensors that map the file would end the program when it is overwritten.
            tensors: dict[str, Tensor] = {n: file.get_tensor(n).clone() for n in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no safetensors file ({error}): "
            "copy or train it again."
        ) from error
    try:
        header = json.loads(metadata[HEADER])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is a safetensors file without a header of Scorda (metadata: "
            f"{sorted(metadata) or 'none'}): give a file that Scorda has written."
        ) from error
    return tensors, header


def numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column as numbers (NaN where empty or not a number), and where it is text instead."""
    if column.dtype.kind in "fiu":
        return column.astype(float), np.zeros(len(column), dtype=bool)
    values, text = np.full(len(column), math.nan), np.zeros(len(column), dtype=bool)
    for i, entry in enumerate(column.tolist()):
        if entry is None or (isinstance(entry, str) and entry.strip().lower() in {"", "na"}):
            continue
        try:
            values[i] = float(entry)
        except (TypeError, ValueError):
            text[i] = True
    return values, text


def read_columns(table: str | Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns of a CSV file (named ``*.csv``), a NetCDF file, or a mapping, by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, or the columns have different lengths.
    """
    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise FileNotFoundError(f"There is no table {path}: check the path.")
        if path.suffix.lower() in {".csv", ".txt"}:
            return _read_csv(path)
        return _read_netcdf(path)
    columns = {str(name): np.asarray(table[name]) for name in table.keys()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"Got columns of shapes {shapes}: each needs one entry per row.")
    return columns


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV table ({error}): save it as CSV in UTF-8.") from error
    if not lines:
        raise ValueError(f"{path} is empty: give a header line and at least one row.")
    names = [name.strip() for name in lines[0][1]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has the columns {names}: give each another name.")
    for line, row in lines[1:]:
        if len(row) != len(names):
            raise ValueError(
                f"Line {line} of {path} has {len(row)} fields for {len(names)} columns: separate "
                "fields by commas, quote text that contains one, and leave none out."
            )
    columns = (
        zip(*(row for _, row in lines[1:]), strict=True) if lines[1:] else ([] for _ in names)
    )
    return {n: np.array(list(c), dtype=object) for n, c in zip(names, columns, strict=True)}


def _read_netcdf(path: Path) -> dict[str, np.ndarray]:
    import xarray

    try:
        # Numbers of hours stay numbers: model time without a reference is no duration in ns.
        dataset = xarray.open_dataset(path, decode_timedelta=False)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} is neither a CSV (*.csv) nor a NetCDF table ({error}): give one of them."
        ) from error
    with dataset:
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
    path = Path(path)
    if path.suffix.lower() not in {".csv", ".nc"}:
        raise ValueError(f"Got the table {path}: its name must end in .csv or .nc.")
    with atomic(path) as partial:
        if path.suffix.lower() == ".csv":
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                # `str` of a NumPy number has the fewest digits that read back as that number.
                writer.writerows(
                    zip(*([str(v) for v in c] for c in columns.values()), strict=True)
                )
        else:
            import xarray

            plain = {n: c.astype(str) if c.dtype.kind == "O" else c for n, c in columns.items()}
            dataset = xarray.Dataset({n: ("row", c) for n, c in plain.items()})
            dataset.attrs["Conventions"] = "CF-1.11"
            dataset.to_netcdf(partial, engine="h5netcdf")


def _partial(path: Path) -> Path:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {path.parent}: make it first.")
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"


def _sync(path: Path) -> None:
    """Bring a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
