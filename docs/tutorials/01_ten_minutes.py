"""
1. Ten minutes with Lorenz-63
=============================

Observe one of three variables of a chaotic system, with an error, every eighth step. What were
the other two?
"""

# %%
# A *twin experiment* makes a truth with the model, and observations of it, so that a posterior
# can be compared with what really happened. Here the model is that of :cite:t:`lorenz1963`, with
# variables x, y and z; only x is observed.
import scorda as sc

system = sc.systems.Lorenz63()
model = sc.ObservationModel(sc.Select([0]), std=0.4)
truth, problem = sc.twin_experiment(system, model, steps=64, every=8, generator=1)
problem

# %%
# Smooth with a score-based method
# --------------------------------
# SDA, score-based data assimilation, draws whole trajectories from a network that was trained on
# trajectories of the model (:cite:t:`rozet2023`). Such a *prior* of Lorenz-63 is shipped. It is
# trained once: what is observed, and how, is said afterwards.
prior = sc.load("lorenz63")
smoothed = sc.SDA(prior).assimilate(problem, members=64, generator=2)
smoothed

# %%
# Filter with a classical method
# ------------------------------
# The EnKF, ensemble Kalman filter, runs the model from one observation to the next. A filter
# knows the past only, so that its members fan out between observations; a smoother knows the
# future too.
filtered = sc.EnKF(inflation=1.02).assimilate(problem, members=64, generator=3)

# %%
# Compare
# -------
# The error of the mean (RMSE, root mean square error) alone rewards a collapsed ensemble: look at
# the spread and at the CRPS, continuous ranked probability score, beside it. Spread over skill is
# near 1 for an honest ensemble, in the mean over many runs; this is one short run.
for analysis in (smoothed, filtered):
    states = analysis.states
    print(
        f"{analysis.method:5} RMSE {float(sc.metrics.rmse(states, truth).mean()):.2f}"
        f"  spread / skill {float(sc.metrics.spread_skill(states, truth)):.2f}"
        f"  CRPS {float(sc.metrics.crps(states, truth).mean()):.2f}"
    )

# %%
# Members of the smoother, the truth, and the observations:

# sphinx_gallery_alt = "x, y and z over time: members of the smoother lie close to the truth at"
# sphinx_gallery_alt = "nearly all times, also in y and z, which were not observed."
figure = smoothed.plot(truth=truth, observations=problem.instruments)

# %%
# and of the filter:

# sphinx_gallery_alt = "The same for the filter: its members are far apart before the first"
# sphinx_gallery_alt = "observations, fan out between them, and draw together at each."
figure = filtered.plot(truth=truth, observations=problem.instruments)

# %%
# **Next:** :doc:`02_own_model`, or the same from the command line: ``scorda demo``.
