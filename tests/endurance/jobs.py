"""Commands that are killed, and what of them has to be the same however often they are.

Each job is a few commands that make its input, and one that is killed and given again. They are
run in processes that are forked from one that has imported everything, so that kills fall into the
work and not into the imports.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["JOBS", "Job", "contents", "forked", "prepare"]

# Inputs that this process has made, by the commands that make them.
MADE: dict[tuple[str, ...], Path] = {}
# Their content tells times, so that only their names are compared.
TIMED = (".zarr.json", ".html")

MODEL = """
from scorda.systems import Lorenz96


def make() -> Lorenz96:
    return Lorenz96(dim=12, spinup=0.05, noise_std=0.1)
"""
ASSIMILATE = "assimilate --observations simulation/observations.csv --seed 4 --threads 1 "
MINE = (
    ASSIMILATE + "--system mymodel:make --members 12 --truth simulation/truth.nc --withhold 0.2 "
)
TWIN = "simulate --system lorenz96 --system.dim 12 --steps 60 --every 2 --threads 1"
LORENZ63 = "simulate --system lorenz63 --steps 32 --every 8 --threads 1"
SERIES = "--series 48 --length 24 --threads 2 --out series.zarr"
NETWORK = (
    "--width 8 --blocks 1 --training-steps 60 --every 20 --batch 8 --segment 8 --threads 1 "
    "--out prior.safetensors"
)


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
    command: str
    before: tuple[str, ...] = ()
    again: str = "--resume"


JOBS = [
    Job("filter", MINE + "--method enkf --unit 3 --out run.zarr", (TWIN,)),
    Job(
        "weights",
        MINE + "--method particle-filter --resample 0.5 --unit 2 --out run.zarr",
        (TWIN,),
    ),
    Job(
        "netcdf",
        MINE + "--method letkf --localization.radius 2 --out run.zarr --netcdf run.nc",
        (TWIN,),
    ),
    Job(
        "members",
        ASSIMILATE + "--method sda --prior lorenz63 --members 8 --unit 2 --out run.zarr "
        "--sampler ancestral --sampler.noise-levels 8",
        (LORENZ63,),
    ),
    Job(
        "keep",
        MINE + "--method particle-filter --resample 0.5 --unit 6 --out run.zarr "
        "--keep mean,std,q05 --keep.members 2 --keep.steps 3",
        (TWIN,),
    ),
    Job(
        "keep-members",
        ASSIMILATE + "--method sda --prior lorenz63 --members 8 --unit 2 --out run.zarr "
        "--sampler ancestral --sampler.noise-levels 8 --keep mean,std",
        (LORENZ63,),
    ),
    Job("smoother", MINE + "--method enks --out run.zarr", (TWIN,)),
    Job("twin", TWIN + " --out twin", again="--overwrite"),
    Job("series", "simulate --system mymodel:make " + SERIES),
    Job(
        "training",
        "train --data series.zarr " + NETWORK,
        ("simulate --system lorenz63 " + SERIES,),
    ),
    Job(
        "report",
        "report run.zarr --out report.html",
        (LORENZ63, ASSIMILATE + "--system lorenz63 --method enkf --out run.zarr"),
        again="",
    ),
]


def prepare(job: Job, folder: Path) -> None:
    """Make the input of a job in a folder, or copy that of another one that has the same.

    Raises:
        RuntimeError: If a command fails.
    """
    if job.before in MADE:
        shutil.copytree(MADE[job.before], folder, symlinks=True)
        return
    folder.mkdir(parents=True)
    (folder / "mymodel.py").write_text(MODEL)
    for command in job.before:
        if (status := finish(forked(command, folder))) != 0:
            raise RuntimeError(f"{command} ended with {status} in {folder}.")
    MADE[job.before] = folder


def forked(command: str, folder: Path, first: Callable[[], object] | None = None) -> int:
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

        status = main(command.split())
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
    import matplotlib.pyplot
    import pandas  # noqa: F401
    import torch  # noqa: F401
    import xarray  # noqa: F401
    import zarr  # noqa: F401

    import scorda.cli.assimilate
    import scorda.cli.common
    import scorda.methods.sda
    import scorda.report.html
    import scorda.store.series  # noqa: F401
