"""
Too precise an observation starves a particle filter
====================================================

The more precise an observation, the fewer particles lie where it points. A better instrument makes
this filter worse.
"""

# %%
import matplotlib.pyplot as plt

import scorda as sc

system = sc.systems.Lorenz63(noise_std=0.1)
errors, scores = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0], {}
for name, method in {"particle filter": sc.ParticleFilter(), "ETKF": sc.ETKF(1.02)}.items():
    scores[name] = []
    for error in errors:
        model = sc.ObservationModel(sc.Select([0, 1, 2]), std=error)
        truth, problem = sc.twin_experiment(system, model, steps=200, every=10, generator=0)
        try:
            run = method.assimilate(problem, members=100, generator=1)
        except sc.RunError as stop:
            print(f"{name}, error {error}: {stop}")
            scores[name].append(float("nan"))
            continue
        crps = sc.metrics.crps(
            run.states[:, 25:], truth[25:], None if run.weights is None else run.weights[:, 25:]
        )
        scores[name].append(float(crps.mean()))

# %%
# For coarse observations it is the better filter, since it sees more than two moments; for
# precise ones nearly all particles get no weight. The CRPS is the continuous ranked probability
# score.

# sphinx_gallery_alt = "CRPS against the error of the observations. That of the ETKF falls with"
# sphinx_gallery_alt = "it. That of the particle filter is the lower one for large errors and"
# sphinx_gallery_alt = "several times as high for small ones."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.8, 3.2))
    for (name, values), colour in zip(scores.items(), ("#D55E00", "#0072B2"), strict=True):
        panel.semilogx(errors, values, "o-", color=colour, label=name)
    panel.set_xticks(errors, errors)
    panel.minorticks_off()
    panel.set(xlabel="error of the observations", ylabel="CRPS", ylim=(0, None))
    panel.legend()
