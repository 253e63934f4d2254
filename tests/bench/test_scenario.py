"""Scores of smoothed trajectories are what their names say."""

from dataclasses import replace

import pytest
import torch

from scorda.bench.entry import Entry
from scorda.bench.scenario import Scenario, defect
from scorda.bench.setups.kolmogorov_scenarios import kolmogorov_ring
from scorda.core import rng
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Multistep
from scorda.methods.sda import SDA
from scorda.observations.analysis import Analysis
from scorda.observations.operators import Operator
from scorda.observations.spatial import Average
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.trajectory import load
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63


class Last(Operator):
    """The difference of two states."""

    linear = True

    def __call__(self, x):
        return x[:, 1] - x[:, 0]


class Copies:
    """A method that returns given trajectories."""

    def __init__(self, states):
        self.states = states

    def assimilate(self, problem, members, generator=None):
        info = {"evaluations": 3, "seconds": 6.0}
        return Analysis(self.states, problem.space, None, info, "copies")


SIZE = 24
SYSTEM = LinearGaussian(
    0.9 * torch.eye(SIZE),
    noise_cov=0.3 * torch.eye(SIZE),
    mean=torch.zeros(SIZE),
    cov=torch.eye(SIZE),
)


def scenario(**changes):
    settings = {
        "system": SYSTEM,
        "operator": Average(2),
        "std": 0.4,
        "steps": 7,
        "observed": (0, 3, 6),
        "entries": (),
        "source": "test",
    }
    return Scenario(**(settings | changes))


@pytest.mark.slow
def test_residual_of_exact_draws_is_the_error_of_observation():
    """10 truths of 36 values: the standard error of their mean square is sqrt(2 / 360) = 0.075."""
    exact = Multistep(24, 0, min_noise=1e-2, max_noise=1e2)
    # Equal and independent components: three eigenvalues, so three products are all it takes.
    entry = Entry("exact", SDA(GaussianTrajectory.of(SYSTEM, 7), MMPS(3), exact), 20)
    setup = scenario()
    scores = [setup.score(entry, setup.prepare(seed), seed) for seed in range(10)]
    square = sum(s["residual"] ** 2 for s in scores) / 10
    assert square == pytest.approx(1.0, abs=3 * 0.075)


def test_the_truth_has_the_residual_of_its_errors_and_no_other_error():
    setup = scenario()
    given = setup.prepare(1)
    scores = setup.score(Entry("truth", Copies(given.truth.expand(4, -1, -1)), 4), given, 1)
    y = given.problem.instruments[0].values
    errors = (y - setup.operator(given.truth[[0, 3, 6]])) / 0.4
    assert scores["residual"] == pytest.approx(float(errors.square().mean().sqrt()))
    assert scores["rmse"] == 0 and scores["crps"] == 0
    assert scores["evaluations"] == 3 and scores["member_seconds"] == 1.5


def test_the_defect_is_what_the_model_error_leaves():
    """0 without model error; with it, its share of a step."""
    truth = Lorenz63(noise_std=0.0)
    path = truth.trajectory(truth.prior(3, rng.seeded(0)), 20)
    assert defect(path, truth) < 1e-5
    stills = path[:, :1].expand(-1, 5, -1)
    assert defect(stills + torch.arange(5)[:, None], Still()) == pytest.approx(1.0)


class Still(Lorenz63):
    """A model in which nothing moves."""

    def advance(self, x):
        return x

    @property
    def stochastic(self):
        return False

    def __init__(self):
        super().__init__(noise_std=0.0)


def test_what_is_wanted_needs_no_truth():
    setup = scenario(operator=Last(), std=0.1, observed=((0, 7),), wanted=2.0)
    given = setup.prepare(0)
    assert given.truth is None
    assert torch.equal(given.problem.instruments[0].values, torch.full((1, SIZE), 2.0))
    states = torch.zeros(2, 8, SIZE)
    states[:, 7] = 1.5
    scores = setup.score(Entry("copies", Copies(states), 2), given, 0)
    assert scores["residual"] == pytest.approx(5.0) and "rmse" not in scores


@pytest.mark.slow
def test_scenarios_take_priors_of_any_sampler(tmp_path):
    """The whole variance of a step is a setting of `Ancestral` alone."""
    prior = replace(load("kolmogorov"), sampler=Multistep(8, 0))
    prior.save(tmp_path / "flow.safetensors")
    names = [entry.label for entry in kolmogorov_ring(str(tmp_path / "flow.safetensors")).entries]
    assert names == ["SDA", "16 evaluations"]
    assert "upper = 0.5" in [entry.label for entry in kolmogorov_ring().entries]
