import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engines import Packing, processes
from scorda.assimilation.cycle import Cycle
from scorda.core import executors, rng
from scorda.core.errors import DegenerateEnsemble, ModelFailure
from scorda.core.space import StateSpace
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.particle import ParticleFilter, ParticleSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.function import FunctionSystem
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63, Lorenz96
from scorda.systems.mapped import Mapped, unmapped

SPACE = StateSpace((6,), 0.1)
SYSTEMS = {
    "lorenz63": Lorenz63(spinup=0.5),
    "lorenz96": Lorenz96(dim=12, noise_std=0.3, spinup=0.5),
    "kolmogorov": KolmogorovFlow(size=16, resolution=16, dt=0.01),
}
MODEL = ObservationModel(Select([0, 2, 4]), std=torch.tensor(0.5, dtype=torch.float64))


def drawn(members, seed):
    return np.random.default_rng(seed).normal(size=(members, 6))


def member_model(x, *, member, step, seed):
    noise = np.random.default_rng(seed).normal(size=x.shape)
    return 0.9 * np.roll(x, 1) + 0.01 * step + 0.1 * noise


def shifted(x, *, member, step, seed):
    return 0.9 * np.roll(x, 1) + 0.1


def per_member(step=member_model, **options):
    return FunctionSystem(step, drawn, SPACE, per_member=True, **options)


def problem_of(system, steps=6):
    return twin_experiment(system, MODEL, steps, every=2, generator=0)[1]


@pytest.fixture(params=["none", "threads", "packing"])
def engine(request):
    made = {"none": lambda: None, "threads": lambda: ThreadPoolExecutor(2), "packing": Packing}
    made = made[request.param]()
    yield made
    if made is not None:
        made.shutdown()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_step_has_the_bits_of_one_without_workers(name, chunk, engine):
    system = SYSTEMS[name]
    x = rng.normal(7, system.space.shape, rng.seeded(1))
    expected = system.step(x, rng.seeded(2))
    assert torch.equal(Mapped(system, engine, chunk).step(x, rng.seeded(2)), expected)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_model_of_single_members_has_the_same_bits_too(engine, noise):
    system = per_member(noise_std=noise)
    problem = problem_of(system)
    alone = EnKF().assimilate(problem, 5, rng.seeded(3)).states
    mapped = Problem(Mapped(problem.system, engine, 2), problem.observations, problem.steps)
    assert torch.equal(EnKF().assimilate(mapped, 5, rng.seeded(3)).states, alone)


@pytest.mark.slow
def test_processes_give_the_same_bits_and_keep_precision_and_threads():
    torch.set_default_dtype(torch.float32)
    system = per_member(noise_std=0.1)
    problem = problem_of(system)
    alone = EnKF().assimilate(problem, 5, rng.seeded(3)).states
    with processes(2) as pool:
        assert executors.submit(pool, torch.get_default_dtype).result() == torch.float32
        assert executors.submit(pool, torch.get_num_threads).result() == torch.get_num_threads()
        mapped = Problem(Mapped(problem.system, pool), problem.observations, problem.steps)
        found = EnKF().assimilate(mapped, 5, rng.seeded(3)).states
    assert found.dtype == torch.float32
    assert torch.equal(found, alone)


def test_the_model_is_told_member_and_step_and_a_seed_of_both():
    told = []

    def step(x, *, member, step, seed):
        told.append((member, step, seed))
        return x

    problem = problem_of(per_member(step))
    told.clear()
    cycles = list(EnKF().run(problem, 3, 0))
    assert [(m, k) for m, k, _ in told] == [(m, k) for k in range(6) for m in range(3)]
    assert len({seed for _, _, seed in told}) == 18
    assert all(0 <= seed < 2**31 for _, _, seed in told)
    before = list(told)
    told.clear()
    # A run that goes on after step 3 asks for the same seeds.
    list(EnKF().run(problem, 3, 0, start=Cycle(3, cycles[3].ensemble)))
    assert told == before[9:]


def test_noise_is_that_of_the_number_of_a_member():
    system = Lorenz96(dim=12, noise_std=0.3)
    x = system.prior(6, rng.seeded(0))
    whole = system.step(x, rng.seeded(1))
    some = Mapped(system).at(0, (1, 4)).step(x[[1, 4]], rng.seeded(1))
    assert torch.equal(some, whole[[1, 4]])
    model = per_member(noise_std=0.3)
    x = x[:, :6]
    whole = model.step(x, rng.seeded(1))
    assert torch.equal(model.at(0, (1, 4)).step(x[[1, 4]], rng.seeded(1)), whole[[1, 4]])
    assert torch.equal(Mapped(model).at(0, [1, 4]).step(x[[1, 4]], rng.seeded(1)), whole[[1, 4]])


