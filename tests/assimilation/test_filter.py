"""The cycle of a filter: streams, continuation, absent observations, divergence, needs."""

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from scorda.assimilation.base import check_needs
from scorda.assimilation.diagnostics import collect
from scorda.assimilation.filter import Filter
from scorda.assimilation.kalman_algebra import inflate
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.letkf import LETKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.lorenz import Lorenz63, Lorenz96

NAN = float("nan")


class Forecast(Filter):
    """Keeps the forecast and notes what the cycle hands out."""

    def __init__(self):
        self.seen = []

    def analyse(self, forecast, y, model, generator=None):
        self.seen.append((forecast, y, rng.key(generator)))
        return forecast, {"innovation": float((y - model.operator(forecast).mean(0)).norm())}


class Weighted(Filter):
    """Carries weights from one analysis to the next, as particle filters do."""

    weights = None

    def begin(self, problem, weights=None):
        run = copy.copy(self)
        run.weights = weights
        return run

    def analyse(self, forecast, y, model, generator=None):
        old = forecast.new_ones(len(forecast)) if self.weights is None else self.weights
        new = old * model.log_likelihood(y, forecast).softmax(0)
        self.weights = new / new.sum()
        return forecast + rng.normal(len(forecast), (3,), generator), {"weights": self.weights}


def noisy_problem(steps=12, every=3, dtype=torch.float64):
    system = Lorenz63(spinup=0.5)
    model = ObservationModel(Select([0, 2]), std=2.0)
    _, problem = twin_experiment(system, model, steps, every, rng.seeded(5))
    return problem


def test_gaspari_cohn_has_the_published_values():
    """Values of equation 4.10 at r = 0, 1/2, 1, 3/2, 2, and zero beyond."""
    taper = GaspariCohn(1.0)
    c = taper.reach / 2
    r = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e6])
    half = 1 - 5 / 12 + 5 / 64 + 1 / 32 - 1 / 128
    beyond = 4 - 7.5 + 3.75 + 135 / 64 - 81 / 32 + 243 / 384 - 4 / 9
    expected = torch.tensor([1.0, half, 5 / 24, beyond, 0.0, 0.0, 0.0])
    # Rounding: the sums have terms of up to 8.
    torch.testing.assert_close(taper(c * r), expected, atol=1e-14, rtol=0)
    assert c == pytest.approx(1.82)
    assert (GaspariCohn(math.inf)(c * r) == 1).all()


def test_gaspari_cohn_is_a_correlation_in_three_dimensions():
    """Tapered covariances stay positive semidefinite; below zero by rounding only."""
    points = rng.normal(200, (3,), rng.seeded(0))
    matrix = GaspariCohn(0.8)(torch.cdist(points, points))
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12


def test_a_radius_must_be_positive():
    with pytest.raises(ValueError, match="radius"):
        GaspariCohn(0.0)


def test_inflation_multiplies_anomalies():
    x = rng.normal(7, (4, 2), rng.seeded(0))
    y = inflate(x, 1.3)
    torch.testing.assert_close(y.mean(0), x.mean(0))
    torch.testing.assert_close(y.var(0), 1.3**2 * x.var(0))
    assert inflate(x, 1.0) is x
    with pytest.raises(ValueError, match="inflation"):
        EnKF(0.9)


def test_forecasts_are_those_of_the_system_where_nothing_is_observed():
    """The cycle without observations is the system's own chain of steps, bit for bit."""
    problem = noisy_problem()
    absent = Observations(ObservationModel(Select([0]), std=1.0), [4], torch.full((1, 1), NAN))
    empty = Problem(problem.system, absent, problem.steps)
    with_filter = EnKF().assimilate(empty, 6, rng.seeded(1)).states
    draw, error, _ = (rng.key(generator) for generator in [rng.seeded(1)] for _ in range(3))
    x = problem.system.prior(6, rng.at(draw, 0))
    for k in range(problem.steps + 1):
        x = problem.system.step(x, rng.at(error, k)) if k else x
        assert torch.equal(with_filter[:, k], x)


