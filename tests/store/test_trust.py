"""One run, one store: writers exclude each other, nothing is mixed, nothing foreign is lost."""

import json
import math
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import zarr

from endurance.damaged_stores import Members, contents
from scorda import store
from scorda.core import rng
from scorda.core.ownership import SOURCE
from scorda.methods.enkf import EnKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.store import checkpoints
from scorda.store.identity import identity
from scorda.store.reports import columns_of, gathered, restored
from scorda.systems.lorenz import Lorenz63


class Stop(Exception):
    pass


def stopping(after):
    def stop(done, total):
        if done >= after:
            raise Stop

    return stop


@pytest.fixture
def twin():
    model = ObservationModel(Select([0]), std=0.5)
    return twin_experiment(Lorenz63(spinup=0.1), model, 20, 2, rng.seeded(0))


@pytest.fixture
def begun(twin, tmp_path):
    """A run that was stopped after 11 of 20 steps."""
    truth, problem = twin
    with pytest.raises(Stop):
        options = {"truth": truth, "block": 5, "progress": stopping(11)}
        store.run(EnKF(1.05), problem, 6, tmp_path / "a.zarr", **options)
    return tmp_path / "a.zarr"


def test_two_runs_of_one_output_exclude_each_other(twin, tmp_path):
    _, problem = twin
    path, entered, go = tmp_path / "a.zarr", threading.Event(), threading.Event()

    def wait(done, total):
        entered.set()
        go.wait()

    work = {"target": store.run, "args": (EnKF(), problem, 6, path), "kwargs": {"progress": wait}}
    thread = threading.Thread(**work)
    thread.start()
    entered.wait()
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="is being written by another run"):
            store.run(EnKF(), problem, 6, path, **options)
    go.set()
    thread.join()
    store.run(EnKF(), problem, 6, tmp_path / "b.zarr")
    assert contents(path) == contents(tmp_path / "b.zarr")
    left = ["a.zarr", "a.zarr.json", "b.zarr", "b.zarr.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == left


def test_what_differs_is_named(twin, begun):
    truth, problem = twin
    (seen,) = problem.instruments
    moved = replace(seen, values=seen.values + 1e-6)
    surer = replace(seen, model=ObservationModel(Select([0]), std=0.6))
    other = replace(seen, model=ObservationModel(Select([1]), std=0.5))
    initial = rng.normal(6, (3,), rng.seeded(1))
    for name, changed in {
        "the observations": replace(problem, observations=moved),
        "the observations:": replace(problem, observations=surer),
        "the observations: ": replace(problem, observations=other),
        "the initial": replace(problem, initial=initial),
        "the system": replace(problem, system=Lorenz63(spinup=0.1, rho=28.1)),
    }.items():
        with pytest.raises(ValueError, match=f"differs in .*{name.rstrip()}"):
            store.run(EnKF(1.05), changed, 6, begun, truth=truth, block=5, resume=True)
    with pytest.raises(ValueError, match="differs in the truth"):
        store.run(EnKF(1.05), problem, 6, begun, truth=truth + 1e-9, block=5, resume=True)
    with pytest.raises(ValueError, match=r"in members, method\.inflation, seed, the method"):
        store.run(EnKF(1.06), problem, 7, begun, 1, truth=truth, block=5, resume=True)
    store.run(EnKF(1.05), problem, 6, begun, truth=truth, block=5, resume=True)


def test_another_version_of_scorda_is_refused(twin, begun, monkeypatch):
    truth, problem = twin
    monkeypatch.setattr("scorda.store.identity.__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"the version of Scorda \(0\.1\.0, now 0\.0\.1\)"):
        store.run(EnKF(1.05), problem, 6, begun, truth=truth, block=5, resume=True)


def test_code_of_the_user_is_compared(twin, tmp_path, monkeypatch):
    """By the file of its module; where there is none, only on the word of the user."""
    _, problem = twin
    file = tmp_path / "mine.py"
    file.write_text("def square(x):\n    return x**2\n")
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    model = ObservationModel(Pointwise(mine.square), std=1.0)
    values = torch.full((10, 3), 50.0)
    seen = Observations(model, range(2, 21, 2), values)
    problem = Problem(problem.system, seen, problem.steps)
    path = tmp_path / "a.zarr"

    def run(**options):
        store.run(EnKF(), problem, 6, path, **options)

    run()
    run(resume=True)
    file.write_text("def square(x):\n    return x**3\n")
    with pytest.raises(ValueError, match=r"differs in the code of mine \(or use --trust-code\)"):
        run(resume=True)
    run(resume=True, trust_code=True)
    monkeypatch.setattr(mine, "__file__", None)
    run(overwrite=True)
    with pytest.raises(ValueError, match=r"The code of mine has no file.*--trust-code"):
        run(resume=True)
    run(resume=True, trust_code=True)


def test_the_identity_is_that_of_values_not_of_objects():
    @dataclass
    class Holder:
        value: object

    class Plain:
        def __init__(self, value):
            self.value = value

    def of(value):
        return identity(part=value)["sha256"]["part"]

    net = torch.nn.Linear(2, 2)
    values = [0, 0.0, False, "0", None, b"0", (0,), {0: 0}, torch.zeros(1), np.zeros(1)]
    values += [torch.zeros(1, 1), torch.zeros(1, dtype=torch.float16), net, np.array(["a"], "O")]
    values += [torch.zeros(()), torch.zeros(0), np.array(["2000"], "datetime64[s]"), {1, 2}]
    kinds = [lambda v: v, Holder, Plain, lambda v: [v]]
    hashes = {of(kind(value)) for kind in kinds for value in values if value is not None}
    assert len(hashes) == 4 * (len(values) - 1)
    assert of(Holder(torch.arange(6).reshape(2, 3).T)) == of(
        Holder(torch.tensor([[0, 3], [1, 4], [2, 5]]))
    )
    before = of(net)
    with torch.no_grad():
        net.weight[0, 0] += 1
    assert of(net) != before
    circle = Plain(None)
    circle.value = circle
    assert of(circle) == of(circle)


def test_foreign_files_are_neither_replaced_nor_deleted(twin, tmp_path):
    _, problem = twin

    def folder(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("years")

    def foreign_store(name):
        zarr.create_group(tmp_path / name, attributes={"source": "another model"})

    made = {
        "a.zarr": foreign_store,
        "b.zarr": folder,
        ".c.zarr.progress": folder,
        ".d.zarr.removed": folder,
        "e.zarr.json": lambda name: (tmp_path / name).write_text('{"mine": 1}'),
        "f.zarr": lambda name: (tmp_path / name).write_text("mine"),
    }
    for name, make in made.items():
        make(name)
        before = contents(tmp_path)
        out = tmp_path / f"{name.strip('.')[0]}.zarr"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match=rf"{name} is no store of Scorda"):
                store.run(EnKF(), problem, 6, out, **options)
        assert contents(tmp_path) == before


def test_a_link_is_followed(twin, tmp_path):
    _, problem = twin
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.zarr"
    link.symlink_to(tmp_path / "disk" / "real.zarr")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        posterior = store.run(EnKF(), problem, 6, link, **options)
        assert posterior.complete and link.is_symlink() and posterior.info["units"] == 1
        assert store.open_posterior(link).info["units"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "disk"]
    made = sorted(p.name for p in (tmp_path / "disk").iterdir())
    assert made == ["real.zarr", "real.zarr.json"]


def test_the_store_is_marked_from_its_first_byte(twin, tmp_path, monkeypatch):
    """Whatever the call at which it is killed."""
    _, problem = twin
    seen = []
    put = zarr.storage._local._put

    def spy(path, value, exclusive=False):
        written = put(path, value, exclusive)
        root = tmp_path / "a.zarr" / "zarr.json"
        if root.exists():
            seen.append(json.loads(root.read_text())["attributes"]["source"])
        return written

    monkeypatch.setattr(zarr.storage._local, "_put", spy)
    store.run(EnKF(), problem, 6, tmp_path / "a.zarr", block=5)
    assert set(seen) == {SOURCE} and len(seen) > 15


@pytest.mark.parametrize("method", [EnKF(1.05), ParticleFilter(0.5), Members()])
def test_a_unit_goes_on_from_its_checkpoint(twin, tmp_path, monkeypatch, method):
    """Stopped in its only unit: what was saved is not computed again; the bytes are the same."""
    # Saved after each step, however long that takes.
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    _, problem = twin
    members = 40 if isinstance(method, Members) else 6
    after = 16 if isinstance(method, Members) else 12
    store.run(method, problem, members, tmp_path / "a.zarr", block=40)
    options = {"block": 40, "save_every": 0.0}
    with pytest.raises(Stop):
        store.run(
            method, problem, members, tmp_path / "b.zarr", progress=stopping(after), **options
        )
    done = []

    def note(now, total):
        done.append(now)

    again = options | {"progress": note, "resume": True}
    store.run(method, problem, members, tmp_path / "b.zarr", **again)
    assert done[0] > after
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_reports_are_joined_and_taken_apart():
    """As they were, where units report different things, and numbers as arrays."""
    units = [
        [{"a": 1, "b": 0.5}],
        [],
        [{"a": 2}, {"a": 3, "c": "x"}],
        [{"a": 4, "b": float("inf")}],
    ]
    markers = [columns_of(entries) | {"seconds": 1.0} for entries in units]
    columns, parts = gathered(dict(marker) for marker in markers)
    assert isinstance(columns["a"], np.ndarray) and columns["a"].tolist() == [1, 2, 3, 4]
    assert columns["b"] == [0.5, None, None, float("inf")]
    assert columns["c"] == [None, None, "x", None]
    listed = {n: c.tolist() if isinstance(c, np.ndarray) else c for n, c in columns.items()}
    record = {"single": False, "report": listed, "parts": parts}
    assert list(restored(record)) == [
        marker | {"columns": {n: c for n, c in marker["columns"].items()}} for marker in markers
    ]


def test_a_complete_run_is_resumed_without_writing(twin, tmp_path, monkeypatch):
    """As it must be on a disk that can only be read."""
    _, problem = twin
    store.run(EnKF(), problem, 6, tmp_path / "a.zarr")

    def refuse(*_, **__):
        raise PermissionError

    for name in ("os.replace", "os.rename", "os.mkdir", "scorda.store.resume.locked"):
        monkeypatch.setattr(name, refuse)
    assert store.run(EnKF(), problem, 6, tmp_path / "a.zarr", resume=True).complete


def test_a_start_that_the_space_cannot_have_is_told_before_anything_is_computed(twin, tmp_path):
    _, problem = twin
    progress = stopping(0)
    with pytest.raises(ValueError, match="unit of time is 'not given'"):
        store.run(
            EnKF(1.05), problem, 6, tmp_path / "a.zarr", start="2020-01-01", progress=progress
        )
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_made_leaves_nothing(twin, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no room")

    monkeypatch.setattr("scorda.store.groups.write_table", fail)
    with pytest.raises(OSError, match="no room"):
        store.run(EnKF(1.05), twin[1], 6, tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_a_function_that_calls_itself_has_an_identity():
    def outer(known):
        if known:
            inner = 1

        def again():
            return inner

        return again

    assert identity(h=outer(False)) != identity(h=outer(True))
