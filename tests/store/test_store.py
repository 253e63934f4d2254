"""Stored posteriors: what is on disk is what the method returned, in whole units of work."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from scorda import metrics, store
from scorda.assimilation.base import Assimilator
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.methods.particle import ParticleFilter, ParticleSmoother
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.network.online import OnlineNetwork
from scorda.store import groups, layout, records, scores, withheld as withheld_scores
from scorda.systems.lorenz import Lorenz63, Lorenz96

DIMS = ["ensemble", "time", "y", "x"]


@pytest.fixture
def twin():
    model = ObservationModel(Select([0]), std=0.5)
    return twin_experiment(Lorenz63(spinup=1.0), model, 40, 4, rng.seeded(0))


@dataclass(frozen=True)
class Members(Assimilator):
    """A smoother whose members are rows of noise."""

    scale: float = 1.0
    smoother = True

    def assimilate(self, problem, members, generator=None):
        return self.assimilate_members(problem, 0, members, generator)

    def assimilate_members(self, problem, first, last, generator=None):
        shape = (problem.steps + 1, *problem.space.shape)
        states = self.scale * rng.normal_rows(rng.key(generator), first, last, shape)
        return Analysis(states, problem.space, info={"evaluations": 7}, method="Members")


@pytest.mark.slow
@pytest.mark.parametrize("method", [EnKF(1.05), ParticleFilter()], ids=["equal", "weighted"])
@pytest.mark.parametrize("block", [1, 7, None])
def test_a_filter_in_blocks_stores_the_states_of_one_run(twin, tmp_path, method, block):
    """Bit for bit: each block continues from what is on disk."""
    _, problem = twin
    whole = method.assimilate(problem, 20, rng.seeded(3))

    stored = store.run(method, problem, 20, tmp_path / "a.zarr", 3, block=block).analysis

    assert torch.equal(stored.states, whole.states)
    if whole.weights is None:
        assert stored.weights is None
    else:
        assert torch.equal(stored.weights, whole.weights.double())


@pytest.mark.parametrize("block", [1, 3, 64])
def test_members_do_not_depend_on_the_block_they_are_drawn_in(twin, tmp_path, block):
    _, problem = twin
    whole = Members().assimilate(problem, 10, rng.seeded(5))
    posterior = store.run(Members(), problem, 10, tmp_path / "a.zarr", 5, block=block)
    assert torch.equal(posterior.analysis.states, whole.states)
    assert np.max(posterior.info["report"]["evaluations"]) == 7


def test_xarray_opens_the_store_with_names_and_groups(twin, tmp_path):
    truth, problem = twin
    path = tmp_path / "a.zarr"
    posterior = store.run(EnKF(), problem, 8, path, truth=truth, configuration={"a": 1})
    dataset = xarray.open_zarr(path)
    assert list(dataset) == ["x", "y", "z"]
    assert dataset["x"].dims == ("ensemble", "time")
    assert dataset.attrs["Conventions"].startswith("CF")
    assert dataset["ensemble"].attrs["standard_name"] == "realization"
    np.testing.assert_allclose(dataset["time"], 0.025 * np.arange(41))
    assert torch.equal(posterior.truth, truth)
    assert posterior.configuration == {"a": 1}
    table = posterior.observations
    np.testing.assert_array_equal(table["step"], np.arange(4, 41, 4))
    np.testing.assert_array_equal(table["component"], 0)
    observed = problem.observations[0].values.flatten()
    np.testing.assert_array_equal(table["value"], observed)


def test_datetimes_are_kept_as_such(tmp_path):
    space = StateSpace((2,), 1.0, ("u", "v"), units={"time": "hours"})
    observations = Observations(ObservationModel(Select([0]), std=1.0), [1], torch.zeros(1, 1))
    system = Lorenz63(spinup=0.1)
    object.__setattr__(system, "space", space)
    problem = Problem(system, observations, 3)
    posterior = store.run(Members(), problem, 4, tmp_path / "a.zarr", start="2019-03-21T06:00")
    times = posterior.to_xarray()["time"].values
    assert times[2] == np.datetime64("2019-03-21T08:00")


def test_netcdf_export_holds_ensemble_truth_and_observations(twin, tmp_path):
    truth, problem = twin
    posterior = store.run(EnKF(), problem, 8, tmp_path / "a.zarr", truth=truth)
    posterior.to_netcdf(tmp_path / "a.nc")
    with xarray.open_datatree(tmp_path / "a.nc") as tree:
        np.testing.assert_array_equal(tree["x"], posterior.to_xarray()["x"])
        assert set(tree.children) == {"truth", "observations"}


def test_a_taken_path_is_refused_and_a_complete_run_is_left_alone(twin, tmp_path):
    _, problem = twin
    path = tmp_path / "a.zarr"
    store.run(EnKF(), problem, 8, path)
    with pytest.raises(ValueError, match="already there"):
        store.run(EnKF(), problem, 8, path)
    before = (path / "zarr.json").stat().st_mtime_ns
    store.run(EnKF(), problem, 8, path, resume=True)
    assert (path / "zarr.json").stat().st_mtime_ns == before
    assert len(store.run(EnKF(), problem, 9, path, overwrite=True).analysis.states) == 9


def interrupted(problem, path, after, **options):
    """A run that is stopped by an exception once `after` steps are done."""

    def stop(done, total):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(EnKF(1.05), problem, 8, path, block=5, progress=stop, **options)


def test_an_incomplete_store_says_so_and_is_resumed(twin, tmp_path):
    _, problem = twin
    path = tmp_path / "a.zarr"
    interrupted(problem, path, 23)
    posterior = store.open_posterior(path)
    assert not posterior.complete
    with pytest.raises(ValueError, match="incomplete"):
        posterior.to_xarray()
    whole = EnKF(1.05).assimilate(problem, 8, rng.seeded(0))
    resumed = store.run(EnKF(1.05), problem, 8, path, block=5, resume=True)
    assert torch.equal(resumed.analysis.states, whole.states)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "a.zarr.json"]


def test_a_run_is_resumed_with_its_own_settings_only(twin, tmp_path):
    _, problem = twin
    path = tmp_path / "a.zarr"
    interrupted(problem, path, 23)
    with pytest.raises(ValueError, match=r"differs in method\.inflation, seed"):
        store.run(EnKF(1.06), problem, 8, path, 1, block=5, resume=True)
    # And so is one that is complete.
    store.run(EnKF(1.05), problem, 8, path, block=5, resume=True)
    # One that was killed at its very end may have left its lock.
    lock = tmp_path / ".a.zarr.lock"
    lock.touch()
    store.run(EnKF(1.05), problem, 8, path, block=5, resume=True)
    assert not lock.exists()
    with pytest.raises(ValueError, match=r"differs in method\.inflation, seed"):
        store.run(EnKF(1.06), problem, 8, path, 1, block=5, resume=True)


def test_a_run_that_cannot_start_leaves_nothing(twin, tmp_path):
    truth, problem = twin
    with pytest.raises(ValueError, match="at least"):
        store.run(EnKF(), problem, 1, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="Got members = 0: give a whole number, at least 1"):
        store.run(EnKF(), problem, 0, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="one state more"):
        store.run(EnKF(), problem, 8, tmp_path / "a.zarr", truth=truth[1:])
    with pytest.raises(ValueError, match=r"end in \.zarr"):
        store.run(EnKF(), problem, 8, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_what_is_no_posterior_is_not_opened(tmp_path):
    with pytest.raises(ValueError, match="There is no"):
        store.open_posterior(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="no posterior"):
        store.open_posterior(tmp_path)


@pytest.mark.parametrize("axis", ["time", "ensemble"])
@pytest.mark.parametrize("shape", [(7, 30, 3), (500, 400, 1000), (3, 40, 3000, 2000)])
def test_chunks_are_small_and_lie_in_one_unit(axis, shape):
    along = 1 if axis == "time" else 0
    for size in (1, 6, shape[along]):
        if size > shape[along]:
            continue
        plan = layout.Plan(axis, size, shape[along])
        chunks = layout._chunks(shape, 8, plan, DIMS[: len(shape)])
        assert size % chunks[along] == 0
        assert 8 * math.prod(chunks) <= layout.LARGEST_CHUNK


def test_default_blocks_of_a_large_run_have_one_to_eight_megabytes():
    space = StateSpace((100, 100))
    plan = layout.plan_steps(space, 40, 2000)
    chunk = math.prod(layout._chunks((40, 2001, 100, 100), 8, plan, DIMS)) * 8
    assert 2**20 <= chunk <= 2**23
    assert plan.bounds(plan.units - 1)[1] == 2001


def test_the_observed_component_is_found_where_there_is_one():
    space = StateSpace((2, 3), variables=("u", "v"))
    matrix = torch.tensor([[0, 0, 0, 0, 1.0, 0], [0.5, 0, 0.5, 0, 0, 0], [2.0, 0, 0, 0, 0, 0]])
    assert groups._components(Select([5, 0]), space).tolist() == [5, 0]
    assert groups._components(Linear(matrix), space).tolist() == [4, -1, -1]
    assert (groups._components(Pointwise(torch.exp), space) == -1).all()


def test_withheld_values_are_scored_with_their_error(tmp_path):
    """Prediction of each member is what its operator gives at that step."""
    system = Lorenz96(dim=6, spinup=1.0)
    _, problem = twin_experiment(
        system, ObservationModel(Select(range(6)), std=0.7), 12, 3, rng.seeded(1)
    )
    (observations,) = problem.observations
    held = torch.full_like(observations.values, math.nan)
    held[1, 2] = observations.values[1, 2]
    withheld = Observations(observations.model, observations.steps, held)
    # Without jitter one particle is left of a model without error, and the run ends.
    method = ParticleFilter(jitter=0.3)
    posterior = store.run(method, problem, 30, tmp_path / "a.zarr", withheld=(withheld,))
    group = posterior.group("withheld")
    predicted = posterior.analysis.states[:, 6, 2]
    np.testing.assert_array_equal(group["predicted"].values[:, 0], predicted)
    assert group["value"].values[0] == observations.values[1, 2]
    assert set(scores.scores(posterior)) >= {"innovation_chi2", "observation_crps"}


def test_crps_with_error_is_that_of_members_with_noise():
    """The closed form against the integral of (F - 1)^2 for a cloud of 4000 quantiles per member.

    The integral is the ordinary score of the mixture, so the pairs of a member with itself, which
    the fair score leaves out, are put back.
    """
    x, y, std = torch.tensor([-1.0, 0.3, 2.0])[:, None], torch.tensor([0.7]), torch.tensor([0.5])
    w = torch.full((3, 1), 1 / 3)
    quantiles = (torch.arange(4000) + 0.5) / 4000
    noise = std * torch.special.ndtri(quantiles)
    cloud = (x + noise).flatten()
    grid = torch.linspace(-6, 7, 20001)
    below = torch.searchsorted(cloud.sort().values, grid) / len(cloud)
    whole = torch.trapezoid((below - (grid >= y).double()).square(), grid)
    own = withheld_scores.expected_norm(torch.zeros(1), math.sqrt(2) * std)
    pair = withheld_scores.expected_norm(x - x.T, math.sqrt(2) * std)
    fair = withheld_scores.mixture_crps(x, w, y, std)
    # From the fair score to the ordinary one: other weights of the same sums of pairs.
    off = pair.sum() - 3 * own
    ordinary = fair + off / 9 / (2 * (1 - 1 / 3)) - (off + 3 * own) / 9 / 2
    # 4000 quantiles and the grid leave 1e-3.
    torch.testing.assert_close(ordinary.squeeze(), whole, atol=1e-3, rtol=0)


def test_small_error_gives_the_fair_crps_of_the_members():
    generator = rng.seeded(2)
    x, y = rng.normal(12, (5,), generator), rng.normal(1, (5,), generator)[0]
    w = torch.full((12, 5), 1 / 12)
    got = withheld_scores.mixture_crps(x, w, y, torch.full((5,), 1e-6)).mean()
    # An error of 1e-6 changes the score by about as much.
    torch.testing.assert_close(got, metrics.crps(x, y), atol=1e-5, rtol=0)


def test_reliable_predictions_have_chi2_one_and_nominal_coverage():
    generator = rng.seeded(4)
    truth = rng.normal(1, (20_000,), generator)[0]
    members = rng.normal(60, (20_000,), generator)
    value = truth + 0.5 * rng.normal(1, (20_000,), generator)[0]
    withheld = xarray.Dataset(
        {
            "predicted": (("ensemble", "observation"), members.numpy()),
            "value": ("observation", value.numpy()),
            "std": ("observation", np.full(20_000, 0.5)),
            "step": ("observation", np.zeros(20_000, int)),
        }
    )
    got = withheld_scores.observation_scores(withheld.isel(observation=slice(4000)))
    # Members are independent of the truth here, both N(0, 1): the prediction is right. 4000
    # values: standard error of chi2 0.022, of the coverage 0.005; 2 % for 60 members.
    assert abs(got["innovation_chi2"] - 1) < 0.09
    assert abs(got["observation_coverage"] - 0.9) < 0.025


def test_distance_of_a_shift_is_its_length():
    space = StateSpace((3,))
    states = rng.normal(40, (5, 3), rng.seeded(0))
    shifted = Analysis(states + torch.tensor([3.0, 0.0, 4.0]), space)
    assert scores.distance(Analysis(states, space), shifted, 2) == pytest.approx(5, abs=1e-9)
    weights = torch.full((40, 5), 1 / 40)
    same = Analysis(states, space, weights)
    assert scores.distance(same, Analysis(states, space)) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_references_give_distances_and_their_own_floor(twin, tmp_path):
    truth, problem = twin
    runs = {
        "EnKF": store.run(EnKF(), problem, 16, tmp_path / "a.zarr", truth=truth),
        "PF": store.run(ParticleFilter(1.0), problem, 200, tmp_path / "b.zarr", truth=truth),
        "PS": store.run(ParticleSmoother(200), problem, 16, tmp_path / "c.zarr", truth=truth),
    }
    table = scores.score_table(runs, [runs["PF"]])
    assert 0 < table["PF"]["wasserstein"] < table["EnKF"]["wasserstein"]
    assert "wasserstein" not in table["PS"]


def test_settings_of_a_method_are_plain():
    expected = {
        "inflation": 1.05, "localization": None, "hybrid": None, "gross_error_check": None
    }  # fmt: skip
    assert records.settings_of(EnKF(1.05)) == expected
    json.dumps(records.settings_of(ParticleFilter()))
    assert records.settings_of(OnlineNetwork(("y", "x")))["axis"] == ["y", "x"]


def test_sentences_name_a_store_as_the_user_does(tmp_path, monkeypatch):
    """Work goes on at the real path, also through a link to the folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "link")
    problem = twin_experiment(
        Lorenz63(spinup=0.1), ObservationModel(Select([0]), std=0.5), 8, 2, 0
    )[1]
    posterior = store.run(EnKF(), problem, 4, "a.zarr", 1, block=2)
    assert str(posterior.path) == "a.zarr"
    with pytest.raises(ValueError, match=r"^a\.zarr is already there"):
        store.run(EnKF(), problem, 4, "a.zarr", 1)
    with pytest.raises(ValueError, match=r"^\.\./real/a\.zarr is already there"):
        store.run(EnKF(), problem, 4, "../real/a.zarr", 1)
    absolute = tmp_path / "real" / "a.zarr"
    with pytest.raises(ValueError, match=f"^{absolute} is already there"):
        store.run(EnKF(), problem, 4, absolute, 1)
    Path("a.zarr.json").unlink()
    with pytest.raises(ValueError, match=r"^a\.zarr cannot be resumed, because a\.zarr\.json is"):
        store.run(EnKF(), problem, 4, "a.zarr", 1, resume=True)
    Path("b.zarr").mkdir()
    Path("b.zarr", "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=r"^b\.zarr is no store of Scorda"):
        store.run(EnKF(), problem, 4, "b.zarr", 1)
