"""
5. Train a prior and use it three ways
======================================

A prior is trained once on trajectories. What is observed is said afterwards, as often as you like.
"""

# %%
# Trajectories
# ------------
# Two waves that travel along a ring of 16 points, at speeds and strengths that differ from one
# trajectory to the next: 200 trajectories of 40 states. Your own come from a model, or are a
# record of fields (:doc:`03_stations`).
import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import scorda as sc
from scorda.cli import main

draw = np.random.default_rng(0)
site, time = np.arange(16), np.arange(40)[:, None]


def trajectory():
    total = np.zeros((40, 16))
    for wave in (1, 2):
        speed, phase, size = draw.normal(0.3, 0.1), draw.uniform(0, 2 * np.pi), draw.normal()
        total += size * np.cos(wave * (2 * np.pi * site / 16) - speed * time + phase)
    return total


states = np.stack([trajectory() for _ in range(201)])
truth, training = torch.from_numpy(states[0]), states[1:]

# %%
# Train
# -----
# In a shell: ``scorda train --data waves.nc --out waves.safetensors``. A file of many independent
# trajectories has an axis ``series``.
folder = Path(tempfile.mkdtemp())
waves = xr.Dataset(
    {"wave": (("series", "time", "site"), training.astype("f4"))},
    {"time": np.arange(40.0), "site": ("site", site * 1.0, {"units": "1"})},
)
waves.to_netcdf(folder / "waves.nc")
main(
    f"train --data {folder}/waves.nc --training-steps 300 --out {folder}/waves.safetensors".split()
)
prior = sc.load(folder / "waves.safetensors")
prior

# %%
# 1. Samples of the prior
# -----------------------
# Without any observation the prior draws trajectories like those it was trained on.
samples = prior.sample(4, steps=30, generator=0)
# sphinx_gallery_alt = "Mean and spread of four samples of the prior over site and time."
figure = sc.report.hovmoller(sc.Analysis(samples, prior.space))

# %%
# 2. Few points, all the time
# ---------------------------
# Three of 16 sites are observed at every step, with an error of 0.2. SDA, score-based data
# assimilation (:cite:t:`rozet2023`), draws trajectories given these; below is the error of their
# mean (RMSE, root mean square error).
truth, steps = truth[:31], 30


def observed(operator, std, when, seed):
    model = sc.ObservationModel(operator, std=std)
    noise = torch.Generator().manual_seed(seed)
    values = model.operator(truth[when])
    values = values + std * torch.randn(values.shape, generator=noise)
    return sc.Observations(model, when, values)


few = observed(sc.Select([0, 5, 10]), 0.2, list(range(31)), 1)
analysis = sc.SDA(prior).assimilate(sc.Problem(prior, few, steps), members=32, generator=2)
# sphinx_gallery_alt = "Truth, mean, error and spread over site and time: the spread is small at"
# sphinx_gallery_alt = "the three observed sites, and the error is largest between them."
figure = sc.report.hovmoller(analysis, truth)

# %%
# 3. Another instrument, the same prior
# -------------------------------------
# All sites at once, but only at three steps, and only the mean of each pair of neighbours. No
# training again: the operator is part of the question, not of the prior.
pairs = observed(sc.observations.Average(2), 0.1, [5, 15, 25], 3)
other = sc.SDA(prior).assimilate(sc.Problem(prior, pairs, steps), members=32, generator=4)
for name, result in (("few sites", analysis), ("few times", other)):
    print(
        f"{name}: RMSE {float(sc.metrics.rmse(result.states, truth)):.2f}"
        f"  spread / skill {float(sc.metrics.spread_skill(result.states, truth)):.2f}"
    )

# %%
# Both instruments together are a list, ``sc.Problem(prior, [few, pairs], steps)``.
#
# **Next:** :doc:`06_read_a_report`.
