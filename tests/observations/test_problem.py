"""Problems and twin experiments: distinct streams, what is joined, what is refused."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.rng import normal, seeded
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.analysis import Analysis
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.observations.spatial import Average, Interpolate, Stride
from scorda.systems.base import System

NAN = math.nan


class Walk(System):
    """Random walk from the standard normal, in three components."""

    name = "walk"
    stochastic = True

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.space = StateSpace((3,), variables=("x", "y", "z"))
        self.like = torch.zeros(1, dtype=dtype)

    def prior(self, members: int, generator: torch.Generator | None = None) -> Tensor:
        return normal(members, (3,), generator, self.like)

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x + 0.1 * normal(len(x), (3,), generator, x)


@dataclass
class Place:
    """Anything with a space stands for a system where nothing is simulated."""

    space: StateSpace


MODEL = ObservationModel(Select([0, 2]), std=0.5)


def test_twin_experiment_observes_every_few_steps():
    truth, problem = twin_experiment(Walk(), MODEL, steps=10, every=3, generator=seeded(0))
    assert truth.shape == (11, 3) and problem.steps == 10
    (instrument,) = problem.instruments
    assert instrument.steps == (3, 6, 9) and instrument.values.shape == (3, 2)
    _, problem = twin_experiment(Walk(), MODEL, 10, 3, seeded(0), start=0)
    assert problem.instruments[0].steps == (0, 3, 6, 9)
    _, problem = twin_experiment(Walk(), MODEL, 10, 20, seeded(0), start=10)
    assert problem.instruments[0].steps == (10,)


def test_twin_experiment_is_reproducible_and_the_seed_matters():
    def drawn(seed):
        truth, problem = twin_experiment(Walk(), MODEL, 5, 1, seeded(seed))
        return truth, problem.instruments[0].values

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn(1), drawn(2), strict=True))


def test_the_truth_does_not_depend_on_how_it_is_observed():
    truths = [
        twin_experiment(Walk(), model, 6, every, seeded(3))[0]
        for model, every in (
            (MODEL, 1),
            (MODEL, 3),
            (ObservationModel(Pointwise(torch.atan), 2.0), 2),
        )
    ]
    assert torch.equal(truths[0], truths[1]) and torch.equal(truths[0], truths[2])


def test_twin_experiment_advances_the_generator():
    generator = seeded(0)
    first, _ = twin_experiment(Walk(), MODEL, 5, 1, generator)
    second, _ = twin_experiment(Walk(), MODEL, 5, 1, generator)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("again", ["same generator", "same seed"])
@pytest.mark.parametrize("spawned", [0, 1, 2, 3])
def test_the_truth_is_never_a_member(again, spawned):
    """Nor does any child of a generator with the same seed draw the truth's own noise."""
    generator = seeded(7)
    truth, problem = twin_experiment(Walk(), MODEL, 4, 1, generator)
    generator = generator if again == "same generator" else seeded(7)
    if spawned:
        generator = rng.spawn(generator, 3)[spawned - 1]
    members = problem.members_at_start(50, generator)
    assert not (members == truth[0]).all(-1).any()
    forecast = problem.system.step(members, generator)
    increment = truth[1] - truth[0]
    assert ((forecast - members - increment).abs().amax(-1) > 1e-9).all()


def test_errors_are_independent_of_the_truth_and_have_their_std():
    """Correlations of 2000 pairs have a standard error of 0.022, the std one of 1.6 %."""
    truth, problem = twin_experiment(Walk(), MODEL, 2000, 1, seeded(0))
    error = problem.instruments[0].values - truth[1:, [0, 2]]
    noise = truth.diff(dim=0)
    assert abs(error.std().item() / 0.5 - 1) < 5 * 0.016 / 2**0.5
    both = torch.cat([error, noise], 1).T.corrcoef()
    assert (both - torch.eye(5)).abs().max() < 5 * 0.022
    lagged = torch.stack([error[1:, 0], error[:-1, 0]]).corrcoef()[0, 1]
    assert lagged.abs() < 5 * 0.022