class Seasonal(Lorenz63):
    """A model and an error that depend on the step, which `at` tells."""

    season = 0

    def at(self, step, members=None):
        other = copy.copy(self)
        vars(other).update(season=step, noise_std=0.1 * step)
        return other

    def advance(self, x):
        return super().advance(x) + self.season


def test_a_system_that_asks_for_the_step_is_told_it(engine):
    system = Seasonal(spinup=0.5, noise_std=0.1)
    x = system.prior(4, rng.seeded(0))
    expected = system.trajectory(x, 3, rng.seeded(1))
    assert torch.equal(Mapped(system, engine, 2).trajectory(x, 3, rng.seeded(1)), expected)


def test_large_states_go_through_the_folder_of_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr("scorda.systems.mapped.LARGE", 8)
    system, seen = SYSTEMS["lorenz96"], []

    class Watched(Packing):
        def submit(self, function, /, *args, **kwargs):
            seen.extend(a for a in args if isinstance(a, str) and a.endswith(".partial"))
            assert not any(isinstance(a, np.ndarray) for a in args)
            return super().submit(function, *args, **kwargs)

    x, exchange = system.prior(4, rng.seeded(0)), tmp_path / "exchange"
    moved = Mapped(system, Watched(), exchange=exchange).step(x, 1)
    assert torch.equal(moved, system.step(x, 1))
    assert len(seen) == 4 and not list(exchange.iterdir())


class Failing:
    """A model that fails for one member at one step, a number of times."""

    def __init__(self, times, how):
        self.times, self.how = times, how

    def __call__(self, x, *, member, step, seed):
        if member == 2 and step == 3 and self.times:
            self.times -= 1
            self.how(x)
        return shifted(x, member=member, step=step, seed=seed)


def crash(x):
    raise OSError("the solver died")


def blow_up(x):
    x[:] = np.nan
    x /= 0


def test_stop_names_the_member_and_the_step():
    problem = problem_of(per_member(shifted))
    problem = Problem(Mapped(per_member(Failing(1, crash))), problem.observations, problem.steps)
    made = []
    with pytest.raises(
        ModelFailure, match=r"stopped at step 4 .*member 2: OSError.*died"
    ) as found:
        made.extend(ETKF().run(problem, 5, 0))
    assert found.value.members == (2,)
    assert found.value.step == 4


@pytest.mark.parametrize(("times", "retries"), [(2, 2), (2, 1), (1, 0)])
def test_retry_tries_again_so_many_times(times, retries):
    x = torch.ones(5, 6)
    system = Mapped(per_member(Failing(times, crash)), on_failure=f"retry:{retries}").at(3)
    if retries >= times:
        assert torch.equal(system.step(x, 0), per_member(shifted).at(3).step(x, 0))
    else:
        with pytest.raises(ModelFailure, match="member 2"):
            system.step(x, 0)


def dropping(problem, how=crash, **options):
    system = Mapped(per_member(Failing(-1, how)), on_failure="drop", **options)
    return Problem(system, problem.observations, problem.steps)


@pytest.mark.parametrize("filter_", [ETKF(), EnKF(), ParticleFilter(resample=0)])
def test_drop_goes_on_with_the_ensemble_of_the_others(filter_):
    """Exact: what follows is a run of four members that begins where the fifth is lost."""
    problem = problem_of(per_member(shifted))
    left = [0, 1, 3, 4]
    whole = list(filter_.run(problem, 5, 0))
    with pytest.warns(UserWarning, match="member 2 is dropped.*step 3.*died"):
        cycles = list(filter_.run(dropping(problem), 5, 0))
    assert all(
        torch.equal(a.ensemble, b.ensemble) for a, b in zip(whole[:4], cycles, strict=False)
    )
    weights = whole[3].weights
    if weights is not None:
        weights = weights[left] / weights[left].sum()
    start = Cycle(3, whole[3].ensemble[left], weights)
    for rest, cycle in zip(filter_.run(problem, 4, 0, start), cycles[4:], strict=True):
        assert cycle.ensemble[2].isnan().all()
        assert torch.equal(cycle.ensemble[left], rest.ensemble)
        if weights is not None:
            assert cycle.weights[2] == 0
            assert torch.equal(cycle.weights[left], rest.weights)
            torch.testing.assert_close(cycle.weights.sum(), torch.tensor(1.0))
        if cycle.info:
            assert cycle.info["dropped"] == [2]


