"""
A filter that waits for tomorrow
================================

Where data arrive day by day, a filter is saved after each and goes on with the next, in another
process if need be. The result is the same to the last bit.
"""

# %%
import tempfile
from pathlib import Path

import torch

import scorda as sc

system = sc.systems.Lorenz63()
model = sc.ObservationModel(sc.Select([0]), std=0.5)
truth, problem = sc.twin_experiment(system, model, steps=120, every=6, generator=0)
values = problem.instruments[0].values
file = Path(tempfile.mkdtemp()) / "run.safetensors"

# %%
# The first day begins the run; each later one reads its file, makes a forecast to the time of the
# new value, and takes it in.
sc.ETKF(1.02).start(system, 40, 1).save(file)
known = []
for day, y in enumerate(values, start=1):
    run = sc.resume(file)
    run.forecast(6 * day)
    before = run.ensemble.std(0).norm()
    run.observe(y, model)
    run.save(file)
    known.append((float(before), float(run.ensemble.std(0).norm())))

# %%
# All at once, the same seed:
whole = sc.ETKF(1.02).assimilate(problem, members=40, generator=1)
print("the same bits:", torch.equal(whole.states[:, -1], run.ensemble))
# sphinx_gallery_alt = "Members of x, y and z over time with the truth and the observations of"
# sphinx_gallery_alt = "x."
figure = whole.plot(truth=truth, observations=problem.instruments)
