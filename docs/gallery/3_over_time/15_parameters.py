"""
Unknown parameters are estimated with the state
===============================================

A number that nobody knows becomes one more entry of the state. Each member moves with its own
value, and its correlation with what is observed tells which values are right.
"""

# %%
# Lorenz-63, whose parameter rho is anywhere between 20 and 35; all variables are observed.
import scorda as sc
from scorda.systems import Lorenz63, Uniform

system = sc.WithParameters(Lorenz63(), {"rho": Uniform(20, 35)})
model = sc.ObservationModel(sc.Select([0, 1, 2]), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=400, every=8, generator=0)
run = sc.ETKF(inflation=1.02).assimilate(problem, members=40, generator=1)
last = run.states[:, -1, 3]
print(f"rho: {float(last.mean()):.2f} ± {float(last.std()):.2f}, truth {float(truth[-1, 3]):.2f}")

# %%
# Every observation narrows it. No member ever leaves the bounds of its prior.

# sphinx_gallery_alt = "Histogram of the parameter over time: it begins as wide as the prior,"
# sphinx_gallery_alt = "from 20 to 35, and narrows around the line of the truth."
figure = sc.report.parameters(run, truth)
