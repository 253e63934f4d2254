import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
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
        "def make(dim=2):\n"
        "    return FunctionSystem(lambda x: 0.5 * x, np.zeros((5, dim)), StateSpace((dim,)))\n"
        "ready = make()\n"
        "number = 3\n"
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
        ("my_own_model:number", {}, "must be a System"),
        ("my_own_model:ready", {"dim": 3}, "finished system"),
        ("no_such_model:make", {}, "Could not import 'no_such_model'"),
        ("lorenz63", {"rho_": 1}, "rho_"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_system(name, **options)
