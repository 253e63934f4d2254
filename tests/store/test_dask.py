"""Dask leaves the bytes of a serial run, whatever is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sampling import Drawing, contents, draw, problem
from scorda.core import rng
from scorda.core.engines import opened
from scorda.methods.enkf import EnKF
from scorda.observations.problem import Problem
from scorda.systems.mapped import Mapped

distributed = pytest.importorskip("distributed", reason="Dask's distributed is not installed")

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
CLIENT = """
import sys
import torch
from sampling import Drawing, draw
from scorda.core.engines import opened

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
with opened("dask:" + sys.argv[2]) as engine:
    draw(sys.argv[1], Drawing(pause=0.3), executor=engine, resume=True)
"""


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as made:
        yield made


def pids(cluster):
    with distributed.Client(cluster) as client:
        return list(client.run(os.getpid).values())


def engine(cluster):
    return opened(f"dask:{cluster.scheduler_address}")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The bytes of a run of one process."""
    import torch

    path = tmp_path_factory.mktemp("serial") / "a.zarr"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    draw(path, Drawing(pause=0.3))
    torch.set_default_dtype(before)
    return contents(path)


def kill_a_worker(cluster, after):
    """Kill a worker by its number while it works."""

    def kill():
        while not after():
            time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)

    victim = pids(cluster)[0]
    thread = threading.Thread(target=kill)
    thread.start()
    return victim, thread


def finished(tmp_path):
    return len(list((tmp_path / ".b.zarr.progress").glob("unit-*.json")))


def test_units_have_the_bytes_of_a_serial_run_and_a_killed_worker_changes_none(
    tmp_path, cluster, slow
):
    victim, thread = kill_a_worker(cluster, lambda: finished(tmp_path) >= 2)
    with engine(cluster) as pool:
        draw(tmp_path / "b.zarr", Drawing(pause=0.3), executor=pool)
    thread.join()
    assert contents(tmp_path / "b.zarr") == slow
    assert victim not in pids(cluster)


def test_a_killed_client_resumes_to_the_same_bytes(tmp_path, cluster, slow):
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "b.zarr"), cluster.scheduler_address]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{TESTS.parent / 'src'}:{TESTS}"
    client = subprocess.Popen(command, env=environment)
    while finished(tmp_path) < 3:
        assert client.poll() is None
        time.sleep(0.02)
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert finished(tmp_path) < 12
    # At once, while workers may still be at units of the client that has gone.
    assert subprocess.run(command, env=environment).returncode == 0
    assert contents(tmp_path / "b.zarr") == slow


def test_a_scheduler_that_goes_ends_the_run_with_a_sentence(tmp_path, slow):
    from scorda.core.executors import WorkersLost

    made = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)

    def close():
        while finished(tmp_path) < 1:
            time.sleep(0.02)
        made.close()

    with engine(made) as pool, pytest.raises(WorkersLost, match="--resume"):
        threading.Thread(target=close).start()
        draw(tmp_path / "b.zarr", Drawing(pause=0.3), executor=pool)
    draw(tmp_path / "b.zarr", Drawing(pause=0.3), resume=True)
    assert contents(tmp_path / "b.zarr") == slow


def test_forecasts_have_the_same_bits_also_where_a_worker_is_killed(cluster):
    twin = problem()
    alone = EnKF().assimilate(twin, 4, rng.seeded(1)).states
    steps = []
    victim, thread = kill_a_worker(cluster, lambda: len(steps) > 3)
    with engine(cluster) as pool:
        mapped = Problem(Mapped(twin.system, pool), twin.observations, twin.steps)
        for cycle in EnKF().run(mapped, 4, rng.seeded(1)):
            steps.append(cycle.ensemble)
            time.sleep(0.1)
    thread.join()
    assert all((a == b).all() for a, b in zip(steps, alone.unbind(1), strict=True))
    assert victim not in pids(cluster)


def test_a_file_of_settings_starts_a_cluster_for_the_block(tmp_path):
    (tmp_path / "c.toml").write_text(
        'cluster = "local"\nworkers = 2\n\n[options]\ndashboard_address = "127.0.0.1:0"\n'
    )
    with opened(f"dask:{tmp_path / 'c.toml'}") as pool:
        draw(tmp_path / "b.zarr", executor=pool)
    draw(tmp_path / "a.zarr")
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")
