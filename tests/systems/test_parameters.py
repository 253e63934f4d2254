import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.distributions import LogNormal, Normal, Uniform, Value
from scorda.core.space import StateSpace
from scorda.core.transforms import Log, Logit
from scorda.systems import (
    Executable,
    FunctionSystem,
    KolmogorovFlow,
    LinearGaussian,
    Lorenz63,
    Lorenz96,
    Mapped,
    WithParameters,
)
from scorda.testing import check_system

FLOW = KolmogorovFlow(size=16, resolution=16, spinup=0.2)
CASES = {
    "lorenz63": (Lorenz63(), {"rho": Uniform(20, 35), "beta": LogNormal(2.7, 0.1)}),
    "lorenz63 without error": (Lorenz63(noise_std=0), {"sigma": Normal(10, 1)}),
    "lorenz96": (Lorenz96(dim=6, noise_std=0.1, spinup=1), {"forcing": Normal(8, 1)}),
    "kolmogorov": (
        FLOW,
        {
            "viscosity": LogNormal(1e-2, 0.3),
            "drag": Uniform(0.05, 0.2),
            "forcing": Uniform(0.5, 1.5),
        },
    ),
}


def augmented(name, **settings):
    return WithParameters(*CASES[name], **settings)


@pytest.mark.parametrize("evolution", ["constant", "random-walk"])
@pytest.mark.parametrize("name", CASES)
def test_a_system_with_parameters_keeps_the_contract_of_systems(name, evolution):
    check_system(augmented(name, evolution=evolution))


@pytest.mark.parametrize("name", CASES)
def test_each_member_moves_as_the_system_with_its_own_parameters(name):
    """To rounding: members are stacked otherwise."""
    inner, laws = CASES[name]
    system = augmented(name)
    x = system.prior(5, rng.seeded(0))
    moved, fields = system.advance(x), system.fields_of(x)
    assert torch.equal(moved[:, -len(laws) :], x[:, -len(laws) :])
    for i in range(5):
        own = {n: float(values[i]) for n, values in system.values_of(x).items()}
        alone = replace(inner, **own).advance(fields[i : i + 1])[0]
        assert torch.allclose(system.fields_of(moved)[i], alone, rtol=1e-10, atol=1e-12)


def test_members_of_the_prior_are_on_the_attractor_of_their_own_parameters():
    """The energy of Lorenz-96 grows with F: its correlation over 300 members is near 1."""
    laws = {"forcing": Uniform(3.0, 9.0)}
    x = WithParameters(Lorenz96(), laws).prior(300, rng.seeded(0))
    forcing, energy = x[:, -1], x[:, :-1].square().mean(1)
    slope = torch.corrcoef(torch.stack([forcing, energy]))[0, 1]
    assert slope > 0.8


def test_the_space_names_parameters_and_their_bounds():
    space = augmented("lorenz63").space
    assert space.variables == ("x", "y", "z", "rho", "beta")
    assert space.parameters == ("rho", "beta")
    assert space.transforms == {"rho": Logit(20, 35), "beta": Log()}
    flow = augmented("kolmogorov").space
    assert flow.shape == (2 * 16 * 16 + 3,) and flow.parameters == tuple(CASES["kolmogorov"][1])
    assert flow.only("drag").transforms == {"drag": Logit(0.05, 0.2)}
    assert StateSpace.from_json(flow.as_json()) == flow


def test_a_random_walk_has_the_spread_of_its_steps():
    """In its coordinate, after 25 steps of 0.1: half the prior's; 4000 members, std to 4 %."""
    law = Uniform(20, 35)
    system = WithParameters(Lorenz63(spinup=0), {"rho": law}, "random-walk", walk=0.1)
    x = system.prior(4000, rng.seeded(0))
    begin = law.transform.forward(x[:, -1])
    for k in range(25):
        x = system.step(x, rng.seeded(k))
        assert ((x[:, -1] > 20) & (x[:, -1] < 35)).all()
    moved = law.transform.forward(x[:, -1]) - begin
    assert abs(float(moved.std()) / (0.5 * law.spread) - 1) < 0.05


def test_each_parameter_may_have_a_walk_of_its_own():
    walks = {"rho": 0.1}
    system = augmented("lorenz63", evolution="random-walk", walk=walks)
    assert system.unchanging.tolist() == [False, False, False, False, True]
    assert system.noise_std.tolist()[3:] == [0.1 * math.pi / math.sqrt(3), 0.0]


def test_the_density_of_a_step_is_that_of_the_fields_given_the_parameters():
    system = augmented("lorenz63")
    x = system.prior(1, rng.seeded(0))
    following = system.step(x, rng.seeded(1))
    own = {name: float(value) for name, value in system.values_of(x).items()}
    alone = replace(system.system, **own)
    expected = alone.log_transition(system.fields_of(x), system.fields_of(following))
    assert torch.allclose(system.log_transition(x, following), expected)


def test_the_density_of_a_walk_integrates_to_one_over_the_parameter():
    """Trapezoids in rho, with the fields where the model puts them: their peak is divided out."""
    law = Uniform(20, 35)
    system = WithParameters(Lorenz63(spinup=0), {"rho": law}, "random-walk", walk=0.1)
    x = system.prior(1, rng.seeded(0))
    rho = torch.linspace(20.001, 34.999, 4001)
    following = system.advance(x).repeat(4001, 1)
    following[:, -1] = rho
    density = system.log_transition(x.expand(4001, -1), following).exp()
    peak = (2 * math.pi * 0.025) ** -1.5
    assert abs(float(torch.trapezoid(density, rho)) / peak - 1) < 1e-4


def relaxed(x, parameters):
    """A user's model of two sites that relax to a level."""
    return x + parameters["rate"][:, None] * (parameters["level"][:, None] - x)


