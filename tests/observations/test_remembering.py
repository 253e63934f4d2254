"""Filters on states that remember, against a Kalman filter of the augmented system."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch

import scorda as sc
from scorda import store
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.transforms import Log
from scorda.observations.memory import OverTime, newest, remembering
from scorda.observations.operators import Select
from scorda.systems import FunctionSystem, LinearGaussian, Uniform
from scorda.systems.lorenz import Lorenz96
from scorda.systems.mapped import Mapped

A = np.array([[0.9, 0.3], [-0.3, 0.8]])
ROWS = [(0, 1, 2), (1, 3), (2, 3, 4), 5]


def problem_of(noise, members, weights=None):
    """A mean of x over time, two steps with a gap, and a single state, of a linear system."""
    torch.manual_seed(1)
    initial = torch.randn(members, 2, dtype=torch.float64)
    system = LinearGaussian(A, noise * np.eye(2), np.zeros(2), np.eye(2))
    over = sc.ObservationModel(OverTime(Select([0]), weights), std=0.4)
    y = torch.tensor([[0.7], [-0.2], [0.5]], dtype=torch.float64)
    several = sc.Observations(
        over, ROWS[:3] if weights is None else [ROWS[0], ROWS[2]], y if weights is None else y[:2]
    )
    single = sc.Observations(sc.ObservationModel(Select([1]), std=0.3), [5], y[:1])
    return sc.Problem(system, [several, single], 6, initial)


def kalman(problem, weights=None):
    """Mean and covariance at each step, of (x_k, ..., x_0): no forgetting, plain matrices."""
    x0 = problem.initial.numpy()
    mean, cov = x0.mean(0), np.cov(x0.T)
    Q = problem.system.noise_cov.numpy()
    found = []
    for k in range(problem.steps + 1):
        if k:
            F = np.zeros((2 * k + 2, 2 * k))
            F[:2, :2], F[2:] = A, np.eye(2 * k)
            mean, cov = F @ mean, F @ cov @ F.T
            cov[:2, :2] += Q
        H, y, R = [], [], []
        for instrument in problem.instruments:
            for row, step in enumerate(instrument.steps):
                steps = step if isinstance(step, tuple) else (step,)
                if steps[-1] != k:
                    continue
                entry, h = (0 if isinstance(step, tuple) else 1), np.zeros(2 * k + 2)
                w = weights or [1 / len(steps)] * len(steps)
                for s, part in zip(steps, w if isinstance(step, tuple) else [1.0], strict=True):
                    h[2 * (k - s) + entry] += part
                H.append(h)
                y.append(float(instrument.values[row, 0]))
                R.append(float(instrument.model.std) ** 2)
        if H:
            H, y = np.array(H), np.array(y)
            K = cov @ H.T @ np.linalg.inv(H @ cov @ H.T + np.diag(R))
            mean, cov = mean + K @ (y - H @ mean), cov - K @ H @ cov
        found.append((mean[:2], cov[:2, :2]))
    return found


@pytest.mark.parametrize("weights", [None, (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)])
def test_a_square_root_filter_is_the_kalman_filter_of_the_augmented_system(weights):
    """Without model error the members span all that the filter needs: equal up to rounding."""
    problem = problem_of(0.0, 12, weights)
    analysis = newest(sc.ETKF().assimilate(remembering(problem), 12, 0), problem)
    assert analysis.space == problem.space
    for k, (mean, cov) in enumerate(kalman(problem, weights)):
        states = analysis.states[:, k].numpy()
        np.testing.assert_allclose(states.mean(0), mean, atol=1e-10)
        np.testing.assert_allclose(np.cov(states.T), cov, atol=1e-10)


def test_with_model_error_members_have_the_law_of_the_augmented_kalman_filter():
    problem = problem_of(0.2, 6000)
    for method in (sc.EnKF(), sc.ParticleFilter(resample=0.5)):
        analysis = newest(method.assimilate(remembering(problem), 6000, 0), problem)
        w = analysis.weights
        for k, (mean, cov) in enumerate(kalman(problem)):
            x = analysis.states[:, k].numpy()
            share = np.full(6000, 1 / 6000) if w is None else w[:, k].numpy()
            # Six standard errors, of at least half of the members.
            error = 6 * np.sqrt(cov.diagonal() / 3000)
            assert (np.abs(share @ x - mean) < error).all()
            np.testing.assert_allclose(np.cov(x.T, aweights=share), cov, atol=0.08)


def test_a_localized_filter_moves_what_is_near_the_position_of_a_mean_over_time():
    system = Lorenz96(noise_std=0.1)
    model = sc.ObservationModel(OverTime(Select([5])), std=0.5)
    seen = sc.Observations(model, [(1, 2, 3)], torch.ones(1, 1))
    problem, free = sc.Problem(system, seen, 3), sc.Problem(system, (), 3)
    method = sc.LETKF(localization=sc.GaspariCohn(2.0))
    moved = newest(method.assimilate(remembering(problem), 10, 0), problem).states[:, 3]
    before = method.assimilate(free, 10, 0).states[:, 3]
    near = (moved != before).all(0).nonzero()[:, 0].tolist()
    distance = [min(abs(site - 5), 40 - abs(site - 5)) for site in range(40)]
    reach = sc.GaspariCohn(2.0).reach
    assert near == [site for site in range(40) if distance[site] < reach]


def test_states_that_remember_are_stored_and_wait_as_any_others(tmp_path):
    problem = problem_of(0.2, 8)
    whole = remembering(problem)
    expected = sc.EnKF().assimilate(whole, 8, 4).states
    stored = store.run(sc.EnKF(), whole, 8, tmp_path / "run.zarr", 4, block=2)
    assert torch.equal(stored.analysis.states, expected)
    run = sc.EnKF().start(whole.system, whole.initial, 4)
    for step, (y, model) in whole.observed().items():
        run.forecast(step)
        run.save(tmp_path / "run.safetensors")
        run = sc.resume(tmp_path / "run.safetensors", system=whole.system)
        run.observe(y, model)
        assert torch.equal(run.ensemble, expected[:, step])


def test_bounded_variables_and_dates_stay_what_they_are():
    """Rows of two steps of which the second alone counts: as if they were of that one."""
    inner = FunctionSystem(
        lambda x, p: x * p["rate"][:, None],
        lambda n, g: 1 + rng.normal(n, (2,), g).square(),
        StateSpace((2,), variables=("a", "b"), transforms={"a": Log()}),
        library="torch",
    )
    system = sc.WithParameters(inner, {"rate": Uniform(0.5, 1.0)})
    day = datetime(2026, 1, 1)
    y = torch.tensor([[0.9], [0.2], [0.1]])
    plain = sc.Observations(sc.ObservationModel(Select([0]), std=0.2), [1, 2, 3], y, start=day)
    later = sc.ObservationModel(OverTime(Select([0]), (0.0, 1.0)), std=0.2)
    rows = replace(plain, model=later, steps=[(0, 1), (1, 2), (2, 3)])
    initial = system.prior(12, rng.seeded(0))
    expected = sc.ETKF().assimilate(sc.Problem(system, plain, 3, initial), 12, 0)
    problem = sc.Problem(system, rows, 3, initial)
    found = sc.ETKF().assimilate(remembering(problem), 12, 0)
    assert found.start == day
    states = newest(found, problem).states
    torch.testing.assert_close(states, expected.states, rtol=1e-9, atol=0)
    assert (found.states[..., 0] > 0).all() and (found.states[..., 3] > 0).all()


def test_what_cannot_be_remembered_is_said_in_a_sentence():
    problem = problem_of(0.0, 12)
    single = replace(problem, observations=problem.instruments[1])
    assert remembering(single) is single
    with pytest.raises(ValueError, match="3 steps for 2 weights"):
        OverTime(Select([0]), (1.0, 0.0))(torch.zeros(4, 3, 2))
    system = FunctionSystem(lambda x: x, problem.initial, problem.space, per_member=True)
    dropping = replace(problem, system=Mapped(system, on_failure="drop"))
    with pytest.raises(ValueError, match="on_failure = 'drop' with rows of several steps"):
        remembering(dropping)
    with pytest.raises(ValueError, match="works step by step: use a filter"):
        problem.observed()
