"""Units of one store done by several workers: those of an engine, or processes that share it.

A unit is a function of a file and its number: the file, in the folder of the markers, holds all
that decides the numbers, so that arrays go through the file system and not through the engine. A
worker makes the numbers of the unit, writes them into the store, and leaves the marker. It holds
the lock of the unit meanwhile: a worker of a client that has been killed, which ends its unit all
the same, and one of the run that resumes do not do it at the same time.

The file is pickled, and is read by workers of the client alone that wrote it: they are told its
SHA-256. A file that a run has left is never read, and goes when the run is resumed.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import zarr

from scorda.assimilation.base import Assimilator
from scorda.core import executors
from scorda.core.files import atomic
from scorda.core.lock import Shared, held, shared
from scorda.core.progress import Progress
from scorda.store.computing import MemberSampler
from scorda.store.layout import Plan
from scorda.store.resume import Work

__all__ = ["Counted", "Task", "check_shard", "do_shard", "do_unit", "do_units"]


class Task(ABC):
    """The work on a store: it does a unit, whichever process asks for it.

    Arguments:
        work: The store and its markers.
    """

    work: Work

    @abstractmethod
    def do(self, unit: int) -> None:
        """Compute a unit, write it, and leave its marker."""


def do_units(task: Task, units: Sequence[int], executor: Executor) -> Iterator[int]:
    """Do units on the workers of an engine, and yield each when it is finished.

    What has begun when one fails is finished too; the rest is left for another time.
    """
    folder = task.work.folder
    task.work.begin()
    if executors.shares_memory(executor):
        yield from _keys(executors.finished(executor, _do, [(u, (task, u)) for u in units]))
        return
    content = executors.packed(task)
    digest = hashlib.sha256(content).hexdigest()
    file = folder / f"task-{digest[:16]}.pickle"
    with atomic(file) as partial:
        partial.write_bytes(content)
    calls = [(unit, (str(file), digest, unit)) for unit in units]
    yield from _keys(executors.finished(executor, do_unit, calls))


def do_unit(file: str, digest: str, unit: int) -> None:
    """Do one unit of the work that a file of a client holds, unless it has been done meanwhile.

    Raises:
        ValueError: If the file is not that of the client.
    """
    zarr.config.set({"array.write_empty_chunks": True})
    _do(_task(file, digest), unit)


def _do(task: Task, unit: int) -> None:
    with held(task.work.lock(unit)):
        # Another run may have taken the place of the one of a client that has gone.
        task.work.check_begun(trust_code=True)
        if not task.work.done(unit):
            task.do(unit)


@functools.lru_cache(maxsize=1)
def _task(file: str, digest: str) -> Task:
    content = Path(file).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{file} is not what the run has written: start it again.")
    found: Task = pickle.loads(content)
    return found


def _keys(pairs: Iterator[tuple[int, None]]) -> Iterator[int]:
    for unit, _ in pairs:
        yield unit


def do_shard(
    task: Task,
    units: int,
    shard: tuple[int, int],
    finish: Callable[[], None],
    trust_code: bool = False,
    told: Callable[[int], None] = lambda unit: None,
) -> None:
    """Do units of a store that other processes work on too, until none is free.

    The first process makes the folder of the markers, while the others wait. Each takes the units
    of its own share first and then those that nobody has taken. Whoever is the last completes the
    store.

    Arguments:
        task: The work, the same in all processes.
        units: Number of units.
        shard: Number of this process, and of all.
        finish: Completes the store, once all units are done.
        trust_code: Join although the code of the user is unknown or has changed.
        told: Called with each unit that was done here.

    Raises:
        ValueError: If a run that shares the store with nobody writes there, or its settings are
            others.
    """
    work, (index, count) = task.work, shard
    order = sorted(range(units), key=lambda unit: ((unit - index) % count, unit))
    joined = False
    while True:
        try:
            with work.writing(True, False, trust_code, sharing=True) as left:
                if not left:
                    return
                if work.created and all(map(work.done, order)):
                    finish()
                    return
                work.begin()
        except Shared:
            if joined:
                return
        joined = True
        with shared(work.path), zarr.config.set({"array.write_empty_chunks": True}):
            if not work.folder.exists():
                # Others have completed it in this moment: see, and leave no lock behind.
                continue
            work.check_begun(trust_code)
            while sum(_take(task, unit, told) for unit in order):
                pass


def _take(task: Task, unit: int, told: Callable[[int], None]) -> bool:
    """Do a unit, unless it is done or another process is doing it; return whether it was free."""
    if task.work.done(unit):
        return False
    with held(task.work.lock(unit), wait=False) as free:
        if not free or task.work.done(unit):
            return False
        task.do(unit)
    told(unit)
    return True


def check_shard(method: Assimilator, shard: tuple[int, int], overwrite: bool) -> None:
    """Check that processes can share the units of a method.

    Raises:
        ValueError: If not, or there is no such shard.
    """
    index, count = shard
    if not 0 <= index <= count or count < 1:
        raise ValueError(f"Got the shard {index}/{count}: count from 0/n to n-1/n, or 1/n to n/n.")
    if not isinstance(method, MemberSampler):
        raise ValueError(
            f"The units of {method.name} follow from each other, so that processes cannot share "
            "them: give the forecasts workers with an executor instead of a shard."
        )
    if overwrite:
        raise ValueError(
            "Got overwrite with a shard, of which each would remove the others' work."
        )


@dataclass
class Counted:
    """Tells `progress` how much is done by units that are finished in any order."""

    plan: Plan
    progress: Progress | None
    done: int = 0

    def __call__(self, unit: int) -> None:
        first, last = self.plan.bounds(unit)
        self.done += last - first
        if self.progress is not None:
            self.progress(self.done, self.plan.total)
