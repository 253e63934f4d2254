"""
A particle filter collapses as the dimension grows
==================================================

Its weights are products of likelihoods. With more variables observed at once, one particle takes
all the weight, however many there are in practice.
"""

# %%
# Independent variables N(0, 1), each observed with an error of 1: the easiest problem there is.
# The effective number of members is one over the sum of squared weights.
import matplotlib.pyplot as plt
import torch

import scorda as sc

draw = torch.Generator().manual_seed(0)
sizes = [1, 2, 4, 8, 16, 32, 64]
alive = {}
for members in (100, 1000, 10_000):
    alive[members] = []
    for size in sizes:
        left = []
        for _ in range(10):
            prior = torch.randn(members, size, generator=draw, dtype=torch.float64)
            y = 2**0.5 * torch.randn(size, generator=draw, dtype=torch.float64)
            run = sc.analyse(sc.ParticleFilter(resample=0.0), prior, prior, y, 1.0, generator=1)
            left.append(float(1 / run.weights[:, 0].square().sum()))
        alive[members].append(sum(left) / len(left))

# %%
# A hundred times more particles buy a few variables. Use a particle filter where few variables
# are observed at once, or a filter that localizes.

# sphinx_gallery_alt = "Effective members against the number of variables for 100, 1000 and"
# sphinx_gallery_alt = "10000 particles: all fall below five at 32 variables."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.8, 3.2))
    for (members, left), line in zip(alive.items(), (":", "--", "-"), strict=True):
        panel.loglog(sizes, left, "o" + line, color="#0072B2", label=f"{members} particles")
    panel.set_xticks(sizes, sizes)
    panel.set_yticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1000", "10 000"])
    panel.minorticks_off()
    panel.set(xlabel="observed variables", ylabel="effective members")
    panel.legend()
