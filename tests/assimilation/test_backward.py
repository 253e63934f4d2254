"""Backward simulation: the law of the sum over all particles, and the exact smoother."""

import pytest
import torch
from scipy.stats import chisquare

from scorda.assimilation import backward
from scorda.assimilation.backward import came_from
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.particle import ParticleSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems import FunctionSystem, Lorenz63, Uniform, WithParameters
from scorda.systems.linear import LinearGaussian

PARTICLES, DRAWS = 40, 20_000


def system(noise=0.3):
    transition = torch.tensor([[0.9, 0.3], [-0.2, 0.8]])
    error = noise * torch.tensor([[1.0, 0.4], [0.4, 0.7]])
    return LinearGaussian(transition, error, torch.tensor([1.0, 0.0]), torch.eye(2))


def model():
    return ObservationModel(Select([0]), std=0.7)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dearer", [float("inf"), 8, 0], ids=["sum", "both", "proposals"])
def test_the_law_is_that_of_the_sum_over_all_particles(monkeypatch, dearer, weighted):
    """Frequencies of 20 000 draws for one state: a chi-squared test with p above 1e-3."""
    monkeypatch.setattr(backward, "DEARER", dearer)
    walk = system()
    x = walk.prior(PARTICLES, rng.seeded(1))
    weights = rng.uniform(PARTICLES, (), rng.seeded(2)) if weighted else torch.ones(PARTICLES)
    weights = weights / weights.sum()
    after = torch.tensor([[0.5, -0.4]])
    exact = (weights.log() + walk.log_transition(x, after)).softmax(0)
    given = weights if weighted else None
    drawn = came_from(walk, x, given, after.expand(DRAWS, 2), rng.seeded(3))
    counts = drawn.bincount(minlength=PARTICLES)
    # Chi-squared asks for some draws of each: the least likely are counted together.
    often = exact * DRAWS > 10
    seen = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([exact[often], exact[~often].sum()[None]]) * DRAWS
    assert len(expected) > 10
    assert chisquare(seen, expected).pvalue > 1e-3


def test_each_state_has_particles_of_its_own():
    """Of two far groups of particles, each state takes those that it can come from."""
    walk = system(1e-3)
    x = torch.cat([torch.zeros(500, 2), torch.full((500, 2), 10.0)])
    after = walk.advance(torch.tensor([[10.0, 10.0], [0.0, 0.0]])).repeat(50, 1)
    drawn = came_from(walk, x, None, after, rng.seeded(0)).view(50, 2)
    assert (drawn[:, 0] >= 500).all()
    assert (drawn[:, 1] < 500).all()


def test_smoother_matches_rts():
    """2^14 particles, 4000 paths; 5 standard errors of the paths and half the particles."""
    problem = twin_experiment(system(), model(), 6, 2, rng.seeded(1), start=0)[1]
    exact, particles, paths = KalmanSmoother().moments(problem), 2**14, 4000
    analysis = ParticleSmoother(particles, backward=True).assimilate(problem, paths, 0)
    plain = ParticleSmoother(particles).assimilate(problem, paths, 0)
    states, size = analysis.states, 1 / (1 / paths + 2 / particles)
    variance = exact.covs.diagonal(dim1=-2, dim2=-1)
    assert ((states.mean(0) - exact.means).abs() < 5 * (variance / size).sqrt()).all()
    assert ((states.var(0) - variance).abs() < 5 * variance * (2 / size) ** 0.5).all()
    centred = states - exact.means
    lagged = torch.einsum("eti,etj->tij", centred[:, 1:], centred[:, :-1]) / paths
    product = variance[1:, :, None] * variance[:-1, None, :] + exact.lag_one.square()
    assert ((lagged - exact.lag_one).abs() < 5 * (product / size).sqrt()).all()
    # The filter is the same, and so is its evidence; its paths start from many more particles.
    assert torch.equal(analysis.info["log_evidence"], plain.info["log_evidence"])
    assert analysis.info["ancestors"] > 1.2 * plain.info["ancestors"]


@pytest.mark.parametrize("noise", [0.3, 1e-3], ids=["proposals", "sum"])
def test_a_path_does_not_depend_on_how_many_are_drawn(monkeypatch, noise):
    """As without backward simulation; the parts in which states are compared are small."""
    monkeypatch.setattr(backward, "PART", 2**12)
    problem = twin_experiment(system(noise), model(), 6, 2, rng.seeded(1), start=0)[1]
    smoother = ParticleSmoother(500, backward=True)
    few, many = (smoother.assimilate(problem, paths, 0).states for paths in (7, 300))
    assert torch.equal(few, many[:7])


@pytest.mark.parametrize("fails", [False, True], ids=["nan", "error"])
def test_particles_of_no_weight_need_not_be_advanced(fails):
    """Beyond 2 the model is not finite; the observations leave no particle there."""

    def step(x):
        if fails and (x.abs() > 2).any():
            raise FloatingPointError
        return torch.where(x.abs() > 2, torch.nan, 0.9 * x)

    def wide(members, seed):
        return torch.linspace(-3, 3, members)[:, None]

    space = StateSpace((1,), 1.0, ("x",))
    limited = FunctionSystem(step, wide, space, noise_std=0.1, library="torch")
    seen = Observations(ObservationModel(Select([0]), std=0.02), (0, 1, 2), torch.zeros(3, 1))
    problem = Problem(limited, [seen], 2)
    states = ParticleSmoother(400, backward=True).assimilate(problem, 50, 0).states
    assert (states.abs() < 0.1).all()


def test_a_particle_of_hardly_any_weight_that_becomes_nan_is_no_ones_past(monkeypatch):
    monkeypatch.setattr(backward, "DEARER", float("inf"))
    walk = system()
    x = torch.cat([torch.full((1, 2), torch.nan), torch.zeros(3, 2)])
    weights = torch.tensor([1e-30, 0.5, 0.25, 0.25], dtype=torch.float64)
    drawn = came_from(walk, x, weights, torch.zeros(400, 2), rng.seeded(0))
    assert sorted(drawn.unique().tolist()) == [1, 2, 3]


def test_what_has_no_such_density_is_refused():
    """Systems without model error, with constant parameters, or with models of single members."""
    certain = LinearGaussian(torch.eye(2), torch.zeros(2, 2), torch.zeros(2), torch.eye(2))
    constant = WithParameters(Lorenz63(spinup=0.1), {"rho": Uniform(20, 35)})
    single = FunctionSystem(
        lambda x, **others: x, torch.zeros(99, 1), StateSpace((1,), 1.0, ("x",)), 0.1,
        per_member=True,
    )  # fmt: skip
    for wrong in (certain, constant, single, Lorenz63(noise_std=0, spinup=0.1)):
        with pytest.raises(ValueError, match="additive model error of every variable"):
            ParticleSmoother(20, backward=True).assimilate(Problem(wrong, [], 2), 2, 0)
