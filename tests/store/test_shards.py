"""Arrays of many chunks: all chunks of a unit are one file, written by one writer, and whole."""

import numpy as np
import pytest
import torch
import xarray
import zarr
from test_keep import METHODS, contents

from scorda import store
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.store import layout
from scorda.systems.lorenz import Lorenz96


@pytest.fixture
def small(monkeypatch):
    """Chunks of 256 bytes, so that a small state is a large one."""
    monkeypatch.setattr(layout, "LARGEST_CHUNK", 256)
    model = ObservationModel(Select([0]), std=0.5)
    return twin_experiment(Lorenz96(dim=20, spinup=0.2), model, 40, 4, rng.seeded(0))


def run(problem, path, kind="equal", **options):
    block = 4 if kind == "members" else 7
    return store.run(METHODS[kind], problem, 9, path, 3, block=block, **options)


@pytest.mark.parametrize("kind", ["equal", "members"])
def test_a_shard_is_a_unit_and_holds_the_numbers_of_many_chunks(small, tmp_path, kind):
    truth, problem = small
    posterior = run(problem, tmp_path / "a.zarr", kind, truth=truth)
    stored = zarr.open_group(tmp_path / "a.zarr", mode="r")["x"]
    units = {"equal": 6, "members": 3}[kind]
    assert stored.shards is not None and 8 * np.prod(stored.chunks) <= 256
    files = [name for name in contents(tmp_path / "a.zarr") if name.startswith("x/c/")]
    assert len(files) == units
    whole = METHODS[kind].assimilate(problem, 9, rng.seeded(3))
    assert torch.equal(posterior.analysis.states, whole.states)
    np.testing.assert_array_equal(xarray.open_zarr(tmp_path / "a.zarr")["x"], whole.states)
    posterior.check()


def test_a_run_into_shards_that_was_interrupted_goes_on_to_the_same_bytes(small, tmp_path):
    _, problem = small
    run(problem, tmp_path / "a.zarr")

    class Stop(Exception):
        pass

    def stop(done, total):
        if done >= 24:
            raise Stop

    with pytest.raises(Stop):
        run(problem, tmp_path / "b.zarr", progress=stop, save_every=0.0)
    # A finished shard that is damaged is not read while it is written anew.
    shard = tmp_path / "b.zarr" / "x" / "c" / "0" / "1" / "0"
    shard.write_bytes(shard.read_bytes()[:-30])
    run(problem, tmp_path / "b.zarr", resume=True)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


@pytest.mark.parametrize("place", [0.3, 1.0])
def test_a_damaged_shard_is_told_without_a_record(small, tmp_path, place):
    _, problem = small
    posterior = run(problem, tmp_path / "a.zarr")
    (tmp_path / "a.zarr.json").unlink()
    posterior.check()
    shard = tmp_path / "a.zarr" / "x" / "c" / "0" / "2" / "0"
    data = bytearray(shard.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"x/c/0/2/0 is damaged"):
        posterior.check()


def test_an_array_that_is_written_at_once_has_few_files(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "FILES", 3)
    group = zarr.create_group(tmp_path / "a.zarr")
    for column in (np.arange(1_000_000), np.array(["x"] * 10**6, np.dtypes.StringDType())):
        layout.write_array(group, "column", column, ["observation"], {})
        assert len(layout.chunks_of(group["column"], ())) == 3
        np.testing.assert_array_equal(group["column"][:], column)
        del group["column"]
    values = np.arange(500_000.0).reshape(500, 1000)
    group.create_array("many", data=values)
    assert len(layout.chunks_of(group["many"], ())) > 3
    layout.write_array(group, "few", values, ["time", "x"], {})
    assert len(layout.chunks_of(group["few"], ())) == 3
    np.testing.assert_array_equal(group["few"][:], values)


@pytest.mark.parametrize("steps", [10, 2_000, 100_000])
@pytest.mark.parametrize("size", [3, 40_000])
def test_a_run_has_at_most_200_files_for_a_variable(steps, size):
    """As long as a unit of work is at most half a gigabyte in double precision."""
    space = StateSpace((size,), variables=("x",))
    plan = layout.plan_steps(space, 40, steps)
    held = plan.size * 40 * size * 8
    assert plan.units <= layout.FILES or held > layout.LARGEST_UNIT - 40 * size * 8
    assert held <= layout.LARGEST_UNIT


def test_small_stores_have_no_shards(tmp_path):
    model = ObservationModel(Select([0]), std=0.5)
    _, problem = twin_experiment(Lorenz96(dim=20, spinup=0.2), model, 40, 4, rng.seeded(0))
    store.run(EnKF(), problem, 9, tmp_path / "a.zarr")
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["x"].shards is None


def test_a_step_that_is_larger_than_a_unit_may_be_is_a_unit():
    space = StateSpace((1000, 1000), 1.0, ("t",))
    assert layout.plan_steps(space, 1000, 3).size == 1
