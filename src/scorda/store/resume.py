"""The work on a store, unit by unit, so that whoever kills it leaves a run to resume.

A store that is being written has a folder of markers beside it, one per finished unit of work, and
in it the record of the settings, until the store is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorda.store import layout
from scorda.store.circumstances import circumstances
from scorda.store.posterior import info_path, store_attributes

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """The work on one store.

    Arguments:
        path: The store, named ``*.zarr``.

    Raises:
        ValueError: If the name ends otherwise.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix != ".zarr":
            raise ValueError(f"Got the output {self.path}: its name must end in .zarr.")

    @property
    def folder(self) -> Path:
        """Folder of the markers, which is there until the store is complete."""
        return self.path.with_suffix(".progress")

    @property
    def created(self) -> bool:
        """Whether the store has its empty arrays."""
        return (self.folder / "created").exists()

    def marker(self, unit: int) -> Path:
        """File that a finished unit leaves, with what is reported of it."""
        return self.folder / f"unit-{unit:06d}.json"

    def done(self, unit: int) -> bool:
        """Whether a unit is finished."""
        return self.marker(unit).exists()

    def reports(self, units: int) -> list[dict[str, Any]]:
        """Read what was reported of the first units."""
        return [json.loads(self.marker(unit).read_text()) for unit in range(units)]

    def prepare(self, record: dict[str, Any], resume: bool, overwrite: bool) -> bool:
        """Bring what is on disk into a state to go on from; return whether nothing is left to do.

        Arguments:
            record: Settings of the run, of JSON types.
            resume: Continue what was interrupted.
            overwrite: Remove what is there.

        Raises:
            ValueError: If the path is taken, or the run to resume had other settings.
        """
        path, folder = self.path, self.folder
        if overwrite:
            if path.exists() and not (folder.exists() or (path / "zarr.json").is_file()):
                raise ValueError(f"{path} is no store of Scorda: choose another name.")
            _remove(folder)
            _remove(path)
            info_path(path).unlink(missing_ok=True)
        if not path.exists() and not folder.exists():
            return False
        if not resume:
            raise ValueError(
                f"{path} is already there: continue it with --resume, replace it with "
                "--overwrite, or choose another name."
            )
        now = json.loads(json.dumps(record))
        # Before anything is deleted: a kill may have left markers of a store that is complete.
        if (made := _made_with(path)) is not None:
            _check_same(made, {k: v for k, v in now.items() if k in made})
            _remove(folder)
            return True
        if not self.created:
            if not folder.exists():
                raise ValueError(
                    f"{path} is incomplete and its markers in {folder} are gone: use --overwrite."
                )
            # Killed while the empty store was made: nothing in it is of use, nor any marker.
            _remove(path)
            _remove(folder)
            return False
        _check_same(json.loads((folder / "record.json").read_text(encoding="utf-8")), now)
        # A kill leaves parts of files that were being written.
        for leftover in [*path.rglob("*.partial"), *folder.glob("*.partial")]:
            leftover.unlink()
        return False

    @contextmanager
    def creating(self, record: dict[str, Any]) -> Iterator[None]:
        """Mark the store as created once the block has made its empty arrays."""
        # The folder of markers comes first: from then on a kill leaves a run to resume.
        self.folder.mkdir(parents=True, exist_ok=True)
        yield
        layout.write_json(self.folder / "record.json", record)
        layout.write_json(self.folder / "created", True)

    def finish(self, reports: Sequence[dict[str, Any]], **more: Any) -> None:
        """Write the circumstances of the run beside the store, and mark the store complete."""
        layout.write_json(info_path(self.path), circumstances(reports) | more)
        layout.complete(self.path)
        _remove(self.folder)


def _remove(folder: Path) -> None:
    """Remove a folder, which a kill leaves whole or gone."""
    if folder.exists():
        gone = folder.with_name(f"{folder.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)


def _made_with(path: Path) -> dict[str, Any] | None:
    """Return the settings that a complete store tells of itself, None for any other."""
    found = store_attributes(path)
    if not found.get("complete"):
        return None
    if "record" in found:
        return json.loads(found["record"])
    return {
        "configuration": json.loads(found["configuration"]),
        "method": {"name": found["method"], **json.loads(found["settings"])},
        "members": found["members"],
        "seed": found["seed"],
    }


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := _differences(before, now):
        raise ValueError(
            f"The run to resume differs in {', '.join(changed)}: give the settings of its start, "
            "or use --overwrite."
        )


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Return the names of the settings that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    return [
        name
        for key in sorted({*before, *now})
        for name in _differences(before.get(key), now.get(key), f"{prefix}.{key}".lstrip("."))
    ]
