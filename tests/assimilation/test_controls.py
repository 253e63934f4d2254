"""Trajectories as functions of first states and model errors."""

import copy

from torch.testing import assert_close

from scorda.assimilation.controls import ControlledModel
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.problem import Problem
from scorda.systems.base import AdditiveNoise


class Growing(AdditiveNoise):
    """A model that asks for the step: x becomes (1 + step) x."""

    name = "growing"
    number = 0

    def __init__(self):
        self.space, self.noise_std = StateSpace((2,)), 0.1

    def at(self, step, members=None):
        other = copy.copy(self)
        other.number = step
        return other

    def prior(self, members, generator=None):
        return rng.normal(members, (2,), generator)

    def advance(self, x):
        return (1 + self.number) * x


def test_controls_move_a_model_that_asks_for_the_step_as_it_moves_itself():
    system = Growing()
    model = ControlledModel(Problem(system, (), 3), (1, 2))
    x = system.prior(4, rng.seeded(0))
    states, errors = model.drawn(x, 0, 3)
    assert_close(model.run(x, errors, 0, 3), states)
    expected = 5 * x
    for step in range(3):
        expected = (1 + step) * expected + errors[:, step]
    assert_close(model.run(5 * x, errors, 0, 3)[:, 3], expected)
    assert float(errors.abs().max()) < 1  # ten standard deviations
