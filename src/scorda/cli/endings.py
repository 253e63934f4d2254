"""How a command ends: each exception becomes one sentence and an exit status.

What a user can mend is a sentence with a hint; its traceback is shown with ``--debug``. An error
that nobody has foreseen says so and leaves its traceback in a file.
"""

from __future__ import annotations

import contextlib
import dis
import errno
import os
import platform
import re
import shlex
import signal
import site
import sys
import sysconfig
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

from scorda.cli.console import reached
from scorda.cli.escapes import escaped
from scorda.cli.signals import asked, word_of

__all__ = ["Command", "ended", "is_meant", "left_open"]

PIPE_CLOSED = 128 + 13
# Exceptions that tell a user's mistake where Scorda, or a user's own code, raises them.
TOLD = (ValueError, TypeError, FloatingPointError, NotImplementedError, BrokenExecutor)
RAISE = dis.opmap["RAISE_VARARGS"]
PACKAGE = str(Path(__file__).parents[1])
LONGEST = 300
MEMORY = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|Unable to allocate|Storage size calculation "
    r"overflowed|Cannot allocate memory|failed to map segment",
    re.IGNORECASE,
)
SIZE = re.compile(r"(?:allocate|allocate:?) ([\d.]+ ?(?:[KMGTPE]i?B|bytes))")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OPEN = (errno.EMFILE, errno.ENFILE)
# What Python says where the system starts no more threads, or processes.
STARTED, FEW = "can't start new thread", os.strerror(errno.EAGAIN)
# The library of HDF5 has the number of an error in its text alone.
LISTED = re.compile(r'unable to convert "[^"]*,[^"]*" into')
NUMBER = re.compile(r"errno = (\d+)")
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
SMALLER = {
    "assimilate": "give fewer --members, a smaller --unit, a method with --localization, or "
    "--dtype float32",
    "compare": "give fewer --members, methods with --localization, or --dtype float32",
    "tune": "give fewer --members, a method with --localization, or --dtype float32",
    "analyse": "give fewer members or observations, or a method with --localization",
    "train": "give a smaller --batch, --segment or --width",
    "simulate": "give a smaller system, or fewer --steps",
    "bench": "give --quick, or fewer rows by --only",
    "demo": "give fewer --members, or --quick",
}


@dataclass
class Command:
    """A command line, as far as it tells how to go on.

    Arguments:
        tokens: Its words.
        out: Output that it names, in its words or in its file of settings.
        debug: Whether tracebacks are shown.
    """

    tokens: Sequence[str]
    out: str | None = None
    debug: bool = False

    @property
    def smaller(self) -> str:
        """What needs less memory."""
        name = self.tokens[0] if self.tokens else ""
        return SMALLER.get(name, "give smaller files, or a machine with more")


def ended(error: BaseException, command: Command) -> int:
    """Tell how a command ended by an exception; return its exit status.

    Raises:
        SystemExit: If it is one, of a user's own code.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        raise error
    if isinstance(error, KeyboardInterrupt) or asked():
        # A library may have made another exception of the one that the signal raised.
        number = asked() or getattr(error, "number", signal.SIGINT)
        _say(_where(number))
        return 128 + number
    if isinstance(error, BrokenPipeError | SystemExit):
        return PIPE_CLOSED
    if command.debug:
        print(escaped("".join(traceback.format_exception(error))), file=sys.stderr)
    sentence = _foreseen(error, command)
    if sentence is None:
        _tell_unforeseen(error, command)
        return 1
    _say(sentence)
    # A RunError, told without importing it: that would import torch after each typing error.
    return 2 if getattr(error, "step", None) is None else 3


def _foreseen(error: BaseException, command: Command) -> str | None:
    """Return the sentence of an error that a user can mend, None for any other."""
    from cyclopts import CycloptsError

    from scorda.cli.settings import UserError

    text = _line(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError | ImportError) and MEMORY.search(text)
    ):
        size = SIZE.search(text)
        needed = f"{_readable(size[1])} more" if size else "what the computation needs"
        return f"The memory does not hold {needed}: {command.smaller}."
    # A locked file, and a stream that takes nothing now, have this number and another text.
    if STARTED in text or (isinstance(error, OSError) and error.strerror == FEW):
        return (
            "The system starts no more threads or processes for this user: give fewer --threads "
            "or workers, or raise the limit (ulimit -u)."
        )
    if isinstance(error, OSError) or left_open(error):
        return _of_system(error, command)
    if isinstance(error, ImportError) and not str(error.name).startswith("scorda."):
        return f"{text}: install it in the environment of Scorda, or repair it there."
    if isinstance(error, CycloptsError | UserError):
        return f"{text} Give several values apart by blanks." if LISTED.search(text) else text
    told = isinstance(error, TOLD) or getattr(error, "step", None) is not None
    return text if told and is_meant(error) else None


def left_open(error: BaseException) -> bool:
    """Return whether the library of HDF5 could not write a file, which it then cannot close.

    The end of the interpreter, which closes all files, would crash.
    """
    return isinstance(error, RuntimeError | OSError) and bool(NUMBER.search(_line(error)))


def _of_system(error: BaseException, command: Command) -> str:
    """Return the sentence of an error of files, which names the file."""
    text = _line(error)
    told = error if isinstance(error, OSError) else OSError()
    number = told.errno or next(map(int, NUMBER.findall(text)), None)
    named = told.filename if told.filename is not None else command.out
    file = "the output" if named is None else _target(os.fsdecode(named))
    if number in FULL:
        more = "; then --resume goes on" if reached().resumable else ""
        return f"The disk has no room for {file}: free some, or choose another place{more}."
    if number in REFUSED:
        return (
            f"{file} may not be read or written here ({os.strerror(number or 0)}): choose "
            "another place, or ask for the right."
        )
    if number in OPEN:
        return (
            f"This process may not open more files ({file} is one too many): raise the limit "
            "(ulimit -n)."
        )
    if told.strerror is None:
        return text
    known = "" if told.filename is None else f"{file}: "
    if isinstance(error, FileNotFoundError):
        return f"{known}there is no such file or folder; check the path."
    return f"{known}{told.strerror}; check the path."


def _target(name: str) -> str:
    """Return the name of a file; of a temporary one, that which it was to become."""
    path = Path(name)
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]+\.partial", path.name)
    return str(path.with_name(found[1])) if found else name


def _where(number: int) -> str:
    """Return how far a run was when a signal stopped it."""
    now = reached()
    word, where = word_of(number), ""
    if now.unit is not None:
        where = (
            f" at {now.unit} {now.done} of {now.total}"
            if now.done
            else f" before the first {now.unit}"
        )
    return f"{word}{where}; `--resume` continues." if now.resumable else f"{word}{where}."


def is_meant(error: BaseException) -> bool:
    """Return whether a statement of Scorda or of a user raised it, rather than a library."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    code = last.tb_frame.f_code
    return code.co_code[last.tb_lasti] == RAISE and not _is_library(code.co_filename)


