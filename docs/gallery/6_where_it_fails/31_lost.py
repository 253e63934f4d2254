"""
An ensemble Kalman filter loses the truth without inflation
===========================================================

Each analysis of a small ensemble makes it a little too sure. Sooner or later it no longer listens
to observations, and nothing in its own numbers looks wrong but one.
"""

# %%
import matplotlib.pyplot as plt

import scorda as sc

system = sc.systems.Lorenz96(40)
model = sc.ObservationModel(sc.Select(range(40)), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=300, every=1, generator=11)
run = sc.LETKF(1.0, localization=sc.GaspariCohn(4)).assimilate(problem, 10, generator=111)
chi2 = run.info["chi2"]
print(f"chi2 of steps 200 to 300: {float(chi2[200:].mean()):.1f}; 1 is right")

# %%
# Without a truth the spread looks fine. What tells is ``chi2``: how large the innovations are
# beside what spread and stated error explain. The remedy is inflation:
# :doc:`/examples/1_ensembles/03_inflation`.

# sphinx_gallery_alt = "Over time: the error rises to the size of the climate while the spread"
# sphinx_gallery_alt = "stays at 0.2; chi2 rises far above 1 with the error."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3))
    panel.plot((run.mean - truth).square().mean(1).sqrt(), color="#D55E00", label="error")
    panel.plot(run.states.var(0).mean(1).sqrt(), "--", color="#0072B2", label="spread")
    panel.plot(range(1, 301), chi2, ":", color="black", label="chi2")
    panel.set(xlabel="step", ylim=(0, 8))
    panel.legend()
