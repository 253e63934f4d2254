"""Commands with workers, and those of the documentation, without their engines."""

import os
import re
import runpy
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sampling import contents

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "executors.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
# With the interface of the real one: a class of an executor, whose workers are processes.
MPI = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor


class MPIPoolExecutor(ProcessPoolExecutor):
    def __init__(self, max_workers=2):
        super().__init__(max_workers, mp_context=multiprocessing.get_context("spawn"))
"""
MODEL = """
import numpy as np
from scorda.core.space import StateSpace
from scorda.systems import FunctionSystem


def step(x, *, member, step, seed):
    if member == 2 and step == 5:
        raise OSError("no convergence")
    return 0.9 * x + np.random.default_rng(seed).normal(size=3)


def first(members, seed):
    return np.random.default_rng(seed).normal(size=(members, 3))


def make() -> FunctionSystem:
    space = StateSpace((3,), 0.1, ("a", "b", "c"))
    return FunctionSystem(step, first, space, per_member=True)
"""
LINEAR = """
import torch
from scorda.core.space import StateSpace
from scorda.systems.linear import LinearGaussian

eye, space = torch.eye(1), StateSpace((1,), 0.1, ("x",))
system = LinearGaussian(0.5 * eye, eye, torch.zeros(1), eye, space)
"""
TASKS = ["--executor", "threads:2", "--members-per-task", "2"]
RUN = """
observations = ["sim/observations.csv"]
members = 16
quick = true
method = {name = "sda", prior = "lorenz63"}
"""


def scorda(folder, *words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "scorda", *map(str, words)],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def sharing(folder, *words, processes=2):
    """The same command in several processes of ``torchrun``."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "scorda", *words],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def block_of(heading, language):
    """The first block of a language below a heading of the page."""
    return re.search(rf"## {heading}\n.*?```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def sda(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sda")
    scorda(folder, "simulate", "lorenz63", "--steps", "64", "--every", "8", "--out", "sim")
    (folder / "run.toml").write_text(RUN)
    whole = ["--config", "run.toml", "--threads", "1", "--unit", "8", "--out", "a.zarr"]
    scorda(folder, "assimilate", *whole)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_of_torchrun_leave_the_bytes_of_one_run(processes, sda, tmp_path):
    out = tmp_path / "b.zarr"
    words = ["assimilate", "--config", "run.toml", "--threads", "1", "--unit", "8"]
    sharing(sda, *words, "--out", str(out), processes=processes)
    assert contents(out) == contents(sda / "a.zarr")
    command = block_of("Several GPUs", "bash")
    assert "--nproc-per-node" in command and " -m scorda assimilate --config run.toml" in command


@pytest.mark.slow
def test_the_job_array_of_the_page_leaves_the_bytes_of_one_run(sda):
    script = block_of("Job arrays", "bash").replace("--unit 16", "--unit 8")
    (sda / "job.sh").write_text(script)
    command = sda / "bin" / "scorda"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m scorda "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    path = f"{command.parent}:{os.environ['PATH']}"
    jobs = [
        subprocess.Popen(
            ["bash", "job.sh"], cwd=sda, stdout=subprocess.PIPE, text=True,
            env={**ENVIRONMENT, "PATH": path, "SLURM_ARRAY_TASK_ID": str(number)},
        )
        for number in (0, 1)
    ]  # fmt: skip
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert any("posterior: run.zarr" in text for text in said)
    assert contents(sda / "run.zarr") == contents(sda / "a.zarr")
    assert (sda / "run.zarr.toml").exists()


@pytest.mark.slow
def test_the_command_for_mpi_of_the_page_leaves_the_bytes_of_one_run(sda):
    (sda / "mpi4py").mkdir()
    (sda / "mpi4py" / "__init__.py").touch()
    (sda / "mpi4py" / "futures.py").write_text(MPI)
    words = block_of("MPI", "bash").replace("\\\n", " ").split()
    words = words[words.index("assimilate") :]
    words[words.index("run.zarr")] = "mpi.zarr"
    scorda(sda, *words, "--unit", "8")
    assert contents(sda / "mpi.zarr") == contents(sda / "a.zarr")


def test_workers_of_mpi_import_the_command_and_do_not_run_it():
    """They run the module of the client under another name."""
    assert "main" not in runpy.run_module("scorda", run_name="__worker__", alter_sys=True)


@pytest.mark.slow
def test_processes_of_the_command_line_leave_the_same_bytes(sda):
    whole = ["--config", "run.toml", "--threads", "1", "--unit", "8", "--out", "p.zarr"]
    scorda(sda, "assimilate", *whole, "--executor", "processes:2")
    assert contents(sda / "p.zarr") == contents(sda / "a.zarr")


