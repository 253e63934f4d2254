"""Files: written whole or not at all, tensors with a JSON header, and data sets of fields.

Everything is written under a temporary name in the same directory, brought to the disk, and then
renamed: whoever kills the program finds the old file or the new one, never half of one. Tensors
are kept as safetensors, which hold numbers only: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.core.shapes import Tensor

if TYPE_CHECKING:
    import xarray

__all__ = ["atomic", "open_dataset", "read_tensors", "write_tensors"]

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


def open_dataset(path: str | Path, kind: str = "a NetCDF file or a zarr store") -> xarray.Dataset:
    """Open the data set in a NetCDF file or a zarr store, with its times as datetimes.

    Arguments:
        path: The file or the store.
        kind: What the caller expects there, in the words of the error.

    Raises:
        FileNotFoundError: If there is no such file or store.
        ValueError: If it cannot be read.
    """
    import xarray

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or store {path}: check the path.")
    settings: dict[str, Any] = {"engine": "zarr", "consolidated": False} if path.is_dir() else {}
    try:
        # Numbers of hours stay numbers: model time without a reference is no duration.
        return xarray.open_dataset(path, decode_timedelta=False, **settings)
    except (OSError, ValueError) as error:
        reason = "" if "IO backends" in str(error) else f" ({error})"
        raise ValueError(
            f"{path} cannot be read as {kind}{reason}: give one, whole and with the right to "
            "read it."
        ) from error


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