def test_a_run_without_a_member_continues_with_the_same_bits():
    system = per_member(Failing(-1, crash), noise_std=0.1)
    problem = problem_of(per_member(shifted))
    problem = Problem(Mapped(system, on_failure="drop"), problem.observations, problem.steps)
    with pytest.warns(UserWarning, match="dropped"):
        cycles = list(EnKF().run(problem, 5, 0))
    again = EnKF().run(problem, 5, 0, start=Cycle(4, cycles[4].ensemble))
    for cycle, other in zip(cycles[5:], again, strict=True):
        left = [0, 1, 3, 4]
        assert torch.equal(cycle.ensemble[left], other.ensemble[left])
        assert other.ensemble[2].isnan().all()


@pytest.mark.parametrize("how", [blow_up, lambda x: time.sleep(20)])
def test_what_is_not_finite_or_takes_too_long_has_failed(how):
    problem = problem_of(per_member(shifted))
    mapped = dropping(problem, how, timeout=0.3)
    with pytest.warns(UserWarning, match="not finite|more than 0.3 s"):
        last = list(ETKF().run(mapped, 5, 0))[-1]
    assert last.ensemble[2].isnan().all()
    assert last.ensemble[[0, 1, 3, 4]].isfinite().all()
    assert list(mapped.system.dropped) == [2]


@pytest.mark.parametrize("method", [EnKS(), ParticleSmoother(particles=8)])
def test_a_smoother_does_not_go_on_without_members(method):
    problem = dropping(problem_of(per_member(noise_std=0.1)))
    with pytest.raises(ValueError, match="cannot go on without the members"):
        method.assimilate(problem, 5, rng.seeded(0))


def test_too_few_members_are_left():
    def fails(x, *, member, step, seed):
        if member:
            raise OSError("gone")
        return x

    problem = problem_of(per_member(shifted))
    system = Mapped(per_member(fails), on_failure="drop")
    with pytest.warns(UserWarning), pytest.raises(DegenerateEnsemble, match="got 1 members"):
        list(EnKF().run(Problem(system, problem.observations, problem.steps), 3, 0))


def test_land_of_a_member_that_was_dropped_does_not_hide_it():
    mask = np.array([1, 1, 1, 1, 1, 0], bool)
    space = StateSpace((6,), 0.1, ("t",), {"x": np.arange(6.0)}, mask=mask)
    failing = FunctionSystem(Failing(-1, crash), drawn, space, per_member=True)
    model = ObservationModel(Select([0, 2]), std=torch.tensor(0.5, dtype=torch.float64))
    observed = Observations(model, [2, 4], torch.zeros(2, 2))
    problem = Problem(Mapped(failing, on_failure="drop"), observed, 6)
    with pytest.warns(UserWarning, match="dropped"):
        states = ETKF().assimilate(problem, 5, 0).states
    assert states[2, 4:].isnan().all()
    assert states[..., 5].isnan().all()
    assert states[[0, 1, 3, 4], ..., :5].isfinite().all()


def test_a_wrapped_system_is_the_system_in_all_other_respects():
    system = Lorenz96(dim=12, noise_std=0.3)
    mapped = Mapped(system)
    x = system.prior(3, rng.seeded(0))
    y = system.step(x, rng.seeded(1))
    assert torch.equal(mapped.prior(3, rng.seeded(0)), x)
    assert torch.equal(mapped.log_transition(x, y), system.log_transition(x, y))
    assert torch.equal(mapped.advance(x), system.advance(x))
    assert (mapped.space, mapped.name, mapped.stochastic) == (system.space, system.name, True)
    assert mapped.noise_std == 0.3
    assert unmapped(mapped) is system
    with pytest.raises(AttributeError):
        mapped.nothing


def test_settings_that_make_no_sense_are_refused():
    system = Lorenz63()
    for options, said in (
        ({"chunk": 0}, "at least 1"),
        ({"timeout": 0.0}, "seconds"),
        ({"timeout": math.inf}, "seconds"),
        ({"on_failure": "retry"}, "retry:3"),
        ({"on_failure": "drop", "chunk": 2}, "chunk = 1"),
    ):
        with pytest.raises(ValueError, match=said):
            Mapped(system, **options)
    matrix = 0.5 * torch.eye(2)
    with pytest.raises(TypeError, match="inside of its step"):
        Mapped(LinearGaussian(matrix, matrix, torch.zeros(2), matrix))
    with pytest.raises(TypeError, match="numbered members"):
        per_member().advance(torch.zeros(2, 6))
    with pytest.raises(TypeError, match="no density"):
        per_member(noise_std=1.0).log_transition(torch.zeros(2, 6), torch.zeros(2, 6))
