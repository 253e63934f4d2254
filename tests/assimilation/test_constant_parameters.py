"""Sweeps with constant parameters, against posteriors on a grid and in closed form."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.assimilation.constant_parameters import ConstantParameters, with_constants
from scorda.core import rng
from scorda.core.distributions import LogNormal, Normal, Uniform
from scorda.core.space import StateSpace
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.systems import LinearGaussian, WithParameters
from scorda.systems.base import AdditiveNoise, along

STEPS, OBSERVED, STD, ERROR = 8, (0, 2, 3, 5, 8), 0.5, 0.4
VALUES = torch.tensor([1.8, 0.9, 0.7, -0.4, 0.9])


@dataclass(frozen=True)
class Autoregressive(AdditiveNoise):
    """x' = a x + f + e, which starts from its stationary law: the start depends on both."""

    a: float = 0.5
    f: float = 0.0
    noise_std: float = STD
    space: StateSpace = field(default_factory=lambda: StateSpace((1,), 1.0, ("x",)))
    name: str = "autoregressive"
    parameters = ("a", "f")

    def advance(self, x):
        return along(self.a, 1) * x + along(self.f, 1)

    def prior(self, members, generator=None):
        a, f = (torch.as_tensor(v).expand(members)[:, None] for v in (self.a, self.f))
        white = rng.normal(members, (1,), generator)
        return f / (1 - a) + self.noise_std / (1 - a.square()).sqrt() * white


def problem(laws, **settings):
    system = WithParameters(Autoregressive(), laws, **settings)
    seen = Observations(ObservationModel(Select([0]), std=ERROR), OBSERVED, VALUES[:, None])
    return Problem(system, seen, STEPS)


def log_evidence(a, f):
    """The filter of Kalman at each value."""
    mean, var, total = f / (1 - a), STD**2 / (1 - a**2), torch.zeros_like(a + f)
    for k in range(STEPS + 1):
        if k in OBSERVED:
            y, spread = VALUES[OBSERVED.index(k)], var + ERROR**2
            total = total - 0.5 * ((y - mean) ** 2 / spread + (2 * math.pi * spread).log())
            mean, var = mean + var / spread * (y - mean), var * ERROR**2 / spread
        mean, var = a * mean + f, a**2 * var + STD**2
    return total


def draws(laws, count, points=400):
    """Draws of the exact posterior of parameters: of midpoints that have equal mass a priori."""
    middle = (torch.arange(points) + 0.5) / points
    grid = torch.cartesian_prod(*[law.quantile(middle) for law in laws.values()])
    named = dict(zip(laws, grid.reshape(-1, len(laws)).unbind(1), strict=True))
    log_w = log_evidence(named.get("a", torch.tensor(0.5)), named.get("f", torch.tensor(0.0)))
    chosen = log_w.softmax(0).multinomial(count, replacement=True)
    return torch.stack([value[chosen] for value in named.values()], 1)


def started(exact, place, width, count):
    """Trajectories that know of no observation, whose parameters lie around one place."""
    torch.manual_seed(1)
    system = exact.system
    values = {}
    for name, law in system.laws.items():
        probability = (place + width * (torch.rand(count) - 0.5)).clamp(1e-3, 1 - 1e-3)
        values[name] = law.quantile(probability)
    return system.trajectory(system.prior_given(values, 2), STEPS, rng.seeded(3))


def w1(x, reference):
    """Mean over the columns of the distance of quantiles, in standard deviations."""
    level = (torch.arange(1000) + 0.5) / 1000
    apart = x.quantile(level, 0) - reference.quantile(level, 0)
    return float((apart.abs().mean(0) / reference.std(0)).mean())


