import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.systems.base import System
from scorda.systems.function import FunctionSystem
from scorda.systems.load import load_system
from scorda.systems.lorenz import Lorenz96

SPACE = StateSpace((2, 3), 0.1, variables=("q",))


def numpy_model(x):
    return 0.5 * np.roll(x, 1, axis=-1) + 1


def torch_model(x):
    return 0.5 * x.roll(1, -1) + 1


def states(members, seed):
    return np.random.default_rng(seed).normal(size=(members, 2, 3))


def test_numpy_and_torch_models_agree():
    x = rng.normal(4, (2, 3), rng.seeded(0))
    by_numpy = FunctionSystem(numpy_model, states, SPACE)
    by_torch = FunctionSystem(torch_model, x, SPACE, library="torch")
    assert torch.equal(by_numpy.step(x), by_torch.step(x))


def test_leading_axes_are_one_call_with_members_first():
    seen = []

    def model(x):
        seen.append(x.shape)
        return x

    system = FunctionSystem(model, states, SPACE)
    assert system.step(torch.zeros(4, 5, 2, 3)).shape == (4, 5, 2, 3)
    assert system.step(torch.zeros(2, 3)).shape == (2, 3)
    assert seen == [(20, 2, 3), (1, 2, 3)]


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_model_that_works_in_place_leaves_its_input_alone(library):
    def model(x):
        x += 1
        return x

    system = FunctionSystem(model, states, SPACE, library=library)
    x = torch.zeros(2, 2, 3)
    assert torch.equal(system.step(x), torch.ones(2, 2, 3))
    assert torch.equal(x, torch.zeros(2, 2, 3))


