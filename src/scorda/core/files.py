"""Files, written whole or not at all: tensors with a JSON header, and tables.

Everything is written under a temporary name in the same directory, brought to the disk, and then
renamed: whoever kills the program finds the old file or the new one, never half of one. A file
that Scorda did not write is not replaced (`ownership`). Tensors are kept as safetensors, which
hold numbers only: nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scorda.core.ownership import MARK, SOURCE, check_output, real_path
from scorda.core.shapes import Tensor

__all__ = [
    "atomic",
    "read_tensor",
    "read_tensors",
    "sync",
    "write_columns",
    "write_netcdf",
    "write_tensors",
]

# The one key of the safetensors metadata that holds our header.
HEADER = MARK
# The first key of our header, what stands there while the sum is taken, and what precedes it in
# the file, after the eight bytes of its length.
CHECKSUM, UNKNOWN = "checksum", "0" * 64
BEGIN = f'{{"__metadata__":{{"{HEADER}":"{{\\"{CHECKSUM}\\": \\"'.encode()
# Bytes that a NetCDF file has beside its arrays, or more.
LAYOUT = 2**16
# Temporary files that this process is writing.
_open: set[Path] = set()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` at the end of the block.

    If the block raises, the temporary file is removed and `path` is as it was before. What a kill
    has left of an earlier write is removed. A symbolic link stays, and what it names is written.
    `path` is replaced whatever it is: `check_output` says before whether it may be.

    Raises:
        FileNotFoundError: If the directory of `path` does not exist.
        ValueError: If `path` is a symbolic link that leads to itself.
    """
    path = real_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {path.parent}: make it first.")
    _remove_leftovers(path)
    partial = path.parent / f".{path.name}.{os.getpid():06x}{secrets.token_hex(1)}.partial"
    _open.add(partial)
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        _open.discard(partial)
    sync(path.parent)


def write_netcdf(data: Any, path: str | Path, overwrite: bool = True) -> None:
    """Write a dataset, or a tree of them, of xarray as NetCDF, atomically.

    Raises:
        ValueError: If a file is there that Scorda did not write, or that may not be replaced.
        OSError: If the disk has no room.
    """
    with atomic(check_output(path, overwrite)) as partial:
        _reserve(partial, data.nbytes + LAYOUT)
        data.to_netcdf(partial, engine="h5netcdf")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write named tensors and a JSON header as one safetensors file, atomically.

    The same tensors and header give the same bytes. The header begins with the SHA-256 of the
    whole file, taken with zeros in its own place.

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
    checked = f'{{"{CHECKSUM}": "{UNKNOWN}", {text[1:]}'.replace(", }", "}")
    # Copies, since the format refuses tensors that share memory.
    copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    content = save(copies, metadata={HEADER: checked})
    with atomic(path) as partial:
        partial.write_bytes(_with_checksum(content, _checksum(content)))


def read_tensors(
    path: str | Path, advice: str = "copy it again, or make it anew"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read ``(tensors, header)`` as written by `write_tensors`, every byte as it was written.

    Arguments:
        path: The file.
        advice: What to do about a damaged file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or damaged, is no safetensors file, or has no header
            or no checksum of Scorda.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    content = path.read_bytes()
    if content[8 : 8 + len(BEGIN)] != BEGIN:
        raise ValueError(_foreign(path, content))
    found = content[8 + len(BEGIN) :][: len(UNKNOWN)]
    if _checksum(_with_checksum(content, UNKNOWN)).encode() != found:
        raise ValueError(f"{path} is {_damage(content)}; {advice}.")
    try:
        header = json.loads(_entries(content)["__metadata__"][HEADER])
        del header[CHECKSUM]
        return load(content), header
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} has a checksum that fits, but another program wrote it ({error}): give a "
            "file that Scorda has written."
        ) from error