LAWS = {"rate": Uniform(0, 1), "level": Normal(3, 1)}


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_function_gets_the_parameters_of_each_member(library):
    initial = np.zeros((10, 2))
    system = WithParameters(
        FunctionSystem(relaxed, initial, StateSpace((2,)), library=library), LAWS
    )
    x = system.prior(4, rng.seeded(0))
    expected = x[:, 2:3] * x[:, 3:4]
    assert torch.allclose(system.step(x)[:, :2], expected.expand(4, 2))
    assert system.differentiable == (library == "torch")
    check_system(system)


def single(x, parameters, *, member, step, seed):
    """The same model for one member."""
    assert set(parameters) == {"rate", "level"} and isinstance(parameters["rate"], float)
    return x + parameters["rate"] * (parameters["level"] - x) + member + 10 * step


def test_a_model_of_single_members_gets_numbers_also_on_workers():
    space = StateSpace((2,))
    inner = FunctionSystem(single, np.zeros((10, 2)), space, per_member=True)
    system = WithParameters(inner, LAWS)
    x = system.prior(4, rng.seeded(0))
    moved = system.at(2, [3, 1, 0, 2]).step(x, rng.seeded(1))
    expected = x[:, 2] * x[:, 3] + torch.tensor([3.0, 1.0, 0.0, 2.0]) + 20
    assert torch.allclose(moved[:, 0], expected)
    mapped = Mapped(system, chunk=2).at(2, [3, 1, 0, 2]).step(x, rng.seeded(1))
    assert torch.equal(mapped, moved)


def test_workers_leave_the_bits_as_they_are():
    system = augmented("lorenz63", evolution="random-walk")
    x = system.prior(5, rng.seeded(0))
    moved = Mapped(system, chunk=2).step(x, rng.seeded(1))
    assert torch.equal(moved, system.step(x, rng.seeded(1)))


def test_a_program_gets_parameters_in_its_command(tmp_path):
    code = "import numpy as np; x = np.load('state.npy'); np.save('forecast.npy', {rate} + 0 * x)"
    program = Executable(["python", "-c", code], tmp_path)
    moved = program(np.zeros(2), {"rate": 0.25}, member=0, step=0, seed=1)
    assert moved.tolist() == [0.25, 0.25]


def test_the_truth_of_a_twin_experiment_is_no_member():
    initial = np.arange(8.0).reshape(4, 2)
    inner = FunctionSystem(relaxed, initial, StateSpace((2,)))
    system = WithParameters(inner, LAWS)
    truth = system.prior(1, rng.seeded(0))[0]
    others = system.apart_from(truth).prior(3, rng.seeded(1))
    assert not (others[:, :2] == truth[:2]).all(1).any()


def test_a_parameter_may_have_one_value():
    system = WithParameters(Lorenz63(), {"rho": Value(31.0)})
    x = system.prior(3, rng.seeded(0))
    assert (x[:, 3] == 31).all() and not system.space.transforms
    assert torch.allclose(
        x[:, :3], Lorenz63(rho=31.0).prior(3, rng.spawn(rng.seeded(0), 2)[1]), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("system", "laws", "settings", "words"),
    [
        (Lorenz63(), {}, {}, "no parameters"),
        (Lorenz63(), {"dt": Uniform(0, 1)}, {}, "has sigma, rho, beta"),
        (Lorenz63(), {"rho": 28.0}, {}, "give a law such as"),
        (Lorenz63(), {"rho": Uniform(20, 35)}, {"evolution": "drift"}, "'random-walk'"),
        (Lorenz63(), {"rho": Uniform(20, 35)}, {"positions": {"rho": (1.0,)}}, "space has none"),
        (Lorenz96(), {"forcing": Normal(8, 1)}, {"positions": {"forcing": (1, 2)}}, "each of"),
        (Lorenz96(), {"forcing": Normal(8, 1)}, {"positions": {"F": (1,)}}, "parameters are"),
        (
            Lorenz63(),
            {"rho": Uniform(20, 35)},
            {"evolution": "random-walk", "walk": -1.0},
            "0 or more",
        ),
    ],
)
def test_what_does_not_fit_is_refused(system, laws, settings, words, unchecked):
    with pytest.raises(ValueError, match=words):
        WithParameters(system, laws, **settings)


def test_a_system_whose_error_is_not_additive_is_refused():
    system = LinearGaussian(np.eye(2), np.eye(2), np.zeros(2), np.eye(2))
    with pytest.raises(TypeError, match="additive"):
        WithParameters(system, {"a": Normal(0, 1)})
    with pytest.raises(TypeError, match="additive"):
        WithParameters(augmented("lorenz63"), {"sigma": Normal(10, 1)})


def test_a_full_covariance_of_the_error_stays_that_of_the_fields():
    cov = np.array([[0.4, 0.1], [0.1, 0.2]])
    inner = FunctionSystem(relaxed, np.zeros((9, 2)), StateSpace((2,)), noise_cov=cov)
    walk = functools.partial(WithParameters, inner, LAWS, "random-walk", walk=0.5)
    assert walk().noise_cov.shape == (4, 4)
    assert np.allclose(walk().noise_cov[:2, :2], cov)
    x = WithParameters(inner, LAWS).prior(3, rng.seeded(0))
    fixed = WithParameters(inner, LAWS)
    assert torch.equal(fixed.step(x, rng.seeded(1))[:, 2:], x[:, 2:])
    own = {name: values.clone() for name, values in fixed.values_of(x).items()}
    following = fixed.step(x, rng.seeded(1))
    expected = inner.with_values(own).log_transition(x[:, :2], following[:, :2])
    assert torch.allclose(fixed.log_transition(x, following), expected)