def test_an_absent_row_changes_no_bit_of_the_run():
    problem = noisy_problem()
    observations = problem.observations[0]
    steps = (1, *observations.steps)
    values = torch.cat([torch.full_like(observations.values[:1], NAN), observations.values])
    more = Problem(problem.system, Observations(observations.model, steps, values), problem.steps)
    a, b = (EnKF().assimilate(p, 6, rng.seeded(2)) for p in (problem, more))
    assert torch.equal(a.states, b.states)
    assert a.info["step"].tolist() == b.info["step"].tolist() == list(observations.steps)


@pytest.mark.parametrize("method", [EnKF(1.02), ETKF(1.02, rotation=True), Weighted()])
@pytest.mark.parametrize("stop", [0, 4, 6, 11, 12])
def test_a_continued_run_has_the_same_bits(method, stop):
    """Stopped before, at and after an observed step, and at both ends."""
    problem = noisy_problem()
    whole = list(method.run(problem, 7, rng.seeded(3)))
    stopped = list(islice(method.run(problem, 7, rng.seeded(3)), stop + 1))
    rest = list(method.run(problem, 7, rng.seeded(3), start=stopped[-1]))
    assert [cycle.step for cycle in stopped + rest] == list(range(problem.steps + 1))
    for a, b in zip(whole, stopped + rest, strict=True):
        assert torch.equal(a.ensemble, b.ensemble)
        assert (a.weights is None and b.weights is None) or torch.equal(a.weights, b.weights)


def test_a_step_keeps_the_forecast_that_was_analysed():
    """A system step before the analysis, and nothing where nothing is observed."""
    problem = noisy_problem()
    problem = Problem(Lorenz63(noise_std=0.0), problem.observations, problem.steps)
    before = None
    for cycle in EnKF().run(problem, 7, rng.seeded(3)):
        assert (cycle.forecast is None) == (cycle.step not in problem.observed())
        if cycle.forecast is not None:
            assert torch.equal(cycle.forecast, problem.system.step(before))
            assert not torch.equal(cycle.forecast, cycle.ensemble)
        before = cycle.ensemble


def test_a_run_cannot_be_continued_with_other_members():
    problem = noisy_problem()
    cycle = next(EnKF().run(problem, 7, rng.seeded(3)))
    with pytest.raises(ValueError, match="8 members"):
        next(EnKF().run(problem, 8, rng.seeded(3), start=cycle))


def test_noise_of_a_member_does_not_depend_on_the_others():
    """Initial draw and model error of member i are the same in any ensemble, to rounding."""
    problem = noisy_problem()
    few, many = (Forecast().assimilate(problem, n, rng.seeded(4)).states for n in (3, 200))
    # Exact but for the order of operations inside one RK4 step: 12 steps of a chaotic system.
    torch.testing.assert_close(few, many[:3], atol=1e-9, rtol=0)


def test_streams_differ_between_cycles_and_purposes():
    method = Forecast()
    problem = noisy_problem()
    method.assimilate(problem, 3, rng.seeded(4))
    keys = {key for _, _, key in method.seen}
    generator = rng.seeded(4)
    draw, error, _ = (rng.key(generator) for _ in range(3))
    keys |= {rng.key(rng.at(error, k)) for k in range(1, problem.steps + 1)}
    keys.add(rng.key(rng.at(draw, 0)))
    assert len(keys) == len(method.seen) + problem.steps + 1


def test_weights_hold_until_the_next_analysis():
    analysis = Weighted().assimilate(noisy_problem(), 5, rng.seeded(0))
    weights = analysis.weights
    assert weights.shape == (5, 13)
    assert (weights[:, :3] == 0.2).all()
    assert torch.equal(weights[:, 3], weights[:, 5])
    assert not torch.equal(weights[:, 5], weights[:, 6])
    assert "weights" not in analysis.info


def test_precision_is_that_of_the_initial_ensemble():
    problem = noisy_problem()
    for dtype in (torch.float32, torch.float64):
        start = rng.normal(5, (3,), rng.seeded(0)).to(dtype)
        method = Forecast()
        given = Problem(problem.system, problem.observations, problem.steps, start)
        assert method.assimilate(given, 5).states.dtype == dtype
        assert {y.dtype for _, y, _ in method.seen} == {dtype}
        assert EnKF().assimilate(given, 5).states.dtype == dtype
        assert ETKF(rotation=True).assimilate(given, 5).states.dtype == dtype


