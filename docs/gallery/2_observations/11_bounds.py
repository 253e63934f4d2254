"""
Humidity stays between 0 and 1
==============================

A Gaussian analysis does not know that a variable has bounds. Say so once, and no method leaves
them.
"""

# %%
# A humidity that is drawn to 0.9 and disturbed; observed with an error of 0.15.
import matplotlib.pyplot as plt
import numpy as np

import scorda as sc
from scorda.systems import FunctionSystem, Logit


def step(x):
    return x + 0.1 * (0.9 - x)


def first(members, seed):
    return np.random.default_rng(seed).beta(4, 2, (members, 1))


bounded = sc.StateSpace((1,), variables=("humidity",), transforms={"humidity": Logit(0, 1)})
system = FunctionSystem(step, first, bounded, noise_std=0.5)
model = sc.ObservationModel(sc.Select([0]), std=0.15)
truth, problem = sc.twin_experiment(system, model, steps=100, every=2, generator=0)
inside = sc.ETKF().assimilate(problem, members=30, generator=1)

# %%
# The same system without bounds, whose noise has about the same size in humidity:
free = FunctionSystem(step, first, sc.StateSpace((1,), variables=("humidity",)), noise_std=0.05)
outside = sc.ETKF().assimilate(sc.Problem(free, problem.instruments, 100), members=30, generator=1)
for name, run in {"bounds": inside, "no bounds": outside}.items():
    beyond = ((run.states < 0) | (run.states > 1)).double().mean()
    print(f"{name:9} states beyond 0 and 1: {100 * float(beyond):.1f} %")

# %%

# sphinx_gallery_alt = "Two panels of members over time: with bounds all lie between 0 and 1,"
# sphinx_gallery_alt = "without them many cross the upper line at 1."
with sc.report.style():
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True)
    for panel, (name, run) in zip(
        panels, {"bounds": inside, "no bounds": outside}.items(), strict=True
    ):
        panel.plot(run.states[..., 0].T, color="#0072B2", linewidth=0.4, alpha=0.5)
        panel.plot(truth[:, 0], color="black", linewidth=1.2)
        panel.axhline(1, color="#D55E00", linestyle="--", linewidth=1)
        panel.set(title=name, xlabel="step")
    panels[0].set_ylabel("humidity")
