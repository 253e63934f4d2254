from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import special, stats

from scorda import metrics
from scorda.core import rng
from scorda.core.rng import seeded
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.methods.enks import EnKS
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.particle import ParticleSmoother
from scorda.methods.sda import SDA
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63


@pytest.mark.parametrize("draw", [rng.normal, rng.uniform])
@pytest.mark.parametrize("members", [1, 10, 63, 64, 65, 130])
def test_row_of_a_member_does_not_depend_on_the_batch(draw, members):
    few = draw(members, (2, 3), rng.seeded(3))
    many = draw(200, (2, 3), rng.seeded(3))
    assert torch.equal(few, many[:members])


def test_rows_drawn_in_chunks_are_the_rows_drawn_at_once():
    key = rng.key(rng.seeded(1))
    whole = rng.normal_rows(key, 0, 300, (5,))
    bounds = [0, 1, 64, 70, 191, 300]
    chunks = [rng.normal_rows(key, a, b, (5,)) for a, b in pairwise(bounds)]
    assert torch.equal(torch.cat(chunks), whole)


@pytest.mark.parametrize(("draw", "offset"), [(0, 0), (3, 0), (0, 2**33 + 1)])
def test_a_number_is_a_function_of_one_word(draw, offset):
    """Number n of a key is the normal quantile of word n, however far on (SciPy's has 1e-15)."""
    key, first = (5, 7), offset
    rows = rng.normal_rows(key, first, first + 6, (3,), torch.zeros((), dtype=torch.float64), draw)
    counter = np.array([3 * first // 4, 0, draw, 0], np.uint64)
    words = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(24)
    words = words[3 * first % 4 :][:18] >> 11
    exact = special.ndtri(words * 2.0**-53 + 2.0**-54)
    np.testing.assert_allclose(rows.flatten().numpy(), exact, rtol=1e-13, atol=1e-15)


def test_threads_and_parts_draw_the_numbers_of_one_thread():
    size = 2 * rng.SHARE + 5
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        many = rng.normal(2, (size,), rng.seeded(4))
        torch.set_num_threads(1)
        one = rng.normal(2, (size,), rng.seeded(4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(many, one)
    assert torch.equal(rng.normal_rows(rng.key(rng.seeded(4)), 1, 2, (size,))[0], one[1])


def test_the_largest_word_is_a_finite_number_and_below_one():
    largest = np.array([1 - 2.0**-53, 0.0])
    normal, uniform = largest.copy(), largest.copy()
    rng._normal(normal)
    rng._uniform(uniform)
    assert normal[0] == -normal[1] == pytest.approx(8.2924, abs=1e-4)
    assert np.float32(uniform[0]) < 1


def test_a_draw_advances_the_generator_equally_for_any_size():
    one, many = rng.seeded(0), rng.seeded(0)
    rng.normal(1, (1,), one)
    rng.normal(1000, (7,), many)
    assert torch.equal(one.get_state(), many.get_state())


def test_successive_draws_and_streams_differ():
    generator = rng.seeded(0)
    assert not torch.equal(rng.normal(4, (2,), generator), rng.normal(4, (2,), generator))
    children = rng.spawn(generator, 3) + rng.spawn(generator, 3)
    first = [float(rng.normal(1, (), child)[0]) for child in children]
    assert len(set(first)) == 6


def test_numbers_follow_their_distributions():
    """Kolmogorov-Smirnov: a p-value below 1e-3 is a one in a thousand accident of this seed."""
    normal = rng.normal(5000, (4,), rng.seeded(5)).flatten().numpy()
    uniform = rng.uniform(5000, (4,), rng.seeded(5)).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_rows_are_uncorrelated():
    """The largest of 200 * 199 / 2 correlations of 2000 numbers stays below 5 / sqrt(2000)."""
    noise = rng.normal(200, (2000,), rng.seeded(6)).numpy()
    correlation = np.corrcoef(noise) - np.eye(200)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_single_precision_is_the_rounded_double():
    double = rng.normal(5, (3,), rng.seeded(2))
    single = rng.normal(5, (3,), rng.seeded(2), like=torch.zeros(1, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert torch.equal(single, double.float())


def test_generator_of_a_step_is_a_function_of_key_and_step():
    key = rng.key(rng.seeded(0))
    draws = [float(rng.normal(1, (), rng.at(key, k))[0]) for k in (0, 1, 2, 0)]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3


def test_none_uses_the_global_generator():
    torch.manual_seed(4)
    first = rng.normal(2, (2,))
    torch.manual_seed(4)
    assert torch.equal(first, rng.normal(2, (2,)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, np.int64(7)])
def test_a_seed_stands_for_its_generator(seed):
    """Wherever randomness is taken, a whole number is the generator that starts there."""
    system, model = Lorenz63(spinup=0.1), ObservationModel(Select([0]), std=1.0)
    _, problem = twin_experiment(system, model, 4, 2, seeded(0))
    linear = LinearGaussian(torch.eye(2), torch.eye(2), torch.zeros(2), torch.eye(2))
    walk = Problem(linear, Observations(model, [1], torch.zeros(1, 1)), 2)
    prior = GaussianTrajectory.of(linear, 2)
    x, tied = torch.zeros(4, 2), torch.zeros(4, 5)
    draws = {
        "normal": lambda g: rng.normal(3, (2,), g),
        "uniform": lambda g: rng.uniform(3, (2,), g),
        "spawn": lambda g: torch.stack([rng.normal(3, (2,), s) for s in rng.spawn(g, 2)]),
        "prior": lambda g: system.prior(3, g),
        "step": lambda g: linear.step(x, g),
        "trajectory": lambda g: linear.trajectory(x, 3, g),
        "twin_experiment": lambda g: twin_experiment(linear, model, 4, 2, g)[0],
        "sample": lambda g: model.sample(x, g),
        "stations": lambda g: Select.stations(StateSpace((3, 4)), 2, g)._index,
        "trajectories": lambda g: prior.sample(2, 2, g),
        "rank_histogram": lambda g: metrics.rank_histogram(tied, tied[0], generator=g).counts,
        "EnKF": lambda g: EnKF().assimilate(problem, 5, g).states,
        "update": lambda g: EnKF().update(system.prior(4, 1), torch.zeros(1), model, g),
        "EnKS": lambda g: EnKS().assimilate(problem, 5, g).states,
        "ParticleSmoother": lambda g: ParticleSmoother(9).assimilate(walk, 5, g).states,
        "KalmanSmoother": lambda g: KalmanSmoother().assimilate(walk, 5, g).states,
        "SDA": lambda g: SDA.example(walk).assimilate(walk, 2, g).states,
    }
    for name, draw in draws.items():
        assert torch.equal(draw(seed), draw(seeded(7))), name
    steps = draws["trajectory"](seed).diff(dim=1)
    assert not torch.equal(steps[:, 0], steps[:, 1])


def test_other_sources_of_randomness_are_refused(unchecked):
    with pytest.raises(TypeError, match=r"give a torch\.Generator or a whole number\.$"):
        rng.as_generator(np.random.default_rng(0))


def test_a_seed_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="give one of at most 63 bits"):
        rng.as_generator(2**70)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, (3,)), (4, (2, 3)), (40, (40,)), (2, ()), (300, (200,))])
def test_draws_made_ahead_are_those_made_alone(shape, dtype):
    """Of steps in order, left out, asked for again, and ones that were not announced."""
    key, like = (5, 6), torch.zeros(0, dtype=dtype)
    steps = rng.Steps(key, range(0, 120, 2))
    for step in [*range(60), 7, 3, 100, 102, 104, 500, 90]:
        found = rng.normal(*shape, steps.at(step), like=like)
        assert torch.equal(found, rng.normal(*shape, rng.at(key, step), like=like))
        # Products round by the alignment of the memory.
        assert found.data_ptr() % 64 == 0 and found.is_contiguous()


def test_draws_made_ahead_follow_a_change_of_shape():
    steps = rng.Steps((1, 2), range(40))
    for step in range(40):
        members = 3 + step // 7
        found = rng.normal(members, (5,), steps.at(step))
        assert torch.equal(found, rng.normal(members, (5,), rng.at((1, 2), step)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: rng.normal(4, (3,), generator),
        lambda generator: rng.uniform(4, (3,), generator),
        lambda generator: torch.rand(4, generator=generator),
        lambda generator: torch.tensor(rng.key(generator)),
        lambda generator: rng.normal(4, (3,), rng.spawn(generator, 2)[1]),
    ],
)
def test_a_generator_that_draws_ahead_goes_on_as_any_other(draw):
    """After a first draw of each kind, the further ones are those of a plain generator."""
    first = [draw, lambda generator: rng.normal(4, (3,), generator)]
    for kind in first:
        ahead, plain = rng.Steps((8, 9), range(9)).at(4), rng.at((8, 9), 4)
        for one in (kind, draw, first[1], draw):
            assert torch.equal(one(ahead), one(plain))


@pytest.mark.parametrize(
    "again",
    [
        lambda generator: generator.manual_seed(5),
        lambda generator: generator.set_state(rng.seeded(5).get_state()),
    ],
)
def test_a_generator_that_draws_ahead_can_be_seeded_anew(again):
    """As a method does that takes the same noise at each step."""
    ahead = rng.Steps((8, 9), range(9)).at(4)
    again(ahead)
    assert torch.equal(rng.normal(4, (3,), ahead), rng.normal(4, (3,), 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_keeps_its_numbers_when_the_next_is_made(dtype):
    """Small draws are made in memory that a thread uses again."""
    like = torch.zeros(0, dtype=dtype)
    first = rng.normal_rows((1, 2), 0, 4, (3,), like)
    before = first.clone()
    rng.normal_rows((3, 4), 0, 4, (3,), like)
    rng.uniform(4, (3,), rng.seeded(0), like)
    assert (first == before).all()
