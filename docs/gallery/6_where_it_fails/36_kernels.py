"""
A kernel prior is wrong in many dimensions
==========================================

MASF, the measurement-aware score filter, with a kernel prior sees any shape in few dimensions. In
many, all members near an observation become those of a single kernel.
"""

# %%
# Independent N(0, 1) variables, all observed with an error of 0.5; the exact posterior has the
# mean 0.8 y and the variance 0.2. The same filter has a kernel on each of its members, or the
# Gaussian of all of them.
import matplotlib.pyplot as plt
import torch

import scorda as sc

draw = torch.Generator().manual_seed(0)
sizes = [1, 2, 4, 8, 16]


def error(prior, size, members):
    found = []
    for seed in range(3):
        ensemble = torch.randn(members, size, generator=draw, dtype=torch.float64)
        y = 1.25**0.5 * torch.randn(1, size, generator=draw, dtype=torch.float64)
        eye = torch.eye(size)
        system = sc.systems.LinearGaussian(eye, 0 * eye, torch.zeros(size), eye)
        seen = sc.Observations(sc.ObservationModel(sc.Select(range(size)), std=0.5), [0], y)
        problem = sc.Problem(system, seen, 0, ensemble)
        run = sc.MASF(prior).assimilate(problem, members, generator=seed)
        found.append(float((run.states[:, 0].mean(0) - 0.8 * y[0]).square().mean()))
    return (sum(found) / 3 / 0.2) ** 0.5


kernel, gaussian = sc.priors.Kernel(0.2), sc.priors.Gaussian()
errors = {
    "kernel, 100 members": [error(kernel, size, 100) for size in sizes],
    "kernel, 1000 members": [error(kernel, size, 1000) for size in sizes],
    "Gaussian, 1000 members": [error(gaussian, size, 1000) for size in sizes],
}

# %%
# Ten times more members help by a few dimensions. Kernels are for states of a few variables;
# beyond that a Gaussian or a mixture, localized, is the safer prior.

# sphinx_gallery_alt = "Error of the mean against the number of variables: with the Gaussian it"
# sphinx_gallery_alt = "stays near zero, with kernels it grows to about one standard deviation,"
# sphinx_gallery_alt = "sooner with fewer members."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.8, 3.2))
    colours = ("#D55E00", "#D55E00", "#0072B2")
    for (name, values), line, colour in zip(
        errors.items(), (":", "-", "--"), colours, strict=True
    ):
        panel.semilogx(sizes, values, "o" + line, color=colour, label=name)
    panel.set_xticks(sizes, sizes)
    panel.minorticks_off()
    panel.set(xlabel="observed variables", ylabel="error of the mean / exact std", ylim=(0, None))
    panel.legend()
