"""
A whole history at once, in several small steps
===============================================

ES-MDA, the ensemble smoother with multiple data assimilation, uses all data at once, several times
with larger errors. Each time is a smaller step, so that a nonlinear model is followed better than
in one jump.
"""

# %%
# How fast does it decay? A tracer with an unknown rate, seen at ten times. What is observed is
# exponential in the rate.
import matplotlib.pyplot as plt
import numpy as np

import scorda as sc
from scorda.systems import FunctionSystem, Uniform


def step(x, parameters):
    return x * np.exp(-0.1 * parameters["rate"][:, None])


def first(members, seed):
    return np.random.default_rng(seed).normal(10.0, 1.0, (members, 1))


decay = FunctionSystem(step, first, sc.StateSpace((1,), variables=("tracer",)))
system = sc.WithParameters(decay, {"rate": Uniform(0.0, 8.0)})
model = sc.ObservationModel(sc.Select([0]), std=0.1)
truth, problem = sc.twin_experiment(system, model, steps=30, every=3, generator=8)

# %%
rates = {}
for stages in (1, 4, 16):
    run = sc.ESMDA(stages).assimilate(problem, members=400, generator=1)
    rates[f"{stages} stages" if stages > 1 else "1 stage"] = run.states[:, -1, 1]
exact = sc.ParticleSmoother(5000).assimilate(problem, members=1000, generator=2)
rates["exact (particles)"] = exact.states[:, -1, 1]
for name, rate in rates.items():
    print(f"{name:17} {float(rate.mean()):.3f} ± {float(rate.std()):.3f}")
print(f"{'truth':17} {float(truth[0, 1]):.3f}")

# %%

# sphinx_gallery_alt = "Histograms of the rate: with one stage wider than the exact one of the"
# sphinx_gallery_alt = "particles, with four and sixteen stages nearly like it."
with sc.report.style():
    figure, panels = plt.subplots(1, 4, figsize=(7.8, 2.5), sharex=True)
    for panel, (name, rate) in zip(panels, rates.items(), strict=True):
        panel.hist(rate.numpy(), bins=40, color="#0072B2")
        panel.axvline(float(truth[0, 1]), color="black", linestyle="--")
        panel.set(title=name, xlabel="rate", yticks=[])