LAWS = {
    "logit": {"a": Uniform(-0.9, 0.95)},
    "log": {"f": LogNormal(0.3, 0.8)},
    "cut": {"a": Normal(0.6, 0.3, -0.9, 0.9)},
    "none": {"f": Normal(0.0, 1.0)},
    "two": {"a": Uniform(-0.9, 0.95), "f": LogNormal(0.3, 0.8)},
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1.0, 0.02], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", LAWS)
def test_sweeps_lead_to_the_posterior_of_parameters(name, width):
    """From the prior, and from nearly one value at its edge: moments within 4 standard errors.

    W1 is that of as many exact draws, of which 20 sets are the measure. A narrow start takes more
    sweeps: it does not tell where the posterior is, and half of the values are tried for nothing.
    """
    laws, count = LAWS[name], 400
    exact = problem(laws)
    torch.manual_seed(0)
    expected = draws(laws, 40_000, 400 if len(laws) == 1 else 150)
    x = started(exact, 0.5 if width == 1 else 0.95, width, count)
    moved = ConditionalSMC(14 if width == 1 else 28, 64).improved(x, exact, rng.seeded(5))
    assert torch.equal(moved[:, 0, 1:], moved[:, -1, 1:])
    floors = torch.tensor([w1(draws(laws, count, 150), expected) for _ in range(20)])
    before, after = x[:, 0, 1:], moved[:, 0, 1:]
    assert w1(before, expected) > floors.mean() + 5 * floors.std()
    assert w1(after, expected) < floors.mean() + 4 * floors.std()
    for power in (1, 2):
        z, reference = ((s - expected.mean(0)) ** power for s in (after, expected))
        error = reference.std(0) / count**0.5
        assert ((z.mean(0) - reference.mean(0)).abs() < 4 * error).all()


def augmented(walk=0.0, a=0.5):
    """The same chain with a force of law N(0, 1), as a linear system of two variables."""
    transition = torch.tensor([[a, 1.0], [0.0, 1.0]])
    pull = 1 / (1 - a)
    cov = torch.tensor([[pull**2 + STD**2 / (1 - a**2), pull], [pull, 1.0]])
    noise = torch.diag(torch.tensor([STD**2, walk**2]))
    return LinearGaussian(transition, noise, torch.zeros(2), cov)


@pytest.mark.slow
def test_a_sweep_leaves_states_and_an_unknown_force_as_they_are():
    """Exact draws stay exact: means and variances of 18 numbers within 4 standard errors."""
    exact, count = problem({"f": Normal(0.0, 1.0)}), 3000
    linear = Problem(augmented(), exact.instruments, STEPS)
    moments = KalmanSmoother().moments(linear)
    std = moments.covs.diagonal(dim1=1, dim2=2).sqrt()
    drawn = KalmanSmoother().assimilate(linear, count, rng.seeded(1)).states
    for paths, right in ((drawn, True), (started(exact, 0.5, 1.0, count), False)):
        moved = ConditionalSMC(1, 16).improved(paths, exact, rng.seeded(2))
        z = (moved - moments.means) / std
        mean = z.mean(0).abs() * count**0.5
        var = (z.square().mean(0) - 1).abs() * (count / 2) ** 0.5
        assert bool((mean < 4).all() and (var < 4).all()) == right
        assert (moved[:, 0, 1] != paths[:, 0, 1]).double().mean() > 0.3


@pytest.mark.slow
def test_a_constant_beside_a_parameter_that_walks():
    """Coefficient a constant, force a random walk: Kalman's evidence of both, on a grid of a."""
    count, walk, law = 400, 0.3, Uniform(-0.5, 0.9)
    laws = {"a": law, "f": Normal(0.0, 1.0)}
    exact = problem(laws, evolution="random-walk", walk={"f": walk})
    grid = law.quantile((torch.arange(100) + 0.5) / 100)
    log_w = torch.tensor(
        [
            float(
                KalmanFilter()
                .assimilate(Problem(augmented(walk, float(a)), exact.instruments, STEPS), 2, 0)
                .info["log_evidence"]
                .sum()
            )
            for a in grid
        ]
    )
    torch.manual_seed(0)
    expected = grid[log_w.softmax(0).multinomial(40_000, replacement=True)][:, None]
    x = started(exact, 0.95, 0.1, count)
    moved = ConditionalSMC(14, 64).improved(x, exact, rng.seeded(5))
    a = moved[:, 0, 1:2]
    assert w1(x[:, 0, 1:2], expected) > 0.5
    assert abs(a.mean() - expected.mean()) < 4 * expected.std() / count**0.5
    assert w1(a, expected) < 4 * count**-0.5
    assert torch.equal(moved[:, 0, 1], moved[:, -1, 1])
    assert not torch.equal(moved[:, 0, 2], moved[:, -1, 2])