def test_the_cluster_of_the_page_is_one_that_is_read(tmp_path, monkeypatch):
    """Without a queue: its class is called with the options of the file."""
    from types import SimpleNamespace

    from scorda.core import engines

    called = {}

    class Cluster:
        def __init__(self, **options):
            called.update(options)

        def scale(self, jobs):
            called["jobs"] = jobs

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    package = SimpleNamespace(SLURMCluster=Cluster)
    monkeypatch.setattr(engines, "_package", lambda name: {"dask_jobqueue": package}[name])
    (tmp_path / "slurm.toml").write_text(block_of("Dask", "toml"))
    with engines._cluster(tmp_path / "slurm.toml"):
        assert called == {
            "queue": "compute", "cores": 1, "memory": "8 GB", "walltime": "02:00:00", "jobs": 8,
        }  # fmt: skip


@pytest.mark.slow
def test_a_member_that_fails_is_dropped_and_told(tmp_path):
    (tmp_path / "mymodel.py").write_text(MODEL)
    rows = [f"{0.1 * k:.1f},a,0,1" for k in range(2, 11, 2)]
    (tmp_path / "o.csv").write_text("\n".join(["time,variable,value,std", *rows]) + "\n")
    words = ["assimilate", "--observations", "o.csv", "--system", "mymodel:make", "--members", "6"]
    words += ["--gross-error-check", "off", "--threads", "1"]
    said = scorda(tmp_path, *words, "--out", "a.zarr", "--on-failure", "retry:2", status=3)
    assert "stopped at step 6" in said and "3 times for member 2" in said
    said = scorda(tmp_path, *words, "--out", "a.zarr", "--on-failure", "drop", "--resume")
    assert "dropped: member 2 at step 5" in said and "no convergence" in said
    drop = ["--on-failure", "drop", "--executor", "processes:2"]
    scorda(tmp_path, *words, "--out", "b.zarr", *drop)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--executor", "processes"], "processes:4"),
        (["--shard", "3"], "0/8 to 7/8"),
        (["--shard", "0/2", "--overwrite"], "output alone"),
        (["--on-failure", "skip"], "retry:3"),
        (["--member-timeout", "0"], "give seconds"),
        (["--member-timeout", "inf"], "give seconds"),
        (["--members-per-task", "0"], "at least 1"),
        (["--members-per-task", "2"], "without --executor"),
        ([*TASKS, "--on-failure", "drop"], "fail one by one"),
        ([*TASKS, "--member-timeout", "9"], "fail one by one"),
        (["--shard", "0/2", *TASKS], "output alone"),
    ],
)
def test_settings_of_workers_that_make_no_sense_are_refused(flags, said, capsys):
    from scorda.cli import main

    assert main(["assimilate", "--observations", "o.csv", "--system", "lorenz63", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rows.csv").write_text("time,variable,value,std\n0.1,x,1,1\n0.2,x,1,1\n")
    (tmp_path / "linear.py").write_text(LINEAR)
    return ["assimilate", "--observations", "rows.csv", "--members", "4", "--threads", "1"]


def filtering(*flags):
    return ["--system", "lorenz63", "--system.dt", "0.1", "--gross-error-check", "off", *flags]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (filtering("--method", "fourdvar", "--on-failure", "retry:2"), "no forecasts of single"),
        (filtering("--method", "fourdvar", "--member-timeout", "9"), "no forecasts of single"),
        (filtering("--method", "fourdvar", *TASKS), "no forecasts of single"),
        (filtering("--method", "fourdvar", "--executor", "threads:2"), "leave it out"),
        (["--system", "linear:system", "--method", "kalman-filter", *TASKS], "no forecasts of"),
        (
            ["--system", "linear:system", "--method", "kalman-filter", "--executor", "threads:2"],
            "leave it out",
        ),
    ],
)
def test_workers_that_would_have_nothing_to_do_are_refused(values, flags, said, capsys):
    from scorda.cli import main

    assert main([*values, *flags]) == 2
    assert said in capsys.readouterr().err


def test_settings_of_workers_are_written_for_a_run_that_is_made_again(values, capsys):
    """Not into the store, whose bytes they do not decide."""
    from scorda.cli import main
    from scorda.store import open_posterior

    flags = filtering("--on-failure", "retry:2", "--executor", "threads:2")
    assert main([*values, *flags, "--members-per-task", "2", "--out", "a.zarr"]) == 0
    written = tomllib.loads(Path("a.zarr.toml").read_text())
    assert written["on_failure"] == "retry:2" and written["executor"] == "threads:2"
    assert written["members_per_task"] == 2 and "member_timeout" not in written
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    assert Path("b.zarr.toml").read_text() == Path("a.zarr.toml").read_text()
    assert main([*values, *filtering("--member-timeout", "99"), "--out", "c.zarr"]) == 0
    assert tomllib.loads(Path("c.zarr.toml").read_text())["member_timeout"] == 99
    assert contents(Path("a.zarr")) == contents(Path("b.zarr")) == contents(Path("c.zarr"))
    assert "on_failure" not in open_posterior("a.zarr").configuration