def test_dtype_of_the_system_is_kept():
    truth, problem = twin_experiment(Walk(torch.float32), MODEL, 3, 1, seeded(0))
    assert truth.dtype == problem.instruments[0].values.dtype == torch.float32
    double, _ = twin_experiment(Walk(), MODEL, 3, 1, seeded(0))
    torch.testing.assert_close(truth.double(), double, atol=1e-5, rtol=0)  # rounding to float32


class Exploding(Walk):
    """Grows beyond every bound at step 2."""

    name = "exploding"

    def step(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x.sign() * (x.abs() + 1) * 1e200 ** (1 + x.abs().log10().clip(0))


def test_a_diverging_truth_is_named_with_its_step():
    with pytest.raises(FloatingPointError, match=r"truth of exploding is not finite at step 2"):
        twin_experiment(Exploding(), MODEL, 5, 1, seeded(0))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"every": 0}, "Got every = 0"),
        ({"every": 6}, "first observation at step 6 of 5 steps"),
        ({"every": 1, "start": 9}, "first observation at step 9"),
        ({"every": 1, "start": -1}, "first observation at step -1"),
        ({"every": 1, "model": ObservationModel(Select([3]), std=1.0)}, "must be smaller"),
        ({"every": 1, "steps": -1}, "of -1 steps"),
    ],
)
def test_bad_twin_experiments_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        twin_experiment(**({"system": Walk(), "model": MODEL, "steps": 5} | settings))


def instrument(operator=MODEL.operator, steps=(1, 3), values=None, **settings):
    values = torch.zeros(len(steps), 2) if values is None else values
    return Observations(ObservationModel(operator, std=0.5), steps, values, **settings)


def test_observed_joins_the_instruments_of_a_step():
    first = instrument(steps=(1, 2), values=torch.tensor([[1.0, NAN], [NAN, NAN]]))
    second = Observations(
        ObservationModel(Linear(torch.eye(3)), cov=torch.eye(3) * 4), [1, 4], torch.ones(2, 3)
    )
    observed = Problem(Walk(), [second, first], 5).observed()
    assert list(observed) == [1, 4]
    y, model = observed[1]
    assert y.tolist() == [1.0, 1.0, 1.0, 1.0]
    x = normal(4, (3,), seeded(0))
    assert torch.equal(model.operator(x), torch.cat([x, x[:, :1]], 1))
    torch.testing.assert_close(
        model.error_cov((4,), x), torch.diag(torch.tensor([4.0, 4.0, 4.0, 0.25]))
    )
    assert observed[4][0].numel() == 3


def test_observed_of_a_row_of_several_steps_is_refused():
    several = Observations(
        ObservationModel(Function(lambda x: x.mean(1)), std=1.0), [(0, 1)], torch.zeros(1, 3)
    )
    with pytest.raises(ValueError, match="use a filter, or a smoother of whole trajectories"):
        Problem(Walk(), several, 3).observed()


def test_no_observations_and_no_steps_are_allowed():
    assert Problem(Walk(), [], 0).observed() == {}
    assert Problem(Walk(), instrument(values=torch.full((2, 2), NAN)), 3).observed() == {}


def test_the_initial_ensemble_replaces_the_prior():
    initial = normal(4, (3,), seeded(0))
    problem = Problem(Walk(), instrument(), 3, initial)
    members = problem.members_at_start(4)
    assert torch.equal(members, initial)
    members.zero_()
    assert initial.any()
    with pytest.raises(ValueError, match="Asked for 5 members with an initial ensemble of 4"):
        problem.members_at_start(5)
    drawn = Problem(Walk(), instrument(), 3).members_at_start(4, seeded(1))
    assert torch.equal(drawn, Walk().prior(4, seeded(1)))


