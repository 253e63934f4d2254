"""Several workers of one store leave the bytes of one process, whoever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import Packing, processes
from sampling import Drawing, contents, draw, problem
from scorda.core.executors import WorkersLost
from scorda.core.lock import held, locked, shared
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.problem import Problem
from scorda.store import run
from scorda.store.layout import new_store
from scorda.store.posterior import open_posterior
from scorda.store.resume import Work
from scorda.store.series import simulate_series
from scorda.store.workers import do_unit
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz96
from scorda.systems.mapped import Mapped

TESTS = Path(__file__).parents[1]


@pytest.fixture
def serial(tmp_path):
    draw(tmp_path / "serial.zarr")
    return contents(tmp_path / "serial.zarr")


@pytest.mark.parametrize("engine", [Packing, lambda: ThreadPoolExecutor(3)])
def test_units_at_once_have_the_bytes_of_one_after_another(tmp_path, serial, engine):
    seen = []
    with engine() as pool:
        posterior = draw(tmp_path / "b.zarr", executor=pool, progress=lambda *n: seen.append(n))
    assert contents(tmp_path / "b.zarr") == serial
    assert seen == [(n, 24) for n in range(2, 25, 2)]
    assert posterior.info["units"] == 12
    assert not (tmp_path / ".b.zarr.progress").exists()


def test_units_wait_until_the_store_is_in_its_place(tmp_path, monkeypatch, serial):
    place, drawn, placing = Work._place, Drawing.assimilate_members, threading.Event()

    def late(work, new):
        placing.set()
        time.sleep(0.5)
        place(work, new)

    def others_meanwhile(method, problem, first, last, generator=None):
        assert first == 0 or placing.wait(60)
        return drawn(method, problem, first, last, generator)

    monkeypatch.setattr(Work, "_place", late)
    monkeypatch.setattr(Drawing, "assimilate_members", others_meanwhile)
    with ThreadPoolExecutor(3) as pool:
        draw(tmp_path / "b.zarr", executor=pool)
    assert contents(tmp_path / "b.zarr") == serial


def test_a_store_that_a_killed_worker_has_made_is_put_in_its_place(tmp_path, monkeypatch):
    work = Work(tmp_path / "a.zarr", {}, lambda path, *_: new_store(path, StateSpace((1,)), {}))
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(Work, "_place", None)
        work.create("float32")
    assert not work.path.exists()
    work.create("float32")
    assert (work.path / "zarr.json").exists()


def test_arrays_do_not_go_through_the_engine(tmp_path):
    sizes = []

    class Weighing(Packing):
        def submit(self, function, /, *args, **kwargs):
            import cloudpickle

            sizes.append(len(cloudpickle.dumps((function, args))))
            return super().submit(function, *args, **kwargs)

    draw(tmp_path / "b.zarr", executor=Weighing())
    assert len(sizes) == 12
    # The path, the hash, the number, and the folders of modules.
    assert max(sizes) < 3000


def test_a_file_that_is_not_of_the_client_is_not_unpickled(tmp_path):
    (tmp_path / "task.pickle").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(ValueError, match="not what the run has written"):
        do_unit(str(tmp_path / "task.pickle"), "0" * 64, 0)


def test_an_error_in_a_unit_stops_and_the_rest_resumes(tmp_path, serial):
    with pytest.raises(FloatingPointError, match="member 7 fails"):
        draw(tmp_path / "b.zarr", Drawing(fails=7), executor=Packing())
    with pytest.raises(ValueError, match="differs in"):
        draw(tmp_path / "b.zarr", resume=True, executor=Packing())
    with pytest.raises(FloatingPointError, match="member 7 fails"):
        draw(tmp_path / "b.zarr", Drawing(fails=7), resume=True)


@pytest.mark.slow
def test_processes_have_the_same_bytes_and_one_that_dies_ends_the_run_with_a_sentence(tmp_path):
    method = Drawing(ends=tmp_path / "ends", at=12)
    draw(tmp_path / "a.zarr", method)
    (tmp_path / "ends").touch()
    with processes(2) as pool, pytest.raises(WorkersLost, match=r"killed.*--resume"):
        draw(tmp_path / "b.zarr", method, executor=pool)
    assert not open_posterior(tmp_path / "b.zarr").complete
    with processes(2) as pool:
        draw(tmp_path / "b.zarr", method, executor=pool, resume=True)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


def test_a_unit_that_a_worker_of_a_killed_client_still_does_is_waited_for(tmp_path, serial):
    """The lock of the unit is held elsewhere: the run waits, and takes what was made."""
    first = Drawing(fails=7)
    with pytest.raises(FloatingPointError):
        draw(tmp_path / "b.zarr", first)
    lock = tmp_path / ".b.zarr.progress" / "unit-000003.lock"
    done = []

    def go_on():
        with pytest.raises(FloatingPointError):
            draw(tmp_path / "b.zarr", first, resume=True, executor=Packing())
        done.append(True)

    with held(lock):
        run_on = threading.Thread(target=go_on)
        run_on.start()
        time.sleep(0.5)
        assert not done
    run_on.join(20)
    assert done


class Counting(Packing):
    """Keeps the calls, so that they can be made once more when the client has gone."""

    def __init__(self):
        super().__init__()
        self.made = []

    def submit(self, function, /, *args, **kwargs):
        self.made.append(args[2:])
        return super().submit(function, *args, **kwargs)


def test_a_worker_of_a_client_that_has_gone_leaves_another_run_alone(tmp_path):
    path, engine, failing = tmp_path / "b.zarr", Counting(), Drawing(fails=7)
    with pytest.raises(FloatingPointError):
        draw(path, failing, executor=engine)
    folder = tmp_path / ".b.zarr.progress"
    content = [p.read_bytes() for p in folder.glob("task-*.pickle")]
    with pytest.raises(FloatingPointError):
        draw(path, failing, resume=True)
    assert len(content) == 1 and not list(folder.glob("task-*.pickle"))
    with pytest.raises(FloatingPointError):
        draw(path, Drawing(fails=8), overwrite=True)
    file, digest, _ = engine.made[-1]
    Path(file).write_bytes(content[0])
    before = contents(path)
    with pytest.raises(ValueError, match="differs in"):
        do_unit(file, digest, 11)
    assert contents(path) == before


def test_a_run_that_replaces_another_waits_for_its_workers(tmp_path, serial):
    path = tmp_path / "b.zarr"
    with pytest.raises(FloatingPointError):
        draw(path, Drawing(fails=7), executor=Packing())
    anew = threading.Thread(target=lambda: draw(path, overwrite=True))
    lock = tmp_path / ".b.zarr.progress" / "unit-000003.lock"
    with held(lock):
        before = lock.stat()
        anew.start()
        time.sleep(1)
        assert os.path.samestat(lock.stat(), before)
    anew.join(20)
    assert contents(path) == serial


def test_a_run_that_was_killed_while_states_were_exchanged_is_resumed(tmp_path, monkeypatch):
    """Nothing else is in the folder of the run before its first unit is done."""
    monkeypatch.setattr("scorda.systems.mapped.LARGE", 8)
    path, plain = tmp_path / "b.zarr", tmp_path / "a.zarr"

    class Killed(Exception):
        pass

    def kill(*arguments):
        (folder,) = (tmp_path / ".b.zarr.progress" / "exchange").iterdir()
        for file in folder.iterdir():
            (kept / file.name).write_bytes(file.read_bytes())
        raise Killed

    kept = tmp_path / "kept"
    kept.mkdir()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("scorda.systems.mapped.executors.submit", kill)
        run(EnKF(), problem(), 6, path, executor=Packing())
    left = tmp_path / ".b.zarr.progress" / "exchange" / "left"
    kept.rename(left)
    assert list(left.iterdir()) and not path.exists()
    run(EnKF(), problem(), 6, path, resume=True, executor=Packing())
    run(EnKF(), problem(), 6, plain)
    assert contents(path) == contents(plain)


@pytest.mark.parametrize("engine", [Packing, lambda: ThreadPoolExecutor(2)])
def test_a_filter_stays_in_order_with_its_forecasts_over_workers(tmp_path, engine):
    twin = problem()
    run(EnKF(), twin, 4, tmp_path / "a.zarr", 1, block=3)
    with engine() as pool:
        run(EnKF(), twin, 4, tmp_path / "b.zarr", 1, block=3, executor=pool)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


def test_a_run_with_workers_resumes_one_without_and_the_other_way_round(tmp_path):
    twin = problem()
    run(EnKF(), twin, 4, tmp_path / "a.zarr", 1, block=3)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        run(EnKF(), twin, 4, tmp_path / "b.zarr", 1, block=3, progress=stop)
    run(EnKF(), twin, 4, tmp_path / "b.zarr", 1, block=3, resume=True, executor=Packing())
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


def test_members_that_were_dropped_are_nan_in_the_store_which_names_them(tmp_path):
    def step(x, *, member, step, seed):
        if member == 1 and step >= 3:
            raise OSError("no convergence")
        return 0.9 * x + np.random.default_rng(seed).normal(size=3)

    def drawn(members, seed):
        return np.random.default_rng(seed).normal(size=(members, 3))

    twin = problem()
    system = FunctionSystem(step, drawn, StateSpace((3,), 0.1), per_member=True)
    dropping = Problem(Mapped(system, on_failure="drop"), twin.observations, twin.steps)
    with pytest.warns(UserWarning, match="member 1 is dropped"):
        posterior = run(EnKF(), dropping, 4, tmp_path / "b.zarr", 1, block=3)
    states = posterior.analysis.states
    assert states[1, 4:].isnan().all()
    assert states[[0, 2, 3]].isfinite().all() and states[1, :4].isfinite().all()
    assert posterior.info["report"]["dropped"] == [[1], [1]]
    # A unit that begins after the loss goes on without the member.
    whole = contents(tmp_path / "b.zarr")
    for chunk in (tmp_path / "b.zarr").glob("*/c/0/2*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    run(EnKF(), dropping, 4, tmp_path / "b.zarr", 1, block=3, resume=True)
    assert contents(tmp_path / "b.zarr") == whole


def test_an_executor_without_work_is_refused(tmp_path):
    eye = 0.5 * torch.eye(3)
    twin = problem()
    linear = Problem(LinearGaussian(eye, eye, torch.zeros(3), eye), twin.observations, 8)
    with pytest.raises(TypeError, match="inside of its step"):
        run(EnKF(), linear, 4, tmp_path / "b.zarr", executor=Packing())


@pytest.mark.parametrize("engine", [Packing, lambda: ThreadPoolExecutor(3)])
def test_series_over_an_engine_have_the_same_bytes(tmp_path, engine):
    system = Lorenz96(dim=8, noise_std=0.1, spinup=0.5)
    simulate_series(system, 40, 5, tmp_path / "a.zarr", 3)
    seen = []
    with engine() as pool:
        simulate_series(
            Mapped(system), 40, 5, tmp_path / "b.zarr", 3,
            executor=pool, progress=lambda *n: seen.append(n),
        )  # fmt: skip
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")
    assert seen[-1] == (40, 40) and len(seen) == 3


# Processes that share a store.


@pytest.mark.parametrize("shard", [(0, 1), (2, 3), (3, 3)])
def test_a_shard_alone_does_all_units_and_completes_the_store(tmp_path, serial, shard):
    posterior = draw(tmp_path / "b.zarr", shard=shard)
    assert posterior.complete
    assert contents(tmp_path / "b.zarr") == serial
    assert sorted(p.name for p in tmp_path.glob(".b*")) == []
    # One that comes late finds nothing to do.
    assert draw(tmp_path / "b.zarr", shard=(0, 3)).complete


def test_a_shard_that_comes_when_the_store_is_completed_leaves_no_lock(tmp_path):
    path, found = tmp_path / "b.zarr", []
    draw(path)
    late = threading.Thread(target=lambda: found.append(draw(path, shard=(1, 2))))
    with locked(path, sharing=True):
        late.start()
        time.sleep(0.5)
    late.join(20)
    assert found[0].complete and not list(tmp_path.glob(".b*"))


def test_a_shard_leaves_units_that_another_does(tmp_path, serial):
    path = tmp_path / "b.zarr"
    with pytest.raises(FloatingPointError):
        draw(path, Drawing(fails=7))
    progress = tmp_path / ".b.zarr.progress"
    with shared(path), held(progress / "unit-000004.lock"):
        with pytest.raises(FloatingPointError):
            draw(path, Drawing(fails=7), shard=(1, 2))
        assert not (progress / "unit-000004.json").exists()
    for refused, said in (
        ({"method": EnKF(), "shard": (0, 2)}, "follow from each other"),
        ({"shard": (3, 2)}, "shard 3/2"),
        ({"shard": (0, 2), "overwrite": True}, "overwrite"),
    ):
        with pytest.raises(ValueError, match=said):
            draw(tmp_path / "c.zarr", **refused)
    with locked(path), pytest.raises(ValueError, match="another run"):
        draw(path, Drawing(fails=7), shard=(0, 2))
    with shared(path), pytest.raises(ValueError, match="another run"):
        draw(path, Drawing(fails=7), resume=True)
    with pytest.raises(ValueError, match="differs in"):
        draw(path, shard=(0, 2))


SHARD = """
import sys
import torch
from sampling import Drawing, draw

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
done = []
posterior = draw(sys.argv[1], Drawing(pause=0.15), shard=(int(sys.argv[2]), int(sys.argv[3])),
                 progress=lambda n, total: done.append(n))
print(len(done), posterior.complete)
"""


def start(path, index, count):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{TESTS.parent / 'src'}:{TESTS}"
    return subprocess.Popen(
        [sys.executable, "-c", SHARD, str(path), str(index), str(count)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_share_a_store_do_each_unit_once_and_one_may_be_killed(tmp_path):
    draw(tmp_path / "a.zarr", Drawing(pause=0.15))
    shards = [start(tmp_path / "b.zarr", index, 3) for index in range(3)]
    said = [shard.communicate()[0].split() for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0, 0]
    assert sum(int(units) for units, _ in said) == 12
    assert any(complete == "True" for _, complete in said)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")

    killed, other = (start(tmp_path / "c.zarr", index, 2) for index in range(2))
    progress = tmp_path / ".c.zarr.progress"
    while not list(progress.glob("unit-*.json")):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert other.communicate()[0].split()[1] == "True"
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "a.zarr")
