"""Hourly temperature from thirty stations, with a prior learned from three weeks of reanalysis.

    python examples/era5.py --data era5_t2m_uk_2019-03.nc

trains a prior on the fields up to ``--split``, then draws posteriors of the days after it from
tables of noisy station values with gaps, and scores them at all other points next to linear and
optimal interpolation. Any NetCDF variable on regular times, ``(time, y, x)``, works.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

import scorda as sc
from scorda.core import rng
from scorda.observations.table_writer import write_table
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.priors.records import Fields, daily_phases, phases_of, read_fields

MISSING = 0.05


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="NetCDF file or zarr store")
    parser.add_argument("--variable", default=[], nargs="*")
    parser.add_argument("--since", help="first datetime of the training (default: all)")
    parser.add_argument(
        "--split", default="2019-03-20T23:00", help="last datetime of the training"
    )
    parser.add_argument(
        "--test", help="first datetime that is assimilated (default: after --split)"
    )
    parser.add_argument("--prior", type=Path, help="trained prior, instead of training one")
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--draws", type=int, default=3, help="draws of stations per day")
    parser.add_argument("--stations", type=int, default=30)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--std", type=float, default=0.5, help="observation error")
    parser.add_argument("--iterations", type=int, default=40, help="of the guidance's solver")
    parser.add_argument("--steps", type=int, help="noise levels of the sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one day, one draw, 8 members")
    parser.add_argument("--out", type=Path, default=Path("era5"), help="directory of results")
    given = parser.parse_args(arguments)
    if given.quick:
        given.days, given.draws, given.members, given.steps = 1, 1, 8, 12
    given.out.mkdir(parents=True, exist_ok=True)

    training = read_fields(given.data, given.variable, given.since, given.split)
    record = read_fields(given.data, given.variable, given.test)
    began = time.process_time()
    if given.prior is None:
        given.prior = given.out / "prior.safetensors"
        settings = training_for(training)
        if given.quick:
            settings = replace(settings, steps=20, every=10)
        train_on_fields(training, settings=settings).save(given.prior)
        print(f"trained on {len(training)} fields: {time.process_time() - began:.0f} CPU seconds")
    prior = sc.load(given.prior)

    window = daily_phases(record.space)
    first = 0
    if given.test is None:
        first = len(read_fields(given.data, given.variable, until=given.split))
    rows: dict[str, list[tuple[float, ...]]] = {}
    for day in range(given.days):
        at = first + window * day
        truth = record.states[at : at + window]
        step = np.timedelta64(round(at * record.space.dt * 3600), "s")
        start = record.start + step
        for draw in range(given.draws):
            key = rng.seeded(given.seed + 1000 * day + draw)
            path = given.out / f"stations-{day}-{draw}.csv"
            stations = observe(truth, record, start, given, key, path)
            table = sc.Observations.from_table(path, prior.space, start, steps=window - 1)
            began = time.perf_counter()
            analysis = posterior(prior, table, start, window, given, key)
            members = analysis.states.double()
            seconds = time.perf_counter() - began
            unseen = torch.ones(record.space.size, dtype=torch.bool)
            unseen[stations] = False
            where = (truth.flatten(1)[:, unseen], members.flatten(2)[:, :, unseen])
            rows.setdefault("SDA", []).append((*ensemble_scores(*where), seconds))
            for name, guess in baselines(training, table, start, window, given.std).items():
                scores = gaussian_scores(where[0], *(g[:, unseen] for g in guess))
                rows.setdefault(name, []).append((*scores, math.nan))
            if day == draw == 0:
                figure(analysis, truth, table, given.out / "posterior.png")
    names = ("rmse", "crps", "spread/skill", "seconds")
    mean = {n: dict(zip(names, np.mean(r, 0), strict=True)) for n, r in rows.items()}
    print(f"{'':28s}" + "".join(f"{n:>14s}" for n in names))
    for name, scores in mean.items():
        print(f"{name:28s}" + "".join(f"{scores[n]:14.3f}" for n in names))
    return mean


def observe(truth, record, start, given, key, path) -> list[int]:
    """Write a table of noisy station values with gaps; returns the stations' grid points."""
    points = torch.randperm(record.space.size, generator=key)[: given.stations].tolist()
    values = truth.flatten(1)[:, points]
    values = values + given.std * torch.randn(values.shape, generator=key, dtype=values.dtype)
    gaps = torch.rand(values.shape, generator=key) < MISSING
    values = torch.where(gaps, torch.nan, values)
    model = sc.ObservationModel(sc.Select(points), std=given.std)
    observations = sc.Observations(model, list(range(len(values))), values)
    write_table(path, observations, record.space, start)
    return points


