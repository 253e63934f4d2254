"""Seals: what is on disk, by size and hash, so that damage is found before it is read.

A seal of a file is its size and its SHA-256. It is taken after the file and its folders have been
brought to the disk, and is written down after that: what a seal stands for has survived a cut of
power. The files that hold seals are JSON, and their last line is the hash of the lines above.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scorda.core.files import atomic, sync
from scorda.core.fingerprint import fingerprint
from scorda.core.ownership import SOURCE

__all__ = ["Seals", "broken", "files_in", "read_json", "seal", "sealed_text", "write_json"]

# Size and SHA-256 of each file, by its path in the folder.
Seals = dict[str, list[Any]]

LAST = '\n "sha256": "'


def seal(folder: Path, names: Iterable[str]) -> Seals:
    """Bring files of a folder to the disk, with the folders that name them, and seal them."""
    sealed: Seals = {}
    folders = set()
    for name in sorted(names):
        file = folder / name
        sync(file)
        sealed[name] = _seal(file)
        folders |= {parent for parent in file.parents if parent.is_relative_to(folder)}
    for inner in sorted(folders, reverse=True):
        sync(inner)
    return sealed


def broken(folder: Path, sealed: Mapping[str, list[Any]], hashes: bool = True) -> list[str]:
    """Return the names of files that are not as they were sealed, by size and by hash."""
    return [name for name, known in sealed.items() if not _is_whole(folder / name, known, hashes)]


def sealed_text(text: str) -> list[Any]:
    """Return the seal of a file of text that is yet to be written."""
    content = text.encode()
    return [len(content), hashlib.sha256(content).hexdigest()]


def files_in(folder: Path) -> list[str]:
    """Return the names of all files in a folder and below it, but for those being written."""
    inner = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".partial")
    return sorted(p.relative_to(folder).as_posix() for p in inner)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with Scorda's mark and its own hash, which is there in full or not at all.

    A column of numbers may be a NumPy array: it is turned into text alone, not with the others.
    """
    digest = hashlib.sha256()
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as file:
        for text in _parts({"source": SOURCE, **content}):
            digest.update(text.encode())
            file.write(text)
        file.write(f'{LAST}{digest.hexdigest()}"\n}}\n')


def read_json(path: Path, advice: str) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None if there is no such file.

    Raises:
        ValueError: If the file is damaged; the advice ends the sentence.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    end = max(content.rfind(LAST.encode()), 0)
    # Of a long run it is large, and a slice would be a copy.
    digest = hashlib.sha256(memoryview(content)[:end]).hexdigest()
    if content[end:] != f'{LAST}{digest}"\n}}\n'.encode():
        raise ValueError(f"{path} is damaged: {advice}")
    text = content.decode("utf-8", "replace")
    del content
    return {k: v for k, v in json.loads(text).items() if k not in ("source", "sha256")}


def _parts(content: Mapping[str, Any]) -> Iterable[str]:
    yield "{"
    for key, value in content.items():
        yield f"\n {json.dumps(key)}: "
        if isinstance(value, Mapping) and value:
            for number, (name, inner) in enumerate(value.items()):
                listed = inner.tolist() if hasattr(inner, "tolist") else inner
                yield f"{', ' if number else '{'}\n  {json.dumps(name)}: {json.dumps(listed)}"
            yield "\n }"
        else:
            yield json.dumps(value)
        yield ","


def _seal(file: Path) -> list[Any]:
    return [file.stat().st_size, fingerprint(file)]


def _is_whole(file: Path, known: list[Any], hashes: bool) -> bool:
    try:
        size = file.stat().st_size
        return size == known[0] and (not hashes or fingerprint(file) == known[1])
    except OSError:
        return False
