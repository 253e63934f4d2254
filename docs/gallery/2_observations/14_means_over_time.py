"""
A mean over time is an observation of several steps
===================================================

A rain gauge tells the sum of a day, a thermometer the mean of an hour. Such rows belong to all the
steps that they cover.
"""

# %%
# Every five steps the mean of x over these steps is given. A filter takes it where its states
# remember: `remembering` keeps the last steps in the state, `newest` takes the copies away.
import torch

import scorda as sc
from scorda.observations import OverTime, newest, remembering

system = sc.systems.Lorenz63()
model = sc.ObservationModel(OverTime(sc.Select([0])), std=0.3)
start = system.prior(1, 5)
truth = system.trajectory(start, 150, 6)[0]
rows = [tuple(range(k, k + 5)) for k in range(1, 150, 5)]
draw = torch.Generator().manual_seed(0)
means = torch.stack([truth[list(row), 0].mean() for row in rows])[:, None]
means = means + 0.3 * torch.randn(means.shape, generator=draw, dtype=means.dtype)
problem = sc.Problem(system, sc.Observations(model, rows, means), 150)
run = newest(sc.ETKF(1.02).assimilate(remembering(problem), members=60, generator=1), problem)

# %%
# The same values taken for values of the last step of each row are wrong by more than their
# error:
last = sc.Observations(sc.ObservationModel(sc.Select([0]), std=0.3), [r[-1] for r in rows], means)
wrong = sc.ETKF(1.02).assimilate(sc.Problem(system, last, 150), members=60, generator=1)
for name, states in {"as means": run.states, "as values of the last step": wrong.states}.items():
    print(f"{name:27} RMSE {float(sc.metrics.rmse(states[:, 30:], truth[30:])):.2f}")

# %%

# sphinx_gallery_alt = "Members of x, y and z over time, which follow the truth closely though x"
# sphinx_gallery_alt = "was observed as means of five steps only."
figure = run.plot(truth=truth)
