"""A limit of time for a piece of work, which what it calls may ask for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

__all__ = ["check_seconds", "limited", "seconds_left"]

_end: ContextVar[float | None] = ContextVar("end", default=None)


def check_seconds(seconds: float, name: str) -> None:
    """Check that a limit is one that a clock can keep.

    Raises:
        ValueError: If it is not positive, or longer than the system can wait (300 years).
    """
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"Got {name} {seconds}: give seconds, or leave it out for no limit.")


def seconds_left() -> float | None:
    """Return the seconds that are left to the work around this call; None: it has no limit."""
    end = _end.get()
    return None if end is None else max(0.0, end - time.monotonic())


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Give the block so many seconds; None gives it all time.

    In the main thread of a process, as in every worker of processes, the block is interrupted. In
    any other thread Python offers no way to do so: the error comes when the block ends, or from
    what asks for `seconds_left`, as programs that `scorda.systems.Executable` starts.

    Raises:
        TimeoutError: If the block takes longer.
    """
    if seconds is None:
        yield
        return
    token = _end.set(time.monotonic() + seconds)
    main = threading.current_thread() is threading.main_thread()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _late(seconds)

    before = signal.signal(signal.SIGALRM, interrupt) if main else None
    try:
        if main:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
        if seconds_left() == 0:
            raise _late(seconds)
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        _end.reset(token)


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"it took more than {seconds:g} s")
