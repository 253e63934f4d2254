import os
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from engines import Packing
from scorda.core import executors
from scorda.core.engines import check_engine, opened

SOURCE = Path(__file__).parents[2] / "src"
CODE = """
from concurrent.futures import Executor, ThreadPoolExecutor


def annotated() -> Executor:
    return ThreadPoolExecutor(2)


def unannotated():
    raise RuntimeError("must not be called")


class Mine(ThreadPoolExecutor):
    pass


finished = ThreadPoolExecutor(1)
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "myengines.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("myengines", None)


@pytest.mark.parametrize("name", ["annotated", "Mine", "finished"])
def test_code_makes_an_engine(code, name):
    with opened(f"myengines:{name}") as engine:
        assert isinstance(engine, Executor)
        assert executors.submit(engine, pow, 2, 3).result() == 8


def test_a_function_that_does_not_say_what_it_returns_is_not_called(code):
    with pytest.raises(ValueError, match="annotated to return one, `-> Executor`"):
        with opened("myengines:unannotated"):
            pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("processes", "processes:4"),
        ("processes:0", "processes:4"),
        ("threads:x", "threads:4"),
        ("processes:99999999999999999999", "processes:4"),
        ("dask:nothing.toml", r"no file 'nothing.toml'"),
        ("ray", "module:callable"),
        ("os:system -x", "module:callable"),
    ],
)
def test_what_names_no_engine_is_refused_before_anything_is_imported(name, said):
    with pytest.raises(ValueError, match=said):
        check_engine(name)


@pytest.mark.parametrize(
    "text",
    [
        "cluster = 1",
        'cluster = "pds"\nworkers = 2',
        'cluster = "slurm"\nworkers = 0',
        'cluster = "local"\nworkers = true',
        'cluster = "local"\nworkers = 1\noptions = 3',
        'cluster = ["local"]\nworkers = 1',
        'cluster = "slurm"\nworkers = 2\njobs = 1',
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path, text):
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match="give cluster, one of slurm, pbs, local"):
        with opened(f"dask:{tmp_path / 'c.toml'}"):
            pass


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"install Scorda with Dask, as scorda\[dask\]"):
        with opened("dask:tcp://127.0.0.1:1"):
            pass


def odd():
    # Made here: Dask teaches pickle the classes that are there when it is imported.
    class Odd(Exception):
        def __init__(self, reason, *, code):
            super().__init__(f"{reason} {code}")

    raise Odd("reason", code=3)


def test_an_error_that_cannot_travel_is_told_by_one_that_can():
    with ThreadPoolExecutor(1) as engine:
        with pytest.raises(RuntimeError, match="Odd: reason 3"):
            executors.result(executors.submit(engine, odd))


def test_a_scheduler_that_cannot_be_reached_is_told():
    distributed = pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    with pytest.raises(ValueError, match="could not start or reach nowhere://x"):
        with opened("dask:nowhere://x"):
            pass
    # What is left of it is no client of xarray's or of the user's arrays.
    with pytest.raises(ValueError, match="No global client"):
        distributed.get_client()


def test_threads_and_precision_go_with_the_work():
    settings = executors.Settings("float32", 1, ("/a folder of modules",))
    settings.take_up()
    assert torch.get_default_dtype() == torch.float32
    assert sys.path.pop() == "/a folder of modules"


def test_results_come_as_they_are_finished_and_an_error_stops_what_waits():
    done = []

    def work(number):
        time.sleep(0.02 * number)
        done.append(number)
        if number == 1:
            raise OSError("no")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(OSError, match="no"):
            list(executors.finished(pool, work, [(n, (n,)) for n in (0, 1, 2, 3)]))
    # One more may have begun before the error was seen.
    assert done[:2] == [0, 1] and 3 not in done


@pytest.mark.parametrize("name", ["KilledWorker", "FutureCancelledError"])
def test_what_dask_raises_where_workers_are_gone_is_one_sentence(name):
    kind = type(name, (Exception,), {})

    def gone():
        raise kind("x")

    with pytest.raises(executors.WorkersLost, match=f"{name}.*--resume"):
        executors.result(executors.submit(Packing(), gone))


def test_an_error_of_dask_itself_is_one_of_the_engine():
    """Its executor fails so where its scheduler goes while a task is at work."""
    own = {"__name__": "distributed.cfexecutor"}
    exec("def gone():\n    a, b = None", own)
    with pytest.raises(executors.WorkersLost, match="TypeError"):
        executors.result(executors.submit(ThreadPoolExecutor(1), own["gone"]))


WATCHED = """
import os, sys, time
from scorda.core.engines import opened

if __name__ == "__main__":
    with opened("processes:2") as engine:
        print(engine.submit(os.getpid).result(), flush=True)
        engine.submit(time.sleep, 60)
        time.sleep(60)
"""


@pytest.mark.slow
def test_processes_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    client = subprocess.Popen(
        [sys.executable, "watched.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = int(client.stdout.readline())
    client.kill()
    client.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        # A zombie that nobody waits for has ended too.
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker goes on")
