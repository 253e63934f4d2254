"""
7. Sea-surface temperature, with land
=====================================

Monthly maps of the sea between the islands of Indonesia, from thirty points a month; land is no
sea.
"""

# %%
# The record is one of the Met Office (OSTIA, Operational Sea Surface Temperature and Ice Analysis;
# Open Government Licence) that comes with the package ``iris-sample-data``: 54 months around the
# equator, of which we take the longitudes from Sumatra to New Guinea. 42 months are to learn from;
# the last twelve are to be mapped.
from dataclasses import replace
from pathlib import Path

import iris_sample_data
import numpy as np
import torch
import xarray as xr

import scorda as sc
from scorda.core.times import dates_after
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.reading.records import read_fields

file = Path(iris_sample_data.path) / "ostia_monthly.nc"
fields = xr.open_dataset(file).sel(longitude=slice(95, 150))
training, record = read_fields(fields, until="2009-09-30"), read_fields(fields)
space = record.space
space

# %%
# Where the file has no value at any time is land: it is in no mean, no score and no covariance,
# and stays blank in maps. The training is cut short here: the default is 1000 steps.
prior = train_on_fields(training, settings=replace(training_for(training), training_steps=300))

# %%
# Thirty points of the sea are observed each month, with an error of 0.3 K; one month has none.
first, months = len(training), 12
truth = record.states[0, first : first + months].double()
sea, draw = space.inside.nonzero()[:, 0], torch.Generator().manual_seed(0)
values = torch.full((months, space.size), torch.nan, dtype=torch.float64)
for month in range(months):
    points = sea[torch.randperm(len(sea), generator=draw)[:30]]
    noise = 0.3 * torch.randn(30, generator=draw, dtype=torch.float64)
    values[month, points] = truth[month].flatten()[points] + noise
values[6] = torch.nan
start = dates_after(record.start, np.array([float(first)]), space)[0]
times = dates_after(start, np.arange(float(months)), space)
fields = values.view_as(truth).numpy()
observations = sc.Observations.from_array(fields, space, 0.3, None, times, start)
observations

# %%
# Draw the months
# ---------------
# SDA, score-based data assimilation (:cite:t:`rozet2023`), draws maps of all months together.
started = prior.starting(start, months)
problem = sc.Problem(started, observations, months - 1)
analysis = sc.SDA(started).assimilate(problem, members=16, generator=1)
# sphinx_gallery_alt = "Maps of sea-surface temperature with islands left blank: truth, observed"
# sphinx_gallery_alt = "points, mean, spread and two members. The mean has the warm and cold"
# sphinx_gallery_alt = "parts of the truth; the spread is largest where no point was observed."
figure = sc.report.fields(analysis, step=3, truth=truth, observations=observations)

# %%
# At the points that were not observed, the error of the mean (RMSE, root mean square error) and of
# the ensemble (CRPS, continuous ranked probability score):
unseen = values.isnan() & space.inside
states = analysis.states.double().flatten(2)[:, unseen]
crps = float(sc.metrics.crps(states, truth.flatten(1)[unseen]))
error = float((states.mean(0) - truth.flatten(1)[unseen]).square().mean().sqrt())
climate = started.standardisation.mean.double().expand(months, *space.shape).flatten(1)
usual = float((climate - truth.flatten(1))[unseen].square().mean().sqrt())
print(f"RMSE {error:.2f} K, CRPS {crps:.2f} K; the monthly means alone: RMSE {usual:.2f} K")

# %%
# ``examples/sst.py`` scores three draws of the points beside interpolation and optimal
# interpolation.
#
# **Next:** your own fields: :doc:`/data`.
