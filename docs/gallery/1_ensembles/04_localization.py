"""
A taper forgets what distance forbids
=====================================

The correlations of twenty members between distant places are mostly chance. A taper multiplies
each by a weight that falls with distance.
"""

# %%
import matplotlib.pyplot as plt
import torch

import scorda as sc

system = sc.systems.Lorenz96(40)
model = sc.ObservationModel(sc.Select(range(40)), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=200, every=1, generator=0)

# %%
# Members of a filter at one time: the correlation of site 20 with all others, of twenty members
# and of a thousand.
many = sc.ETKF(1.02).assimilate(problem, members=1000, generator=1).states[:, -1]
few = many[:20]
correlation = [torch.corrcoef(members.T)[20] for members in (few, many)]
weight = sc.GaspariCohn(4)((torch.arange(40.0) - 20).abs())

# %%
# The taper keeps what is near and drops what is far, which is mostly wrong.

# sphinx_gallery_alt = "Correlation of all sites with site 20. That of a thousand members is"
# sphinx_gallery_alt = "small beyond five sites; that of twenty members is up to one half"
# sphinx_gallery_alt = "anywhere; the tapered one is near zero beyond some eight sites."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3.2))
    panel.plot(correlation[1], color="black", label="1000 members")
    panel.plot(correlation[0], "--", color="#D55E00", label="20 members")
    panel.plot(correlation[0] * weight, color="#0072B2", label="20 members, tapered")
    panel.plot(weight, ":", color="#767676", label="taper, radius 4")
    panel.set(xlabel="site", ylabel="correlation with site 20")
    panel.legend()
for localization in (None, sc.GaspariCohn(4)):
    run = sc.EnKF(1.06, localization=localization).assimilate(problem, members=20, generator=1)
    error = float(sc.metrics.rmse(run.states[:, 100:], truth[100:]))
    print(f"EnKF of 20 members, localization {localization}: RMSE {error:.2f}")
