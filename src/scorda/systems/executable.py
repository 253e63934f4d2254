"""A program of another kind as the model of one member, in a folder of its own for each step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from scorda.core.deadline import seconds_left
from scorda.core.files import atomic
from scorda.core.ownership import SOURCE, made_by_scorda

__all__ = ["Executable"]

INPUT, OUTPUT, SAID, MARKED = "state.npy", "forecast.npy", "output.txt", "member.json"
# Characters of what a program has said last that an error repeats.
LAST = 300


@dataclass(frozen=True)
class Executable:
    """Start a program for each member and step: `step` of ``FunctionSystem(per_member=True)``.

    Member 3 runs in ``FOLDER/member-000003``. Its step 12 begins with a copy of the folder
    ``step-000012``, where its step 11 has left its restart files (for step 0, of ``FOLDER/start``
    if there is one), in which the program is started, with the state that it is to advance in
    ``state.npy``. When it has ended, with the state after the step in ``forecast.npy``, the folder
    becomes ``step-000013``; before that it is ``step-000013.running``. A run that is resumed from
    an earlier step thus finds the restart files of that step, and replaces those of later ones.
    What the program says is in ``output.txt`` of that folder, also where it fails. It ends, with
    all that it has started, when the process that started it ends, also where that is killed. The
    folder of a member bears Scorda's mark, ``member.json``; one with files but without it is
    refused.

    The placeholders ``{member}``, ``{step}`` and ``{seed}`` of the command are replaced, and in
    `WithParameters` the parameters, such as ``{rho}``. The
    state is all that an analysis changes: where the restart files hold it too, `write` or the
    program has to put the state into them.

    Arguments:
        command: The program and its arguments; no shell reads them.
        folder: Folder of all members, on a file system that all workers see; a relative one
            begins where this object is made, not where a worker runs.
        write: Function of the folder and the state ``(*state)`` that writes what the program
            reads; default: ``state.npy``, of NumPy.
        read: Function of the folder that returns the state after the step; default: that in
            ``forecast.npy``.
        keep: Number of steps whose folders are kept for each member; None: all. A run can be
            resumed from these alone: give more than there are in a unit of work of its store.

    Raises:
        FileExistsError: When called, if the folder of a member is not Scorda's.
        RuntimeError: When called, if the program fails, with the last that it has said.
        TimeoutError: When called, if it takes longer than `Mapped` allows; it is killed, with all
            that it has started.
    """

    command: Sequence[str]
    folder: str | Path
    write: Callable[[Path, np.ndarray], Any] | None = None
    read: Callable[[Path], Any] | None = None
    keep: int | None = None
    # Not one of the arguments, which tell a run from others: a folder may be moved with its run.
    _folder: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_folder", Path(self.folder).absolute())

    def __call__(
        self,
        x: np.ndarray,
        parameters: Mapping[str, float] | None = None,
        *,
        member: int,
        step: int,
        seed: int,
    ) -> Any:
        """Return the state of a member after one step."""
        home = _marked(self._folder / f"member-{member:06d}")
        before = home / f"step-{step:06d}" if step else self._folder / "start"
        after = home / f"step-{step + 1:06d}"
        running = after.with_name(f"{after.name}.running")
        if running.exists():
            shutil.rmtree(running)
        if before.is_dir():
            shutil.copytree(before, running)
        elif step:
            raise FileNotFoundError(
                f"There is no {before}, with the restart files of member {member}: begin at step "
                "0, or raise `keep`."
            )
        else:
            running.mkdir(parents=True)
        (running / OUTPUT).unlink(missing_ok=True)
        (self.write or _write)(running, x)
        words = {"{member}": str(member), "{step}": str(step), "{seed}": str(seed)}
        words |= {f"{{{name}}}": repr(value) for name, value in (parameters or {}).items()}
        self._run([_filled(part, words) for part in self.command], running)
        made = (self.read or _read)(running)
        if after.exists():
            shutil.rmtree(after)
        running.rename(after)
        if self.keep is not None and (old := step + 1 - self.keep) > 0:
            shutil.rmtree(home / f"step-{old:06d}", ignore_errors=True)
        return made

    @staticmethod
    def _run(command: list[str], folder: Path) -> None:
        with (folder / SAID).open("wb") as output, _follower() as follower:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own, so that what it starts can be ended with it.
                start_new_session=True,
            )
            try:
                follower.write(f"{process.pid}\n".encode())
                status = process.wait(seconds_left())
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TimeoutError(f"{command[0]} took more time than it has") from None
                raise
        if status:
            said = (folder / SAID).read_bytes().decode("utf-8", "replace")[-LAST:].strip()
            raise RuntimeError(
                f"{command[0]} ended with the status {status} ({folder / SAID}): {said}"
            )


@contextmanager
def _follower() -> Iterator[IO[bytes]]:
    """Give a pipe; a group of processes whose number is written to it ends with this process.

    A shell reads from it, until it is closed because this process is gone, however that came.
    """
    shell = ["sh", "-c", 'read group && ! read _ && kill -9 "-$group"']
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        shell, 0, stdin=pipe, stdout=none, stderr=none, start_new_session=True
    ) as watch:
        assert watch.stdin is not None
        try:
            yield watch.stdin
        finally:
            watch.kill()


def _marked(home: Path) -> Path:
    """Return the folder of a member, made and marked where there is none, since parts of it go."""
    if not made_by_scorda(home / MARKED):
        if home.exists() and any(file.suffix != ".partial" for file in home.iterdir()):
            raise FileExistsError(
                f"{home} holds what Scorda did not write: give another folder for the members."
            )
        home.mkdir(parents=True, exist_ok=True)
        with atomic(home / MARKED) as partial:
            partial.write_text(json.dumps({"source": SOURCE}), encoding="utf-8")
    return home


def _filled(part: str, words: dict[str, str]) -> str:
    for placeholder, value in words.items():
        part = part.replace(placeholder, value)
    return part


def _write(folder: Path, x: np.ndarray) -> None:
    np.save(folder / INPUT, x)


def _read(folder: Path) -> np.ndarray:
    path = folder / OUTPUT
    if not path.exists():
        raise FileNotFoundError(f"The program left no {path}: let it write the state there.")
    return np.load(path)
