"""Folders of a run beside its store: whose they are, and how they go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from scorda.core.ownership import made_by_scorda
from scorda.store.damage import info_path

__all__ = ["check_ours", "erase"]


def check_ours(store: Path, progress: Path, removed: Path, created: bool) -> None:
    """Check that nothing of the names of a run is another's.

    Arguments:
        store: The store.
        progress: Folder of its markers.
        removed: Name under which folders are removed.
        created: Whether the store has its empty arrays.

    Raises:
        ValueError: If something is; the sentence names it.
    """
    info, known = info_path(store), False
    if info.exists() and not info.is_dir():
        known = made_by_scorda(info)
    ours = _marked(store) or ((known or created) and _plausible(store))
    for place, fine in (
        (progress, _marked(progress)),
        (removed, _marked(removed)),
        (info, known),
        (store, ours),
    ):
        if place.exists() and not fine:
            raise ValueError(
                f"{place} is no store of Scorda, or has lost its mark: move it away, or "
                "choose another name for the output."
            )


def erase(folder: Path) -> None:
    """Remove a folder, and what bears its mark last."""
    marks = [folder / "zarr.json", folder / "record.json"]
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in marks:
            entry.unlink()
    for mark in marks:
        mark.unlink(missing_ok=True)
    folder.rmdir()


def _plausible(store: Path) -> bool:
    """Return whether a store without a mark may be one that has lost it."""
    try:
        json.loads((store / "zarr.json").read_bytes())
    except (ValueError, FileNotFoundError):
        return True
    return False


def _marked(folder: Path) -> bool:
    """Return whether a folder bears Scorda's mark, or holds no file."""
    if not folder.is_dir():
        return False
    if made_by_scorda(folder) or any(map(made_by_scorda, folder.glob("*.json"))):
        return True
    inner = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".partial", ".lock"))
    return next(inner, None) is None or made_by_scorda(folder / "new.zarr")
