"""Files, written whole or not at all: tensors with a JSON header, and tables.

Everything is written under a temporary name in the same directory, brought to the disk, and then
renamed: whoever kills the program finds the old file or the new one, never half of one. Tensors
are kept as safetensors, which hold numbers only: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scorda.core.shapes import Tensor

__all__ = ["atomic", "read_tensors", "sha256", "write_columns", "write_tensors"]

# The one key of the safetensors metadata that holds our header.
HEADER = "scorda"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` at the end of the block.

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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files of a folder."""
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        total.update(f"{part.relative_to(path)}\n{sha256(part)}\n".encode())
    return total.hexdigest()


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
