"""
A smoother knows what came later
================================

A filter estimates each state from the past; a smoother from all data. Between observations and
just before them the smoother knows more.
"""

# %%
# The same observations of x and the same members, with the ensemble Kalman filter (EnKF) and
# smoother (EnKS).
import matplotlib.pyplot as plt

import scorda as sc

system = sc.systems.Lorenz63()
model = sc.ObservationModel(sc.Select([0]), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=400, every=10, generator=3)
runs = {
    "filter": sc.EnKF(1.02).assimilate(problem, members=100, generator=1),
    "smoother": sc.EnKS(1.02, lag=4).assimilate(problem, members=100, generator=1),
}
for name, run in runs.items():
    print(f"{name:8} RMSE {float(sc.metrics.rmse(run.states[:, 40:], truth[40:])):.2f}")

# %%
# The spread of the filter is a saw: it grows to the next observation and falls there. That of the
# smoother is low on both sides.

# sphinx_gallery_alt = "Spread of y over time. That of the filter rises between observations and"
# sphinx_gallery_alt = "drops at each; that of the smoother lies below it nearly everywhere."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3))
    for (name, run), colour in zip(runs.items(), ("#D55E00", "#0072B2"), strict=True):
        panel.plot(range(150, 301), run.states[:, 150:301, 1].std(0), color=colour, label=name)
    for step in range(150, 301, 10):
        panel.axvline(step, color="#cccccc", linewidth=0.6)
    panel.set(xlabel="step (grey: observations of x)", ylabel="spread of y")
    panel.legend()
