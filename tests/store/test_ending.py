"""Runs over one day after another have the bytes of one run over all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray

import scorda as sc
from scorda import store
from scorda.assimilation.adaptive_inflation import Adaptive
from scorda.observations.operators import Select
from scorda.store.ending import Ending
from scorda.systems import FunctionSystem
from scorda.systems.lorenz import Lorenz63, Lorenz96

STEPS, CUTS = 18, (6, 11)
MODEL = sc.ObservationModel(Select(range(0, 40, 2)), std=1.0)


def twin(system=None, model=MODEL):
    return sc.twin_experiment(system or Lorenz96(noise_std=0.1), model, STEPS, 3, 3)[1]


def between(problem, first, last):
    """The part of a problem after step `first`, which it counts from, up to `last`."""
    one = problem.instruments[0]
    rows = [k for k, step in enumerate(one.steps) if first < step <= last or step == first == 0]
    steps = [one.steps[k] - first for k in rows]
    return replace(
        problem,
        observations=replace(one, steps=steps, values=one.values[rows]),
        steps=last - first,
    )


def days(method, problem, folder, cuts=CUTS, members=12, **how):
    """Run over the parts one after another, and yield first step and store of each."""
    after, first = None, 0
    for last in (*cuts, problem.steps):
        path = folder / f"until-{last}.zarr"
        part = between(problem, first, last)
        found = store.run(method, part, members, path, 4, after=after, **how)
        yield first, found
        after, first = Ending.of(found), last


@pytest.mark.parametrize(
    "method",
    [sc.ETKF(inflation=1.03), sc.EnKF(), sc.ParticleFilter(), sc.ETKF(inflation=Adaptive())],
    ids=lambda m: m.name,
)
def test_one_day_after_another_has_the_bytes_of_one_run(method, tmp_path):
    problem = twin()
    whole = store.run(method, problem, 12, tmp_path / "whole.zarr", 4).analysis
    for first, part in days(method, problem, tmp_path, block=2):
        found = part.analysis
        steps = slice(first, first + found.states.shape[1])
        assert torch.equal(found.states, whole.states[:, steps])
        if found.weights is not None:
            assert torch.equal(found.weights, whole.weights[:, steps])
        assert part.first_step == first


def test_statistics_alone_leave_enough_to_go_on_from(tmp_path):
    problem, method = twin(), sc.ParticleFilter()
    whole = store.run(method, problem, 12, tmp_path / "whole.zarr", 4).analysis
    keep = store.Keep(statistics=("mean",))
    for first, part in days(method, problem, tmp_path, keep=keep):
        end = Ending.of(part)
        at = first + part.states - 1
        assert torch.equal(end.ensemble, whole.states[:, at])
        assert torch.equal(end.weights, whole.weights[:, at])
        assert end.step == at


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, store.Keep(statistics=("mean",))], ids=["all", "mean"])
def test_a_network_goes_on_learning_from_a_store(keep, tmp_path):
    problem = twin(Lorenz63(noise_std=0.1), sc.ObservationModel(Select([0]), std=1.0))
    method = sc.SF()
    whole = store.run(method, problem, 8, tmp_path / "whole.zarr", 4).analysis
    for first, part in days(method, problem, tmp_path, members=8, cuts=(9,), keep=keep):
        at = first + part.states - 1
        assert torch.equal(Ending.of(part).ensemble, whole.states[:, at])
        part.check()


def test_a_model_is_told_the_step_of_the_whole_run(tmp_path):
    def model(x, member, step, seed):
        return 0.9 * x + 0.3 * step

    space = sc.StateSpace((2,))
    system = FunctionSystem(model, np.eye(2), space, noise_std=0.1, per_member=True)
    members = torch.randn(6, 2, generator=sc.rng.seeded(0))
    observed = sc.Observations(
        sc.ObservationModel(Select([0]), std=0.5), [3, 8, 13], torch.ones(3, 1)
    )
    problem = sc.Problem(system, observed, STEPS, members)
    whole = store.run(sc.ETKF(), problem, 6, tmp_path / "whole.zarr", 4).analysis
    one = store.run(sc.ETKF(), between(problem, 0, 6), 6, tmp_path / "one.zarr", 4)
    rest = replace(between(problem, 6, STEPS), initial=None)
    two = store.run(sc.ETKF(), rest, 6, tmp_path / "two.zarr", 4, after=Ending.of(one))
    assert torch.equal(two.analysis.states, whole.states[:, 6:])


@pytest.mark.parametrize("start", ["2024-02-28T18:00", None])
def test_times_go_on(start, tmp_path):
    system = Lorenz96(noise_std=0.1)
    if start is not None:
        space = replace(system.space, dt=6.0, units={"time": "hours"})
        system = FunctionSystem(
            lambda x: 0.9 * x, np.random.default_rng(0).normal(size=(20, 40)), space, noise_std=0.1
        )
    problem = twin(system)
    whole = store.run(sc.EnKF(), problem, 12, tmp_path / "whole.zarr", 4, start=start)
    one = store.run(sc.EnKF(), between(problem, 0, 6), 12, tmp_path / "one.zarr", 4, start=start)
    after = Ending.of(one)
    rest = between(problem, 6, STEPS)
    how = {"after": after, "start": after.time}
    two = store.run(sc.EnKF(), rest, 12, tmp_path / "two.zarr", 4, **how)
    expected = xarray.open_zarr(whole.path).isel(time=slice(6, None))
    xarray.testing.assert_equal(xarray.open_zarr(two.path), expected)


def test_a_run_that_goes_on_is_resumed_with_the_same_bytes(tmp_path):
    problem, method = twin(), sc.ETKF()
    one = store.run(method, between(problem, 0, 6), 12, tmp_path / "one.zarr", 4)
    after, rest = Ending.of(one), between(problem, 6, STEPS)
    whole = store.run(method, rest, 12, tmp_path / "whole.zarr", 4, after=after, block=3)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(method, rest, 12, tmp_path / "two.zarr", 4, after=after, block=3, progress=stop)
    with pytest.raises(ValueError, match="after"):
        store.run(method, rest, 12, tmp_path / "two.zarr", 4, block=3, resume=True)
    two = store.run(method, rest, 12, tmp_path / "two.zarr", 4, after=after, block=3, resume=True)
    files = sorted(p.relative_to(whole.path) for p in whole.path.rglob("*") if p.is_file())
    assert all((whole.path / f).read_bytes() == (two.path / f).read_bytes() for f in files)


def test_what_cannot_go_on_is_said_in_a_sentence(tmp_path):
    problem, method = twin(), sc.ETKF()
    one = store.run(method, between(problem, 0, 6), 12, tmp_path / "one.zarr", 4)
    after, rest, path = Ending.of(one), between(problem, 6, STEPS), tmp_path / "two.zarr"
    with pytest.raises(ValueError, match="is a run of ETKF, which EnKF cannot go on with"):
        store.run(sc.EnKF(), rest, 12, path, 4, after=after)
    for members, seed in ((11, 4), (12, 5)):
        with pytest.raises(ValueError, match="has 12 members and the seed 4"):
            store.run(method, rest, members, path, seed, after=after)
    with pytest.raises(ValueError, match="leave `initial` out"):
        store.run(method, replace(rest, initial=torch.zeros(12, 40)), 12, path, 4, after=after)
    twice = replace(rest, observations=sc.Observations(MODEL, [0], torch.zeros(1, 20)))
    with pytest.raises(ValueError, match="which it has analysed"):
        store.run(method, twice, 12, path, 4, after=after)
    smooth = store.run(sc.EnKS(), between(problem, 0, 6), 12, tmp_path / "enks.zarr", 4)
    with pytest.raises(ValueError, match="smoother EnKS"):
        store.run(sc.EnKS(), rest, 12, path, 4, after=Ending.of(smooth))
    assert not path.exists()


@pytest.mark.slow
def test_a_run_that_is_neither_filter_nor_smoother_says_what_it_is(tmp_path):
    problem, method = twin(), sc.EmulatorParticleFilter(draws=2)
    run = store.run(method, between(problem, 0, 6), 4, tmp_path / "particles.zarr", 4)
    rest = between(problem, 6, 12)
    with pytest.raises(ValueError, match="is of EmulatorParticleFilter, which runs over all obs"):
        store.run(method, rest, 4, tmp_path / "more.zarr", 4, after=Ending.of(run))
