"""The work on a store, unit by unit, so that whoever kills it leaves a run to resume.

Beside the store ``run.zarr`` lie its record ``run.zarr.json`` (timings, settings, seals of all
files) and, until it is complete, the hidden folder ``.run.zarr.progress``. There are in it

* ``record.json``, the settings, written first;
* ``created.json``, the seals of the store without its ensemble, from when on it can be resumed;
* ``unit-000003.json``, the marker of a finished unit: its report, and the seals of its chunks;
* ``was-unit-000003.json``, the marker of one that is done again, for it was damaged;
* ``unit-000003.safetensors``, what a filter carries from that unit to the next;
* ``unit-000003.part.safetensors``, a unit as far as it had come (see `scorda.store.checkpoints`);
* ``*.lock``, the locks of processes that do units at the same time (see `scorda.store.workers`).

A marker is written after what it stands for has been brought to the disk. A run that is resumed
compares all files with their seals, and does again what is damaged or missing. A store that is
complete is checked as well: where it is damaged, its markers are made again of its record.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from scorda.core.files import atomic, sync, write_tensors
from scorda.core.lock import check_unlocked, held, locked
from scorda.core.ownership import real_path
from scorda.core.shapes import Tensor
from scorda.store import layout, reports
from scorda.store.circumstances import circumstances
from scorda.store.damage import info_path
from scorda.store.folders import check_ours, erase
from scorda.store.records import check_same, plain
from scorda.store.seals import Seals, broken, files_in, read_json, seal, sealed_text, write_json

__all__ = ["Make", "Work"]

# Makes a store without its ensemble at a path, for numbers of a type, with weights or without.
Make = Callable[[Path, str, bool], None]

ANEW = "make the store anew with --overwrite."
# Arrays of weights are made by the first unit that has some.
WEIGHT = "weight/zarr.json"


@dataclass(frozen=True)
class Work:
    """The work on one store.

    Arguments:
        path: The store, named ``*.zarr``; a link is followed.
        record: Settings of the run, of JSON types.
        make: Makes the store without its ensemble.
        chained: Whether each unit follows from the one before.

    Raises:
        ValueError: If the name ends otherwise.
    """

    path: Path
    record: dict[str, Any]
    make: Make
    chained: bool = False

    def __post_init__(self) -> None:
        if self.path.suffix != ".zarr":
            raise ValueError(f"Got the output {self.path}: its name must end in .zarr.")
        object.__setattr__(self, "path", real_path(self.path))
        object.__setattr__(self, "record", plain(self.record))

    @property
    def folder(self) -> Path:
        """Folder of the markers, which is there until the store is complete."""
        return self.path.with_name(f".{self.path.name}.progress")

    @property
    def created(self) -> bool:
        """Whether the store has its empty arrays."""
        return (self.folder / "created.json").exists()

    def marker(self, unit: int) -> Path:
        """File that a finished unit leaves, with what is reported of it."""
        return self.folder / f"unit-{unit:06d}.json"

    def carried(self, unit: int) -> Path:
        """File of what a filter hands to the unit after this one, beside its members."""
        return self.marker(unit).with_suffix(".safetensors")

    def checkpoint(self, unit: int) -> Path:
        """File of a unit as far as it has come."""
        return self.marker(unit).with_suffix(".part.safetensors")

    def done(self, unit: int) -> bool:
        """Whether a unit is finished."""
        return self.marker(unit).exists()

    def report(self, unit: int) -> dict[str, Any]:
        """Read the marker of a finished unit."""
        found = read_json(self.marker(unit), ANEW)
        if found is None:
            raise ValueError(f"{self.marker(unit)} has gone during the run: use --resume.")
        return found

    def lock(self, unit: int) -> Path:
        """File of the lock of a unit, which whoever does it holds."""
        return self.marker(unit).with_suffix(".lock")

    def check_begun(self, trust_code: bool) -> None:
        """Check that what others have begun here is this run.

        Raises:
            ValueError: If it has other settings.
        """
        before = read_json(self.folder / "record.json", ANEW)
        if before is None:
            raise ValueError(f"{self.folder / 'record.json'} is missing: {ANEW}")
        check_same(before["record"], self.record, trust_code)

    @contextmanager
    def writing(
        self, resume: bool, overwrite: bool, trust_code: bool = False, sharing: bool = False
    ) -> Iterator[bool]:
        """Keep other writers away, and tell the block whether there is anything to do.

        A complete store that is whole is only read, without a lock.

        Arguments:
            resume: Continue what was interrupted.
            overwrite: Remove what is there.
            trust_code: Resume with code that is unknown or has changed.
            sharing: Whether other processes are to join (see `scorda.store.workers`).

        Raises:
            ValueError: If the path is taken, by a store or by something that is none of Scorda, or
                the run to resume had other settings, or another run writes there.
        """
        if resume and not overwrite and self._finished(trust_code):
            check_unlocked(self.path, sharing)
            yield False
            return
        # So that a chunk that is missing is always damage.
        with locked(self.path, sharing), zarr.config.set({"array.write_empty_chunks": True}):
            yield self._prepare(resume, overwrite, trust_code)

    def begin(self) -> None:
        """Make the folder of the markers with the settings, so that others can join."""
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / "record.json", {"record": self.record})

    def create(self, dtype: str) -> None:
        """Make the store with its empty arrays, once, or wait until another has made it."""
        self.folder.mkdir(exist_ok=True)
        with held(self.folder / "create.lock"):
            if not self.created:
                self._create(dtype)
            elif not self.path.exists():
                self._place(self.folder / "new.zarr")

    def _create(self, dtype: str) -> None:
        self.begin()
        new = self.folder / "new.zarr"
        try:
            self.make(new, dtype, False)
        except BaseException:
            # There is nothing to resume.
            self._remove(self.folder)
            raise
        files = seal(new, files_in(new))
        sync(self.path.parent)
        write_json(self.folder / "created.json", {"dtype": dtype, "files": files})
        self._place(new)

    def finish_unit(
        self,
        unit: int,
        names: Iterable[str],
        report: dict[str, Any],
        carried: dict[str, Tensor] | None = None,
    ) -> None:
        """Bring the files of a unit to the disk, then leave its marker.

        Arguments:
            unit: The unit.
            names: Its files in the store.
            report: What is reported of it, of JSON types.
            carried: Tensors that the next unit needs.
        """
        more = {"files": seal(self.path, names), "carried": {}}
        if carried is not None:
            file = self.carried(unit)
            write_tensors(file, carried, {"kind": "carried"})
            more["carried"] = seal(self.folder, [file.name])
        marker = self.marker(unit)
        before = read_json(_was(marker), ANEW)
        if self.chained and before is not None and any(before[n] != more[n] for n in more):
            # What followed from other bits follows from these no more.
            for later in self.folder.glob("unit-*.json"):
                if later.name > marker.name:
                    later.unlink()
        write_json(marker, report | more)
        _was(marker).unlink(missing_ok=True)
        self.checkpoint(unit).unlink(missing_ok=True)
        if self.chained and self.record.get("keep") is not None:
            # The ensemble before, which may be large.
            self.carried(unit - 1).unlink(missing_ok=True)

    def finish(self, units: int, names: Iterable[str] = (), single: bool = False) -> None:
        """Write the record of the run beside the store, and mark the store complete.

        Arguments:
            units: Number of units.
            names: Files of the store that belong to no unit, and were written after it was made.
            single: Whether the report has one number for the run instead of a column.
        """
        closed = layout.closed(self.path)
        sealed = seal(self.path, names) | {"zarr.json": sealed_text(closed)}
        made = read_json(self.folder / "created.json", ANEW)
        columns, parts = reports.gathered(self.report(unit) for unit in range(units))
        record = {"created": made, "parts": parts, "closing": sealed, "record": self.record}
        report = {name: column[0] for name, column in columns.items()} if single else columns
        more = {"single": single, "report": report, **reports.joined_names(parts)}
        write_json(info_path(self.path), circumstances(parts) | record | more)
        layout.write_text(self.path / "zarr.json", closed)
        self._remove(self.folder)

    def _finished(self, trust_code: bool) -> bool:
        """Return whether the run is complete and whole, and nothing is left to remove."""
        if self.folder.exists() or self._gone.exists() or not self.path.exists():
            return False
        self._check_ours()
        manifest = self._manifest()
        if manifest is None:
            return False
        check_same(manifest["record"], self.record, trust_code)
        return not broken(self.path, reports.seals_of(manifest))

    def _prepare(self, resume: bool, overwrite: bool, trust_code: bool) -> bool:
        """Bring what is on disk into a state to go on from; return whether anything is to do."""
        self._check_ours()
        if self._gone.exists():
            erase(self._gone)
        if overwrite:
            self._wait_for_workers()
            # The record first, which without its store would be that of a damaged one.
            info_path(self.path).unlink(missing_ok=True)
            self._remove(self.folder)
            self._remove(self.path)
        if not self.path.exists() and not self.folder.exists():
            info_path(self.path).unlink(missing_ok=True)
            return True
        if not resume:
            raise ValueError(
                f"{self.path} is already there: continue it with --resume, replace it with "
                "--overwrite, or choose another name."
            )
        manifest = self._manifest()
        if manifest is not None and (not self.created or self._is_closed(manifest)):
            check_same(manifest["record"], self.record, trust_code)
            if not broken(self.path, reports.seals_of(manifest)):
                self._remove(self.folder)
                return False
            if not self.created:
                self._reopen(manifest)
        if not self.created:
            self._check_unmade()
            # Killed while the empty store was made: nothing in it is of use.
            self._remove(self.folder)
            return True
        self.check_begun(trust_code)
        self._verify()
        return True

    def _wait_for_workers(self) -> None:
        """Wait for units that workers of a client that has gone still do."""
        for lock in self.folder.glob("unit-*.lock"):
            with held(lock):
                pass

    def _check_unmade(self) -> None:
        """Check that there is no store whose progress is not known."""
        if self.path.exists():
            created = self.folder / "created.json"
            missing = created if self.folder.exists() else info_path(self.path)
            raise ValueError(
                f"{self.path} cannot be resumed, because {missing} is missing: {ANEW}"
            )

    def _verify(self) -> None:
        """Compare all files with their seals; make the store's own again, forget broken units."""
        work = (
            file for name in (".*.partial", "task-*.pickle") for file in self.folder.glob(name)
        )
        for leftover in [*self.path.rglob("*.partial"), *work]:
            leftover.unlink(missing_ok=True)
        made = read_json(self.folder / "created.json", ANEW)
        assert made is not None
        if (new := self.folder / "new.zarr").exists() and not self.path.exists():
            self._place(new)
        markers = self._whole_markers()
        own = dict(made["files"])
        for marker in markers.values():
            own |= {n: s for n, s in marker["files"].items() if n.endswith(WEIGHT)}
        if lost := broken(self.path, own):
            weighted = len(own) > len(made["files"])
            self._make_again(lost, own, made["dtype"], weighted)
        for file, marker in markers.items():
            if broken(self.path, marker["files"]):
                file.rename(_was(file))
        self._forget_before_lost(sorted(markers))

    def _whole_markers(self) -> dict[Path, dict[str, Any]]:
        """Return the markers by their files, and remove those that are damaged."""
        found = {}
        for file in sorted(self.folder.glob("unit-*.json")):
            try:
                marker = read_json(file, ANEW)
            except ValueError:
                marker = None
            if marker is None:
                file.unlink()
            else:
                found[file] = marker
        return found

    def _forget_before_lost(self, files: list[Path]) -> None:
        """Forget a unit as well whose carried files are needed, and are damaged or gone.

        The next unit of a chain needs them where it is to be done; else the end of the run does.
        They go with the end of the run, and where the last step is carried, with the next unit.
        """
        for file in reversed(files):
            number = int(file.stem.removeprefix("unit-"))
            if not file.exists() or (self.chained and self.done(number + 1)):
                continue
            if broken(self.folder, self.report(number)["carried"]):
                file.rename(_was(file))

    def _make_again(self, lost: list[str], own: Seals, dtype: str, weighted: bool) -> None:
        """Make a store of the same settings, and take its files in place of those lost."""
        again = self.folder / "new.zarr"
        if again.exists():
            erase(again)
        self.make(again, dtype, weighted)
        for name in lost:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.path / name) as partial:
                shutil.copyfile(again / name, partial)
        erase(again)
        if still := broken(self.path, own):
            raise ValueError(
                f"{self.path / still[0]} is damaged, and this version of zarr writes it "
                f"otherwise: {ANEW}"
            )

    def _reopen(self, manifest: dict[str, Any]) -> None:
        """Make the progress of a complete but damaged store again, its last file last."""
        self._remove(self.folder)
        self.folder.mkdir()
        write_json(self.folder / "record.json", {"record": manifest["record"]})
        for unit, marker in enumerate(reports.restored(manifest)):
            write_json(self.marker(unit), marker)
        write_json(self.folder / "created.json", manifest["created"])

    def _place(self, new: Path) -> None:
        new.rename(self.path)
        sync(self.folder)
        sync(self.path.parent)

    def _is_closed(self, manifest: dict[str, Any]) -> bool:
        return not broken(self.path, {"zarr.json": manifest["closing"]["zarr.json"]})

    def _manifest(self) -> dict[str, Any] | None:
        """Return the record of a complete store, None for any other."""
        found = read_json(
            path := info_path(self.path),
            f"its store cannot be checked; remove {path.name} to read it all the same, or {ANEW}",
        )
        return found if found is not None and "parts" in found else None

    def _check_ours(self) -> None:
        check_ours(self.path, self.folder, self._gone, self.created)

    @property
    def _gone(self) -> Path:
        return self.path.with_name(f".{self.path.name}.removed")

    def _remove(self, folder: Path) -> None:
        """Remove a folder, which a kill leaves whole or gone."""
        if folder.exists():
            folder.rename(self._gone)
            sync(self._gone.parent)
            erase(self._gone)


def _was(marker: Path) -> Path:
    """Return the name of the marker of a unit that is to be done again."""
    return marker.with_name(f"was-{marker.name}")
