"""
With sparse observations a trained prior divides its members wrongly
====================================================================

Where few data leave several histories possible, SDA, score-based data assimilation, finds them but
may give them wrong shares. A particle smoother shows it where the model is small enough to run.
"""

# %%
# Only z of Lorenz-63 is observed, at every fourth state. The equations do not change when x and y
# change their signs, so that for each history its mirror image is just as probable.
from collections import Counter

import matplotlib.pyplot as plt
import torch

import scorda as sc

system, prior = sc.systems.Lorenz63(), sc.load("lorenz63")
model = sc.ObservationModel(sc.Select([2]), std=0.86)
truth, problem = sc.twin_experiment(system, model, steps=48, every=4, generator=2, start=0)
begin = system.prior(8192, 5)
mirrored = torch.cat([begin, begin * begin.new_tensor([-1.0, -1.0, 1.0])])
exact = sc.ParticleSmoother(16_384).assimilate(
    sc.Problem(system, problem.instruments, 48, mirrored), members=512, generator=6
)
drawn = sc.SDA(prior).assimilate(sc.Problem(prior, problem.instruments, 48), 96, generator=7)


# %%
# Neither is exact: the smoother gives mirror images not quite the same share. A history is the
# sequence of lobes, the sign of x, at four times.
def shares(states):
    signs = (states[:, [6, 18, 30, 42], 0] > 0).tolist()
    names = ["".join("+" if sign else "−" for sign in member) for member in signs]
    return {name: count / len(names) for name, count in Counter(names).items()}


both = {"particle smoother": shares(exact.states), "SDA": shares(drawn.states)}
names = sorted(set().union(*both.values()), key=lambda n: -both["particle smoother"].get(n, 0))[:8]
# sphinx_gallery_alt = "Share of members in each history for the particle smoother and SDA: the"
# sphinx_gallery_alt = "same histories, with shares that differ; two that the smoother gives"
# sphinx_gallery_alt = "less than 0.05 have more than 0.1."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(6.4, 3.2))
    for shift, colour, (name, found) in zip(
        (-0.2, 0.2), ("#767676", "#0072B2"), both.items(), strict=True
    ):
        places = [k + shift for k in range(len(names))]
        panel.bar(places, [found.get(n, 0) for n in names], 0.38, color=colour, label=name)
    panel.set_xticks(range(len(names)), names)
    panel.set(xlabel="sign of x at four times", ylabel="share of members")
    panel.legend()