@pytest.mark.parametrize("name", LAWS)
def test_weighted_values_have_their_prior(name):
    """Whatever trajectories there were: the mean of p / q is 1, and weighted moments are those of
    the prior, within 4 standard errors of 20 000 values."""
    exact = problem(LAWS[name])
    system = exact.system
    law = ConstantParameters.of(system, started(exact, 0.8, 0.3, 50))
    assert law.cov is not None
    x = law.started(started(exact, 0.5, 1.0, 1)[:, 0], 20_000, 1, rng.seeded(4))[1:, 0]
    ratio = law.log_ratio(x).exp()
    assert ratio.max() <= 2
    terms = [torch.ones_like(ratio)]
    wanted = [1.0]
    for parameter, value in system.values_of(x).items():
        points = system.laws[parameter].quantile((torch.arange(10_000) + 0.5) / 10_000)
        median = points.median()
        terms += [(value < median).double(), (value < points.quantile(0.1)).double()]
        wanted += [0.5, 0.1]
    for term, share in zip(terms, wanted, strict=True):
        weighted = ratio * term
        assert abs(weighted.mean() - share) < 4 * weighted.std() / len(ratio) ** 0.5 + 1e-4


def test_constants_of_rough_trajectories_are_made_constant_and_nothing_else():
    exact = problem(LAWS["two"])
    x = started(exact, 0.5, 1.0, 3)
    rough = x.clone()
    rough[:, ::2, 1:] += 0.01
    flat = with_constants(rough, exact.system)
    assert torch.equal(flat[:, 0, 1:], flat[:, -1, 1:]) and torch.equal(flat[..., 0], x[..., 0])
    assert torch.equal(with_constants(flat, exact.system), flat)
    assert with_constants(rough, Autoregressive()) is rough


def test_one_trajectory_and_equal_ones_take_values_of_the_prior():
    exact = problem(LAWS["two"])
    for paths in (started(exact, 0.5, 1.0, 1), started(exact, 0.5, 1.0, 1).expand(8, -1, -1)):
        assert ConstantParameters.of(exact.system, paths).cov is None
        moved = ConditionalSMC(2, 16).improved(paths, exact, 1)
        assert moved.shape == paths.shape and moved.isfinite().all()


@pytest.mark.parametrize("seen", [OBSERVED, (0, 2, 3, 5, 6)], ids=["end", "before"])
def test_values_that_drive_the_system_beyond_all_numbers_have_no_weight(seen):
    """Also where nothing is observed afterwards, at step 8."""

    class Exploding(Autoregressive):
        def advance(self, x):
            return torch.where(along(self.a, 1) > 0.9, x * torch.nan, super().advance(x))

    exact = problem({"a": Uniform(-0.9, 0.89)})
    paths = started(exact, 0.5, 1.0, 20)
    system = WithParameters(Exploding(), {"a": Uniform(-0.9, 30.0)})
    steps = [replace(part, steps=seen) for part in exact.instruments]
    moved = ConditionalSMC(4, 32).improved(paths, Problem(system, steps, STEPS), rng.seeded(1))
    assert moved.isfinite().all() and moved[..., 1].max() <= 0.9
    assert not torch.equal(moved, paths)


def test_constants_that_cannot_be_tried_are_refused():
    exact = problem(LAWS["logit"])
    x = started(exact, 0.5, 1.0, 2)
    with pytest.raises(ValueError, match=r"particles = 7 .* give at least 8"):
        ConditionalSMC(1, 7).improved(x, exact, 1)

    class Fixed(Autoregressive):
        unchanging = torch.tensor([True])

    with pytest.raises(ValueError, match="make them parameters"):
        ConditionalSMC(1, 8).improved(x[..., :1], Problem(Fixed(), [], STEPS), 1)
