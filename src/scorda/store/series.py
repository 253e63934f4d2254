"""Trajectories of a system on disk: what a prior learns from, simulated once.

One zarr store (format 3) with the array ``states`` of dims ``(series, time, *state)``, which
``xarray.open_zarr`` reads. It is written in blocks of series, each a function of the settings and
of its number alone, so that a run that was killed goes on where it stopped and leaves the same
bytes, with whatever number of threads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.store import layout
from scorda.store.circumstances import circumstances
from scorda.store.posterior import info_path, space_from_json, space_to_json
from scorda.store.resume import prepare, progress_folder, remove
from scorda.systems.base import System, plain_settings

__all__ = ["holds_series", "read_series", "simulate_series"]

# Series per unit of work; part of what decides the numbers, as each unit has its own stream.
BLOCK = 16
KIND = "series"


def simulate_series(
    system: System,
    series: int,
    length: int,
    path: str | Path,
    seed: int = 0,
    *,
    configuration: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Simulate trajectories that start from the system's prior, and store them.

    Arguments:
        system: The system.
        series: Number of trajectories.
        length: States of each, ``system.space.dt`` apart.
        path: Store to write, named ``*.zarr``.
        seed: Seed of the first states and of the model error.
        configuration: What to record with the store, of JSON types.
        resume: Continue a run that was interrupted; one that is complete is left alone.
        overwrite: Replace what is at `path`.
        threads: Blocks that are computed at the same time, each by one thread.
        progress: Called with the series done so far and their total.

    Raises:
        ValueError: If `path` is taken, or the run to resume had other settings.
        FloatingPointError: If a state is not finite.
    """
    path = Path(path)
    if path.suffix != ".zarr":
        raise ValueError(f"Got the output {path}: its name must end in .zarr.")
    if series < 1 or length < 1:
        raise ValueError(f"Got {series} series of {length} states: give at least one of each.")
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    record = {
        "kind": KIND,
        "configuration": configuration or {},
        "system": {"name": system.name, **plain_settings(system)},
        "series": series,
        "length": length,
        "seed": seed,
        "dtype": dtype,
    }
    folder = progress_folder(path)
    if prepare(path, folder, json.dumps(record), resume, overwrite):
        return
    if not (folder / "created").exists():
        _create(path, folder, system.space, (series, length), record)
    units = -(-series // BLOCK)
    left = [unit for unit in range(units) if not _marker(folder, unit).exists()]
    done, stopped = series - sum(_size(series, unit) for unit in left), threading.Event()

    def work(unit: int) -> int:
        if not stopped.is_set():
            _simulate(system, path, folder, unit, (series, length), seed)
        return _size(series, unit)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                for future in as_completed([pool.submit(work, unit) for unit in left]):
                    done += future.result()
                    if progress is not None:
                        progress(done, series)
            except BaseException:
                # What has begun is finished and kept; the rest is left for another time.
                stopped.set()
                raise
    finally:
        torch.set_num_threads(before)
    reports = [json.loads(_marker(folder, unit).read_text()) for unit in range(units)]
    layout.write_json(info_path(path), circumstances(reports))
    layout.complete(path)
    remove(folder)


def holds_series(path: str | Path) -> bool:
    """Whether a path is a store of trajectories, complete or not."""
    metadata = Path(path) / "zarr.json"
    if not metadata.is_file():
        return False
    try:
        found = json.loads(metadata.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{metadata} is not readable ({error}): simulate it again.") from error
    return found.get("attributes", {}).get("kind") == KIND


def read_series(
    path: str | Path,
) -> tuple[Float[Tensor, "series time ..."], StateSpace, dict[str, Any]]:
    """States in full, their space, and the record of the simulation.

    Raises:
        ValueError: If there is no store of trajectories at that path, or it is incomplete.
    """
    if not holds_series(path):
        raise ValueError(f"{path} is no store of `scorda simulate --series`: check its name.")
    root = zarr.open_group(Path(path), mode="r")
    if not root.attrs["complete"]:
        raise ValueError(f"{path} is incomplete: finish it with `scorda simulate ... --resume`.")
    states = torch.from_numpy(np.asarray(layout.array(root, "states")[...]))
    return states, space_from_json(str(root.attrs["space"])), json.loads(str(root.attrs["record"]))


def _create(
    path: Path, folder: Path, space: StateSpace, shape: tuple[int, int], record: dict[str, Any]
) -> None:
    from scorda.core.version import __version__

    # The folder of markers comes first: from then on a kill leaves a run to resume.
    folder.mkdir(parents=True, exist_ok=True)
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update(
        {
            # First and of one length throughout: the last thing that changes.
            "complete": 0,
            "kind": KIND,
            "source": f"scorda {__version__}",
            "record": json.dumps(record),
            "space": space_to_json(space),
        }
    )
    full = (*shape, *space.shape)
    dtype = np.dtype(record["dtype"])
    size = shape[1] * space.size * dtype.itemsize
    together = min(BLOCK, max(1, layout.LARGEST_CHUNK // size))
    while BLOCK % together:
        together -= 1
    names = ["series", "time", *(["variable"] if space.has_channels else []), *space.axes]
    root.create_array(
        "states",
        shape=full,
        chunks=(together, *full[1:]),
        dtype=dtype,
        fill_value=np.nan,
        # The last digits of a turbulent state are noise: compressing them saves a tenth.
        compressors=None,
        dimension_names=names,
        attributes={"variables": list(space.variables)},
    )
    layout.write_array(root, "time", space.dt * np.arange(shape[1]), ["time"], {})
    for name, values in (space.coordinates or {}).items():
        layout.write_array(root, name, np.asarray(values), [name], {})
    layout.write_json(folder / "record.json", record)
    layout.write_json(folder / "created", True)


def _simulate(
    system: System, path: Path, folder: Path, unit: int, shape: tuple[int, int], seed: int
) -> None:
    """Make and write one block of series, then its marker."""
    begin = time.perf_counter()
    first, size = unit * BLOCK, _size(shape[0], unit)
    start, error = rng.spawn(rng.at(rng.key(rng.seeded(seed)), unit), 2)
    with torch.no_grad():
        states = system.trajectory(system.prior(size, start), shape[1] - 1, error)
    if not torch.isfinite(states).all():
        raise FloatingPointError(
            f"Series {first} to {first + size - 1} of {system.name} are not finite: take a "
            "shorter step of the model."
        )
    root = zarr.open_group(path, mode="r+")
    layout.array(root, "states")[first : first + size] = states.cpu().numpy()
    layout.write_json(_marker(folder, unit), {"seconds": time.perf_counter() - begin})


def _marker(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit:06d}.json"


def _size(series: int, unit: int) -> int:
    return min(BLOCK, series - unit * BLOCK)
