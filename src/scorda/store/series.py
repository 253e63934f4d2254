"""Trajectories of a system on disk, simulated once for priors to learn from.

They are one zarr store (format 3) with the array ``states`` of dims ``(series, time, *state)``,
which ``xarray.open_zarr`` reads. It is written in blocks of series, each a function of the
settings and of its number alone, so that a run that was killed goes on where it stopped and leaves
the same bytes, with any number of threads.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec

from scorda.core import rng
from scorda.core.ownership import named_as_given
from scorda.core.progress import Progress, heard, with_bar
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.opening import readable
from scorda.store import layout
from scorda.store.checkpoints import MINUTE, Checkpoint
from scorda.store.damage import check_files, read_record, telling
from scorda.store.headers import check_record, shape_of, space_from_json, store_attributes
from scorda.store.identity import identity
from scorda.store.records import plain
from scorda.store.resume import Work
from scorda.store.workers import Task, do_units
from scorda.systems.base import System, forecast, plain_settings
from scorda.systems.mapped import unmapped

__all__ = ["holds_series", "read_series", "simulate_series"]

# Series per unit of work; part of what decides the numbers, as each unit has its own stream.
BLOCK = 16
KIND = "series"


@with_bar
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
    progress: Progress | bool | None = None,
    save_every: float = MINUTE,
    executor: Executor | None = None,
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
        progress: Called with the series done so far and their total; True: a bar.
        save_every: Seconds of work between two checkpoints inside a block.
        executor: Engine for the blocks, any `concurrent.futures.Executor`, instead of `threads`
            of this process. The bytes do not depend on it.

    Raises:
        ValueError: If `path` is taken, or another run writes there, or the run to resume differs
            in anything that decides its numbers.
        FloatingPointError: If a state is not finite.
        WorkersLost: If the engine has lost workers; `resume` goes on.
    """
    system = unmapped(system)
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
    layer = _Layer(system.space, plain(record))
    work = Work(Path(path), record | identity(simulated=system, space=system.space), layer.make)
    with named_as_given(path), work.writing(resume, overwrite, trust_code) as left:
        if not left:
            return
        work.create(str(record["dtype"]))
        before, pool = torch.get_num_threads(), executor or ThreadPoolExecutor(threads)
        torch.set_num_threads(1)
        try:
            simulation = _Simulation(system, work, record, save_every)
            _simulate_missing(simulation, heard(progress), pool)
        finally:
            torch.set_num_threads(before)
            if executor is None:
                pool.shutdown()
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


@dataclass(frozen=True)
class _Layer:
    """The store of a simulation without its states."""

    space: StateSpace
    record: dict[str, Any]

    def make(self, path: Path, dtype: str, weighted: bool) -> None:
        """Make the store at a path."""
        _create(path, self.space, self.record)


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


@dataclass(frozen=True)
class _Simulation(Task):
    """The blocks of series of one store.

    Arguments:
        system: The system.
        work: The store and its markers.
        record: Settings of the run.
        save_every: Seconds of work between two checkpoints.
    """

    system: System
    work: Work
    record: dict[str, Any]
    save_every: float

    def do(self, unit: int) -> None:
        """Make and write one block of series, then its marker."""
        begin, work, system = time.perf_counter(), self.work, self.system
        first, last = _plan(self.record).bounds(unit)
        start, error = rng.spawn(rng.at(rng.key(rng.seeded(self.record["seed"])), unit), 2)
        saved = Checkpoint(work.checkpoint(unit), self.save_every)
        with torch.no_grad():
            states = _trajectory(system, last - first, self.record["length"], start, error, saved)
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


def _simulate_missing(
    simulation: _Simulation, progress: Progress | None, executor: Executor
) -> None:
    """Simulate the blocks that are not done, several at the same time."""
    plan = _plan(simulation.record)
    left = [unit for unit in range(plan.units) if not simulation.work.done(unit)]
    done = plan.total - sum(last - first for first, last in map(plan.bounds, left))
    for unit in do_units(simulation, left, executor):
        first, last = plan.bounds(unit)
        done += last - first
        if progress is not None:
            progress(done, plan.total)


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
