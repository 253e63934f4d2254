"""
2. Your own model
=================

A model is any function that makes a step of all members at once. It needs no torch.
"""

# %%
# Prey and predators, of which only prey is counted. The state is the logarithm of both, so that
# numbers stay positive. A step takes members ``(members, 2)`` and returns them one time step
# later.
import numpy as np

import scorda as sc

DT = 0.05


def tendency(x):
    prey, predators = np.exp(x[:, 0]), np.exp(x[:, 1])
    return np.stack([1.1 - 0.4 * predators, 0.1 * prey - 0.4], axis=1)


def step(x):
    first = tendency(x)
    return x + 0.5 * DT * (first + tendency(x + DT * first))


# %%
# A *space* names the variables, and says how long a step is. Where nothing is known of the first
# state, give many states that it could be: the truth of an experiment and the members are taken
# from them.
space = sc.StateSpace((2,), DT, ("prey", "predators"))
start = np.log([10.0, 5.0]) + 0.5 * np.random.default_rng(0).normal(size=(400, 2))
system = sc.systems.FunctionSystem(step, start, space, noise_std=0.01)
system

# %%
# Count prey every 20 steps, with an error of 20 %, and estimate both with the ETKF, an ensemble
# transform Kalman filter:
model = sc.ObservationModel(sc.Select([0]), std=0.2)
truth, problem = sc.twin_experiment(system, model, steps=400, every=20, generator=0)
analysis = sc.ETKF(inflation=1.02).assimilate(problem, members=20, generator=1)
# sphinx_gallery_alt = "Prey and predators over time, in logarithms: members close to the truth,"
# sphinx_gallery_alt = "around the observations of prey and also for predators."
figure = analysis.plot(truth=truth, observations=problem.instruments)

# %%
# The predators were never counted, and are known: the members lie close to the truth, because
# the model ties one to the other. Is the ensemble honest? Its spread is to be as large as its
# error:
print(
    f"spread / skill {float(sc.metrics.spread_skill(analysis.states[:, 200:], truth[200:])):.2f}"
)

# %%
# Real observations
# -----------------
# Observations of your own are a table. ``Observations.from_table`` reads one, and says what it
# understood; from the command line the same is ``scorda assimilate --system mymodel:make
# --observations counts.csv``, where ``make`` is a function that is annotated to return a
# ``System``.
#
# **Next:** :doc:`/howto/choose_a_method`, and :doc:`/howto/inflation`; or go on with maps:
# :doc:`03_stations`.
