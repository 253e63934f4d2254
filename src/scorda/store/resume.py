"""What is on disk when work on a store begins: nothing, a part to go on from, or all of it.

A store that is being written has a folder of markers beside it, one per finished unit of work, and
in it the record of the settings, until the store is complete.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import zarr

from scorda.store.posterior import info_path

__all__ = ["prepare", "progress_folder", "remove"]


def progress_folder(path: Path) -> Path:
    """Where the markers of a store are while it is being written."""
    return path.with_suffix(".progress")


def prepare(path: Path, folder: Path, record: str, resume: bool, overwrite: bool) -> bool:
    """Bring what is on disk into a state to go on from; returns whether nothing is left to do.

    Arguments:
        path: The store.
        folder: Its folder of markers.
        record: Settings of the run as JSON.
        resume: Continue what was interrupted.
        overwrite: Remove what is there.

    Raises:
        ValueError: If `path` is taken, or the run to resume had other settings.
    """
    if overwrite:
        if path.exists() and not (folder.exists() or (path / "zarr.json").is_file()):
            raise ValueError(f"{path} is no store of Scorda: choose another name.")
        remove(folder)
        remove(path)
        info_path(path).unlink(missing_ok=True)
    if not path.exists() and not folder.exists():
        return False
    if not resume:
        raise ValueError(
            f"{path} is already there: continue it with --resume, replace it with --overwrite, "
            "or choose another name."
        )
    # Before anything is deleted: a kill may have left markers of a store that is complete.
    if (made := _made_with(path)) is not None:
        _check_same(made, {k: v for k, v in json.loads(record).items() if k in made})
        remove(folder)
        return True
    if not (folder / "created").exists():
        if not folder.exists():
            raise ValueError(
                f"{path} is incomplete and its markers in {folder} are gone: use --overwrite."
            )
        # Killed while the empty store was made: nothing in it is of use, nor any marker.
        remove(path)
        remove(folder)
        return False
    before = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    _check_same(before, json.loads(record))
    # What a kill leaves of files that were being written.
    for leftover in [*path.rglob("*.partial"), *folder.glob("*.partial")]:
        leftover.unlink()
    return False


def remove(folder: Path) -> None:
    """Remove a folder, which a kill leaves whole or gone."""
    if not folder.exists():
        return
    gone = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def _made_with(path: Path) -> dict[str, Any] | None:
    """The settings that a complete store tells of itself; None for one that is not complete."""
    if not (path / "zarr.json").is_file():
        return None
    of: dict[str, Any] = zarr.open_group(path, mode="r").attrs.asdict()
    if not of.get("complete"):
        return None
    if "record" in of:
        return json.loads(of["record"])
    method = {"name": of["method"], **json.loads(of["settings"])}
    return {
        "configuration": json.loads(of["configuration"]),
        "method": method,
        "members": of["members"],
        "seed": of["seed"],
    }


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := _differences(before, now):
        raise ValueError(
            f"The run to resume differs in {', '.join(changed)}: give the settings of its start, "
            "or use --overwrite."
        )


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Names of the settings that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    return [
        name
        for key in sorted({*before, *now})
        for name in _differences(before.get(key), now.get(key), f"{prefix}.{key}".lstrip("."))
    ]
