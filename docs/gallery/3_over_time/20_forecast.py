"""
How long is a forecast good?
============================

A forecast goes on where the observations end. Verified against what came later, its spread should
tell its error at each lead time.
"""

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import scorda as sc
from scorda.report.leads import lead_times

folder = Path(tempfile.mkdtemp())
system = sc.systems.Lorenz96(40)
model = sc.ObservationModel(sc.Select(range(40)), std=0.5)
truth, whole = sc.twin_experiment(system, model, steps=180, every=2, generator=0)
seen = whole.instruments[0]

# %%
# The first 100 steps are assimilated and stored, the next 80 forecast.
past = sc.Observations(model, seen.steps[:50], seen.values[:50])
problem = replace(whole, observations=past, steps=100)
run = sc.store.run(sc.ETKF(1.05), problem, 40, folder / "run.zarr", seed=1)
forecast = sc.forecast(run, system, 80, folder / "forecast.zarr")

# %%
# Later observations, counted from the beginning of the forecast:
later = sc.Observations(model, [k - 100 for k in seen.steps[50:]], seen.values[50:])
rows = sc.verify(forecast, later)
# sphinx_gallery_alt = "Error, expected error, spread and score (CRPS) over lead time: all grow"
# sphinx_gallery_alt = "together from 0.5 to about 3.5 within three time units, and stay there."
figure = lead_times(rows, system.space)
