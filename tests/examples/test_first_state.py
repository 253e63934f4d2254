"""Departures of trajectories from the solver's own."""

import torch

from scorda.core import rng
from scorda.systems.lorenz import Lorenz63
from scripts import load_script

departures = load_script("examples/first_state.py").departures


def test_a_trajectory_of_the_system_does_not_depart_and_one_error_grows_as_a_perturbation():
    system = Lorenz63(noise_std=0.0)
    x = system.trajectory(system.prior(3, rng.seeded(0)), 8)
    own, perturbed = departures(x, system)
    assert own.shape == perturbed.shape == (8,)
    assert own.max() < 1e-4 and perturbed.max() < 1e-4
    # An error at the first step alone.
    moved = torch.cat((x[:, :1], system.trajectory(x[:, 1] + 0.1, 7)), 1)
    own, perturbed = departures(moved, system)
    assert torch.allclose(own, perturbed, rtol=1e-4)
    assert torch.isclose(own[0], torch.tensor(0.1), rtol=1e-3)
    # One at the last step alone is no perturbation that grows.
    x[:, -1] += 0.1
    own, perturbed = departures(x, system)
    assert own[-1] > 0.09 and perturbed.max() < 1e-3
