"""Commands that are killed at random moments and at every operation on files, then resumed.

By hand::

    python tests/endurance/kills.py --kills 1000

A third of the kills comes at random moments, the others at operations on files: the child counts
what it opens to write, renames, makes and removes, and kills itself at the one that is asked for,
so that the whole run is covered evenly. Each story is one to three kills of a job, and the command
given again to the end. It must leave the files of a run that was never killed: the same names, the
same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from jobs import JOBS, Job, contents, finish, forked, imported, prepare

# What Python tells of, that changes a folder.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
# Chances of one, two and three kills in a story.
KILLS = (1, 1, 2, 3)


@dataclass(frozen=True)
class Whole:
    """A run that was never killed: its files, seconds, and operations on files."""

    files: dict[str, bytes]
    seconds: float
    operations: int


def main() -> int:
    """Kill and compare; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", help="one of " + ", ".join(j.name for j in JOBS))
    given = parser.parse_args()
    imported()
    jobs = [job for job in JOBS if given.job is None or job.name in given.job]
    chance, counts = random.Random(given.seed), Counter()
    with tempfile.TemporaryDirectory() as top:
        for number, job in enumerate(jobs):
            share = given.kills * (number + 1) // len(jobs) - given.kills * number // len(jobs)
            found = _endure(job, share, Path(top) / job.name, chance)
            counts.update(found)
            print(f"{job.name:10} " + ", ".join(f"{n} {k}" for k, n in found.items()), flush=True)
    print("all        " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    return int(counts["differing"] + counts["failed"] > 0)


def _endure(job: Job, kills: int, folder: Path, chance: random.Random) -> Counter[str]:
    """Kill one job so many times, in stories of one to three kills."""
    whole = _whole(job, folder / "whole")
    counts = Counter(operations=whole.operations, kills=0, stories=0, differing=0, failed=0)
    tries = 0
    while tries < kills:
        story = folder / f"story-{counts['stories']}"
        prepare_from(folder / "whole.input", story)
        again = ""
        for _ in range(min(chance.choice(KILLS), kills - tries)):
            at = _evenly(tries, kills, whole.operations)
            status = _killed(f"{job.command} {again}", story, whole, at, chance)
            tries += 1
            killed = status == -signal.SIGKILL
            counts["kills"] += killed
            counts["too late"] += status == 0
            counts["failed"] += not killed and status != 0
            again = job.again
        status = finish(forked(f"{job.command} {job.again}", story))
        counts["stories"] += 1
        counts["failed"] += status != 0
        differing = _differing(whole.files, contents(story)) if status == 0 else []
        counts["differing"] += bool(differing)
        if status != 0 or differing:
            print(f"{story}: status {status}, differing {differing}", flush=True)
            print(story.with_suffix(".said").read_text(errors="replace")[-600:], flush=True)
        else:
            shutil.rmtree(story)
    return counts


def _whole(job: Job, folder: Path) -> Whole:
    """Run a job to its end twice: counting its operations, and for its files and seconds.

    What the first run has imported is then imported here, once for all children to come.
    """
    first, counted = folder.with_suffix(".input"), folder.with_suffix(".counted")
    prepare(job, first)
    prepare_from(first, counted)
    told = folder.with_suffix(".told")

    def count() -> None:
        seen, before = operations(counted), set(sys.modules)
        end = os._exit

        def tell(status: int) -> None:
            told.write_text("\n".join([str(len(seen)), *(set(sys.modules) - before)]))
            end(status)

        os._exit = tell  # type: ignore[assignment]

    if (status := finish(forked(job.command, counted, count))) != 0:
        said = counted.with_suffix(".said").read_text(errors="replace")
        raise RuntimeError(f"{job.name} ended with {status}: {said}")
    number, *modules = told.read_text().splitlines()
    for module in sorted(modules):
        # Some are of the job alone, and some no module that can be imported by its name.
        with suppress(ImportError):
            import_module(module)
    prepare_from(first, folder)
    begin = time.perf_counter()
    if (status := finish(forked(job.command, folder))) != 0:
        raise RuntimeError(f"{job.name} ended with {status} when it was done again.")
    seconds = time.perf_counter() - begin
    return Whole(contents(folder), seconds, int(number))


def prepare_from(folder: Path, other: Path) -> None:
    """Copy the input of a job."""
    shutil.copytree(folder, other, symlinks=True)


def _evenly(number: int, kills: int, operations: int) -> int | None:
    """Return the operation to kill at, two of three times, evenly over a run; else None."""
    return None if number % 3 == 0 else 1 + number * operations // kills


def _killed(
    command: str, folder: Path, whole: Whole, at: int | None, chance: random.Random
) -> int:
    """Kill a command at an operation, or at a random moment; return how it ended."""
    if at is not None:
        return finish(forked(command, folder, lambda: operations(folder, at)))
    child = forked(command, folder)
    time.sleep(chance.uniform(0, whole.seconds))
    os.kill(child, signal.SIGKILL)
    return finish(child)


def operations(folder: Path, at: int | None = None) -> list[str]:
    """Return a list that grows with what this process does to the files of a folder.

    Arguments:
        folder: Folder whose files count.
        at: Number of the operation at which the process is killed, before it is done.
    """
    top, seen = str(folder.resolve()), []

    def told(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        # An open file was counted when it was opened.
        if not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(top):
            seen.append(event)
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(told)
    return seen


def _differing(whole: dict[str, bytes], story: dict[str, bytes]) -> list[str]:
    """Return the names of files that are missing, left over or of other bytes."""
    return sorted(name for name in {*whole, *story} if whole.get(name) != story.get(name))


if __name__ == "__main__":
    sys.exit(main())
