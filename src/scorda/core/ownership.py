"""What of Scorda may be replaced: files and stores that say that Scorda wrote them.

Nothing else at the place of an output is replaced or deleted, whatever the user asks for. The mark
is in the file itself: the attribute ``source`` of a zarr store or a NetCDF file, the key
``source`` of a JSON file, the metadata of a safetensors file or a picture, the generator of an
HTML page, the first line of a TOML file. A table of CSV has no place for a mark: it is Scorda's
where a TOML file of Scorda in the same folder names it in that first line.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorda.core.version import __version__

__all__ = [
    "MARK",
    "PICTURE",
    "SOURCE",
    "check_output",
    "made_by_scorda",
    "named_as_given",
    "real_path",
    "toml_mark",
]

# What each mark begins with; also the key of our header in a safetensors file.
MARK = "scorda"
# The value of ``source`` in what this version writes.
SOURCE = f"{MARK} {__version__}"
GENERATOR = b'<meta name="generator" content="Scorda '
WRITTEN = b"Written by scorda "
# The comment in a picture.
PICTURE = f"{WRITTEN.decode()}{__version__}"
PICTURES = (b"\x89PNG", b"GIF8")
# Records of stores may be longer than what is read to look for a mark.
RECORD = b'{\n "source": "scorda '
# Tables of results, which nobody else writes.
RESULTS = (b"benchmark,entry,members,seeds,score,", b"entry,seed,options,", b"entry,options,seed,")
# Largest header of JSON that is read to look for a mark, and how far into a page and a picture.
LARGEST, ENDS = 2**24, 2**12


def check_output(path: str | Path, overwrite: bool, make_parents: bool = False) -> Path:
    """Check that an output may be written, and return the real path to write.

    A symbolic link is followed to what it names, whether or not that is there yet. A name that
    ends in ``.zarr`` is that of a folder, any other that of a file.

    Arguments:
        path: The output.
        overwrite: Whether what Scorda wrote there before is replaced.
        make_parents: Whether the caller makes the folder of the output.

    Raises:
        ValueError: If something is there and it is not to be replaced, or lacks Scorda's mark, or
            is a folder instead of a file; or if there is no folder to write to.
    """
    real = real_path(path)
    if not (real.parent.is_dir() or make_parents):
        raise FileNotFoundError(f"There is no directory {real.parent}: make it first.")
    if not os.path.lexists(real):
        return real
    folder = real.suffix == ".zarr"
    if real.is_dir() != folder:
        found, wanted = ("folder", "file") if real.is_dir() else ("file", "folder")
        raise ValueError(
            f"Got the output {path}, which is a {found}: give the name of a {wanted}."
        )
    if not made_by_scorda(real):
        raise ValueError(
            f"{path} is {_described(real)}, and only what Scorda wrote is replaced: choose "
            "another name, or move it away."
        )
    if not overwrite:
        raise ValueError(
            f"{path} is already there: choose another name, or replace it with --overwrite."
        )
    return real


def real_path(path: str | Path) -> Path:
    """Return the path that symbolic links lead to, whether or not it is there.

    Raises:
        ValueError: If the links lead in a circle.
    """
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise ValueError(f"{path} is a symbolic link that leads to itself: choose another name.")
    return real


@contextmanager
def named_as_given(path: str | Path) -> Iterator[None]:
    """Let the errors of a block name an output, and what is beside it, as the caller does.

    Work goes on at the real path, which a relative one is not told by.

    Arguments:
        path: The output; where it is absolute, or a link, errors stay as they are.
    """
    given = Path(path)
    try:
        yield
    except Exception as error:
        if not given.is_absolute() and not given.is_symlink():
            real = real_path(given)
            before, after = (str(path.parent / "x")[:-1] for path in (real, given))
            # Not the end of another path, nor the beginning of one: the folder may be the root.
            named = re.compile(rf"(?<![\w./-]){re.escape(before)}(?=\.?{re.escape(real.name)})")
            error.args = tuple(
                named.sub(lambda _: after, part) if isinstance(part, str) else part
                for part in error.args
            )
            error.__notes__ = [
                named.sub(lambda _: after, note) for note in getattr(error, "__notes__", [])
            ]
        raise


def made_by_scorda(path: str | Path) -> bool:
    """Return whether a file or a zarr store says that Scorda wrote it.

    What is empty or cannot be read says nothing.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _marked(_json(path / "zarr.json").get("attributes"))
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            begin = file.read(ENDS)
        if begin.startswith(b"\x89HDF"):
            return _marked(_netcdf_attributes(path))
        if begin[8:9] == b"{":
            return MARK in _safetensors_metadata(path)
        if begin.startswith(RECORD):
            return True
        if begin.startswith(b"{"):
            return _marked(_json(path))
        if begin.startswith(PICTURES) or begin[4:8] == b"ftyp":
            return WRITTEN in begin or WRITTEN in _end(path)
        if begin.startswith((b"# " + WRITTEN, *RESULTS)):
            return True
        if begin.lower().startswith(b"<!doctype html"):
            return GENERATOR in begin
        return bool(begin) and _named_beside(path)
    except Exception:
        # Readers of damaged files raise errors of all kinds.
        return False


def toml_mark(files: Iterable[str] = ()) -> str:
    """Return the first line of a TOML file; it names files beside it that carry no mark."""
    names = ", ".join(json.dumps(name) for name in files)
    return f"# {PICTURE}{f', with {names}' if names else ''}.\n"


def _marked(attributes: Any) -> bool:
    return isinstance(attributes, dict) and str(attributes.get("source", "")).startswith(MARK)


def _json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; an empty one if it is too large to be one of ours."""
    if path.stat().st_size > LARGEST:
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _netcdf_attributes(path: Path) -> dict[str, Any]:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        return {"source": file.attrs.get("source", "")}


def _safetensors_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST:
            return {}
        found = json.loads(file.read(length)).get("__metadata__")
    return found if isinstance(found, dict) else {}


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ENDS))
        return file.read()


def _named_beside(path: Path) -> bool:
    """Return whether a TOML file of ours in the same folder names a file."""
    for beside in sorted(path.parent.glob("*.toml")):
        with beside.open("rb") as file:
            line = file.readline(ENDS)
        if line.startswith(b"# " + WRITTEN) and json.dumps(path.name).encode() in line:
            return True
    return False


def _described(path: Path) -> str:
    """Say what lies at a path that carries no mark."""
    if path.is_dir():
        return "a folder without the mark of Scorda"
    size = path.stat().st_size
    return f"a file of {size} bytes without the mark of Scorda" if size else "an empty file"
