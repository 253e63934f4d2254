"""
3. From stations to hourly maps
===============================

Eight thermometers and a record of past fields. What was the temperature everywhere, and how sure
is that?
"""

# %%
# A record
# --------
# With real data this is a reanalysis such as ERA5, in NetCDF files. Here we make a small one: a
# daily cycle and a few waves that travel east, hourly over three weeks, on 8 x 12 points.
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import scorda as sc
from scorda.cli import main

folder = Path(tempfile.mkdtemp())
draw = np.random.default_rng(0)
hours = pd.date_range("2019-03-01", periods=22 * 24, freq="h")
lat, lon = np.linspace(57.0, 50.0, 8), np.linspace(-6.0, 5.0, 12)
north, east = np.meshgrid(lat - 53.5, lon, indexing="ij")
t = np.arange(len(hours))[:, None, None]
field = 281 - 0.7 * north + 2.0 * np.sin(2 * np.pi * (t - 9) / 24)
for _ in range(5):
    waves, turns, phase, size = (
        draw.normal(0, 0.5, 2),
        draw.uniform(30, 70),
        *draw.uniform(1, 6, 2),
    )
    strength = np.interp(np.arange(len(hours)), np.arange(0, 600, 48), draw.normal(0, 1, 13))
    wave = np.sin(waves[0] * north + waves[1] * east - 2 * np.pi * t / turns + phase)
    field = field + 0.3 * size * strength[:, None, None] * wave
record = xr.Dataset(
    {"t2m": (("time", "latitude", "longitude"), field.astype("f4"), {"units": "K"})},
    {
        "time": hours,
        "latitude": ("latitude", lat, {"units": "degrees_north"}),
        "longitude": ("longitude", lon, {"units": "degrees_east"}),
    },
)
record.to_netcdf(folder / "t2m.nc")

# %%
# Stations
# --------
# A table: one row for each value, with its time, its position and its error. These are of the
# last day, at places off the grid, with an error of half a degree; some rows are missing.
places = np.column_stack([draw.uniform(50.5, 56.5, 8), draw.uniform(-5.5, 4.5, 8)])
day = record.sel(time="2019-03-22")
rows = [
    {
        "time": str(time),
        "latitude": round(place[0], 2),
        "longitude": round(place[1], 2),
        "variable": "t2m",
        "value": float(day.t2m.sel(time=time).interp(latitude=place[0], longitude=place[1])),
        "std": 0.5,
    }
    for time in day.time.values
    for place in places
    if draw.random() < 0.8
]
table = pd.DataFrame(rows)
table["value"] += 0.5 * draw.normal(size=len(table))
table.to_csv(folder / "stations.csv", index=False)
table.head()

# %%
# What does Scorda understand of these files? In a shell: ``scorda inspect t2m.nc stations.csv``.
main(f"inspect {folder}/t2m.nc {folder}/stations.csv".split())

# %%
# Train a prior
# -------------
# A prior is trained once on the days before. From the shell::
#
#    scorda train --data t2m.nc --until 2019-03-21 --out prior.safetensors
#
# ``--training-steps`` makes it short here; by default the training takes about a minute.
main(
    f"train --data {folder}/t2m.nc --until 2019-03-21 --training-steps 400 "
    f"--out {folder}/prior.safetensors".split()
)

# %%
# Draw maps
# ---------
# SDA, score-based data assimilation (:cite:t:`rozet2023`), draws hourly maps of the day, given the
# table. Here we know the truth, and give it for the scores; with real data ``--withhold 0.2``
# keeps rows back and scores with them::
#
#    scorda assimilate --prior prior.safetensors --method sda --observations stations.csv
#        --start 2019-03-22 --steps 23 --members 16 --truth day.nc --out day.zarr
day.to_netcdf(folder / "day.nc")
main(
    f"assimilate --prior {folder}/prior.safetensors --method sda --start 2019-03-22 --steps 23 "
    f"--observations {folder}/stations.csv --truth {folder}/day.nc --members 16 "
    f"--out {folder}/day.zarr".split()
)

# %%
# A map of noon: the truth, what was observed, the mean of the members, their spread, and two of
# them. Where no station is near, the members differ.
posterior = sc.open_posterior(folder / "day.zarr")
# sphinx_gallery_alt = "Maps of temperature at noon: truth, stations, mean, spread and two"
# sphinx_gallery_alt = "members. Mean and members resemble the truth; the spread is largest"
# sphinx_gallery_alt = "between the stations."
figure = sc.report.fields(
    posterior.analysis, step=12, truth=posterior.truth, observations=posterior.observations
)

# %%
# ``scorda report day.zarr`` writes all figures on one page, and ``xarray.open_zarr`` opens the
# store.
#
# **Next:** :doc:`05_train_a_prior`, and :doc:`/data` for what your files may look like.
