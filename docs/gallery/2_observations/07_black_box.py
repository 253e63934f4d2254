"""
Any function can be the operator
================================

What an instrument sees of a state is a function. Ensemble filters need its values only: it may
be a table, a compiled program, or anything else without a gradient.
"""

# %%
# A gauge at every second site of Lorenz-96 that shows whole numbers, and nothing below 0 or above
# 8: its gradient is zero wherever it exists. It gets NumPy arrays of all members.
import matplotlib.pyplot as plt
import numpy as np

import scorda as sc


def gauge(x):
    return np.clip(np.round(x[:, ::2]), 0, 8)


system = sc.systems.Lorenz96(40)
operator = sc.observations.Function(gauge, differentiable=False)
truth, problem = sc.twin_experiment(
    system, sc.ObservationModel(operator, std=0.5), steps=200, every=1, generator=0
)
run = sc.ETKF(1.06).assimilate(problem, members=60, generator=1)
error = float(sc.metrics.rmse(run.states[:, 100:], truth[100:]))
print(f"RMSE {error:.2f}; standard deviation of the climate {float(truth.std()):.2f}")

# %%
# A method that needs the gradient refuses such an operator, and says which ones do not.
try:
    sc.EnSF().assimilate(problem, members=10, generator=1)
except (TypeError, ValueError) as error:
    print(error)
# sphinx_gallery_alt = "One site over time: the truth, which leaves the range from 0 to 8;"
# sphinx_gallery_alt = "readings in whole numbers that stay inside of it; and the mean of the"
# sphinx_gallery_alt = "filter, close to the truth."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3.2))
    panel.plot(truth[:, 0], color="black", label="truth")
    panel.plot(run.mean[:, 0], "--", color="#0072B2", label="mean of the filter")
    readings = problem.instruments[0].values[:, 0]
    panel.plot(range(1, 201), readings, ".", color="#D55E00", label="reading")
    panel.set(xlabel="step", ylabel="first site", ylim=(-6, 16))
    panel.legend(ncols=3)
