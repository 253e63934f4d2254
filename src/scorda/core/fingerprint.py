"""A number for the bytes of a file or a folder, by which a run knows its inputs again."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and bytes of all files in a folder.

    Two folders, such as zarr stores, have the same fingerprint if and only if they hold the same
    files under the same relative names.

    Raises:
        FileNotFoundError: If there is neither.
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inner = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    # A name cannot hold the zero byte, so that no two lists of files have the same text.
    lines = (f"{fingerprint(file)} {name}\0" for name, file in sorted(inner.items()))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
