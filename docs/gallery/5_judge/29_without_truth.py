"""
Choose settings without a truth
===============================

Real data have no truth beside them. Each observation, before it is used, judges the forecast of
it: the settings with the best score of these are taken.
"""

# %%
import matplotlib.pyplot as plt

import scorda as sc

system = sc.systems.Lorenz96(40)
model = sc.ObservationModel(sc.Select(range(40)), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=250, every=1, generator=3)
factors = [1.0, 1.02, 1.04, 1.08, 1.16]
method = sc.LETKF(localization=sc.GaspariCohn(4))
found = sc.tune(method, problem, {"inflation": factors}, members=8, seeds=1, progress=False)
print("chosen without the truth: inflation", found.method.inflation)
found.table

# %%
# Was it right? With the truth, which nobody has:
errors = []
for factor in factors:
    run = sc.LETKF(factor, localization=sc.GaspariCohn(4)).assimilate(problem, 8, generator=9)
    errors.append(float(sc.metrics.rmse(run.states[:, 50:], truth[50:])))
# sphinx_gallery_alt = "Error against the truth over inflation, with a mark at the inflation"
# sphinx_gallery_alt = "that was chosen without the truth, which is at the lowest point."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.5, 3))
    panel.plot(factors, errors, "o-", color="#0072B2")
    chosen = float(found.method.inflation)
    panel.plot(chosen, errors[factors.index(chosen)], "D", color="#D55E00", markersize=10)
    panel.text(chosen + 0.005, errors[factors.index(chosen)] * 1.2, "chosen", color="#D55E00")
    panel.set(xlabel="inflation", ylabel="RMSE of the mean")
