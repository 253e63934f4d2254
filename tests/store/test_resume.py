"""A real process, killed at any moment and resumed, leaves the bytes of one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A model that takes its time, so that kills fall into all phases of a run.
MODEL = """
import time

from scorda.systems import Lorenz96


class Slow(Lorenz96):
    def advance(self, x):
        time.sleep(0.004)
        return super().advance(x)


def make() -> Lorenz96:
    return Slow(dim=12, spinup=0.05, noise_std=0.1)
"""
STEPS, BLOCK = 120, 2


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mymodel.py").write_text(MODEL)
    rows = [f"{0.05 * k:.3f},{site},{(k + site) % 5},1" for k in range(1, 121) for site in (0, 6)]
    text = "\n".join(["time,site,value,std", *rows]) + "\n"
    (tmp_path / "observations.csv").write_text(text)
    return tmp_path


def start(folder, out, *flags):
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-m", "scorda", "assimilate", "--observations", "observations.csv"]
    command += ["--system", "mymodel:make", "--method", "particle-filter", "--members", "12"]
    command += ["--resample", "0.5", "--unit", str(BLOCK), "--threads", "1", "--seed", "4"]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", out, *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def finished(folder):
    return len(list((folder / ".b.zarr.progress").glob("unit-*.json")))


@pytest.mark.slow
def test_a_run_killed_several_times_has_the_same_bytes(folder):
    whole = start(folder, "a.zarr")
    kills, seen, moment = 0, 0, random.Random(0)
    process = start(folder, "b.zarr")
    # Five kills at random moments, the first as soon as there is anything on disk.
    for more in (0, 5, 9, 8, 11):
        while process.poll() is None:
            if (folder / "b.zarr").exists() and finished(folder) >= seen + more:
                time.sleep(moment.uniform(0, 0.03))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        kills += process.wait() == -signal.SIGKILL
        seen = finished(folder)
        process = start(folder, "b.zarr", "--resume")
    assert process.wait() == 0, process.stderr.read()
    assert whole.wait() == 0, whole.stderr.read()

    assert kills == 5
    expected, got = contents(folder / "a.zarr"), contents(folder / "b.zarr")
    assert got.keys() == expected.keys()
    assert [name for name in expected if got[name] != expected[name]] == []
    assert not list(folder.glob(".*"))


def test_a_unit_that_was_being_written_is_written_again(folder):
    """Leftovers of a kill inside a unit: half-written chunks and temporary files."""
    import torch

    from scorda import store
    from scorda.core import rng
    from scorda.methods.enkf import EnKF
    from scorda.observations.model import ObservationModel
    from scorda.observations.operators import Select
    from scorda.observations.problem import twin_experiment
    from scorda.systems.lorenz import Lorenz96

    model = ObservationModel(Select([0]), std=1.0)
    _, problem = twin_experiment(Lorenz96(dim=8, spinup=0.1), model, 20, 2, rng.seeded(0))
    store.run(EnKF(), problem, 6, folder / "a.zarr", block=4)

    def stop(done, total):
        if done >= 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(EnKF(), problem, 6, folder / "b.zarr", block=4, progress=stop)
    (folder / "b.zarr" / "x" / "c" / "0" / "2").mkdir(parents=True)
    (folder / "b.zarr" / "x" / "c" / "0" / "2" / "0").write_bytes(b"half")
    (folder / "b.zarr" / "x" / "c" / "0" / "2" / "0.abc.partial").write_bytes(b"half")
    (folder / ".b.zarr.progress" / ".unit-000002.json.abc.partial").write_bytes(b"{")
    store.run(EnKF(), problem, 6, folder / "b.zarr", block=4, resume=True)
    assert contents(folder / "a.zarr") == contents(folder / "b.zarr")
    assert torch.equal(
        store.open_posterior(folder / "a.zarr").analysis.states,
        store.open_posterior(folder / "b.zarr").analysis.states,
    )


def test_a_store_that_was_being_made_is_made_again(folder):
    from scorda import store
    from scorda.core import rng
    from scorda.methods.enkf import EnKF
    from scorda.observations.model import ObservationModel
    from scorda.observations.operators import Select
    from scorda.observations.problem import twin_experiment
    from scorda.systems.lorenz import Lorenz96

    model = ObservationModel(Select([0]), std=1.0)
    _, problem = twin_experiment(Lorenz96(dim=8, spinup=0.1), model, 10, 2, rng.seeded(0))
    # What a kill leaves after the first step, and what lies there without it.
    new = folder / ".a.zarr.progress" / "new.zarr"
    new.mkdir(parents=True)
    (new / "zarr.json.abc.partial").write_bytes(b"half")
    posterior = store.run(EnKF(), problem, 6, folder / "a.zarr", resume=True)
    assert posterior.complete and not list(folder.glob(".*"))
    (folder / "b.zarr").mkdir()
    (folder / "b.zarr" / "mine").write_bytes(b"years")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"b\.zarr is no store of Scorda"):
            store.run(EnKF(), problem, 6, folder / "b.zarr", **options)
    assert (folder / "b.zarr" / "mine").read_bytes() == b"years"
