"""A store that keeps a part of an ensemble has the statistics, scores and last step of all."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr

from scorda import metrics, store
from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import PreparedFilter, Run
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.methods.enks import EnKS
from scorda.methods.particle import ParticleFilter
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.reading.ensembles import read_initial
from scorda.store import Keep, layout, scores, selection, sums
from scorda.store.keep import level_of
from scorda.store.members import InMemory
from scorda.store.selection import Selection
from scorda.systems.function import FunctionSystem
from scorda.systems.lorenz import Lorenz63, Lorenz96

STATISTICS = ("mean", "std", "q05", "q50", "q95")


@dataclass(frozen=True)
class Members(Assimilator):
    """A smoother whose members are rows of noise."""

    smoother = True

    def assimilate(self, problem, members, generator=None):
        return self.assimilate_members(problem, 0, members, generator)

    def assimilate_members(self, problem, first, last, generator=None):
        shape = (problem.steps + 1, *problem.space.shape)
        states = rng.normal_rows(rng.key(generator), first, last, shape)
        return Analysis(states, problem.space, method="Members")


@dataclass(frozen=True)
class Diverging(PreparedFilter):
    """A filter whose analysis of one value is not finite."""

    value: float = 0.0

    def begin(self, problem, weights=None):
        return Breaking(self.value)


class Breaking(Run):
    def __init__(self, value):
        self.value = value

    def analyse(self, forecast, y, model, generator=None):
        return (forecast * torch.nan if float(y[0]) == self.value else forecast), {}


METHODS = {
    "equal": EnKF(1.05),
    "weighted": ParticleFilter(0.5),
    "smoother": EnKS(1.05),
    "members": Members(),
}
BLOCKS = {"equal": 7, "weighted": 7, "smoother": None, "members": 8}


@pytest.fixture(scope="module")
def case():
    """A twin experiment of 40 steps, with values kept back at some steps."""
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(Lorenz63(spinup=1.0), model, 40, 4, rng.seeded(0))
    withheld = (
        Observations(ObservationModel(Select([1]), std=0.3), [5, 9, 40], torch.ones(3, 1)),
        Observations(ObservationModel(Select([2]), std=0.2), [9], torch.full((1, 1), 20.0)),
    )
    return problem, {"truth": truth, "withheld": withheld}


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """A function that makes the store of all members, once for each method."""
    problem, more = case
    made = {}

    def make(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp(kind) / "whole.zarr"
            made[kind] = store.run(METHODS[kind], problem, 20, path, 3, block=BLOCKS[kind], **more)
        return made[kind]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_statistics_and_scores_are_those_of_all_members(case, whole, tmp_path, kind):
    problem, more = case
    keep = Keep(statistics=STATISTICS)
    full = whole(kind)
    posterior = store.run(
        METHODS[kind], problem, 20, tmp_path / "a.zarr", 3, block=BLOCKS[kind], keep=keep, **more
    )
    posterior.check()
    dataset, analysis = xarray.open_zarr(tmp_path / "a.zarr"), full.analysis
    states, weights = analysis.states, analysis.weights
    assert set(dataset) == {f"{v}_{s}" for v in "xyz" for s in STATISTICS}
    for i, name in enumerate("xyz"):
        x = states[:, :, i]
        w = torch.full_like(x, 1 / 20) if weights is None else weights
        mean = (w * x).sum(0)
        var = (w * (x - mean).square()).sum(0) / (1 - w.square().sum(0)).clamp_min(1e-300)
        expected = {"mean": mean, "std": var.sqrt()}
        for level in (0.05, 0.5, 0.95):
            expected[f"q{100 * level:02.0f}"] = metrics.quantile(x[..., None], level, weights)[
                :, 0
            ]
        for statistic, values in expected.items():
            # Sums of 20 numbers in double precision, in another order.
            np.testing.assert_allclose(
                dataset[f"{name}_{statistic}"], values, rtol=1e-12, atol=1e-12
            )
    got, wanted = scores.scores(posterior), scores.scores(full)
    assert list(got) == list(wanted)
    for score, value in wanted.items():
        assert got[score] == pytest.approx(value, rel=1e-11), score
    last = posterior.group("last")
    assert last.sizes == {"member": 20}
    assert float(last["valid_time"]) == float(full.to_xarray()["time"][-1])
    for i, name in enumerate("xyz"):
        np.testing.assert_array_equal(last[name], states[:, -1, i])
    if weights is None:
        assert "weight" not in last
    else:
        np.testing.assert_array_equal(last["weight"], weights[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("steps", [3, 14, "last"])
def test_members_variables_and_steps_are_those_of_the_whole_store(
    case, whole, tmp_path, kind, steps
):
    problem, more = case
    keep = Keep(("z", "x"), steps, 5, ("q25",))
    posterior = store.run(
        METHODS[kind], problem, 20, tmp_path / "a.zarr", 3, block=BLOCKS[kind], keep=keep, **more
    )
    every = slice(40, None) if steps == "last" else slice(None, None, steps)
    expected = whole(kind).to_xarray().isel(ensemble=slice(5), time=every)
    found = posterior.to_xarray()
    names = ["x", "z", *(["weight"] if kind == "weighted" else [])]
    assert set(found) == {*names, "x_q25", "z_q25"}
    for name in names:
        xarray.testing.assert_identical(found[name].load(), expected[name].load())


def test_arrays_follow_the_cf_conventions(tmp_path):
    space = StateSpace(
        (2, 4),
        variables=("t2m", "wind"),
        coordinates={"x": np.arange(4.0)},
        units={"t2m": "degC", "wind": "m s-1", "time": "hours"},
    )
    system = Lorenz63(spinup=0.1)
    object.__setattr__(system, "space", space)
    observations = Observations(ObservationModel(Select([0]), std=1.0), [1], torch.zeros(1, 1))
    problem = Problem(system, observations, 3)
    keep = Keep(statistics=("mean", "std", "q50", "q05"))
    path = tmp_path / "a.zarr"
    store.run(Members(), problem, 6, path, keep=keep, start="2020-01-01")
    dataset = xarray.open_zarr(path)
    assert dataset["t2m_mean"].dims == ("time", "x")
    assert dataset["t2m_mean"].attrs["cell_methods"] == "realization: mean"
    assert dataset["t2m_std"].attrs["cell_methods"] == "realization: standard_deviation"
    assert dataset["t2m_q50"].attrs["cell_methods"] == "realization: median"
    assert dataset["t2m_q05"].attrs["quantile"] == 0.05
    assert dataset["t2m_std"].attrs["units_metadata"] == "temperature: difference"
    assert "units_metadata" not in dataset["t2m_mean"].attrs
    for name in dataset:
        assert dataset[name].attrs["units"] == ("degC" if name.startswith("t2m") else "m s-1")
    assert str(dataset["time"].values[-1]).startswith("2020-01-01T03:00")
    last = xarray.open_zarr(path / "last", consolidated=False)
    assert str(last["valid_time"].values).startswith("2020-01-01T03:00")


def size(path):
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_store_of_mean_and_spread_has_less_than_a_tenth_of_the_bytes(tmp_path):
    model = ObservationModel(Select(range(0, 40, 2)), std=1.0)
    truth, problem = twin_experiment(Lorenz96(spinup=1.0), model, 400, 2, rng.seeded(0))
    keep = Keep(statistics=("mean", "std"))
    store.run(EnKF(1.05), problem, 40, tmp_path / "all.zarr", truth=truth)
    store.run(EnKF(1.05), problem, 40, tmp_path / "some.zarr", truth=truth, keep=keep)
    assert size(tmp_path / "some.zarr") < 0.1 * size(tmp_path / "all.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("after", [8, 33])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bytes(case, tmp_path, kind, after):
    problem, more = case
    more = {**more, "keep": Keep(statistics=("mean", "q05"), members=3, steps=2)}
    block = 4 if kind == "members" else BLOCKS[kind]

    def run(path, **options):
        store.run(METHODS[kind], problem, 20, path, 3, block=block, **more, **options)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done >= after * total / 41:
            raise Stop

    run(tmp_path / "a.zarr")
    with pytest.raises(Stop):
        run(tmp_path / "b.zarr", progress=stop, save_every=0.0)
    if kind in ("equal", "weighted"):
        carried = sorted((tmp_path / ".b.zarr.progress").glob("unit-??????.safetensors"))
        assert len(carried) == 1
    run(tmp_path / "b.zarr", resume=True)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")
    assert not list(tmp_path.glob(".*"))


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("weighted", "x_mean/c/1"),
        ("weighted", "scores/states/c/0/0/1"),
        ("weighted", "last/weight/c/0"),
        ("members", "x_mean/c/0"),
        ("members", "zarr.json"),
    ],
)
def test_a_damaged_store_is_told_and_mended(case, tmp_path, kind, name):
    problem, more = case
    more = {**more, "keep": Keep(statistics=("mean",), steps=2)}

    def run(**options):
        method, block = METHODS[kind], BLOCKS[kind]
        store.run(method, problem, 20, tmp_path / "a.zarr", 3, block=block, **options)

    run(**more)
    before = contents(tmp_path / "a.zarr")
    data = before[name]
    (tmp_path / "a.zarr" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged"):
        store.open_posterior(tmp_path / "a.zarr").check()
    run(**more, resume=True)
    assert contents(tmp_path / "a.zarr") == before
    assert not list(tmp_path.glob(".*"))


SHIFT = {"by": 0.0}


@dataclass(frozen=True)
class Shifted(PreparedFilter):
    """A filter whose numbers depend on what is no setting, as on a processor."""

    def begin(self, problem, weights=None):
        return Shifting()


class Shifting(Run):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + SHIFT["by"], {}


def test_units_after_one_that_hands_on_other_numbers_are_done_again(case, tmp_path, monkeypatch):
    """Also where what is kept of that unit, the initial state, is the same."""
    problem, _ = case

    def run(path, **options):
        keep = Keep(members=3, steps=20)
        store.run(Shifted(), problem, 5, path, 3, block=7, keep=keep, **options)

    run(tmp_path / "a.zarr")
    monkeypatch.setitem(SHIFT, "by", 1e-3)
    run(tmp_path / "b.zarr")
    (tmp_path / "a.zarr" / "x" / "c" / "0" / "0").unlink()
    run(tmp_path / "a.zarr", resume=True)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_a_filter_that_diverges_leaves_what_was_kept_before(case, tmp_path):
    problem, more = case
    path = tmp_path / "a.zarr"
    keep = Keep(statistics=("mean",), members=2, steps=3)
    method = Diverging(float(problem.instruments[0].values[4, 0]))
    with pytest.raises(DivergenceError) as caught:
        store.run(method, problem, 20, path, 3, block=7, keep=keep, **more)
    states = caught.value.step
    posterior = store.open_posterior(path)
    assert posterior.states == states == 20
    dataset = posterior.to_xarray()
    assert dataset.sizes["time"] == len(range(0, states, 3)) == posterior.truth.shape[0]
    assert not dataset["x_mean"].isnull().any() and not dataset["x"].isnull().any()
    assert posterior.group("last") is None
    assert np.isfinite(scores.scores(posterior)["rmse"])
    posterior.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(DivergenceError):
        store.run(method, problem, 20, path, 3, block=7, keep=keep, resume=True, **more)


def test_members_that_were_dropped_do_not_count(tmp_path):
    """Statistics and scores are those of an ensemble without them from that step on."""
    space = StateSpace((2,), variables=("u", "v"))
    truth = rng.normal(1, (7, 2), rng.seeded(1))[0]
    states = rng.normal(6, (7, 2), rng.seeded(2))
    states[4, 3:], states[1, 5:] = torch.nan, torch.nan
    withheld = (Observations(ObservationModel(Select([1]), std=0.3), [5], torch.ones(1, 1)),)
    keep = Keep(statistics=STATISTICS).of(space, 6, 7)
    made = []
    for number, weights in enumerate((None, torch.full((6, 7), 1 / 6))):
        plan = layout.Plan("time", 7, 7)
        output = Selection(keep, space, 6, plan, None, truth, withheld, True)
        root = zarr.create_group(tmp_path / f"{number}.zarr")
        output.make(root, np.dtype("float64"), False)
        output.write(root, 0, states, weights)
        made.append({name: root[name][:] for name in ("u_mean", "v_std", "u_q05")})
        for step, left in ((2, range(6)), (4, [0, 1, 2, 3, 5]), (6, [0, 2, 3, 5])):
            x = states[list(left), step, 0]
            assert made[-1]["u_mean"][step] == pytest.approx(float(x.mean()), rel=1e-12)
            expected = metrics.quantile(x[:, None], 0.05)
            assert made[-1]["u_q05"][step] == pytest.approx(float(expected), rel=1e-12)
        assert np.isfinite(root["scores/states"][:]).all()
        assert np.isfinite(root["scores/observations"][:]).all()
    for name, values in made[0].items():
        # Weighted sums run in another order.
        np.testing.assert_allclose(made[1][name], values, rtol=1e-12)


@dataclass(frozen=True)
class Broken(Assimilator):
    """A smoother with a member that is not finite."""

    smoother = True

    def assimilate(self, problem, members, generator=None):
        states = rng.normal(members, (problem.steps + 1, *problem.space.shape), generator)
        states[1, 3:] = torch.nan
        return Analysis(states, problem.space, method="Broken")


def test_a_member_that_is_nan_and_was_not_dropped_shows(case, tmp_path):
    """As in a store of all members."""
    problem, more = case
    keep = Keep(statistics=("mean",))
    posterior = store.run(Broken(), problem, 4, tmp_path / "a.zarr", keep=keep, **more)
    mean = posterior.to_xarray()["x_mean"]
    assert mean[:3].notnull().all() and mean[3:].isnull().all()
    found = scores.scores(posterior)
    assert np.isnan(found["rmse"]) and np.isnan(found["observation_rmse[y]"])


@pytest.mark.slow
def test_a_run_killed_between_its_two_arrays_of_weights_goes_on(case, tmp_path, monkeypatch):
    problem, more = case
    more = {**more, "keep": Keep(members=3), "block": 7}
    store.run(ParticleFilter(0.5), problem, 20, tmp_path / "a.zarr", 3, **more)
    made = selection.create_weights

    def killed(group, *arguments):
        if group.path:
            raise KeyboardInterrupt
        made(group, *arguments)

    monkeypatch.setattr(selection, "create_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        store.run(ParticleFilter(0.5), problem, 20, tmp_path / "b.zarr", 3, **more)
    monkeypatch.undo()
    store.run(ParticleFilter(0.5), problem, 20, tmp_path / "b.zarr", 3, resume=True, **more)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"statistics": ("mad",)}, "choose mean, std, or quantiles"),
        ({"statistics": ("q00",)}, "choose mean, std, or quantiles"),
        ({"statistics": ("mean", "mean")}, "each name once"),
        ({"members": 0}, "0 members and no statistics"),
        ({"members": -1}, "give 0 or more"),
        ({"members": 21}, "give 20 at most"),
        ({"steps": 0}, "n for every n-th"),
        ({"steps": "first"}, "n for every n-th"),
        ({"variables": ("w",)}, "choose x, y, z"),
        ({"variables": ()}, "name one at least"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_run(case, tmp_path, given, said):
    problem, _ = case
    with pytest.raises(ValueError, match=said):
        store.run(EnKF(), problem, 20, tmp_path / "a.zarr", keep=Keep(**given))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["last", 3, 500])
@pytest.mark.parametrize("method", [EnKF(1.05), EnKS(1.05)])
def test_steps_of_one_unit_are_one_block(tmp_path, method, steps):
    """Also of a long run, of which a store has few steps."""
    model = ObservationModel(Select([0]), std=0.5)
    _, problem = twin_experiment(Lorenz63(spinup=0.1), model, 199, 20, rng.seeded(0))
    keep = Keep(steps=steps, members=2, statistics=("mean",))
    posterior = store.run(method, problem, 4, tmp_path / "a.zarr", keep=keep)
    states = method.assimilate(problem, 4, rng.seeded(0)).states[:2, posterior.kept.steps, 0]
    np.testing.assert_array_equal(posterior.to_xarray()["x"], states)
    assert len(list((posterior.path / "x_mean" / "c").iterdir())) == 1


@pytest.mark.parametrize("name", ["u_mean", "last", "scores", "member", "valid_time"])
def test_names_that_the_store_needs_are_refused(name):
    space = StateSpace((2,), variables=("u", name))
    with pytest.raises(ValueError, match=f"{name}.*rename it"):
        Keep(variables=("u",), statistics=("mean",)).of(space, 4, 3)


@pytest.mark.parametrize("name", ["quantity", "observed_quantity", "kind"])
def test_axes_of_scores_are_refused_as_axes_of_the_space(name):
    with pytest.raises(ValueError, match=f"{name}.*rename it"):
        Keep(steps=2).of(StateSpace((2,), coordinates={name: np.arange(2.0)}), 4, 3)
    assert Keep(steps=2).of(StateSpace((2,), variables=("u", name)), 4, 3).variables[1] == name


def test_a_variable_called_last_of_a_run_that_was_stopped_is_checked(case, tmp_path):
    """In a store of all members it is a variable as any other."""
    problem, _ = case
    space = StateSpace((2,), variables=("first", "last"))
    system = FunctionSystem(lambda x: x, torch.randn(4, 2), space, noise_std=0.1)
    problem = replace(problem, system=system)
    method = Diverging(float(problem.instruments[0].values[4, 0]))
    with pytest.raises(DivergenceError):
        store.run(method, problem, 4, tmp_path / "a.zarr", 3, block=7)
    assert store.open_posterior(tmp_path / "a.zarr").states == 20
    chunk = tmp_path / "a.zarr" / "last" / "c" / "0" / "1"
    chunk.unlink()
    with pytest.raises(ValueError, match="last/c/0/1 is missing"):
        store.open_posterior(tmp_path / "a.zarr")


def test_values_kept_back_of_several_steps_are_refused(case, tmp_path):
    problem, _ = case
    model = ObservationModel(Select([0]), std=0.5)
    withheld = (Observations(model, [(3, 4)], torch.ones(1, 2, 1)),)
    with pytest.raises(ValueError, match="several steps"):
        store.run(EnKF(), problem, 4, tmp_path / "a.zarr", withheld=withheld, keep=Keep(steps=2))


def test_what_needs_all_members_says_what_is_kept(case, tmp_path):
    problem, more = case
    keep = Keep(("x",), 2, 3)
    posterior = store.run(EnKF(), problem, 9, tmp_path / "a.zarr", keep=keep, **more)
    for read in (lambda: posterior.analysis, lambda: posterior.members):
        with pytest.raises(ValueError, match="the first 3 members of x at 21 of 41 states"):
            read()
    reference = store.run(EnKF(), problem, 9, tmp_path / "b.zarr", **more)
    row = scores.score_table({"a": posterior}, [reference])["a"]
    assert "wasserstein" not in row and "rmse" in row


def test_a_store_that_keeps_all_is_read_as_any_other(case, whole, tmp_path):
    problem, more = case
    keep = Keep(members=20, statistics=("mean",))
    posterior = store.run(EnKF(1.05), problem, 20, tmp_path / "a.zarr", 3, keep=keep, **more)
    assert torch.equal(posterior.analysis.states, whole("equal").analysis.states)


def test_a_run_is_resumed_with_what_it_was_begun_with(case, tmp_path):
    problem, _ = case
    store.run(EnKF(), problem, 9, tmp_path / "a.zarr", keep=Keep(steps=2))
    for keep in (None, Keep(steps=3)):
        with pytest.raises(ValueError, match="differs in keep"):
            store.run(EnKF(), problem, 9, tmp_path / "a.zarr", keep=keep, resume=True)


def test_the_last_ensemble_begins_a_run(case, whole, tmp_path):
    problem, more = case
    keep = Keep(statistics=("mean",))
    store.run(EnKF(1.05), problem, 20, tmp_path / "a.zarr", 3, keep=keep, **more)
    initial, _ = read_initial(tmp_path / "a.zarr" / "last", problem.space)
    assert torch.equal(initial, whole("equal").analysis.states[:, -1])


def test_one_tree_of_xarray_opens_the_store_and_its_netcdf(case, tmp_path):
    problem, more = case
    keep = Keep(("x",), 4, 3, ("std",))
    posterior = store.run(EnKF(), problem, 9, tmp_path / "a.zarr", keep=keep, **more)
    posterior.to_netcdf(tmp_path / "a.nc")
    for name, engine in (("a.zarr", "zarr"), ("a.nc", "h5netcdf")):
        tree = xarray.open_datatree(tmp_path / name, engine=engine)
        assert set(tree.children) == {"last", "observations", "scores", "truth", "withheld"}
        assert set(tree.dataset) == {"x", "x_std"} and tree["last"]["x"].sizes == {"member": 9}


@pytest.mark.parametrize("steps", [1, 2])
def test_scales_of_variables_are_those_of_the_truth(steps):
    """Of two variables in different units, with a truth that is missing at places."""
    units = {"u": "m s-1", "v": "K"}
    space = StateSpace(
        (2, 5), variables=("u", "v"), coordinates={"x": np.arange(5.0)}, units=units
    )
    truth = 300 + rng.normal(1, (9, 2, 5), rng.seeded(0))[0]
    truth[3, 0, 2:] = torch.nan
    truth[5] = torch.nan
    true = InMemory(Analysis(truth[None], space))
    found = sums.truth_sums(true)
    present = {name: (~space.field(truth, name).isnan()).sum(1).double() for name in "uv"}
    made = {
        name: {"present": present[name], "truth": total, "truth_square": square}
        for name, (total, square) in found.items()
    }
    # Squares of 300 in double precision.
    assert sums.scales_of(made, space, steps) == pytest.approx(sums.scales(true, steps), rel=1e-9)


def test_names_of_quantiles_are_their_decimals():
    levels = {"q05": 0.05, "q50": 0.5, "q95": 0.95, "q975": 0.975, "q0025": 0.0025}
    assert {name: level_of(name) for name in levels} == levels
    assert level_of("mean") is None


def test_weights_of_a_unit_without_such_are_those_of_its_kept_steps(tmp_path):
    """Five of six members are kept at each third of nine steps; units of four steps."""
    space = StateSpace((3,))
    kept, plan = Keep(steps=3, members=5).of(space, 6, 9), layout.plan_steps(space, 6, 8, 4)
    output = Selection(kept, space, 6, plan, None, None, (), True)
    root = layout.new_store(tmp_path / "a.zarr", space, {})
    output.make(root, np.dtype("float64"), True)
    weights = np.random.default_rng(0).random((6, 9))
    for first, last in map(plan.bounds, range(plan.units)):
        output.write_weights(root, weights[:, first:last], first)
    np.testing.assert_array_equal(root["weight"][:], weights[:5, ::3])
    np.testing.assert_array_equal(root["last/weight"][:], weights[:, -1])