FLOW = Place(StateSpace((2, 4, 4), variables=("u", "v")))
PAIR = Place(StateSpace((2, 8), variables=("u", "v"), coordinates={"x": np.arange(8.0)}))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Problem(Walk(), instrument(), -1), "Got steps = -1"),
        (lambda: Problem(Walk(), instrument(), 2), "observation at step 3 of a problem with 2"),
        (lambda: Problem(Walk(), instrument(steps=[(0, 4), 5]), 4), "observation at step 5"),
        (lambda: Problem(Walk(), instrument(Select([3, 0])), 3), "indices must be smaller"),
        (
            lambda: Problem(Walk(), instrument(values=torch.zeros(2, 3)), 3),
            r"for an operator that makes \(2,\) of each state",
        ),
        (
            lambda: Problem(Walk(), instrument(Select([1]), values=torch.zeros(2)), 3),
            r"for an operator that makes \(1,\) of each state",
        ),
        (lambda: Problem(FLOW, instrument(Mask(torch.ones(4) > 0)), 3), "they must be equal"),
        (lambda: Problem(FLOW, instrument(Linear(torch.eye(2))), 3), "they must be equal"),
        (lambda: Problem(FLOW, instrument(Pointwise(torch.atan)), 3), "makes"),
        (lambda: Problem(FLOW, instrument(Average(2)), 3), r"makes \(2, 2, 2\) of each state"),
        (lambda: Problem(PAIR, instrument(Stride(2)), 3), "give it channels=True"),
        (
            lambda: Problem(Walk(), instrument(Interpolate(np.zeros((2, 1)), PAIR.space)), 3),
            "make it with the space of the states",
        ),
        (
            lambda: Problem(Walk(), [], 3, torch.tensor([[1.0, NAN, 0.0]])),
            "Got 1 values of the initial ensemble that are not finite",
        ),
        (lambda: Problem(Walk(), [], 3, torch.zeros(4, 2)), r"last axes must be \(3,\)"),
        (lambda: Problem(Walk(), [], 3, torch.zeros(3)), r"must be \(ensemble, \*\(3,\)\)"),
    ],
)
def test_bad_problems_are_refused(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    # One sentence: nothing but its end is a full stop before a space.
    assert str(error.value).endswith(".") and ". " not in str(error.value)


def test_a_black_box_that_fails_at_zero_is_no_mistake():
    def never(x):
        raise AssertionError

    black_box = Function(never, differentiable=False)
    Problem(Walk(), instrument(black_box), 3)


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize(("made", "observed"), [(3, 1), (1, 3), (2, 3)])
def test_what_a_function_makes_is_counted_before_the_run(differentiable, made, observed):
    """Both numbers would be broadcast: one value used thrice, or thrice the same prediction."""
    model = ObservationModel(Function(lambda x: x[:, :made], differentiable), std=1.0)
    observations = Observations(model, [1], torch.zeros(1, observed))
    with pytest.raises(ValueError, match=rf"of shape \(1, {observed}\) .* makes \({made},\)"):
        Problem(Walk(), observations, 3)


def test_a_function_of_several_steps_is_counted_before_the_run():
    model = ObservationModel(Function(lambda x: x[:, 1] - x[:, 0]), std=1.0)
    Problem(Walk(), Observations(model, [(0, 2)], torch.zeros(1, *Walk().space.shape)), 3)
    with pytest.raises(ValueError, match="for an operator that makes"):
        Problem(Walk(), Observations(model, [(0, 2)], torch.zeros(1, 1)), 3)


def test_positions_of_another_number_are_refused_before_the_run():
    operator = Function(lambda x: x[:, :2], positions=torch.zeros(3, 1))
    observations = Observations(ObservationModel(operator, std=1.0), [1], torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"positions of shape \(3, 1\): give one row per"):
        Problem(Walk(), observations, 3)


@pytest.mark.parametrize(("made", "observed"), [(3, 1), (1, 3)])
def test_predictions_are_never_broadcast_to_observations(made, observed):
    """Where the function could not be asked before, each use of the values says so."""
    operator = Function(lambda x: x[:, :made])
    bare = ObservationModel(operator, std=1.0)
    observations = Observations(bare, [1], torch.zeros(1, observed))
    x = torch.zeros(4, 3)
    y, model = observations.at(0)
    for use in (
        lambda: model.operator(x),
        lambda: model.log_likelihood(y, x),
        lambda: bare.log_likelihood(y, x),
        lambda: bare.predict(x, y),
        lambda: EnKF().update(x + torch.arange(4.0)[:, None], y, bare, 1),
        lambda: observations.predict(x[:, None].expand(4, 2, 3)),
        lambda: observations.log_likelihood(x[:, None].expand(4, 2, 3)),
    ):
        with pytest.raises(ValueError, match=r"make[s]? |made "):
            use()


def test_a_function_that_is_not_defined_at_zero_is_counted():
    model = ObservationModel(Function(np.log, differentiable=False), std=1.0)
    Problem(Walk(), Observations(model, [1], torch.zeros(1, *Walk().space.shape)), 3)


FIELD = StateSpace(
    (2, 3, 4),
    dt=6.0,
    variables=("u", "v"),
    coordinates={"latitude": np.arange(3.0), "longitude": np.arange(4.0)},
    period={"longitude": 4.0},
    units={"u": "m s-1", "latitude": "degrees_north", "longitude": "degrees_east", "time": "h"},
)


def test_analysis_becomes_a_dataset_with_named_dimensions():
    states = normal(5, (3, *FIELD.shape), seeded(0))
    weights = torch.full((5, 3), 0.2)
    dataset = Analysis(states, FIELD, weights, method="EnKF").to_xarray({"title": "test"})
    assert list(dataset.data_vars) == ["u", "v", "weight"]
    assert dataset["v"].dims == ("ensemble", "time", "latitude", "longitude")
    assert (dataset["v"].values == states[:, :, 1].numpy()).all()
    assert dataset["weight"].dims == ("ensemble", "time")
    assert dataset["time"].values.tolist() == [0.0, 6.0, 12.0]
    assert dataset["longitude"].values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert dataset["ensemble"].attrs["standard_name"] == "realization"
    assert dataset["u"].attrs == {"units": "m s-1"} and dataset["v"].attrs == {}
    assert dataset["latitude"].attrs["units"] == "degrees_north"
    assert dataset.attrs["Conventions"].startswith("CF-")
    assert dataset.attrs["method"] == "EnKF" and dataset.attrs["title"] == "test"


def test_time_has_units_only_where_the_space_has_one():
    def attributes(space, start=None):
        states = torch.zeros(2, 3, *space.shape)
        return Analysis(states, space).to_xarray(start=start)["time"].attrs

    assert "units" not in attributes(StateSpace((3,)))
    assert attributes(FIELD)["units"] == "h"
    dated = attributes(FIELD, "2019-03-21T06:00")
    assert dated["units"] == "hours since 2019-03-21 06:00:00"
    assert dated["standard_name"] == "time" and dated["calendar"] == "proleptic_gregorian"
    with pytest.raises(ValueError, match="unit of time is 'not given'"):
        attributes(StateSpace((3,)), "2019-03-21T06:00")


def test_a_dated_analysis_is_read_back_with_datetimes(tmp_path):
    import xarray

    analysis = Analysis(normal(2, (3, *FIELD.shape), seeded(0)), FIELD)
    analysis.to_xarray(start="2019-03-21T06:00").to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "a.nc") as read:
        times = np.datetime64("2019-03-21T06:00") + np.arange(3) * np.timedelta64(6, "h")
        assert (read["time"].values == times).all()
        assert (read["u"].values == analysis.states[:, :, 0].numpy()).all()


def test_a_flat_state_has_a_variable_per_component():
    states = normal(4, (6, 3), seeded(0))
    dataset = Analysis(states, Walk().space).to_xarray()
    assert list(dataset.data_vars) == ["x", "y", "z"]
    assert dataset["z"].dims == ("ensemble", "time")
    assert (dataset["z"].values == states[..., 2].numpy()).all()
    ring = StateSpace((5,), variables=("x",))
    dataset = Analysis(normal(4, (6, 5), seeded(0)), ring).to_xarray()
    assert dataset["x"].dims == ("ensemble", "time", "site")


def test_the_mean_is_weighted_at_each_time():
    states = normal(4, (3, 2), seeded(0))
    weights = normal(4, (3,), seeded(1)).softmax(0)
    expected = (weights[..., None] * states).sum(0)
    torch.testing.assert_close(Analysis(states, StateSpace((2,)), weights).mean, expected)
    torch.testing.assert_close(Analysis(states, StateSpace((2,))).mean, states.mean(0))
