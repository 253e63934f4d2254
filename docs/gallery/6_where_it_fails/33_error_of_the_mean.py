"""
The error of the mean rewards an ensemble that has collapsed
============================================================

Pull all members to their mean: the error of the mean stays the same, or gets better. Whoever tunes
by it, tunes the spread away.
"""

# %%
import matplotlib.pyplot as plt

import scorda as sc

system = sc.systems.Lorenz63()
model = sc.ObservationModel(sc.Select([0]), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=400, every=10, generator=3)
states = sc.EnKS(1.02, lag=4).assimilate(problem, members=50, generator=1).states[:, 40:]
mean = states.mean(0)

# %%
# The CRPS, continuous ranked probability score, is smallest for the honest spread.
shares = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
shrunk = [mean + share * (states - mean) for share in shares]
rmse = [float(sc.metrics.rmse(members, truth[40:])) for members in shrunk]
crps = [float(sc.metrics.crps(members, truth[40:]).mean()) for members in shrunk]
# sphinx_gallery_alt = "Two scores against a factor of the spread: the error of the mean is a"
# sphinx_gallery_alt = "horizontal line, the CRPS has its lowest point near 1."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.5, 3.2))
    panel.plot(shares, rmse, "o--", color="#D55E00", label="RMSE of the mean")
    panel.plot(shares, crps, "o-", color="#0072B2", label="CRPS")
    panel.set(xlabel="spread, in units of the smoother's own", ylim=(0, None))
    panel.legend()
