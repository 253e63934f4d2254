"""Map hourly temperature from thirty stations, with a prior learned from weeks of reanalysis.

    python examples/era5.py --data era5_t2m_uk_2019-03.nc

trains a prior on the fields up to ``--split``. It then draws posteriors of the days after that
from tables of noisy station values with gaps. The posteriors are scored at all other points, and
so are linear and optimal interpolation. Any NetCDF variable on regular times works, in the form
``(time, y, x)``.
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
from scorda.core.times import dates_after, phases, phases_of
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.reading.records import Fields, read_fields

MISSING = 0.05


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    given = parsed(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    training = read_fields(given.data, given.variable, given.since, given.split)
    record = read_fields(given.data, given.variable, given.test)
    prior = sc.load(given.prior or trained(training, given))

    window = phases(record.space)
    first = 0
    if given.test is None:
        first = len(read_fields(given.data, given.variable, until=given.split))
    rows: dict[str, list[tuple[float, ...]]] = {}
    for day in range(given.days):
        at = first + window * day
        start = dates_after(record.start, np.array([at * record.space.dt]), record.space)[0]
        for draw in range(given.draws):
            truth = record.states[0, at : at + window]
            for name, scores in scored(prior, training, truth, start, (day, draw), given).items():
                rows.setdefault(name, []).append(scores)
    names = ("rmse", "crps", "spread/skill", "seconds")
    mean = {n: dict(zip(names, np.mean(r, 0), strict=True)) for n, r in rows.items()}
    print(f"{'':28s}" + "".join(f"{n:>14s}" for n in names))
    for name, scores in mean.items():
        print(f"{name:28s}" + "".join(f"{scores[n]:14.3f}" for n in names))
    return mean


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    parser.add_argument("--steps", type=int, help="noise levels of the sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one day, one draw, 8 members")
    parser.add_argument("--out", type=Path, default=Path("era5"), help="directory of results")
    given = parser.parse_args(arguments)
    if given.quick:
        given.days, given.draws, given.members, given.steps = 1, 1, 8, 12
    return given


def trained(training: Fields, given) -> Path:
    """Train a prior on the fields and return its file."""
    path, began = given.out / "prior.safetensors", time.process_time()
    settings = training_for(training)
    if given.quick:
        settings = replace(settings, training_steps=20, every=10)
    train_on_fields(training, settings=settings).save(path)
    print(f"trained on {len(training)} fields: {time.process_time() - began:.0f} CPU seconds")
    return path


def scored(prior, training: Fields, truth, start, draw, given) -> dict[str, tuple[float, ...]]:
    """Return the scores of SDA and of the baselines for one draw of stations on one day.

    All points but those of the stations count.
    """
    window, space = len(truth), training.space
    key = rng.seeded(given.seed + 1000 * draw[0] + draw[1])
    path = given.out / f"stations-{draw[0]}-{draw[1]}.nc"
    stations = observe(truth, space, start, given, key, path)
    table = sc.Observations.from_table(path, prior.space, start, steps=window - 1)
    began = time.perf_counter()
    analysis = posterior(prior, table, start, window, given, key)
    members = analysis.states.double()
    seconds = time.perf_counter() - began
    unseen = torch.ones(space.size, dtype=torch.bool)
    unseen[stations] = False
    unknown = truth.flatten(1)[:, unseen]
    scores = {"SDA": (*ensemble_scores(unknown, members.flatten(2)[:, :, unseen]), seconds)}
    for name, guess in baselines(training, table, start, window, given.std).items():
        scores[name] = (*gaussian_scores(unknown, *(g[:, unseen] for g in guess)), math.nan)
    if draw == (0, 0):
        figure(analysis, truth, table, given.out / "posterior.png")
    return scores


def observe(truth, space, start, given, key, path) -> list[int]:
    """Write a table of noisy station values with gaps; return the grid points of the stations."""
    points = torch.randperm(space.size, generator=key)[: given.stations].tolist()
    values = truth.flatten(1)[:, points]
    values = values + given.std * torch.randn(values.shape, generator=key, dtype=values.dtype)
    gaps = torch.rand(values.shape, generator=key) < MISSING
    values = torch.where(gaps, torch.nan, values)
    model = sc.ObservationModel(sc.Select(points), std=given.std)
    observations = sc.Observations(model, list(range(len(values))), values)
    observations.to_table(path, space, start)
    return points


def posterior(prior, table, start, window, given, key):
    """Draw members of the posterior of one day."""
    sampler = prior.sampler
    if given.steps:
        sampler = replace(sampler, noise_levels=given.steps)
    smoother = sc.SDA(prior.starting(start, window), sampler=sampler)
    problem = sc.Problem(prior, table, window - 1)
    return smoother.assimilate(problem, given.members, key)


def baselines(training: Fields, table, start, window, std):
    """Return mean and standard deviation of each baseline, ``(time, points)``."""
    phase = phases_of(training.start, len(training), training.space)
    states = training.states[0].flatten(1)
    cycle = torch.stack([states[phase == p].mean(0) for p in range(window)])
    anomalies = states - cycle[phase]
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
    """Interpolate linearly within the triangles of the stations, and by the nearest outside."""
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
    """Return the best linear estimate of each hour from the values within `reach` hours."""
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
    """Return hour and station of each value that is not missing."""
    hour, which = (~values[list(hours)].isnan()).nonzero(as_tuple=True)
    return hour + hours[0], which


def between(lagged, lag, a, b):
    """Return the covariance of point a at an hour with point b `lag` hours before."""
    if isinstance(lag, int):
        return lagged[lag][a, b] if lag >= 0 else lagged[-lag][b, a]
    found = torch.stack([m[a, b] for m in lagged] + [m[b, a] for m in lagged[:0:-1]])
    return found.gather(0, (lag % len(found))[None])[0]


def ensemble_scores(truth, members):
    """Return RMSE (mean over time), fair CRPS, and spread/skill with factor (N + 1) / N."""
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
    """Draw truth, stations, mean, spread and two members at noon."""
    from scorda import report as plot

    plot.fields(analysis, len(truth) // 2, truth, [table]).savefig(path, dpi=150)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
