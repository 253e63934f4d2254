"""Commands that are killed, and what of them has to be the same however often they are.

Each job is a few commands that make its input, and one that is killed and given again. They are
run in processes that are forked from one that has imported everything, so that kills fall into the
work and not into the imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["JOBS", "Job", "contents", "forked", "prepare"]

# Their content tells times, so that only their names are compared.
TIMED = (".zarr.json", ".html")

MODEL = """
from scorda.systems import Lorenz96


def make():
    return Lorenz96(dim=12, spinup=0.05, noise_std=0.1)
"""
ASSIMILATE = "assimilate --observations simulation/observations.csv --seed 4 --threads 1".split()
TWIN = "simulate --system lorenz96 --system.dim 12 --steps 60 --every 2 --threads 1".split()
LORENZ63 = "simulate --system lorenz63 --steps 32 --every 8 --threads 1".split()
SERIES = "--series 48 --length 24 --threads 2 --out series.zarr".split()
MINE = "--system mymodel:make --members 12 --truth simulation/truth.nc --withhold 0.2".split()
NETWORK = (
    "--width 8 --blocks 1 --training-steps 60 --every 20 --batch 8 --segment 8 --threads 1 --seed 3"
).split()


@dataclass(frozen=True)
class Job:
    """A command to kill.

    Arguments:
        name: Name of the job.
        command: Arguments of ``scorda``.
        before: Commands that make its input.
        again: What to add when it is given again after a kill.
    """

    name: str
    command: list[str]
    before: list[list[str]] = field(default_factory=list)
    again: list[str] = field(default_factory=lambda: ["--resume"])


JOBS = [
    Job("filter", [*ASSIMILATE, *MINE, *"--method enkf --unit 3 --out run.zarr".split()], [TWIN]),
    Job(
        "weights",
        [*ASSIMILATE, *MINE]
        + "--method particle-filter --resample 0.5 --unit 2 --out run.zarr".split(),
        [TWIN],
    ),
    Job(
        "netcdf",
        [*ASSIMILATE, *MINE]
        + "--method letkf --localization.radius 2 --unit 20 --out run.zarr --netcdf run.nc".split(),
        [TWIN],
    ),
    Job(
        "members",
        [*ASSIMILATE, *"--prior lorenz63 --method sda --members 8 --unit 2".split()]
        + "--sampler ancestral --sampler.noise-levels 8 --out run.zarr".split(),
        [LORENZ63],
    ),
    Job("smoother", [*ASSIMILATE, *MINE, *"--method enks --out run.zarr".split()], [TWIN]),
    Job("twin", [*TWIN, *"--out twin".split()], [], ["--overwrite"]),
    Job("series", ["simulate", "--system", "mymodel:make", *SERIES]),
    Job(
        "training",
        ["train", "--data", "series.zarr", *NETWORK, "--out", "prior.safetensors"],
        [["simulate", "--system", "lorenz63", *SERIES]],
    ),
    Job(
        "report",
        ["report", "run.zarr", "--out", "report.html"],
        [LORENZ63, [*ASSIMILATE, *"--system lorenz63 --method enkf --out run.zarr".split()]],
        [],
    ),
]


def prepare(job: Job, folder: Path) -> None:
    """Make the input of a job in a folder.

    Raises:
        RuntimeError: If a command fails.
    """
    folder.mkdir(parents=True)
    (folder / "mymodel.py").write_text(MODEL)
    for command in job.before:
        if (status := finish(forked(command, folder))) != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {status} in {folder}.")


def forked(command: list[str], folder: Path, first: Callable[[], object] | None = None) -> int:
    """Run a command of ``scorda`` in a child process, and return its number.

    Arguments:
        command: Arguments of ``scorda``.
        folder: Folder to run in; what the command says goes to ``said.txt`` beside it.
        first: Called in the child before the command.
    """
    if (child := os.fork()) != 0:
        return child
    status = 99
    try:
        os.chdir(folder)
        said = os.open(folder.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(said, stream)
        if first is not None:
            first()
        from scorda.cli import main

        status = main(command)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def finish(child: int) -> int:
    """Wait for a child; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its content; none for those that tell times."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and "__pycache__" not in name:
            found[name] = b"" if name.endswith(TIMED) else file.read_bytes()
        elif file.is_dir() and not any(file.iterdir()):
            found[f"{name}/"] = b""
    return found


def imported() -> None:
    """Import what the commands import, so that a forked child begins with its work."""
    import matplotlib

    matplotlib.use("agg")
    import h5netcdf  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import torch  # noqa: F401
    import xarray  # noqa: F401
    import zarr  # noqa: F401

    import scorda.cli.assimilate
    import scorda.cli.common
    import scorda.methods.sda
    import scorda.report.html
    import scorda.store.series  # noqa: F401