def _is_library(file: str) -> bool:
    if file.startswith(PACKAGE):
        return False
    folders = [*sysconfig.get_paths().values(), *site.getsitepackages()]
    # Compiled modules name files that are not there.
    return file.startswith(("<", *folders)) or not os.path.isfile(file)


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost line of a user's own code, if any is in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    others = [f for f in frames if not (f.filename.startswith(PACKAGE) or _is_library(f.filename))]
    return others[-1] if others else None


def _tell_unforeseen(error: BaseException, command: Command) -> None:
    what = f"{type(error).__name__}: {_line(error)[:LONGEST]}"
    report = _report(error, command)
    path = _kept(report, command)
    at = f"in {path}" if path is not None else "below"
    if (frame := _user_frame(error)) is not None:
        _say(
            f"{frame.filename}, line {frame.lineno}, raised {what.rstrip('.')}: mend it; the "
            f"traceback is {at}."
        )
    else:
        _say(
            f"An unforeseen error, {what.rstrip('.')}: the traceback is {at}; please report it "
            f"{_address()}."
        )
    if path is None and sys.stderr is not None:
        sys.stderr.write(report)


def _report(error: BaseException, command: Command) -> str:
    from scorda.core.version import __version__

    lines = traceback.format_exception(error)
    head = f"scorda {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    return escaped(f"{head}scorda {shlex.join(command.tokens)}\n\n{''.join(lines)}")


def _kept(report: str, command: Command) -> Path | None:
    """Write a report beside the output, or here; return its file, None where neither can be."""
    folders = [Path(command.out).parent] if command.out else []
    name = f"scorda-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (*folders, Path()):
        with contextlib.suppress(OSError, ValueError):
            with open(folder / name, "x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(report)
            return folder / name
    return None


def _address() -> str:
    """Return where to report: the address that the package names, if any."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("scorda").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    places = [url for label, _, url in (u.partition(", ") for u in urls) if "ssue" in label]
    return f"at {places[0]}" if places else "to the developers of Scorda"


def _readable(size: str) -> str:
    """Return a number of bytes in the unit that suits it."""
    if not size.endswith("bytes"):
        return size
    value = float(size.split()[0])
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} PiB"


def _line(error: BaseException) -> str:
    """Return the text of an exception and its notes as one line."""
    parts = [str(error), *getattr(error, "__notes__", [])]
    return " ".join(" ".join(parts).split()) or type(error).__name__


def _say(sentence: str) -> None:
    # Values that a user gave may be of any length.
    text = re.sub(r"\S{300,}", lambda found: f"{found[0][:100]}...", sentence)
    text = escaped(text if text.endswith((".", "?", "!")) else f"{text}.")
    # Where standard error takes nothing, the status says it alone.
    with contextlib.suppress(OSError, ValueError):
        print(f"scorda: {text}", file=sys.stderr, flush=True)