def read_tensor(path: str | Path, name: str) -> Tensor:
    """Read one tensor of a file that this run has written or checked, and nothing else of it."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found


def check_finite_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a file are finite.

    Raises:
        ValueError: If one is not; the sentence names it.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{path} holds numbers that are not finite, in {name}: train again with a lower "
                "rate."
            )


def write_columns(
    path: str | Path, columns: Mapping[str, np.ndarray], overwrite: bool = False
) -> None:
    """Write columns as a table, CSV (``*.csv``) or NetCDF (``*.nc``), atomically.

    Arguments:
        path: File to write.
        columns: The columns.
        overwrite: Replace a CSV of the same columns, which has no place for Scorda's mark.

    Raises:
        ValueError: If the name has another ending, or a file is there that Scorda did not write.
    """
    import pandas
    import xarray

    path = Path(path)
    if path.suffix.lower() not in {".csv", ".nc"}:
        raise ValueError(f"Got the table {path}: its name must end in .csv or .nc.")
    if path.suffix.lower() == ".nc":
        plain = {n: c.astype(str) if c.dtype.kind == "O" else c for n, c in columns.items()}
        dataset = xarray.Dataset({n: ("row", c) for n, c in plain.items()})
        dataset.attrs = {"Conventions": "CF-1.11", "source": SOURCE}
        write_netcdf(dataset, path)
        return
    same = _begins(path, ",".join(columns))
    try:
        check_output(path, overwrite=True)
    except ValueError as error:
        if same and not overwrite:
            raise ValueError(
                f"{path} is already there, a table of the same columns: give overwrite=True to "
                "replace it, or choose another name."
            ) from error
        if not same:
            raise
    with atomic(path) as partial:
        # Numbers have the fewest digits that read back as the same number.
        pandas.DataFrame(dict(columns)).to_csv(
            partial, index=False, lineterminator="\n", date_format="%Y-%m-%dT%H:%M:%S.%f"
        )


def _begins(path: Path, line: str) -> bool:
    """Return whether there is a file with this first line."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(len(line) + 2).rstrip("\r\n") == line
    except (OSError, UnicodeDecodeError):
        return False


def _reserve(path: Path, size: int) -> None:
    """Make a file of a size: the library of HDF5 crashes where a disk becomes full."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return
            raise OSError(error.errno, error.strerror, str(path)) from error


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _with_checksum(content: bytes, checksum: str) -> bytes:
    """Return the content of a file with another checksum at its place."""
    at = 8 + len(BEGIN)
    return content[:at] + checksum.encode() + content[at + len(checksum) :]


def _entries(content: bytes) -> dict[str, Any]:
    """Return the JSON at the beginning of a safetensors file: 8 bytes of length, then JSON."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def _damage(content: bytes) -> str:
    """Say what has become of a file that we wrote."""
    whole = 8 + int.from_bytes(content[:8], "little")
    try:
        entries = _entries(content)
        whole += max(e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__")
    except (ValueError, TypeError, KeyError, RecursionError):
        # The length of the JSON is all that is known.
        pass
    if len(content) < whole:
        return f"truncated: it has {len(content)} bytes, and its beginning speaks of {whole}"
    return "damaged: its bytes are not those that were written"


def _foreign(path: Path, content: bytes) -> str:
    """Say of a file that does not begin as ours what it is instead."""
    if not content:
        return f"{path} is empty: copy it again, or make it anew."
    try:
        metadata = _entries(content).get("__metadata__", {})
        ours = HEADER in metadata
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{path} is damaged or no safetensors file: copy it again, or make it anew."
    if ours:
        return f"{path} has no checksum, as of a version of Scorda before: make it anew."
    return (
        f"{path} is a safetensors file without a header of Scorda (metadata: "
        f"{sorted(metadata) or 'none'}): give a file that Scorda has written."
    )


def sync(path: Path) -> None:
    """Bring a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose process is gone; their names hold its number."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{6}})[0-9a-f]{{2}}\.partial")
    for entry in path.parent.iterdir():
        found = pattern.fullmatch(entry.name)
        if found and entry not in _open and not _runs(int(found[1], 16)):
            entry.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Return whether another process of that number runs."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return process > 0
