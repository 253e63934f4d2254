"""States with bounds: no method, forecast or draw leaves them, and closed forms of their laws."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

import scorda as sc
from scorda.assimilation.filter import Filter
from scorda.assimilation.free import Forecast
from scorda.cli import catalogue
from scorda.core import rng
from scorda.methods.sda import SDA
from scorda.observations import OverTime, remembering
from scorda.observations.operators import Chain, Pointwise, Select
from scorda.priors import GaussianTrajectory, Standardisation
from scorda.systems import (
    FunctionSystem,
    LinearGaussian,
    Log,
    Logit,
    Lorenz96,
    Mapped,
    System,
    Uniform,
)

METHODS = {name: entry.load() for name, entry in catalogue.listed().items()}
BOUNDS = {"humidity": Logit(0.0, 1.0), "rain": Log()}
SITES = 4
SPACE = sc.StateSpace(
    (2, SITES), 1.0, ("humidity", "rain"), {"x": np.arange(SITES)}, transforms=BOUNDS
)


def model(x):
    humidity, rain = x[..., 0, :], x[..., 1, :]
    wetter = humidity + 0.4 * humidity * (1 - humidity)
    return torch.stack([wetter, rain * (0.6 - humidity).exp()], -2)


def first(members, seed):
    z = rng.normal(members, (2, SITES), rng.seeded(seed))
    return SPACE.bounded(1.5 * z)


SYSTEM = FunctionSystem(model, first, SPACE, noise_std=0.5, library="torch")


def problem(system=SYSTEM, initial=None):
    """Humidity is seen beyond its bounds, as additive errors make it, and the log of the rain."""
    humidity = sc.ObservationModel(Select(range(SITES)), std=0.3)
    rain = sc.ObservationModel(Chain(Pointwise(torch.log), Select(range(SITES, 2 * SITES))), 0.5)
    values = torch.tensor([1.2, 1.1, -0.1, -0.2]), torch.tensor([-1.0, -3.0, 0.0, 2.0])
    steps = [0, 2, 4]
    observations = [
        sc.Observations(part, steps, seen.expand(3, -1))
        for part, seen in zip((humidity, rain), values, strict=True)
    ]
    return sc.Problem(system, observations, 5, initial)


def prior(states):
    """A Gaussian law of the coordinates without bounds."""
    one, size = torch.ones(SPACE.shape), states * SPACE.size
    mean = torch.zeros(states, *SPACE.shape)
    return GaussianTrajectory(SPACE, Standardisation(0 * one, one), mean, torch.eye(size))


def assert_inside(states):
    for name, bounds in BOUNDS.items():
        values = SPACE.field(states, name)
        assert ((values > bounds.lower) & (values < bounds.upper)).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_method_leaves_the_bounds(name):
    """Forecasts, analyses and what is handed out, or the method says what it needs instead."""
    task = problem()
    kind = METHODS[name]
    if kind is SDA:
        method = SDA(prior(task.steps + 1))
    else:
        method = kind.example(task)
    members = max(20, method.least_members)
    if "linear" in str(method.needs):
        with pytest.raises(ValueError, match="needs"):
            method.assimilate(task, members, rng.seeded(0))
        return
    states = method.assimilate(task, members, rng.seeded(0)).states
    assert_inside(states)
    if isinstance(method, Filter):
        for cycle in method.run(task, members, rng.seeded(0)):
            assert_inside(cycle.ensemble)
            if cycle.forecast is not None:
                assert_inside(cycle.forecast)


def test_a_linear_observation_of_a_bounded_variable_is_not_linear():
    seen = problem().instruments[0]
    with pytest.raises(ValueError, match=r"PublishedMASF needs a linear .* without bounds"):
        sc.PublishedMASF().assimilate(sc.Problem(SYSTEM, seen, 5), 20, 0)


def of_one(transform, draws, operator, y, std):
    """One number x at step 0, of which f(x) has the given draws, and one observation of it."""
    space = sc.StateSpace((1,), variables=("x",), transforms={"x": transform})
    system = FunctionSystem(lambda x: x, lambda n, seed: draws, space, library="torch")
    seen = sc.Observations(sc.ObservationModel(operator, std=std), [0], [[y]])
    return sc.Problem(system, seen, 0, transform.inverse(draws))


def quantiles(members, std):
    """Members with the quantiles of a normal law, whose means are those of its integrals."""
    z = torch.special.ndtri((torch.arange(members) + 0.5) / members)
    return (std * z / z.std())[:, None]


@pytest.mark.parametrize("method", [sc.ETKF(), sc.EnSRF(), sc.DEnKF()])
def test_a_lognormal_law_has_its_posterior(method):
    r"""ln x ~ N(0, .5), ln y = ln x + N(0, .25), y = 2: mean 1.7254, variance .5399.

    20000 quantiles miss 3e-4 of the mean and 2e-3 of the variance, in the tail. DEnKF has the mean
    of the log, and by its own formula the variance (1 - K/2)^2 P of it.
    """
    draws = quantiles(20_000, math.sqrt(0.5))
    task = of_one(Log(), draws, Pointwise(torch.log), math.log(2), 0.5)
    x = method.assimilate(task, 20_000, rng.seeded(0)).states[:, 0, 0]
    mean, var = 2 / 3 * math.log(2), 1 / 6
    if isinstance(method, sc.DEnKF):
        var = (1 - 1 / 3) ** 2 / 2
    expected = math.exp(mean + var / 2)
    expected_var = expected**2 * math.expm1(var)
    if not isinstance(method, sc.DEnKF):
        assert (round(expected, 4), round(expected_var, 4)) == (1.7254, 0.5399)
    assert abs(float(x.mean()) - expected) < 1e-3
    assert abs(float(x.var()) - expected_var) < 5e-3


def moments(density, lower, upper):
    """Mean and variance of a density that is not normalised, by quadrature."""
    total, first, second = (
        integrate.quad(lambda z, k=k: sigmoid(z) ** k * density(z), lower, upper)[0]
        for k in range(3)
    )
    return first / total, second / total - (first / total) ** 2


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_a_logit_normal_law_has_its_posterior():
    """The logit ~ N(0, 1.5^2), seen with error 0.8 as 2: by quadrature of the Kalman update."""
    draws = quantiles(20_000, 1.5)
    operator = Pointwise(torch.logit)
    x = sc.ETKF().assimilate(of_one(Logit(0, 1), draws, operator, 2.0, 0.8), 20_000, 0).states
    gain = 2.25 / (2.25 + 0.64)
    mean, var = 2 * gain, 2.25 * (1 - gain)
    expected = moments(lambda z: math.exp(-0.5 * (z - mean) ** 2 / var), -10, 15)
    assert abs(float(x.mean()) - expected[0]) < 1e-5
    assert abs(float(x.var()) - expected[1]) < 1e-5


def test_a_value_seen_with_an_additive_error_has_its_posterior():
    """A particle filter against quadrature: 40000 quantiles of the prior, weighted exactly."""
    draws = quantiles(40_000, 1.5)
    task = of_one(Logit(0, 1), draws, Select([0]), 1.05, 0.1)
    found = sc.ParticleFilter(resample=0.0).assimilate(task, 40_000, 0)
    weights, x = found.weights[:, 0], found.states[:, 0, 0]
    mean = (weights * x).sum()
    var = (weights * (x - mean).square()).sum()
    expected = moments(
        lambda z: math.exp(-0.5 * (z / 1.5) ** 2 - 0.5 * ((1.05 - sigmoid(z)) / 0.1) ** 2), -15, 15
    )
    assert abs(float(mean) - expected[0]) < 1e-4
    assert abs(float(var) - expected[1]) < 1e-4


def leaving(x):
    """A model that leaves the bounds in both directions."""
    return 1.5 * x - 0.4


class Rough(System):
    """A user's own system, whose step knows of no bounds."""

    name, stochastic, space = "rough", True, SPACE

    def prior(self, members, generator=None):
        return first(members, rng.key(generator)[0])

    def step(self, x, generator=None):
        return leaving(x) + rng.normal(len(x), tuple(x.shape[1:]), generator)


