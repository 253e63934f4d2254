"""Filter your own model, which is written without torch: a predator-prey model in NumPy.

The state is the logarithm of both populations. Prey is counted every 20 steps, with an error of
0.2; predators are never counted.
"""

import numpy as np

import scorda as sc
from scorda.core.rng import seeded

DT = 0.05


def step(x):
    """One Heun step of the logarithms of prey and predators, (members, 2)."""

    def tendency(x):
        prey, predators = np.exp(x[:, 0]), np.exp(x[:, 1])
        return np.stack([1.1 - 0.4 * predators, 0.1 * prey - 0.4], axis=1)

    first = tendency(x)
    return x + 0.5 * DT * (first + tendency(x + DT * first))


def initial(members, seed):
    """States at step 0; all randomness comes from the seed."""
    return np.log([10.0, 5.0]) + 0.5 * np.random.default_rng(seed).normal(size=(members, 2))


def main():
    space = sc.StateSpace((2,), DT, ("prey", "predators"))
    system = sc.systems.FunctionSystem(step, initial, space, noise_std=0.01)
    model = sc.ObservationModel(sc.Select([0]), std=0.2)
    generator = seeded(0)
    truth, problem = sc.twin_experiment(system, model, 1000, every=20, generator=generator)
    analysis = sc.ETKF(inflation=1.02).assimilate(problem, members=20, generator=generator)

    states, truth = analysis.states[:, 200:], truth[200:]
    for i, name in enumerate(space.variables):
        error = sc.metrics.rmse(states[..., i], truth[..., i])
        spread = sc.metrics.spread(states[..., i])
        print(f"{name:10} RMSE {error:.3f}  spread {spread:.3f}")


if __name__ == "__main__":
    main()