def posterior(prior, table, start, window, given, key):
    """Members of the posterior of one day."""
    sampler = prior.sampler
    if given.steps:
        sampler = replace(sampler, steps=given.steps)
    guidance = sc.diffusion.MMPS(iterations=given.iterations, solver="cg")
    smoother = sc.SDA(prior.starting(start, window), guidance, sampler)
    problem = sc.Problem(prior, table, window - 1)
    return smoother.assimilate(problem, given.members, key)


def baselines(training: Fields, table, start, window, std):
    """Mean and standard deviation of each baseline, ``(time, points)``."""
    phases = phases_of(training.start, len(training), training.space)
    states = training.states.flatten(1)
    cycle = torch.stack([states[phases == p].mean(0) for p in range(window)])
    anomalies = states - cycle[phases]
    mean = cycle[phases_of(start, window, training.space)]
    lagged = [
        anomalies[lag:].T @ anomalies[: len(anomalies) - lag] / (len(anomalies) - lag)
        for lag in range(3)
    ]
    points = torch.tensor(table.model.operator.indices)
    values = torch.full((window, len(points)), torch.nan, dtype=torch.float64)
    values[list(table.steps)] = table.values.double()
    return {
        "linear interpolation": linear(values, points, training.space),
        "optimal interpolation": optimal(values, points, mean, lagged, std, 0),
        "optimal interpolation, +-1": optimal(values, points, mean, lagged, std, 1),
    }


def linear(values, points, space):
    """Linear within the triangles of the stations, nearest outside; no spread."""
    grid = space.positions().double().numpy()
    guess = torch.empty(len(values), len(grid), dtype=torch.float64)
    for k, row in enumerate(values):
        seen = ~row.isnan()
        places, known = grid[points[seen].numpy()], row[seen].numpy()
        inside = LinearNDInterpolator(places, known)(grid)
        outside = NearestNDInterpolator(places, known)(grid)
        guess[k] = torch.from_numpy(np.where(np.isnan(inside), outside, inside))
    return guess, torch.zeros_like(guess)


def optimal(values, points, mean, lagged, std, reach):
    """Best linear estimate of each hour from the values within so many hours."""
    prior_var = lagged[0].diagonal()
    results = []
    for k in range(len(values)):
        hours = range(max(k - reach, 0), min(k + reach + 1, len(values)))
        hour, which = present(values, hours)
        place = points[which]
        total = between(lagged, hour[:, None] - hour, place[:, None], place)
        total = total + std**2 * torch.eye(len(place), dtype=torch.float64)
        cross = torch.stack(
            [
                between(lagged, h - k, p, slice(None))
                for h, p in zip(hour.tolist(), place, strict=True)
            ]
        )
        gain = torch.linalg.solve(total, cross)
        var = prior_var - (gain * cross).sum(0)
        innovation = values[hour, which] - mean[hour, place]
        results.append((mean[k] + innovation @ gain, var.clamp(min=1e-6).sqrt()))
    return torch.stack([m for m, _ in results]), torch.stack([s for _, s in results])


def present(values, hours):
    """Hour and station of each value that is there."""
    hour, which = (~values[list(hours)].isnan()).nonzero(as_tuple=True)
    return hour + hours[0], which


def between(lagged, lag, a, b):
    """Covariance of point a at an hour with point b so many hours before."""
    if isinstance(lag, int):
        return lagged[lag][a, b] if lag >= 0 else lagged[-lag][b, a]
    found = torch.stack([m[a, b] for m in lagged] + [m[b, a] for m in lagged[:0:-1]])
    return found.gather(0, (lag % len(found))[None])[0]


def ensemble_scores(truth, members):
    """RMSE (mean over time), fair CRPS, spread/skill with the factor (N + 1) / N."""
    n = len(members)
    error = members.mean(0) - truth
    crps = float(sc.metrics.crps(members, truth).mean())
    ratio = (members.var(0).mean() * (n + 1) / n / error.square().mean()).sqrt()
    return float(error.square().mean(1).sqrt().mean()), crps, float(ratio)


def gaussian_scores(truth, mean, std):
    error = truth - mean
    rmse = float(error.square().mean(1).sqrt().mean())
    if not std.any():
        return rmse, float(error.abs().mean()), 0.0
    crps = sc.metrics.gaussian_crps(mean, std, truth)
    return rmse, float(crps.mean()), float((std.square().mean() / error.square().mean()).sqrt())


def figure(analysis, truth, table, path):
    """Truth, stations, mean, spread and two members at noon."""
    from scorda import report as plot

    plot.fields(analysis, len(truth) // 2, truth, [table]).savefig(path, dpi=150)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