@pytest.mark.parametrize("noise", [0.0, 0.5, None])
def test_a_model_that_leaves_the_bounds_is_held_inside(noise):
    """With and without model error, of a system of one's own, and on workers, bit for bit."""
    system = Rough()
    if noise is not None:
        system = FunctionSystem(leaving, first, SPACE, noise_std=noise, library="torch")
    task = sc.Problem(system, [], 4)
    states = Forecast().assimilate(task, 50, 3).states
    assert_inside(states)
    assert not ((leaving(states) > 0) & (leaving(states) < 1)).all()
    assert_inside(system.trajectory(system.prior(50, rng.seeded(3)), 4, rng.seeded(4)))
    if noise is not None:
        mapped = sc.Problem(Mapped(system), [], 4)
        assert torch.equal(Forecast().assimilate(mapped, 50, 3).states, states)


def test_what_is_on_a_bound_starts_inside_and_what_is_beyond_is_refused():
    members = first(20, 0)
    members[0, 0, 1], members[1, 1, 2], members[2, 0, 3] = 1.0, 0.0, 0.0
    assert_inside(problem(initial=members).initial)
    assert_inside(sc.ETKF().assimilate(sc.Problem(SYSTEM, [], 1, members), 20, 0).states)
    members[3, 0, 0] = 1.25
    with pytest.raises(ValueError, match=r"1 values of humidity.*initial ensemble.*0 and 1.*1.25"):
        problem(initial=members)
    drawn = FunctionSystem(model, lambda n, seed: first(n, seed) - 0.5, SPACE, library="torch")
    for method in (sc.ETKF(), sc.ESMDA(), sc.ParticleSmoother(particles=50)):
        with pytest.raises(ValueError, match="values of humidity in the draws of the system"):
            method.assimilate(problem(drawn), 20, 0)
    with pytest.raises(ValueError, match="values of humidity in the first state"):
        sc.twin_experiment(drawn, problem().instruments[0].model, 4, 2, 0)


