"""One output, one writer: a lock that the kernel releases when its process is gone.

The lock is of the kernel, on a hidden file beside the output. What the file says of its process is
for the reader of a refusal only: a file that a killed process left is taken over.

Processes that share an output, each with parts of its own, hold its lock together (`shared`), and
the lock of a part while they write it (`held`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

__all__ = ["Shared", "check_unlocked", "claimed", "held", "locked", "shared"]

# Locks of the blocks around, of this thread alone.
_OURS: ContextVar[frozenset[Path]] = ContextVar("locks", default=frozenset())

# What the file of a lock begins with: any other file of its name is somebody's own.
MARK = b'{"made_by": "scorda"'
# Seconds between two looks at a lock that another process holds for a short time.
LOOK, LOOKS = 0.1, 5


class Shared(ValueError):
    """Processes that share an output have it."""


@contextmanager
def locked(path: str | Path, sharing: bool = False) -> Iterator[None]:
    """Keep every other writer, of this process or another, from an output during the block.

    The folder of the output is made where there is none. A link is followed: the lock is of what
    it names. Within a block that has the lock it is not asked for again.

    Arguments:
        path: The output.
        sharing: Whether this is one of the processes that share the output: the others wait for
            it instead of being refused.

    Raises:
        ValueError: If another run writes there, whose host and process the sentence names, or the
            file system has no locks.
        OSError: If the folder cannot be written to.
    """
    file = _file(path)
    if file in _OURS.get():
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _taken(file, path, fcntl.LOCK_EX, sharing)
    before = _OURS.set(_OURS.get() | {file})
    try:
        yield
    finally:
        _OURS.reset(before)
        # Removed before it is released: who opened it meanwhile sees that it names nothing.
        file.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def claimed(path: str | Path, whole: bool = False) -> Iterator[None]:
    """Lock an output while its input is read already, so that other writers are refused at once.

    Where the lock cannot be made, because the folder is yet to be made or the disk is read-only,
    the block goes on without: whoever writes there asks again (`locked`).

    Arguments:
        path: The output.
        whole: Whether it seems complete and is to be left alone: nothing is written then.

    Raises:
        ValueError: As `locked`.
    """
    with ExitStack() as stack:
        if whole:
            check_unlocked(path)
        elif _file(path).parent.is_dir():
            try:
                stack.enter_context(locked(path))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES):
                    raise
        yield


@contextmanager
def shared(path: str | Path) -> Iterator[None]:
    """Keep all writers from an output during the block but those that share it.

    One of these that has it alone for a while (`locked`, `sharing`) is waited for.

    Raises:
        ValueError: If a run that shares it with nobody writes there.
    """
    file = _file(path)
    while True:
        try:
            descriptor = _taken(file, path, fcntl.LOCK_SH, sharing=True)
            break
        except Shared:
            time.sleep(LOOK)
    try:
        yield
    finally:
        # The file stays: who is the last does not know it.
        os.close(descriptor)


@contextmanager
def held(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a part of an output during the block, or tell that another has it.

    Arguments:
        file: File of the lock, which stays.
        wait: Wait for whoever has it; if not, the block is told False.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            _lock(descriptor, file.parent, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def check_unlocked(path: str | Path, sharing: bool = False) -> None:
    """Check that nobody writes an output now, before work is done that would be in vain.

    A lock that a killed process left is removed, where the disk can be written to. Nothing is
    written where there is none. Another run may still take it afterwards.

    Arguments:
        path: The output.
        sharing: As in `locked`.

    Raises:
        ValueError: If another run writes there.
    """
    if not _file(path).exists():
        return
    try:
        with locked(path, sharing):
            pass
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise


def _file(path: str | Path) -> Path:
    real = Path(os.path.realpath(path))
    return real.with_name(f".{real.name}.lock")


def _taken(file: Path, path: str | Path, how: int, sharing: bool) -> int:
    """Lock a file that its name still stands for, write who we are, return the descriptor."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor, file.parent, how | fcntl.LOCK_NB)
            if _names(file, descriptor):
                _sign(file, descriptor, sharing)
                return descriptor
        except BlockingIOError as error:
            kind = Shared if sharing and _is_shared(descriptor) else ValueError
            said = _read(descriptor)
            os.close(descriptor)
            raise kind(
                f"{path} is being written by {_who(said)}: wait for it, or give another name."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_shared(descriptor: int) -> bool:
    """Return whether a lock that another process has is of those that share an output.

    For a moment after it is taken its file is empty, or of a process that has gone.
    """
    for _ in range(LOOKS):
        said = _read(descriptor)
        if not said or b'"sharing": true' in said:
            return True
        time.sleep(LOOK)
    return False


def _lock(descriptor: int, folder: Path, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise ValueError(
            f"The file system of {folder} has no locks, without which two runs could write one "
            "output: choose a folder on another one, and copy the result there."
        ) from error


def _names(file: Path, descriptor: int) -> bool:
    """Return whether the name of a file is still that of an open one."""
    try:
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(file: Path, descriptor: int, sharing: bool) -> None:
    # A cut of power leaves zeros where the file was being written.
    before = _read(descriptor).strip(b"\0")
    if before and not before.startswith(MARK):
        raise ValueError(f"{file} is no lock of Scorda: rename it, or give another name.")
    owner = {"made_by": "scorda", "host": socket.gethostname(), "pid": os.getpid()}
    owner |= {"sharing": True} if sharing else {}
    text = json.dumps(owner | {"since": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, 4096, 0)


def _who(said: bytes) -> str:
    try:
        told = json.loads(said)
        return f"another run (process {told['pid']} of {told['host']}, since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another run"
