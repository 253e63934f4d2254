"""Several processes that write the same output at the same time: one does, the others refuse.

By hand::

    python tests/endurance/writers.py --rounds 10 --writers 2
    python tests/endurance/writers.py --rounds 5 --writers 20

The one that writes leaves the files of a run that was alone. Each of the others ends with status 2
and one sentence, in the seconds that are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jobs import JOBS, Job, contents, finish, forked, imported, prepare


def main() -> int:
    """Let processes write the same output; return 1 if more than one does, or another's bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--job", action="append", choices=[job.name for job in JOBS])
    given = parser.parse_args()
    imported()
    wanted = given.job or ["filter", "series", "members", "training"]
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as top:
        for job in (job for job in JOBS if job.name in wanted):
            folder = Path(top) / job.name
            prepare(job, folder / "input")
            alone = _alone(job, folder)
            for number in range(given.rounds):
                here = folder / f"round-{number}"
                shutil.copytree(folder / "input", here)
                found, seconds = _round(job, here, given.writers)
                found["differing"] += contents(here) != alone
                slowest = max(slowest, seconds)
                counts += found
            print(f"{job.name:10} {dict(counts)}", flush=True)
    print(f"slowest refusal {slowest:.2f} s")
    total = given.rounds * len(wanted)
    right = counts["wrote"] == total and counts["refused"] == total * (given.writers - 1)
    return int(not right or counts["differing"] > 0)


def _alone(job: Job, folder: Path) -> dict[str, bytes]:
    """Return the files that one process leaves."""
    shutil.copytree(folder / "input", folder / "alone")
    if (status := finish(forked(job.command, folder / "alone"))) != 0:
        raise RuntimeError(f"{job.name} ended with {status}.")
    return contents(folder / "alone")


def _round(job: Job, here: Path, writers: int) -> tuple[Counter[str], float]:
    """Start processes at once; count what became of them, and time the slowest refusal."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)

    def together() -> None:
        # All wait for the pipe to be closed by the parent.
        os.close(writer)
        os.read(reader, 1)

    children = [forked(job.command, here, together) for _ in range(writers)]
    os.close(writer)
    os.close(reader)
    begin, counts, seconds = time.perf_counter(), Counter(), 0.0
    for _ in children:
        _, status = os.wait()
        ended = {0: "wrote", 2: "refused"}.get(os.waitstatus_to_exitcode(status), "failed")
        counts[ended] += 1
        if ended == "refused":
            seconds = max(seconds, time.perf_counter() - begin)
    return counts, seconds


if __name__ == "__main__":
    sys.exit(main())
