"""SDA with weights and with sweeps, against the exact smoother and evidence of Kalman."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from scorda import store
from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.core import rng
from scorda.diffusion.guidance import MMPS, InflatedLikelihood
from scorda.diffusion.samplers import PredictorCorrector
from scorda.diffusion.twisted import Twisted
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.methods.sda import SDA, WindowForecast
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.store.corrections import corrections_of
from scorda.systems.linear import LinearGaussian

# Few levels and small groups, whose weights are told to be poor.
pytestmark = pytest.mark.filterwarnings("ignore:The log evidence:UserWarning")

STEPS, RUNS, GROUP = 9, 12, 256


def problem(std=0.1**0.5):
    """Table 19.6 c: AR(1) with correlation .9 and variance 1, every second state observed."""
    one = torch.eye(1)
    system = LinearGaussian(0.9 * one, 0.19 * one, torch.zeros(1), one)
    values = torch.tensor([[0.8], [-0.2], [-0.9], [0.4], [1.1]])
    model = ObservationModel(Select([0]), std=std)
    return Problem(system, Observations(model, range(0, STEPS + 1, 2), values), STEPS)


def sda(problem, **settings):
    return SDA(GaussianTrajectory.of(problem.system, problem.steps), **settings)


def evidence(problem):
    return KalmanFilter().assimilate(problem, 2, 0).info["log_evidence"].sum()


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [None, MMPS(1)], ids=["standard", "moments"])
def test_weighted_members_are_those_of_the_smoother(guidance):
    """Of each group means within .07 std on average, as in the table; evidence within 4 errors.

    The steps leave an error of log Z of .05 at 64 levels with the lower bound of the variance, and
    of some .01 between the bounds.
    """
    exact = KalmanSmoother().moments(problem())
    method = sda(problem(), guidance=guidance, sampler=Twisted(64, GROUP))
    analysis = method.assimilate(problem(), RUNS * GROUP, rng.seeded(2))
    std = exact.covs[..., 0].sqrt()
    z = (analysis.states - exact.means) / std
    groups = z.view(RUNS, GROUP, STEPS + 1).mean(1)
    error = groups.std(0) / RUNS**0.5
    # Ten numbers, and what the levels leave.
    assert (groups.mean(0).abs() < 4 * error + 0.03).all()
    assert ((z.square().mean(0) - 1).abs() < 0.15).all()
    ratio = (analysis.info["log_evidence"] - evidence(problem())).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / RUNS**0.5 + 0.03
    assert analysis.info["evaluations"] == 64 * (1 if guidance is None else 6)


def test_sweeps_make_the_smoother_of_members_of_any_guidance():
    """A narrow guidance and no correction is off by many errors; 8 sweeps mend it."""
    exact = KalmanSmoother().moments(problem())
    rough = sda(problem(), guidance=InflatedLikelihood(), sampler=PredictorCorrector(16, 0))
    polished = replace(rough, polish=ConditionalSMC(8, 16))
    std = exact.covs[..., 0].sqrt()
    for method, right in ((rough, False), (polished, True)):
        z = (method.assimilate(problem(), 2048, rng.seeded(1)).states - exact.means) / std
        mean, var = z.mean(0).abs() * 2048**0.5, (z.square().mean(0) - 1).abs() * 1024**0.5
        assert bool((mean < 4).all() and (var < 4).all()) == right


SETTINGS = {
    "weights": {"sampler": Twisted(8, 32)},
    "sweeps": {"sampler": PredictorCorrector(8, 0), "polish": ConditionalSMC(2, 4)},
    "both": {"sampler": Twisted(8, 48), "polish": ConditionalSMC(1, 4)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_members_depend_on_their_number_alone(name):
    method = sda(problem(), **SETTINGS[name])
    whole = method.assimilate(problem(), 70, rng.seeded(1)).states
    parts = [
        method.assimilate_members(problem(), low, min(low + 13, 70), rng.seeded(1)).states
        for low in range(0, 70, 13)
    ]
    assert len(whole) == 70 and torch.equal(torch.cat(parts), whole)


def test_few_members_take_no_more_groups_than_hold_them():
    """8 members are swept in a group of 64, which one group of 100 of the sampler holds."""
    method, told = sda(problem(), sampler=Twisted(8, 100), polish=ConditionalSMC(1, 4)), []
    method.assimilate(problem(), 8, rng.seeded(1), report=lambda *now: told.append(now))
    assert told[-1] == (8, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_corrections_stay_on_the_device_of_the_prior(name):
    method = sda(problem(), **SETTINGS[name])
    method = replace(method, prior=method.prior.to("cuda"))
    states = method.assimilate(problem(), 4, rng.seeded(1)).states
    assert states.device.type == "cuda" and states.isfinite().all()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_store_holds_the_members_and_reports_of_all_groups(name, tmp_path):
    method, path = sda(problem(), **SETTINGS[name]), tmp_path / "run.zarr"
    expected = method.assimilate(problem(), 200, rng.seeded(1))
    posterior = store.run(method, problem(), 200, path, seed=1, block=50)
    # Products of a Gaussian denoiser round by the size of a batch.
    assert_close(posterior.analysis.states, expected.states, atol=1e-12, rtol=0)
    said = " ".join(corrections_of(posterior))
    assert ("Log evidence" in said) == (name != "sweeps")
    assert ("Sweeps replaced" in said) == (name != "weights")
    whole = posterior.info["report"].get("log_evidence", [])
    groups = [value for unit in whole for value in unit]
    if name == "weights":
        assert groups == expected.info["log_evidence"].tolist()


def test_a_run_goes_on_to_the_same_bytes(tmp_path):
    method, path = sda(problem(), **SETTINGS["both"]), tmp_path / "run.zarr"
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(method, problem(), 500, path, seed=1, progress=stop)
    resumed = store.run(method, problem(), 500, path, seed=1, resume=True)
    whole = store.run(method, problem(), 500, tmp_path / "whole.zarr", seed=1)
    assert torch.equal(resumed.analysis.states, whole.analysis.states)
    assert resumed.info["report"]["renewed"] == whole.info["report"]["renewed"]


def test_weights_that_must_not_be_trusted_are_told():
    """Five precise values, a narrow twist: log evidences of groups of 8 differ by more than 1."""
    precise = problem(0.01)
    narrow = sda(precise, guidance=InflatedLikelihood(), sampler=Twisted(16, 8))
    with pytest.warns(UserWarning, match="must not be trusted"):
        narrow.assimilate(precise, 64, rng.seeded(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sda(problem(), sampler=Twisted(32, 64)).assimilate(problem(), 128, rng.seeded(1))


def test_a_single_group_is_said_to_tell_nothing_of_its_weights(tmp_path):
    method = sda(problem(), sampler=Twisted(8, 32))
    one, two = (
        " ".join(corrections_of(store.run(method, problem(), n, tmp_path / f"{n}.zarr", seed=1)))
        for n in (32, 33)
    )
    assert "of 1 group, which cannot tell" in one and "standard deviation" not in one
    assert "of 2 groups (standard deviation" in two


def test_forecasts_are_not_corrected():
    """Each member would take a group of its own, or a system that a forecast is made without."""
    method = sda(problem(), **SETTINGS["both"])
    past = method.assimilate(problem(), 3, rng.seeded(1)).states[:, -2:]
    plain = replace(method, sampler=None, polish=None)
    empty = Problem(problem().system, [], STEPS - 1)
    states = [WindowForecast(m, past).assimilate(empty, 3, 1).states for m in (method, plain)]
    assert torch.equal(*states)


def test_a_system_without_density_is_refused_before_anything_is_drawn():
    certain = problem().system
    certain = LinearGaussian(certain.transition, torch.zeros(1, 1), certain.mean, certain.cov)
    method = sda(problem(), polish=ConditionalSMC())
    with pytest.raises(ValueError, match=r"a system with model error.*leave `polish` out"):
        method.assimilate(replace(problem(), system=certain), 4, 1)
