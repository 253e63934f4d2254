"""Gross errors, named errors, and runs that are stopped: what filters do with bad luck."""

import math
from dataclasses import replace

import pytest
import torch

from scorda.assimilation.gross_errors import gross_errors
from scorda.core import DegenerateEnsemble, DivergenceError, rng
from scorda.core.errors import check_finite, check_spread
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.kalman import KalmanFilter
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.store.posterior import open_posterior
from scorda.store.units import run
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

NAN = float("nan")
OUTLIER = (2, 0)


def linear():
    transition = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    return LinearGaussian(transition, 0.1 * torch.eye(2), torch.zeros(2), torch.eye(2))


def problem_with(value=None, model=None):
    """Both variables observed at 6 steps, one value replaced."""
    model = model or ObservationModel(Select([0, 1]), std=0.5)
    _, problem = twin_experiment(linear(), model, 12, 2, rng.seeded(1))
    values = problem.instruments[0].values.clone()
    if value is not None:
        values[OUTLIER] = value
    return replace(problem, observations=replace(problem.instruments[0], values=values))


def test_gross_errors_are_those_beyond_k_innovation_deviations():
    """By hand: predictions 0 and 2 (variance 2), error 1, so sqrt(3); and weighted 0.75, 0.25."""
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    model = ObservationModel(Select([0, 1]), std=1.0)
    bound = 1 + 4 * 3**0.5
    for y, gross in (((bound - 1e-9, 8.99), [False, False]), ((bound + 1e-9, 9.01), [True, True])):
        assert gross_errors(x, None, torch.tensor(y), model, 4.0).tolist() == gross
    # Mean 0.5; variance (0.75 * 0.25 + 0.25 * 2.25) / (1 - 0.625) = 2, unbiased.
    weights, bound = torch.tensor([0.75, 0.25]), 0.5 + 4 * 3**0.5
    for y, gross in ((bound - 1e-9, False), (bound + 1e-9, True)):
        given = torch.tensor([y, 5.0])
        assert gross_errors(x, weights, given, model, 4.0)[0].item() is gross


@pytest.mark.parametrize("cov", [False, True])
@pytest.mark.parametrize("method", [EnKF(), ETKF(), ParticleFilter(), EnKS()])
def test_a_rejected_value_is_as_if_absent(method, cov):
    """Bit for bit, with correlated errors too; and the count says where."""
    R = torch.tensor([[0.25, 0.1], [0.1, 0.25]])
    model = ObservationModel(Select([0, 1]), cov=R) if cov else None
    robust = replace(method, gross_error_check=6.0)
    spoilt = robust.assimilate(problem_with(40.0, model), 30, rng.seeded(0))
    absent = method.assimilate(problem_with(NAN, model), 30, rng.seeded(0))
    assert torch.equal(spoilt.states, absent.states)
    assert spoilt.info["rejected"].tolist() == [0, 0, 1, 0, 0, 0]
    assert "rejected" not in absent.info


def test_a_value_of_twenty_deviations_does_not_spoil_the_robust_analysis():
    """Against the exact filter without the value: 8000 members, 4 standard errors of a mean."""
    problem = problem_with()
    exact = KalmanFilter().moments(problem_with(NAN))
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    value = problem.instruments[0].values[OUTLIER] + 20 * 0.5
    analysis = EnKF(gross_error_check=6.0).assimilate(problem_with(value), 8000, rng.seeded(0))
    off = ((analysis.mean - exact.means) / std).abs()
    assert off.max() < 4 * 8000**-0.5 * 1.5
    spoilt = EnKF().assimilate(problem_with(value), 8000, rng.seeded(0))
    assert ((spoilt.mean - exact.means) / std).abs().max() > 3


def test_nothing_is_rejected_where_all_is_right():
    """5 standard deviations of right Gaussians: 6e-7 per value."""
    info = EnKF(gross_error_check=5.0).assimilate(problem_with(), 200, rng.seeded(0)).info
    assert info["rejected"].sum() == 0


def test_a_cycle_in_which_all_is_rejected_is_the_forecast():
    system = Lorenz63(noise_std=0.0, spinup=0.5)
    model = ObservationModel(Select([0]), std=1.0)
    values = torch.tensor([[1e6], [2e6]])
    problem = Problem(system, Observations(model, [2, 4], values), 5)
    analysis = EnKF(gross_error_check=10.0).assimilate(problem, 5, rng.seeded(0))
    absent = replace(problem, observations=Observations(model, [2], values[:1] * NAN))
    assert torch.equal(analysis.states, EnKF().assimilate(absent, 5, rng.seeded(0)).states)
    assert analysis.info["rejected"].tolist() == [1, 1]
    assert analysis.info["step"].tolist() == [2, 4]


@pytest.mark.parametrize("value", [0.0, -1.0, NAN])
def test_the_bound_is_checked(value):
    with pytest.raises(ValueError, match="Got gross_error_check"):
        EnKF(gross_error_check=value).assimilate(problem_with(), 5)


def test_members_that_cannot_be_squared_are_not_finite():
    for dtype, bound in ((torch.float32, 1.8e19), (torch.float64, 1.3e154)):
        x = torch.ones(4, 2, dtype=dtype)
        x[1, 0] = -bound
        check_finite(x, "forecast")
        for value in (1.1 * bound, math.inf, NAN):
            x[2:, 1] = value
            with pytest.raises(DivergenceError, match=r"2 of 4 members.*member 2") as caught:
                check_finite(x, "forecast")
            assert caught.value.members == (2, 3)


