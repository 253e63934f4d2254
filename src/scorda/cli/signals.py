"""Signals that ask a run to stop: Ctrl-C (SIGINT) and SIGTERM raise one exception in it."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "asked", "deaf", "heard", "raise_if_asked", "word_of"]

STOPPING = (signal.SIGINT, signal.SIGTERM)
# Seconds after which a signal that came during an import is heard.
LATER = 0.02
# The last signal that came, 0 if none did.
_came = 0
# Whether the process ends after the command.
_ends = False


class Interrupted(KeyboardInterrupt):
    """A signal asks the run to stop; what it made so far is kept.

    Arguments:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def asked() -> int:
    """Return the signal that asked the run to stop, 0 if none did."""
    return _came


def raise_if_asked() -> None:
    """Stop if a signal has come: a library may have swallowed what it raised.

    Raises:
        Interrupted: If one has come.
    """
    if _came:
        raise Interrupted(_came)


def word_of(number: int) -> str:
    """Return how a command ends by a signal."""
    return "interrupted" if number == signal.SIGINT else "terminated"


@contextmanager
def heard(to_the_end: bool) -> Iterator[None]:
    """Raise `Interrupted` in the block when a signal asks to stop; then none is heard any more.

    A signal that the caller ignored is heard too: a shell ignores Ctrl-C for what it starts in the
    background. Outside of the main thread, which alone can hear signals, nothing is done.

    Arguments:
        to_the_end: Whether the process ends after the block: signals then end it without a word.
    """
    global _came, _ends
    _came, _ends = 0, to_the_end
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in STOPPING}
    hook, sys.unraisablehook = sys.unraisablehook, _again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if to_the_end else handler)


def deaf() -> None:
    """Hear no signal any more: the command is ending, and says so."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    global _came
    if _imports(frame):
        if _ends and not _torch_is_there():
            # Nothing is written before.
            with contextlib.suppress(OSError):
                os.write(2, f"scorda: {word_of(number)}.\n".encode())
            os._exit(128 + number)
        # A compiled module ends the whole program if its start is interrupted.
        later = threading.Timer(LATER, _thread.interrupt_main, (number,))
        later.daemon = True
        later.start()
        return
    _came = number
    raise Interrupted(number)


def _torch_is_there() -> bool:
    """Return whether torch, which takes most of the time of all imports, is imported."""
    found = sys.modules.get("torch")
    return found is not None and not getattr(found.__spec__, "_initializing", False)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _again(unraisable: Any) -> None:
    """Raise again what was raised in a destructor or a callback, where Python only prints it."""
    if issubclass(unraisable.exc_type, Interrupted):
        _thread.interrupt_main(signal.Signals(_came))
    else:
        sys.__unraisablehook__(unraisable)
