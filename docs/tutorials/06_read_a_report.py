"""
6. Is this ensemble any good?
=============================

Three ensembles of the same truth: one honest, one too sure of itself, one biased.
How do they show?
"""

# %%
# To know the answer we make the ensembles ourselves: the truth and the members are draws of one
# law, at 400 times and in two variables. The second ensemble has half the spread, the third is
# shifted by one standard deviation.
import torch

import scorda as sc

draw = torch.Generator().manual_seed(0)
space = sc.StateSpace((2,), dt=1.0, variables=("u", "v"))
truth = torch.randn(400, 2, generator=draw)
signal = truth + 0.5 * torch.randn(400, 2, generator=draw)
# Given the signal, the truth is normal with mean 0.8 times the signal and variance 0.2.
mean = 0.8 * signal
members = 0.2**0.5 * torch.randn(32, 400, 2, generator=draw)
ensembles = {
    "honest": mean + members,
    "too sure": mean + 0.5 * members,
    "biased": mean + members + 0.2**0.5,
}

# %%
# Numbers
# -------
# The error of the mean (RMSE, root mean square error) of the second is that of the first: it
# does not see that the members are too close together. Spread over skill and the CRPS
# (continuous ranked probability score) do.
for name, states in ensembles.items():
    print(
        f"{name:9} RMSE {float(sc.metrics.rmse(states, truth)):.3f}"
        f"  spread / skill {float(sc.metrics.spread_skill(states, truth)):.2f}"
        f"  CRPS {float(sc.metrics.crps(states, truth)):.3f}"
        f"  in the central 90 %: {100 * float(sc.metrics.coverage(states, truth)):.0f} %"
    )

# %%
# Rank histograms
# ---------------
# Where does the truth lie among the sorted members? Equally often everywhere, if they are
# honest. A U says that the truth is too often outside (too sure), a slope that it is too often
# on one side (biased). The band is what chance alone explains.
analyses = {name: sc.Analysis(states, space) for name, states in ensembles.items()}
# sphinx_gallery_alt = "Three rank histograms: flat for the honest ensemble, a U for the one"
# sphinx_gallery_alt = "that is too sure, a slope for the biased one."
figure = sc.report.rank_histograms(analyses, truth)

# %%
# In a report (``scorda report run.zarr``) look first at these three: spread over skill near 1, a
# flat rank histogram, and error and spread that go together over time. Then compare CRPS between
# methods.
#
# What to do about it: too sure, more inflation or a smaller radius of localization; too wide,
# less; biased, look at the model and at the units of the observations.
#
# **Next:** :doc:`07_sea_surface`.
