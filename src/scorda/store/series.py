"""Trajectories of a system on disk, simulated once for priors to learn from.

They are one zarr store (format 3) with the array ``states`` of dims ``(series, time, *state)``,
which ``xarray.open_zarr`` reads. It is written in blocks of series, each a function of the
settings and of its number alone, so that a run that was killed goes on where it stopped and leaves
the same bytes, with any number of threads.
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
from zarr.codecs import Crc32cCodec

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.opening import readable
from scorda.store import layout
from scorda.store.checkpoints import MINUTE, Checkpoint
from scorda.store.damage import check_files, read_record, telling
from scorda.store.headers import check_record, shape_of
from scorda.store.identity import identity
from scorda.store.posterior import space_from_json, store_attributes
from scorda.store.records import plain
from scorda.store.resume import Work
from scorda.systems.base import System, forecast, plain_settings

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
    trust_code: bool = False,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    save_every: float = MINUTE,
) -> None:
    """Simulate trajectories that start from the system's prior, and store them.

    Arguments:
        system: The system.
        series: Number of trajectories.
        length: States of each, ``system.space.dt`` apart.
        path: Store to write, named ``*.zarr``.
        seed: Seed of the first states and of the model error.
        configuration: What to record with the store, of JSON types.
        resume: Continue a run that was interrupted; one that is complete is checked, and mended
            where it is damaged.
        overwrite: Replace what is at `path`, if Scorda wrote it.
        trust_code: Resume although the code of a system of your own is unknown or has changed.
        threads: Blocks that are computed at the same time, each by one thread.
        progress: Called with the series done so far and their total.
        save_every: Seconds of work between two checkpoints inside a block.

    Raises:
        ValueError: If `path` is taken, or another run writes there, or the run to resume differs
            in anything that decides its numbers.
        FloatingPointError: If a state is not finite.
    """
    if series < 1 or length < 1:
        raise ValueError(f"Got {series} series of {length} states: give at least one of each.")
    record = {
        "kind": KIND,
        "configuration": configuration or {},
        "system": {"name": system.name, **plain_settings(system)},
        "series": series,
        "length": length,
        "seed": seed,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }
    settings = plain(record)

    def make(path: Path, dtype: str, weighted: bool) -> None:
        _create(path, system.space, settings)

    work = Work(Path(path), record | identity(simulated=system, space=system.space), make)
    with work.writing(resume, overwrite, trust_code) as left:
        if not left:
            return
        if not work.created:
            work.create(str(record["dtype"]))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _simulate_missing(system, work, record, threads, progress, save_every)
        finally:
            torch.set_num_threads(before)
        work.finish(_plan(record).units)


def holds_series(path: str | Path) -> bool:
    """Return whether a path is a store of trajectories, complete or not."""
    return store_attributes(Path(path)).get("kind") == KIND


def read_series(
    path: str | Path,
) -> tuple[Float[Tensor, "series time ..."], StateSpace, dict[str, Any]]:
    """Read the states in full, their space, and the record of the simulation.

    Raises:
        ValueError: If there is no store of trajectories at that path, or it is incomplete.
    """
    path = Path(path)
    record = read_record(path)
    if "parts" in record:
        # Before its metadata are believed.
        check_files(path, record)
    if not holds_series(path):
        raise ValueError(f"{path} is no store of `scorda simulate --series`: check its name.")
    attributes = store_attributes(path)
    made = check_record(path, attributes)
    space = space_from_json(attributes["space"], path)
    if not attributes["complete"]:
        raise ValueError(f"{path} is incomplete: finish it with `scorda simulate ... --resume`.")
    wanted = (made["series"], made["length"], *space.shape)
    if (found := shape_of(path / "states")) != wanted:
        raise ValueError(
            f"{path}/states has the shape {found}, where {wanted} belongs: make the store anew "
            "with --overwrite."
        )
    check_files(path, record)
    with telling(path), readable(path, "a store of series"):
        root = zarr.open_group(path, mode="r")
        states = torch.from_numpy(np.asarray(layout.array(root, "states")[...]))
    return states, space, made


def _create(path: Path, space: StateSpace, record: dict[str, Any]) -> None:
    source = {"kind": KIND, "record": json.dumps(record)}
    root = layout.new_store(path, space, source)
    full = (record["series"], record["length"], *space.shape)
    dtype = np.dtype(record["dtype"])
    size = full[1] * space.size * dtype.itemsize
    together = min(BLOCK, max(1, layout.LARGEST_CHUNK // size))
    while BLOCK % together:
        together -= 1
    first = ["variable"] if space.has_channels else []
    names = ["series", "time", *(first if space.parts is None else ["entry"]), *space.axes]
    root.create_array(
        "states",
        shape=full,
        chunks=(together, *full[1:]),
        dtype=dtype,
        fill_value=np.nan,
        # The last digits of a turbulent state are noise: compressing them saves a tenth.
        compressors=Crc32cCodec(),
        dimension_names=names,
        attributes={"variables": list(space.variables)},
    )
    layout.write_array(root, "time", space.dt * np.arange(full[1]), ["time"], {})
    coordinates = [c for piece in space.pieces for c in (piece.coordinates or {}).items()]
    for name, values in dict(coordinates).items():
        layout.write_array(root, name, np.asarray(values), [name], {})
    for name, values in (space.points or {}).items():
        if name not in space.axes:
            layout.write_array(root, name, values, list(space.axes), {})


def _simulate_missing(
    system: System,
    work: Work,
    record: dict[str, Any],
    threads: int,
    progress: Callable[[int, int], None] | None,
    save_every: float,
) -> None:
    """Simulate the blocks that are not done, several at the same time."""
    plan, stopped = _plan(record), threading.Event()
    sizes = [last - first for first, last in map(plan.bounds, range(plan.units))]
    left = [unit for unit in range(plan.units) if not work.done(unit)]
    done = plan.total - sum(sizes[unit] for unit in left)

    def simulate(unit: int) -> int:
        if not stopped.is_set():
            _simulate(system, work, record, unit, save_every)
        return sizes[unit]

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in as_completed([pool.submit(simulate, unit) for unit in left]):
                done += future.result()
                if progress is not None:
                    progress(done, plan.total)
        except BaseException:
            # What has begun is finished and kept; the rest is left for another time.
            stopped.set()
            raise


def _simulate(
    system: System, work: Work, record: dict[str, Any], unit: int, save_every: float
) -> None:
    """Make and write one block of series, then its marker."""
    begin = time.perf_counter()
    first, last = _plan(record).bounds(unit)
    start, error = rng.spawn(rng.at(rng.key(rng.seeded(record["seed"])), unit), 2)
    saved = Checkpoint(work.checkpoint(unit), save_every)
    with torch.no_grad():
        states = _trajectory(system, last - first, record["length"], start, error, saved)
    if not torch.isfinite(states).all():
        raise FloatingPointError(
            f"Series {first} to {last - 1} of {system.name} are not finite: take a "
            "shorter step of the model."
        )
    root = zarr.open_group(work.path, mode="r+")
    stored, region = layout.array(root, "states"), (slice(first, last),)
    stored[region] = states.cpu().numpy()
    seconds = time.perf_counter() - begin
    work.finish_unit(unit, layout.chunks_of(stored, region), {"seconds": seconds})


def _trajectory(
    system: System,
    series: int,
    length: int,
    start: torch.Generator,
    error: torch.Generator,
    saved: Checkpoint,
) -> Float[Tensor, "series time ..."]:
    """Return trajectories from the prior, begun anew or from where they were saved."""
    if (found := saved.load()) is None:
        states = [system.prior(series, start)[:, None]]
        system.space.check(states[0][:, 0], "the first state")
    else:
        states = [found[0]["states"]]
        error.set_state(found[0]["error"])
    for k in range(states[0].shape[1], length):
        states.append(forecast(system, states[-1][:, -1].contiguous(), error, k - 1)[:, None])
        if saved.due:
            states = [torch.cat(states, 1)]
            saved.save({"states": states[0], "error": error.get_state()}, None)
    return torch.cat(states, 1)


def _plan(record: dict[str, Any]) -> layout.Plan:
    return layout.Plan("series", BLOCK, record["series"])
