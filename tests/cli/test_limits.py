"""Limits of the system: each command ends with one sentence, and leaves what it can go on from."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sampling import contents

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
LIGHT = (
    "assimilate --observations rows.csv --gross-error-check off --threads 1 --members 8 "
    "--system lorenz63 --system.dt 0.1"
)
# Of so many members some would leave the attractor at a step of 0.1.
STEADY = ("8 --system lorenz63 --system.dt 0.1", "450 --system lorenz63 --system.dt 0.05")
SIMULATE = "simulate lorenz96 --system.dim 4000 --steps 400 --threads 1"
SERIES = "simulate lorenz96 --series 64 --length 200 --threads 1"
TRAIN = "train --system lorenz63 --quick --threads 1"
GREEDY = """
import torch
from scorda.core.space import StateSpace
from scorda.systems import FunctionSystem

def step(x):
    return x + torch.ones(2**31).sum()

def first(members, seed):
    return torch.randn(members, 3)

def make() -> FunctionSystem:
    return FunctionSystem(step, first, StateSpace((3,), 0.1, ("x", "y", "z")), library="torch")
"""


def limited(folder, command, limit, value):
    """Run a command in a process of its own; return its status and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "scorda", *command.split()],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )  # fmt: skip
    return done.returncode, done.stderr


def whole(folder, command):
    assert limited(folder, command, resource.RLIMIT_CORE, 0)[0] == 0


@pytest.fixture
def folder(tmp_path):
    rows = [f"{0.1 * k:.1f},x,{k},1" for k in range(1, 9)]
    (tmp_path / "rows.csv").write_text("\n".join(["time,variable,value,std", *rows]) + "\n")
    (tmp_path / "greedy.py").write_text(GREEDY)
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name not in ("greedy.py", "rows.csv"))


def one_sentence(said):
    assert said.startswith("scorda: ") and len(said.splitlines()) == 1, said


@pytest.mark.parametrize(
    ("command", "gigabytes", "advice"),
    [
        # The libraries themselves do not fit.
        (f"{LIGHT} --out a.zarr", 0.3, "fewer --members"),
        (f"{LIGHT} --out a.zarr".replace("lorenz63 --system.dt 0.1", "greedy:make"), 4, "8 GiB"),
        ("simulate lorenz96 --system.dim 40000000 --steps 40 --threads 1", 4, "smaller system"),
    ],
)
def test_memory_that_is_too_small_is_told_and_nothing_is_left(folder, command, gigabytes, advice):
    status, said = limited(folder, command, resource.RLIMIT_AS, int(gigabytes * 2**30))
    one_sentence(said)
    assert status == 2 and "The memory does not hold" in said and advice in said
    assert names(folder) == []


@pytest.mark.parametrize(
    ("command", "name", "size"),
    [(f"{LIGHT} --unit 2 --out a.zarr", "a.zarr", 900), (f"{SERIES} --out s.zarr", "s.zarr", 1e5)],
)
def test_a_full_disk_is_told_and_the_run_goes_on(folder, command, name, size):
    (folder / "whole").mkdir()
    (folder / "whole" / "rows.csv").symlink_to(folder / "rows.csv")
    whole(folder / "whole", command)
    status, said = limited(folder, command, resource.RLIMIT_FSIZE, int(size))
    one_sentence(said)
    assert status == 2 and "The disk has no room for" in said and name in said
    assert "--resume goes on" in said
    assert not list(folder.rglob("*.partial"))
    whole(folder, f"{command} --resume")
    assert contents(folder / name) == contents(folder / "whole" / name)


@pytest.mark.parametrize(
    ("command", "named", "left"),
    [
        (f"{SIMULATE} --out sim", "truth.nc", ["simulate.toml"]),
        (f"{LIGHT} --out sim/a.zarr --netcdf sim/a.nc".replace(*STEADY), "a.nc", None),
        (f"{TRAIN} --out sim/w.safetensors", "w.safetensors", ["w.toml"]),
    ],
)
def test_a_full_disk_leaves_no_half_of_a_file(folder, command, named, left):
    """NetCDF too, whose library crashes where it cannot write what it has begun."""
    (folder / "sim").mkdir()
    status, said = limited(folder, command, resource.RLIMIT_FSIZE, 50_000)
    one_sentence(said)
    assert status == 2 and "The disk has no room for" in said and named in said, said
    assert not list(folder.rglob("*.partial"))
    assert left is None or names(folder / "sim") == left


def test_too_few_files_are_told(folder):
    """Eight may be open; what is there stays as it was."""
    whole(folder, f"{LIGHT} --out a.zarr")
    before = contents(folder)
    status, said = limited(folder, f"{LIGHT} --out b.zarr", resource.RLIMIT_NOFILE, 8)
    one_sentence(said)
    assert status == 2 and "ulimit -n" in said
    assert before.items() <= contents(folder).items()
    whole(folder, f"{LIGHT} --out b.zarr --overwrite")


THREADS = """
import ctypes, os, resource, sys
from scorda.cli import main

command = sys.argv[1:]
assert main([*command, "--out", "a.zarr", "--executor", "threads:1"]) == 0
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.getuid() == 0:
    # No limit holds for root; as another user, who reads files with the rights of root.
    os.setresuid(65534, 65534, 0)
    ctypes.CDLL(None).setfsuid(0)
sys.exit(main([*command, "--out", "b.zarr", "--executor", "threads:3"]))
"""


def test_too_few_threads_are_told(folder):
    with tempfile.TemporaryDirectory() as other:
        os.chmod(other, 0o777)
        Path(other, "rows.csv").write_text((folder / "rows.csv").read_text())
        done = subprocess.run(
            [sys.executable, "-c", THREADS, *LIGHT.split()],
            cwd=other, env=ENVIRONMENT, capture_output=True, text=True,
        )  # fmt: skip
    one_sentence(done.stderr)
    assert done.returncode == 2 and "ulimit -u" in done.stderr
