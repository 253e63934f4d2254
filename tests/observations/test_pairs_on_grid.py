"""Pairs on a grid against the flat pairs of `augment`, and what is trained on them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from networks import amortised, changed, online
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.masf.bridge import MASF
from scorda.observations.augmentation import AugmentedSpace, PairsOnGrid, as_linear, augment
from scorda.observations.fluid import Speed
from scorda.observations.model import ObservationModel, stack
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Function, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.observations.spatial import Average
from scorda.priors.gaussian import Gaussian
from scorda.priors.local import LocalGaussian
from scorda.priors.network.dataset import FAR, Pool
from scorda.priors.network.online import OnlineNetwork
from scorda.systems.lorenz import Lorenz96

TORUS = StateSpace((2, 6, 4), variables=("u", "v"), period={"y": 6.0, "x": 4.0})
RING = Lorenz96(dim=8)
ARCTAN = Pointwise(lambda x: torch.atan(x / 4))


def members(count, shape, seed=0):
    return 1 + torch.randn((count, *shape), generator=rng.seeded(seed), dtype=torch.float64)


def test_values_are_further_variables():
    speed = ObservationModel(Speed(), std=torch.tensor(0.3))
    grid = PairsOnGrid.of(speed, TORUS, (6, 4))
    x = members(5, TORUS.shape)
    pairs = grid.pairs(x)
    assert grid.space.shape == (3, 6, 4) and grid.space.period == TORUS.period
    joint = augment(x, torch.ones(24).double(), speed, TORUS, on_grid=True)
    assert torch.equal(pairs[:, :2], x) and torch.equal(joint.states(pairs), x)
    assert torch.equal(joint.ensemble, pairs) and joint.space == grid.space
    assert_close(pairs[:, 2], x.square().sum(1).sqrt())
    assert_close(grid.model.operator(pairs), speed.operator(x).flatten(1))
    assert_close(
        grid.model.error_std((24,), x), torch.full((24,), 0.3).double(), rtol=1e-6, atol=0
    )
    ring = PairsOnGrid.of(ObservationModel(ARCTAN, std=1.0), RING.space, (8,))
    assert ring.pairs(members(3, (8,))).shape == (3, 2, 8)


def test_absent_values_are_known_of_members_alone():
    """Absent twice over, as in a row of a table without some of its values."""
    std = torch.linspace(0.1, 0.8, 8)
    whole = ObservationModel(ARCTAN, std=std)
    x, y = members(5, (8,)), torch.zeros(8)
    once = torch.arange(8) != 2
    twice = torch.arange(7) != 5
    grid = PairsOnGrid.of(whole.only(once, y).only(twice, y[once]), RING.space, (6,))
    left = [0, 1, 3, 4, 5, 7]
    assert grid.pairs(x).shape == (5, 2, 8)
    assert_close(grid.model.operator(grid.pairs(x)), torch.atan(x / 4)[:, left])
    assert_close(grid.model.error_std((6,), std), std[left])


def test_two_instruments_and_a_value_that_is_absent():
    kept = torch.arange(8) != 3
    other = ObservationModel(Pointwise(torch.tanh), std=0.2)
    whole = ObservationModel(ARCTAN, std=0.1)
    x, y = members(5, (8,)), torch.zeros(8)
    _, model = stack([(y, other), (y[kept], whole.only(kept, y))])
    grid = PairsOnGrid.of(model, RING.space, (15,))
    assert grid.pairs(x).shape == (5, 3, 8)
    assert_close(grid.model.operator(grid.pairs(x)), model.operator(x))
    assert grid.model.error_std((15,), x).tolist() == pytest.approx([0.2] * 8 + [0.1] * 7)


def test_positions_and_states_may_be_in_double_precision():
    """And the operator one that takes no other."""
    matrix = torch.eye(8, dtype=torch.float64)
    places = torch.arange(8, dtype=torch.float64)[:, None]
    operator = Function(lambda v: torch.atan(v @ matrix), positions=places)
    model, x = ObservationModel(operator, std=0.1), members(9, (8,))
    method = begun(LocalGaussian(GaspariCohn(2.0)), RING.space, ObservationModel(ARCTAN, std=1.0))
    assert PairsOnGrid.of(model, RING.space, (8,)) is not None
    found, _ = method.analyse(x, torch.atan(x[0]), model, rng.seeded(0))
    assert (found - x).abs().max() > 0.1


@pytest.mark.parametrize(
    "model",
    [
        ObservationModel(Chain(Select([1, 2]), ARCTAN), std=1.0),
        ObservationModel(Chain(Average(2), ARCTAN), std=1.0),
        ObservationModel(ARCTAN, cov=torch.eye(8)),
    ],
    ids=["some points", "between points", "correlated"],
)
def test_others_are_not_on_the_grid(model):
    shape = tuple(model.operator(torch.zeros(1, 8)).shape[1:])
    assert PairsOnGrid.of(model, RING.space, shape) is None
    with pytest.raises(ValueError, match="every point of its grid"):
        as_linear(members(6, (8,))[None], RING.space, model)


def test_linear_models_stay_as_they_are():
    ensembles, model = members(6, (8,))[None], ObservationModel(Select([1]), std=1.0)
    assert as_linear(ensembles, RING.space, model) == (ensembles, RING.space, model)
    assert as_linear(ensembles, None, None) == (ensembles, None, None)


@pytest.mark.parametrize("operator", [Speed(), Pointwise(torch.sin)], ids=["speed", "sine"])
def test_a_local_gaussian_does_not_mind_the_layout(operator):
    x, model = members(9, TORUS.shape), ObservationModel(operator, std=0.5)
    y = operator(members(1, TORUS.shape, seed=7))[0].flatten()
    method = begun(LocalGaussian(GaspariCohn(0.9), 2), TORUS, model)
    found, _ = method.analyse(x, y, model, rng.seeded(0))
    joint = augment(x, y, model)
    space = AugmentedSpace(TORUS, operator, joint.used)
    flat, _ = linear(method, joint, space)
    assert_close(found, joint.states(flat), rtol=1e-6, atol=1e-6)
    assert (found - x).abs().max() > 0.1


def test_absent_values_change_no_linear_posterior():
    """Without a taper the mean is that of the flat pairs without the absent values."""
    prior = LocalGaussian(GaspariCohn(math.inf), diagonal=0.2)
    x = members(12, (8,))
    kept = torch.arange(8) % 3 > 0
    model = ObservationModel(ARCTAN, std=0.2).only(kept, torch.zeros(8))
    y = torch.linspace(-0.3, 0.6, int(kept.sum()), dtype=torch.float64)
    method = begun(prior, RING.space, model)
    joint = augment(x, y, model)
    space = AugmentedSpace(RING.space, model.operator, joint.used)
    flat, _ = linear(method, joint, space)
    found, _ = method.analyse(x, y, model, rng.seeded(0))
    assert_close(found.mean(0), joint.states(flat).mean(0), rtol=0, atol=1e-6)


TINY = online(
    axis="site",
    training_steps=30,
    fine_tuning_steps=0,
    width=8,
    batch=8,
    validation_interval=10,
    levels="fixed",
    rate=1e-3,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"base": LocalGaussian(GaspariCohn(2.0))}, {"axis": None}], ids=str
)
def test_amortised_networks_serve_nonlinear_observations(options):
    """Trained on forecasts of the state, used in a run; with absent values too."""
    model = ObservationModel(ARCTAN, std=0.1)
    _, problem = twin_experiment(RING, model, 12, 4, rng.seeded(0))
    forecasts = 4 * members(60, (8,)).unflatten(0, (5, 12))
    trained = amortised(changed(TINY, **options), forecasts, RING.space, model)
    values = problem.instruments[0].values.clone()
    values[1, 3] = torch.nan
    gappy = replace(problem, observations=replace(problem.instruments[0], values=values))
    found = MASF(trained).assimilate(gappy, 12, rng.seeded(1))
    assert found.states.isfinite().all()
    silent = amortised(changed(TINY, **options, training_steps=0), forecasts, RING.space, model)
    alone = MASF(silent).assimilate(gappy, 12, rng.seeded(1))
    assert (found.states - alone.states).abs().max() > 1e-3


@pytest.mark.slow
def test_a_ring_goes_on_from_its_weights_where_values_are_absent():
    """The network of flat pairs is another one then, and trained anew."""
    model = ObservationModel(ARCTAN, std=0.1)
    _, problem = twin_experiment(RING, model, 12, 4, rng.seeded(0))
    values = problem.instruments[0].values.clone()
    values[1, 3] = torch.nan
    gappy = replace(problem, observations=replace(problem.instruments[0], values=values))
    prior = changed(
        TINY, training_steps=10, fine_tuning_steps=5, validation_interval=5, patience=9
    )
    found = MASF(prior).assimilate(gappy, 20, rng.seeded(1))
    assert found.states.isfinite().all()
    assert found.info["training_steps"].tolist() == [10, 5, 5]
    flat = MASF(changed(prior, axis=None, levels="any")).assimilate(gappy, 20, rng.seeded(1))
    assert flat.info["training_steps"].tolist() == [10, 10, 10]


def test_the_weights_are_those_of_the_pairs():
    model = ObservationModel(ARCTAN, std=0.1)
    forecasts = members(60, (8,)).unflatten(0, (5, 12))
    trained = amortised(TINY, forecasts, RING.space, model)
    assert trained.of_entries and trained.climate.centre.shape == (1, 2)
    with pytest.raises(ValueError, match="another width"):
        trained.fit(forecasts[0], None, RING.space)


@pytest.mark.parametrize("unit", [1.0, 1e5])
def test_weights_for_one_observing_network_refuse_others(unit):
    """Of its values some may be absent; fine-tuned they serve any."""
    forecasts = unit * members(60, (8,)).unflatten(0, (5, 12))

    def modes(entries, std=0.5, size=8):
        return ObservationModel(Select(entries), std=unit * std).modes((size,))

    model = ObservationModel(Select([0, 2, 4]), std=unit * 0.5)
    trained = amortised(TINY, forecasts, RING.space, model)
    for known in (modes([0, 2, 4]), modes([2]), None):
        trained.fit(forecasts[0], known, RING.space)
    for other in (modes([0, 1]), modes([0, 2, 4], 0.4)):
        with pytest.raises(ValueError, match="was not trained"):
            trained.fit(forecasts[0], other, RING.space)
        tuned = OnlineNetwork("site", training=trained.training, start=trained)
        replace(tuned, fine_tuning_steps=1).fit(forecasts[0], other, RING.space)
    with pytest.raises(ValueError, match="was not trained"):
        wide = members(12, (10,))
        trained.fit(wide, modes([0, 2, 4], size=10), Lorenz96(dim=10).space)


@pytest.mark.slow
@pytest.mark.parametrize("network", [True, False])
def test_values_without_spread_tell_nothing(network):
    """One, where a sensor saturates: as if it were absent, whatever it is. All: members stay."""
    x, y = members(12, (8,)), torch.linspace(-0.3, 0.6, 8, dtype=torch.float64)
    x[:, 2] += 100
    kept = torch.arange(8) != 2

    def analysis(top, only=False):
        model = ObservationModel(Pointwise(lambda v: v.clamp(max=top)), std=0.1)
        prior = LocalGaussian(GaspariCohn(0.6))
        if network:
            prior = amortised(TINY, x.repeat(5, 1, 1), RING.space, model)
        given = model.only(kept, y) if only else model
        method = begun(prior, RING.space, model)
        return method.analyse(x, y[kept] if only else y, given, rng.seeded(0))[0]

    assert torch.equal(analysis(9.0), analysis(9.0, only=True))
    assert (analysis(9.0) - x).abs().max() > 0.5
    # The steps of the sampler, to and fro, leave a little.
    assert (analysis(-9.0) - x).abs().max() < 0.05


def test_members_held_back_may_be_the_only_ones_that_vary():
    """The sensor saturates for all members that the Gaussian is made of."""
    x = members(12, (8,)).clamp(min=-1)
    x[:, 4] = torch.linspace(9, 12, 12)
    x[-1, 4] = 2.0
    model = ObservationModel(Pointwise(lambda v: v.clamp(max=8.0)), std=0.1)
    pairs = PairsOnGrid.of(model, RING.space, (8,)).pairs(x)
    pool = Pool.of([(Gaussian().fit(pairs[:-2]), pairs[-2:])], (1,))
    assert pool.members.shape == (2, 8, 3) and pool.members[1, 4, 1] == -FAR
    assert pool.members.abs().max() == FAR


def test_what_convolves_wants_places_and_independent_errors():
    assert {"nonlinear_positions", "independent_errors"} <= set(MASF(TINY).needs)
    assert set(MASF(changed(TINY, axis=None)).needs) == {"simulator"}


def begun(prior, space, model):
    values = model.operator(torch.zeros(1, *space.shape))
    problem = Problem(SimpleNamespace(space=space), Observations(model, [1], values), 1)
    return MASF(prior).begin(problem)


def linear(run, joint, space):
    """The analysis of flat pairs."""
    parts = joint.ensemble, joint.y, joint.model
    return run._linear(*parts, space, rng.seeded(0))
