"""
"Below the limit" is an observation
===================================

An instrument that cannot see values below 0.5 writes 0.5. Leaving these rows out throws away what
they say; taking them as values is worse.
"""

# %%
# A level that wanders around 0, seen with an error of 0.3 and never below 0.5.
import matplotlib.pyplot as plt

import scorda as sc
from scorda.observations import Censored

system = sc.systems.LinearGaussian([[0.97]], [[0.2]], [0.0], [[3.0]])
limit = 0.5
instrument = sc.ObservationModel(sc.Select([0]), std=0.3, law=Censored(limit))
truth, problem = sc.twin_experiment(system, instrument, steps=300, every=2, generator=4)
seen = problem.instruments[0]
below = seen.values <= limit
print(f"{int(below.sum())} of {below.numel()} values are at the limit.")

# %%
plain = sc.ObservationModel(sc.Select([0]), std=0.3)
told = {
    "left out": sc.Observations(plain, seen.steps, seen.values.masked_fill(below, float("nan"))),
    "taken as values": sc.Observations(plain, seen.steps, seen.values),
    "told as censored": seen,
}
runs = {}
for name, observations in told.items():
    runs[name] = sc.ParticleFilter().assimilate(sc.Problem(system, observations, 300), 2000, 1)
    run = runs[name]
    crps = float(sc.metrics.crps(run.states, truth, run.weights).mean())
    print(f"{name:17} CRPS {crps:.3f}")

# %%

# sphinx_gallery_alt = "Truth over time with the means of three particle filters. Where the"
# sphinx_gallery_alt = "truth is below the limit, the run that takes values as they are stays at"
# sphinx_gallery_alt = "the limit, the run that leaves them out returns to zero, and the"
# sphinx_gallery_alt = "censored run goes below the limit with the truth."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3.2))
    panel.plot(truth[:, 0], color="black", label="truth")
    colours = sc.report.colours_of(list(runs))
    for (name, run), line in zip(runs.items(), (":", "--", "-"), strict=True):
        panel.plot(run.mean[:, 0], line, color=colours[name], label=name)
    panel.axhline(limit, color="#767676", linewidth=0.8)
    panel.set(xlabel="step", ylabel="level")
    panel.legend(ncols=2)