def test_members_are_equal_where_they_differ_by_rounding():
    x = torch.full((5, 3), 1e5, dtype=torch.float32)
    x[1, 1] += 0.004
    with pytest.raises(DegenerateEnsemble, match="All 5 members are equal"):
        check_spread(x)
    x[1, 1] += 0.1
    check_spread(x)
    # Components without spread are no harm.
    check_spread(torch.tensor([[1.0, 2.0], [1.0, 2.1]]))


def test_members_that_became_equal_stop_the_run_where_it_is_of_use_no_more():
    """A particle filter without jitter on a deterministic model: one member is left at last."""
    start = torch.tensor([[1.0, 1.0, 20.0], [1.0, 1.0, 20.0], [9.0, 9.0, 30.0]])
    model = ObservationModel(Select([0]), std=0.01)
    observations = Observations(model, [0, 3], torch.tensor([[1.0], [2.0]]))
    problem = Problem(Lorenz63(noise_std=0.0), observations, 4, start)
    with pytest.raises(DegenerateEnsemble, match=r"step 3 \(cycle 1\).*jitter") as caught:
        ParticleFilter(resample=1.0).assimilate(problem, 3, rng.seeded(0))
    assert (caught.value.step, caught.value.cycle) == (3, 1)
    assert isinstance(caught.value, ValueError)


def test_an_operator_that_is_not_finite_is_told_from_a_divergence():
    start = torch.tensor([[1.0, 0.0], [4.0, 0.0], [-1.0, 1.0]])
    root = ObservationModel(Function(lambda x: x[:, :1].sqrt()), std=1.0)
    problem = Problem(linear(), Observations(root, [0], torch.ones(1, 1)), 1, start)
    for method in (EnKF(), ETKF(), ParticleFilter()):
        with pytest.raises(DivergenceError, match=r"step 0 \(cycle 0\)") as caught:
            method.assimilate(problem, 3, rng.seeded(0))
        assert "operator is not finite for 1 of 3" in str(caught.value)
        assert caught.value.members == (2,)


def test_an_innovation_that_overflows_is_a_divergence():
    """Its gain would be 0: the analysis is finite, and nothing is assimilated."""
    start = torch.tensor([[1.0, 0.0], [4.0, 0.0], [-1.0, 1.0]])
    model = ObservationModel(Linear(torch.tensor([[1e200, 0.0]])), std=1.0)
    problem = Problem(linear(), Observations(model, [0], torch.ones(1, 1)), 1, start)
    with pytest.raises(DivergenceError, match=r"EnKF stopped at step 0 \(cycle 0\): the innov"):
        EnKF().assimilate(problem, 3, rng.seeded(0))


class Exploding(LinearGaussian):
    """The second member overflows at a step of its own."""

    last, made = 7, 0

    def step(self, x, generator=None):
        x = super().step(x, generator)
        self.made += 1
        if self.made >= self.last:
            x[1] = 1e200
        return x


def exploding():
    base = linear()
    return Exploding(base.transition, base.noise_cov, base.mean, base.cov)


@pytest.mark.parametrize("block", [3, 4, 100])
@pytest.mark.parametrize("method", [EnKF(), ParticleFilter()])
def test_a_stopped_run_opens_with_the_steps_so_far(tmp_path, method, block):
    """In the first block, in a later one, and at the first step of one (block 4: no: step 7)."""
    problem = problem_with()
    truth = torch.zeros(13, 2)
    whole = method.assimilate(problem, 10, rng.seeded(4))
    broken = replace(problem, system=exploding())
    with pytest.raises(DivergenceError, match=r"step 7 \(cycle 3\).*member 1") as caught:
        run(method, broken, 10, tmp_path / "run.zarr", 4, truth=truth, block=block)
    assert caught.value.__notes__ == [f"Steps 0 to 6 are in {tmp_path / 'run.zarr'}."]
    posterior = open_posterior(tmp_path / "run.zarr")
    assert not posterior.complete and posterior.stopped == str(caught.value)
    analysis = posterior.analysis
    assert torch.equal(analysis.states, whole.states[:, :7])
    if whole.weights is not None:
        assert torch.equal(analysis.weights, whole.weights[:, :7])
    assert posterior.truth.shape == (7, 2)
    assert posterior.info["stopped"]["members"] == [1]
    assert posterior.info["report"]["step"] == [2, 4, 6]


def test_a_stopped_run_is_resumed_where_the_cause_is_gone(tmp_path, monkeypatch):
    problem, path = problem_with(), tmp_path / "run.zarr"
    with pytest.raises(DivergenceError):
        run(EnKF(), replace(problem, system=exploding()), 10, path, 4, block=3)
    # Another system would be refused: here the same one works the second time.
    monkeypatch.setattr(Exploding, "last", 1000)
    mended = replace(problem, system=exploding())
    posterior = run(EnKF(), mended, 10, path, 4, block=3, resume=True)
    assert posterior.complete and posterior.stopped is None
    assert "stopped" not in posterior.info
    assert torch.equal(
        posterior.analysis.states, EnKF().assimilate(problem, 10, rng.seeded(4)).states
    )


def test_a_run_that_made_nothing_leaves_nothing(tmp_path):
    problem = replace(problem_with(), initial=torch.ones(5, 2), system=linear())
    at_start = Observations(ObservationModel(Select([0]), std=1.0), [0], torch.ones(1, 1))
    with pytest.raises(DegenerateEnsemble):
        run(EnKF(), replace(problem, observations=at_start), 5, tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())
