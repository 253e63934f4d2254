"""
Workers change the seconds, not the bits
========================================

A slow model of one member at a time is given to an executor of Python's library: threads,
processes, a cluster. Every random number belongs to a seed, a step and a member, so that the
result does not depend on who computes it.
"""

# %%
# A model that waits, as one does that runs elsewhere; it draws its own noise with the seed that
# it is given.
import time
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import torch

import scorda as sc


def step(x, *, member, step, seed):
    time.sleep(0.01)
    return 0.9 * x + np.random.default_rng(seed).normal(0, 0.3, x.shape)


start = np.random.default_rng(0).normal(size=(100, 2))
system = sc.systems.FunctionSystem(step, start, sc.StateSpace((2,)), per_member=True)
observations = sc.Observations(
    sc.ObservationModel(sc.Select([0]), std=0.3), [2, 4, 6], [[0.5], [0.2], [-0.1]]
)

# %%
seconds, results = {}, []
for workers in (1, 2, 4, 8):
    with ThreadPoolExecutor(workers) as executor:
        problem = sc.Problem(sc.systems.Mapped(system, executor), observations, 6)
        begun = time.perf_counter()
        results.append(sc.ETKF().assimilate(problem, members=16, generator=1).states)
        seconds[str(workers)] = time.perf_counter() - begun
print("the same bits:", all(torch.equal(result, results[0]) for result in results))

# %%
# Processes are the same line with ``ProcessPoolExecutor``, and from a shell ``--executor
# processes:4``: :doc:`/executors`.

# sphinx_gallery_alt = "Bars of seconds for 1, 2, 4 and 8 workers, each about half of the one"
# sphinx_gallery_alt = "before."
with sc.report.style():
    figure, panel = plt.subplots(figsize=(5.5, 2.6))
    panel.bar(list(seconds), list(seconds.values()), color="#0072B2")
    panel.set(xlabel="workers", ylabel="seconds")
