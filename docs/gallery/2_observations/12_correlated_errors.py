"""
Correlated errors that are told as independent count several times
==================================================================

Eight values of one instrument with the same unknown offset do not average it away. Told that they
are independent, a filter believes that they do.
"""

# %%
# Eight variables that vary by themselves, seen with errors whose standard deviation is 1 and
# whose correlation is 0.8 between any two.
from dataclasses import replace

import torch

import scorda as sc

eye = torch.eye(8)
system = sc.systems.LinearGaussian(0.95 * eye, 0.1 * eye, torch.zeros(8), eye)
cov = 0.8 * torch.ones(8, 8) + 0.2 * eye
model = sc.ObservationModel(sc.Select(range(8)), cov=cov)
truth, problem = sc.twin_experiment(system, model, steps=600, every=1, generator=0)
seen = problem.instruments[0]
independent = sc.Observations(
    sc.ObservationModel(model.operator, std=1.0), seen.steps, seen.values
)

# %%
# The mean of the eight is where it matters: what the errors have in common stays in it.
space, runs = sc.StateSpace((1,), variables=("mean",)), {}
for name, told in {
    "told as they are": problem,
    "told independent": replace(problem, observations=independent),
}.items():
    states = sc.ETKF().assimilate(told, 100, generator=1).states.mean(-1, keepdim=True)
    runs[name] = sc.Analysis(states, space)
    mean = truth.mean(-1, keepdim=True)
    print(
        f"{name}: RMSE {float(sc.metrics.rmse(states, mean)):.2f}"
        f"  spread / skill {float(sc.metrics.spread_skill(states, mean)):.2f}"
    )

# %%
# Where the truth lies among the members: a U means that they are too close together.

# sphinx_gallery_alt = "Two rank histograms: flat for errors told as they are, U-shaped for"
# sphinx_gallery_alt = "errors told as independent."
figure = sc.report.rank_histograms(runs, mean, first=50)
