"""Put the first state of smoothed trajectories through the solver and compare the rest.

This is figure 5 of Rozet & Louppe (2023), arXiv:2306.10574, in numbers. SDA draws trajectories x
given 29 states of Kolmogorov flow averaged to 8 x 8. Two errors of each trajectory are printed,
as root mean squares over members and grid divided by the standard deviation of the flow:

* the error of x_k against M^k(x_0), the solver from the first state;
* the error of M^(k-1)(x_1) against M^k(x_0): this is the growth of a perturbation as large as the
  error of one step.

If a trajectory is the flow's own but for such errors at every step, it departs a little faster
than the perturbation grows.
"""

from __future__ import annotations

import argparse

import torch

from scorda.bench.setups.kolmogorov_scenarios import kolmogorov_assimilation
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.methods.sda import SDA
from scorda.priors.trajectory import load
from scorda.systems.base import System


def departures(
    states: Float[Tensor, "ensemble time ..."], system: System
) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """Return the errors of x_k and of M^(k-1)(x_1) against M^k(x_0), for k from 1 on."""
    steps = states.shape[1] - 1
    free = system.trajectory(states[:, 0], steps)
    moved = system.trajectory(states[:, 1], steps - 1)
    axes = tuple(i for i in range(states.ndim) if i != 1)
    own, perturbed = states[:, 1:] - free[:, 1:], moved - free[:, 1:]
    return own.square().mean(axes).sqrt(), perturbed.square().mean(axes).sqrt()


def main() -> None:
    """Sample, integrate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenario = kolmogorov_assimilation()
    problem, truth = (case := scenario.prepare(given.seed)).problem, case.truth
    assert truth is not None
    method = SDA(load("kolmogorov"))
    x = method.assimilate(problem, given.members, rng.at((given.seed, 2), 0)).states
    std = truth.std()
    print("step    trajectory    perturbation")
    for k, pair in enumerate(zip(*departures(x, scenario.system), strict=True), start=1):
        if k & (k - 1) == 0 or k == scenario.steps:
            print(f"{k:4d}    {pair[0] / std:10.3f}    {pair[1] / std:12.3f}")


if __name__ == "__main__":
    main()