def test_divergence_names_step_and_member():
    """One member starts where a step overflows."""
    start = torch.ones(4, 3)
    start[2] = 1e200
    problem = Problem(Lorenz63(noise_std=0.0), noisy_problem().observations, 12, start)
    with pytest.raises(
        DivergenceError, match=r"EnKF stopped at step 1 \(cycle 0\): 1 of 4 .* member 2"
    ) as caught:
        EnKF().assimilate(problem, 4)
    error = caught.value
    assert (error.step, error.cycle, error.members) == (1, 0, (2,))
    assert isinstance(error, FloatingPointError)


def test_a_report_is_made_of_every_step():
    seen = {}
    analysis = EnKF().assimilate(noisy_problem(), 5, rng.seeded(0), report=seen.__setitem__)
    assert sorted(seen) == list(range(13))
    assert (
        [k for k, info in seen.items() if info] == analysis.info["step"].tolist() == [3, 6, 9, 12]
    )
    for key in ("spread", "innovation", "chi2", "seconds", "forecast_seconds"):
        assert analysis.info[key].shape == (4,)
    spread = analysis.states[:, 6].var(0).mean().sqrt()
    torch.testing.assert_close(analysis.info["spread"][1], spread)


def test_collect_keeps_as_a_list_what_has_no_common_shape():
    info = collect([{"a": 1.0, "b": torch.ones(2)}, {"a": 2, "b": torch.ones(3), "c": "x"}])
    assert info["a"].tolist() == [1.0, 2.0]
    assert [len(b) for b in info["b"]] == [2, 3]
    assert info["c"] == ["x"]
    assert collect([]) == {}


def test_what_a_method_needs_is_asked_before_the_run():
    """The sentence names the method, the reason, and methods that can."""
    system = Lorenz96(8, spinup=0.0)
    black_box = Function(lambda x: x.sum(-1, keepdims=True), differentiable=False)
    observations = Observations(ObservationModel(black_box, std=1.0), [1], torch.zeros(1, 1))
    problem = Problem(system, observations, 1)
    check_needs(EnKF(), problem)
    for method in (LETKF(localization=GaspariCohn(1.0)), EnKF(localization=GaspariCohn(1.0))):
        with pytest.raises(ValueError, match=f"{type(method).__name__} needs .*positions.*ETKF"):
            method.assimilate(problem, 4)
    correlated = ObservationModel(Select([0, 1]), cov=torch.eye(2))
    problem = Problem(system, Observations(correlated, [1], torch.zeros(1, 2)), 1)
    with pytest.raises(ValueError, match=r"LETKF needs independent errors.* EnKF"):
        LETKF(localization=GaspariCohn(1.0)).assimilate(problem, 4)


def test_one_member_is_too_few():
    with pytest.raises(ValueError, match="at least 2"):
        EnKF().assimilate(noisy_problem(), 1)


def test_nonlinear_black_box_operators_work_without_gradients():
    system = Lorenz96(8, spinup=0.0)
    box = Function(lambda x: (x**2)[:, :3], differentiable=False)
    observations = Observations(ObservationModel(box, std=1.0), [1], torch.full((1, 3), 60.0))
    problem = Problem(system, observations, 1)
    for method in (EnKF(), ETKF()):
        states = method.assimilate(problem, 6, rng.seeded(0)).states
        assert torch.isfinite(states).all()


def test_a_start_that_is_not_finite_stops_a_run():
    """No member is left out that no model has dropped."""
    _, problem = twin_experiment(
        Lorenz63(spinup=0.1), ObservationModel(Select([0]), std=1.0), 4, 2, 0
    )
    broken = Lorenz63(spinup=0.1)
    object.__setattr__(broken, "rho", math.inf)
    with pytest.raises(DivergenceError, match=r"5 of 5 members.*after the draw of the start"):
        EnKF().assimilate(replace(problem, system=broken), 5, 0)
