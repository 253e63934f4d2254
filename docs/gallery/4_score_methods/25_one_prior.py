"""
One trained prior, any observing network
========================================

SDA, score-based data assimilation, draws whole trajectories from a trained network. What is
observed, and when, is said afterwards: the network is never trained again.
"""

# %%
# The prior of Lorenz-63 that is shipped, and three questions about the same truth.
import matplotlib.pyplot as plt

import scorda as sc

prior = sc.load("lorenz63")
truth = sc.systems.Lorenz63().trajectory(sc.systems.Lorenz63().prior(1, 3), 48, 4)[0]
questions = {
    "x at every 6th state": (sc.Select([0]), range(0, 49, 6)),
    "x and z at six states": (sc.Select([0, 2]), range(4, 49, 8)),
    "x + y at every 2nd": (sc.observations.Linear([[1.0, 1.0, 0.0]]), range(0, 49, 2)),
}
runs = {}
for name, (operator, steps) in questions.items():
    model = sc.ObservationModel(operator, std=0.5)
    seen = sc.Observations(model, list(steps), model.sample(truth[list(steps)], 1))
    runs[name] = sc.SDA(prior).assimilate(sc.Problem(prior, seen, 48), members=20, generator=2)
    error = float(sc.metrics.rmse(runs[name].states[..., 2:], truth[:, 2:]))
    print(f"{name:22} RMSE of z {error:.2f}")

# %%

# sphinx_gallery_alt = "z over time in three panels: truth and members of each question, which"
# sphinx_gallery_alt = "lie close to the truth though z itself was observed in the second alone."
with sc.report.style():
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.6), sharey=True)
    for panel, (name, run) in zip(panels, runs.items(), strict=True):
        panel.plot(run.states[..., 2].T, color="#0072B2", linewidth=0.5, alpha=0.6)
        panel.plot(truth[:, 2], "--", color="black", linewidth=1.2)
        panel.set(title=name, xlabel="state")
    panels[0].set_ylabel("z")
