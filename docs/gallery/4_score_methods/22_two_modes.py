"""
Where the posterior has two modes, an ensemble Kalman filter sees one
=====================================================================

The members lie in two groups, and a vague observation says "somewhere between". Three filters
make three posteriors of this.
"""

# %%
# `scorda.analyse` makes one analysis of any ensemble. The exact posterior is prior times
# likelihood.
import matplotlib.pyplot as plt
import numpy as np
import torch

import scorda as sc

draw = torch.Generator().manual_seed(0)
side = torch.where(torch.rand(2000, 1, generator=draw) < 0.5, -2.0, 2.0).double()
members = side + 0.6 * torch.randn(2000, 1, generator=draw, dtype=torch.float64)
y, error = 0.7, 1.5
methods = {
    "EnKF (ensemble Kalman)": sc.EnKF(),
    "rank histogram filter": sc.RankHistogramFilter(),
    "particle filter": sc.ParticleFilter(),
}
posteriors = {
    name: sc.analyse(method, members, members, [y], error, generator=1)
    for name, method in methods.items()
}

# %%
# The Kalman analysis pulls every member towards the observation, so that both groups move into
# the valley. The other two weigh or move the members by the likelihood itself.
x = np.linspace(-5, 5, 400)
prior = np.exp(-((x - 2) ** 2) / 0.72) + np.exp(-((x + 2) ** 2) / 0.72)
exact = prior * np.exp(-((y - x) ** 2) / (2 * error**2))
exact /= exact.sum() * (x[1] - x[0])
# sphinx_gallery_alt = "Three histograms over the curve of the exact posterior with modes near"
# sphinx_gallery_alt = "minus 1.6 and 1.8. That of the EnKF is one hump in the valley between"
# sphinx_gallery_alt = "them; those of the rank histogram filter and the particle filter follow"
# sphinx_gallery_alt = "the curve."
with sc.report.style():
    figure, panels = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
    for panel, (name, run) in zip(panels, posteriors.items(), strict=True):
        weights = None if run.weights is None else run.weights[:, 0].numpy()
        states = run.states[:, 0, 0].numpy()
        panel.hist(states, bins=60, range=(-5, 5), weights=weights, density=True, color="#56B4E9")
        panel.plot(x, exact, color="black", linewidth=1)
        panel.set(title=name, xlabel="x", yticks=[])