def test_land_is_neither_inside_nor_beyond():
    mask = np.array([True, False])
    space = sc.StateSpace(
        (2,), 1.0, ("q",), {"x": np.arange(2)}, mask=mask, transforms={"q": Logit(1.0, 2.0)}
    )
    space.check_bounds(torch.tensor([[1.5, 0.0], [2.0, torch.nan]]), "states")
    with pytest.raises(ValueError, match="1 values of q in states"):
        space.check_bounds(torch.tensor([[1.5, 0.0], [2.5, 0.0]]), "states")


def test_a_built_in_system_takes_bounds_and_parameters_together():
    plain = Lorenz96(dim=8, noise_std=0.1, spinup=10)
    system = plain.with_transforms({"x": Logit(-25.0, 25.0)})
    assert plain.space.transforms == {}
    whole = sc.WithParameters(system, {"forcing": Uniform(6, 10)})
    assert set(whole.space.transforms) == {"x", "forcing"}
    model = sc.ObservationModel(Select(range(8)), std=1.0)
    _, task = sc.twin_experiment(whole, model, 4, 2, 0)
    states = sc.ETKF().assimilate(task, 20, 1).states
    assert ((states[..., :8] > -25) & (states[..., :8] < 25)).all()
    wide = sc.twin_experiment(Lorenz96(dim=8, noise_std=0.1, spinup=10), model, 4, 2, 0)[1]
    assert not torch.allclose(states[..., :8], sc.ETKF().assimilate(wide, 20, 1).states)


def test_bounds_of_no_variable_and_of_a_gaussian_law_are_refused():
    with pytest.raises(ValueError, match="transform of 'q': the variables are"):
        Lorenz96().with_transforms({"q": Log()})
    one = torch.eye(1)
    linear = LinearGaussian(one, one, torch.zeros(1), one)
    with pytest.raises(ValueError, match=r"bounds of \['x0'\] for a LinearGaussian"):
        linear.with_transforms({"x0": Log()})
    space = sc.StateSpace((1,), transforms={"x0": Log()})
    with pytest.raises(ValueError, match="LinearGaussian"):
        LinearGaussian(one, one, torch.zeros(1), one, space)


def test_a_space_of_parts_takes_bounds():
    part = sc.StateSpace((3,), 1.0, ("q",), {"x": np.arange(3)})
    other = sc.StateSpace((2,), 1.0, ("t",), {"x": np.arange(2)})
    space = sc.StateSpace.of_parts({"a": part, "b": other}).with_transforms({"t": Log()})
    assert space.transforms == {"t": Log()} and space.parts["b"].transforms == {"t": Log()}
    assert sc.StateSpace.from_json(space.as_json()) == space


def test_states_that_remember_have_the_bounds_of_those_that_they_remember():
    mean = OverTime(Select([0, 5]))
    seen = sc.ObservationModel(mean, std=0.2)
    observations = sc.Observations(seen, [(1, 2, 3)], torch.tensor([[1.4, -0.2]]))
    task = remembering(sc.Problem(SYSTEM, observations, 4))
    assert set(task.space.transforms) == {
        f"{name}{back}" for name in BOUNDS for back in ("", "_1_before", "_2_before")
    }
    states = sc.ETKF(1.1).assimilate(task, 20, 0).states
    for name, bounds in task.space.transforms.items():
        values = task.space.field(states, name)
        assert ((values > bounds.lower) & (values < bounds.upper)).all(), name