def test_gradients_flow_through_a_torch_model():
    system = FunctionSystem(torch_model, states, SPACE, library="torch")
    x = torch.zeros(1, 2, 3, requires_grad=True)
    system.step(x).sum().backward()
    assert torch.equal(x.grad, torch.full((1, 2, 3), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    system = FunctionSystem(numpy_model, states, SPACE, noise_std=0.1)
    assert system.step(torch.zeros(3, 2, 3, dtype=dtype), rng.seeded(0)).dtype == dtype


def test_initial_array_is_drawn_without_replacement():
    array = np.arange(10.0)[:, None, None] + np.zeros((10, 2, 3))
    system = FunctionSystem(numpy_model, array, SPACE)
    drawn = system.prior(10, rng.seeded(0))[:, 0, 0]
    assert sorted(drawn.tolist()) == list(range(10))
    assert torch.equal(system.prior(4, rng.seeded(0))[:, 0, 0], drawn[:4])
    with pytest.raises(ValueError, match="11 members of 10 initial states"):
        system.prior(11)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_truth_of_a_twin_experiment_is_no_member(library):
    """Whatever the seed; one state more than members is enough, as many are too few."""
    array = rng.normal(9, (2, 3), rng.seeded(0))
    array[4] = array[3]
    initial = array.numpy() if library == "numpy" else array.float()
    model = {"numpy": numpy_model, "torch": torch_model}[library]
    system = FunctionSystem(model, initial, SPACE, library=library)
    observed, truths = ObservationModel(Select([0]), std=1.0), set()
    for seed in range(20):
        truth, problem = twin_experiment(system, observed, 2, 1, rng.seeded(seed))
        members = problem.members_at_start(7, rng.seeded(seed))
        assert not (members == truth[0]).flatten(1).all(1).any()
        truths.add(truth[0, 0, 0].item())
    assert len(truths) > 4
    with pytest.raises(ValueError, match=r"9 members of [78] initial states besides the truth"):
        problem.members_at_start(9)


def test_an_initial_without_randomness_cannot_be_a_twin_experiment():
    system = FunctionSystem(numpy_model, lambda members, seed: states(members, 0), SPACE)
    model = ObservationModel(Select([0]), std=1.0)
    _, problem = twin_experiment(system, model, 2, 1, rng.seeded(0))
    with pytest.raises(ValueError, match="returned the truth of this twin experiment"):
        problem.members_at_start(4, rng.seeded(1))


def test_a_stored_truth_is_found_among_the_states():
    array = rng.normal(5, (2, 3), rng.seeded(0))
    system = FunctionSystem(torch_model, array, SPACE, library="torch")
    assert len(system.apart_from(array[2].float()).prior(4)) == 4
    with pytest.raises(ValueError, match="5 members of 4"):
        system.apart_from(array[2].float()).prior(5)


CHANNELS = StateSpace((2, 3), variables=("t", "q"))


@pytest.mark.parametrize("std", [(2.0, 1e-3), torch.tensor([[1.0, 0, 2], [3, 4, 5]])])
def test_model_error_per_variable_and_per_entry(std):
    """20 000 draws: the standard error of a standard deviation is 0.5 %."""
    std = torch.as_tensor(std).double()
    system = FunctionSystem(torch_model, states, CHANNELS, noise_std=std, library="torch")
    x = torch.zeros(20_000, 2, 3)
    error = system.step(x, rng.seeded(0)) - system.advance(x)
    expected = (std[:, None] if std.ndim == 1 else std).expand(2, 3)
    assert torch.allclose(error.std(0), expected, rtol=0.02, atol=0)
    assert system.stochastic


def test_model_error_with_a_covariance():
    """Its draws have the covariance, 20 000 of them within 3 %, and its density is exact."""
    root = torch.tensor([1.0, 1.0, 1.0, 1e-4, 1e-4, 1e-4])[:, None] * rng.normal(
        6, (6,), rng.seeded(1)
    )
    cov = root @ root.mT
    system = FunctionSystem(torch_model, states, CHANNELS, library="torch", noise_cov=cov)
    x = torch.zeros(20_000, 2, 3)
    error = (system.step(x, rng.seeded(0)) - system.advance(x)).flatten(1)
    unit = cov.diagonal().sqrt()
    assert torch.allclose(
        error.T.cov() / unit[:, None] / unit, cov / unit[:, None] / unit, atol=0.03
    )
    law = torch.distributions.MultivariateNormal(torch.zeros(6), cov)
    found = system.log_transition(x[:4], system.advance(x[:4]) + error[:4].view(4, 2, 3))
    assert torch.allclose(found, law.log_prob(error[:4]), atol=1e-4)


def test_density_of_model_error_per_variable():
    system = FunctionSystem(torch_model, states, CHANNELS, noise_std=(2.0, 1e-3), library="torch")
    x, e = torch.zeros(1, 2, 3), rng.normal(1, (2, 3), rng.seeded(0))
    std = torch.tensor([2.0, 1e-3])[:, None].expand(2, 3)
    found = system.log_transition(x, system.advance(x) + std * e)
    expected = torch.distributions.Normal(torch.zeros(2, 3), std).log_prob(std * e).sum()
    assert torch.allclose(found, expected)
    still = FunctionSystem(torch_model, states, CHANNELS, noise_std=(2.0, 0.0), library="torch")
    assert still.stochastic
    with pytest.raises(TypeError, match="no transition density"):
        still.log_transition(x, x)


def test_bad_model_errors_are_named(unchecked):
    for options, words in [
        ({"noise_std": (1.0, 2.0, 3.0)}, r"one for each of the variables \('t', 'q'\)"),
        ({"noise_std": (1.0, -2.0)}, "not negative"),
        ({"noise_cov": torch.eye(2)}, r"one row and one column per entry.*\(6, 6\)"),
        ({"noise_cov": torch.ones(6, 6).triu()}, "not symmetric"),
        ({"noise_cov": -torch.eye(6)}, "positive semidefinite"),
        ({"noise_cov": torch.eye(6), "noise_std": 0.1}, "give one of them"),
    ]:
        with pytest.raises(ValueError, match=words):
            FunctionSystem(numpy_model, states, CHANNELS, **options)


def test_initial_callable_gets_a_seed_of_the_stream():
    system = FunctionSystem(numpy_model, states, SPACE)
    assert torch.equal(system.prior(3, rng.seeded(0)), system.prior(3, rng.seeded(0)))
    assert not torch.equal(system.prior(3, rng.seeded(0)), system.prior(3, rng.seeded(1)))


def test_bad_models_are_named(unchecked):
    def fitting(model):
        return FunctionSystem(model, states, SPACE)

    x = torch.zeros(3, 2, 3)
    with pytest.raises(ValueError, match=r"returned states of shape \(3,\)"):
        fitting(lambda x: x.sum((1, 2))).step(x)
    with pytest.raises(FloatingPointError, match="member 2"):
        fitting(lambda x: np.where(np.arange(3)[:, None, None] == 2, np.nan, x)).step(x)
    with pytest.raises(ValueError, match="library"):
        FunctionSystem(numpy_model, states, SPACE, library="jax")
    with pytest.raises(ValueError, match="states first"):
        FunctionSystem(numpy_model, np.zeros((2, 3)), SPACE)
    with pytest.raises(ValueError, match="not negative"):
        FunctionSystem(numpy_model, states, SPACE, noise_std=-1.0)


def test_systems_load_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text(
        "import numpy as np\n"
        "from scorda.core import StateSpace\n"
        "from scorda.systems import FunctionSystem\n"
        "def make(dim=2) -> FunctionSystem:\n"
        "    return FunctionSystem(lambda x: 0.5 * x, np.zeros((5, dim)), StateSpace((dim,)))\n"
        "ready = make()\n"
        "number = 3\n"
        "def unsaid(): raise SystemExit\n"
        "def other() -> int: raise SystemExit\n"
        "class Other: __init__ = unsaid\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    assert load_system("my_own_model:make", dim=4).space.shape == (4,)
    assert isinstance(load_system("my_own_model:ready"), System)
    built_in = load_system("lorenz96", dim=6)
    assert isinstance(built_in, Lorenz96) and built_in.dim == 6
    for name, options, words in [
        ("lorenz69", {}, "lorenz63"),
        ("my_own_model:take", {}, "has no 'take'"),
        ("my_own_model:number", {}, "is a int, which is not called: name a System"),
        ("my_own_model:unsaid", {}, "annotated to return one, `-> System`"),
        ("my_own_model:other", {}, "is a function, which is not called"),
        ("my_own_model:Other", {}, "is a type, which is not called"),
        ("os:system", {"command": "false"}, "is not called"),
        ("builtins:eval", {"source": "1 / 0"}, "is not called"),
        ("my_own_model:", {}, "Unknown system"),
        (".relative:make", {}, "Unknown system"),
        ("my_own_model:ready", {"dim": 3}, "finished system"),
        ("no_such_model:make", {}, "Could not import 'no_such_model'"),
        ("lorenz63", {"rho_": 1}, "rho_"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_system(name, **options)
