import pytest
import torch

from scorda.core import threads
from scorda.core.threads import SMALL, few_threads
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function
from scorda.observations.problem import twin_experiment
from scorda.systems.lorenz import Lorenz63


@pytest.fixture
def three():
    """Torch with three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_small_states_take_one_thread_and_large_ones_all(three, monkeypatch):
    monkeypatch.setattr(threads, "_default", 3)
    for numbers, expected in ((SMALL - 1, 1), (SMALL, 3)):
        with few_threads(numbers):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), few_threads(1):
        1 / 0
    assert torch.get_num_threads() == 3


def test_threads_that_the_user_has_set_stay(three, monkeypatch):
    monkeypatch.setattr(threads, "_default", 2)
    with few_threads(1):
        assert torch.get_num_threads() == 3


def test_a_filter_of_a_small_state_runs_on_one_thread(three, monkeypatch):
    monkeypatch.setattr(threads, "_default", 3)
    seen = set()

    def first(x):
        seen.add(torch.get_num_threads())
        return x[:, :1]

    model = ObservationModel(Function(first), std=1.0)
    _, problem = twin_experiment(Lorenz63(spinup=0.1), model, 2, 1, 0)
    seen.clear()
    for _ in EnKF().run(problem, 4, 0):
        assert torch.get_num_threads() == 3
    assert seen == {1}
