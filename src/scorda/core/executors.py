"""Work that is handed to an engine: anything with the interface `concurrent.futures.Executor`.

A piece of work is a function of a module and its arguments. It has the bits that it has without
an engine: precision and number of threads of torch go with it, and what it needs of the randomness
is among its arguments. `scorda.core.engines` makes engines of the words of a command line.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

__all__ = [
    "Settings",
    "WorkersLost",
    "finished",
    "packed",
    "result",
    "shares_memory",
    "submit",
    "unpacked",
]

Result = TypeVar("Result")
Key = TypeVar("Key")

# What Dask raises where a task has lost one worker after another, or its scheduler.
LOST = ("KilledWorker", "CommClosedError", "FutureCancelledError")


class WorkersLost(BrokenExecutor):
    """Workers were killed, or the engine has gone, in the middle of the work."""


@dataclass(frozen=True)
class Settings:
    """What decides bits beside the arguments of a function, and where its modules are.

    Arguments:
        dtype: Default precision of torch.
        threads: Number of threads of torch.
        path: Folders of modules.
    """

    dtype: str
    threads: int
    path: tuple[str, ...]

    @classmethod
    def here(cls) -> Settings:
        """Return the settings of this process."""
        dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        return cls(dtype, torch.get_num_threads(), tuple(sys.path))

    def take_up(self) -> None:
        """Make them those of this process; folders are added, none comes before those it has."""
        if torch.get_default_dtype() != getattr(torch, self.dtype):
            torch.set_default_dtype(getattr(torch, self.dtype))
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if self.path != tuple(sys.path):
            sys.path.extend(folder for folder in self.path if folder not in sys.path)


def shares_memory(executor: Executor | None) -> bool:
    """Return whether work is done in this process, so that nothing need be packed for it."""
    return executor is None or isinstance(executor, ThreadPoolExecutor)


def packed(value: Any) -> bytes:
    """Return an object as bytes, with its functions where no module has them."""
    import cloudpickle

    return cloudpickle.dumps(value)


@functools.lru_cache(maxsize=4)
def unpacked(content: bytes) -> Any:
    """Return the object that `packed` made bytes of in a process that this one works for."""
    import cloudpickle

    return cloudpickle.loads(content)


def submit(executor: Executor, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Hand a function of a module to an engine, with the settings of this process."""
    try:
        return executor.submit(_call, Settings.here(), function, *arguments)
    except BrokenExecutor as error:
        raise _lost(error) from error


def result(future: Future[Result]) -> Result:
    """Return the result of a piece of work.

    Raises:
        WorkersLost: If the engine has lost it; any error of the work itself is raised as it is.
    """
    try:
        return future.result()
    except (BrokenExecutor, CancelledError) as error:
        raise _lost(error) from error
    except Exception as error:
        if type(error).__name__ in LOST or _raised_in(error).startswith("distributed."):
            raise _lost(error) from error
        raise


def finished(
    executor: Executor, function: Callable[..., Result], calls: Iterable[tuple[Key, tuple]]
) -> Iterator[tuple[Key, Result]]:
    """Hand a function to an engine for several arguments, and yield results as they come.

    After an error nothing more is begun; what has begun goes on.

    Arguments:
        executor: The engine.
        function: A function of a module.
        calls: A key, and the arguments, of each call.
    """
    futures = {submit(executor, function, *arguments): key for key, arguments in calls}
    try:
        for future in as_completed(futures):
            yield futures[future], result(future)
    finally:
        for future in futures:
            future.cancel()


def _call(settings: Settings, function: Callable[..., Result], *arguments: Any) -> Result:
    settings.take_up()
    try:
        return function(*arguments)
    except Exception as error:
        if _travels(error):
            raise
        # As it is, it would break the engine.
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _travels(error: Exception) -> bool:
    """Return whether an error can be brought from one process to another."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return False
    return True


def _raised_in(error: BaseException) -> str:
    """Return the module that raised an error: Dask's own fails where its scheduler has gone."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else str(last.tb_frame.f_globals.get("__name__", ""))


def _lost(error: BaseException) -> WorkersLost:
    return WorkersLost(
        "A worker ended in the middle of its work (it was killed, had no more memory, or its "
        f"engine has gone: {type(error).__name__}); what was finished is kept: go on with "
        "--resume, with fewer workers if memory was short."
    )
