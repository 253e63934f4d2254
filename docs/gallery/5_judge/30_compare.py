"""
Methods side by side, on your problem
=====================================

One call runs methods and settings with several seeds and returns one table. Is the expensive one
worth it here?
"""

# %%
# Lorenz-63 with all variables observed at every 40th step of 0.025: between observations members
# spread over both lobes.
import scorda as sc

system = sc.systems.Lorenz63()
model = sc.ObservationModel(sc.Select([0, 1, 2]), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=1000, every=40, generator=0)
methods = {
    "EnKF": sc.EnKF(1.02),
    "Gaussian mixture": sc.GaussianMixtureFilter(),
    "MASF, mixture": sc.MASF(sc.priors.Mixture()),
    "particle filter": sc.ParticleFilter(jitter=0.1),
}
table = sc.compare(methods, problem, truth, members=100, seeds=3, spinup=0.1, progress=False)
table

# %%
# The score to look at is the CRPS, continuous ranked probability score, with its standard error.
# The column ``seconds`` says what it costs.
import matplotlib.pyplot as plt

# sphinx_gallery_alt = "Bars of the CRPS of four methods with error bars: that of the Gaussian"
# sphinx_gallery_alt = "mixture is the lowest."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.5, 2.6))
    panel.barh(list(methods), table["crps"], xerr=table["crps ±"], color="#56B4E9")
    panel.invert_yaxis()
    panel.set(xlabel="CRPS, three seeds")
