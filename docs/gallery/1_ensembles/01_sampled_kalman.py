"""
An ensemble filter is a Kalman filter with sampled covariances
==============================================================

For a linear model and Gaussian errors the Kalman filter is exact. An ensemble filter replaces its
covariances by those of the members, and comes closer to it the more members there are.
"""

# %%
# A slow rotation that loses strength, driven by noise; the first of its two variables is
# observed.
import matplotlib.pyplot as plt
import torch

import scorda as sc

rotation = [[0.95, -0.25], [0.25, 0.95]]
system = sc.systems.LinearGaussian(rotation, 0.1 * torch.eye(2), [0.0, 0.0], torch.eye(2))
model = sc.ObservationModel(sc.Select([0]), std=0.5)
truth, problem = sc.twin_experiment(system, model, steps=60, every=2, generator=1)

# %%
# The ETKF, ensemble transform Kalman filter, draws no noise of its own. What is left between it
# and the Kalman filter is the sampling of members and model errors.
sizes = [5, 10, 20, 40, 80, 160, 320]
exact = sc.KalmanFilter().moments(problem).means
distance = []
for members in sizes:
    means = [
        sc.ETKF().assimilate(problem, members, generator=seed).mean - exact for seed in range(4)
    ]
    distance.append(float(torch.stack(means).square().mean().sqrt()))
# sphinx_gallery_alt = "Difference of the ETKF from the Kalman filter against the number of"
# sphinx_gallery_alt = "members, both axes logarithmic: points fall along a line of slope minus"
# sphinx_gallery_alt = "one half."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.5, 3.2))
    panel.loglog(sizes, distance, "o", color="#0072B2", label="ETKF")
    panel.loglog(sizes, [distance[0] * (5 / n) ** 0.5 for n in sizes], "--", color="#767676")
    panel.text(60, 0.2, "falls as 1 / root of members", color="#767676", fontsize=8)
    panel.set(xlabel="members", ylabel="difference from the exact mean")
    panel.set_xticks(sizes, sizes, minor=False)
    panel.set_yticks([0.02, 0.05, 0.1, 0.2], [0.02, 0.05, 0.1, 0.2])
    panel.minorticks_off()
