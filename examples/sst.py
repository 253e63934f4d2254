"""Map monthly sea-surface temperature around the equator from sixty points, with land and a gap.

    pip install iris-sample-data
    python examples/sst.py

trains a prior on 42 months of the file ``ostia_monthly.nc`` of that package (Met Office, Open
Government Licence): a quarter of its points is land, and its longitudes close the ring. Of the 12
months after these each has values of 60 random sea points with an error of 0.3 K, but one, which
has none. The posterior is scored at all other sea points, and so are the monthly means
(climatology), linear interpolation of the values or of their anomalies from the monthly means, and
optimal interpolation with the same covariance. With ``--figure PATH`` one month is drawn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

import scorda as sc
from scorda.core import rng
from scorda.core.times import dates_after
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.reading.records import read_fields

# Months that are mapped, points of each, their error; the month without any, and the one drawn.
MONTHS, POINTS, STD, SILENT, MAPPED = 12, 60, 0.3, 6, 3


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="file (default: that of iris-sample-data)")
    parser.add_argument("--draws", type=int, default=3, help="draws of the observed points")
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument("--until", default="2009-09-30", help="last day of the training")
    parser.add_argument("--figure", type=Path, help="file of a map of one month")
    parser.add_argument("--quick", action="store_true", help="one draw, 8 members, few steps")
    given = parser.parse_args(arguments)
    record = read_fields(given.data or sample())
    training = read_fields(given.data or sample(), until=given.until)
    began = time.process_time()
    settings = training_for(training)
    if given.quick:
        given.draws, given.members = 1, 8
        settings = replace(settings, training_steps=20, every=10)
    prior = train_on_fields(training, settings=settings)
    if given.quick:
        prior = replace(prior, sampler=replace(prior.sampler, noise_levels=12))
    print(f"trained on {len(training)} months: {time.process_time() - began:.0f} CPU seconds")
    first = len(training)
    start = dates_after(record.start, np.array([float(first)]), record.space)[0]
    truth = record.states[0, first : first + MONTHS].double()
    rows: dict[str, list[tuple[float, ...]]] = {}
    for draw in range(given.draws):
        figure = given.figure if draw == 0 else None
        for name, scores in scored(prior, truth, start, draw, given.members, figure).items():
            rows.setdefault(name, []).append(scores)
    names = ("rmse", "crps", "spread/skill")
    mean = {n: dict(zip(names, np.mean(r, 0), strict=True)) for n, r in rows.items()}
    print(f"{'':24s}" + "".join(f"{n:>14s}" for n in names))
    for name, scores in mean.items():
        print(f"{name:24s}" + "".join(f"{scores[n]:14.3f}" for n in names))
    return mean


def sample() -> Path:
    import iris_sample_data

    return Path(iris_sample_data.path) / "ostia_monthly.nc"


def scored(prior, truth, start, draw, members, figure) -> dict[str, tuple[float, ...]]:
    """Return the scores of the posterior and of the baselines for one draw of points."""
    space, key = prior.space, rng.seeded(draw)
    sea = space.inside.nonzero()[:, 0]
    flat = truth.flatten(1)
    values = torch.full_like(flat, torch.nan)
    for month in range(MONTHS):
        points = sea[torch.randperm(len(sea), generator=key)[:POINTS]]
        noise = STD * torch.randn(POINTS, generator=key, dtype=torch.float64)
        values[month, points] = flat[month, points] + noise
    values[SILENT] = torch.nan
    times, fields = dates_after(start, np.arange(float(MONTHS)), space), values.view_as(truth)
    observations = sc.Observations.from_array(fields.numpy(), space, STD, None, times, start)
    started = prior.starting(start, MONTHS)
    problem = sc.Problem(prior, observations, MONTHS - 1)
    analysis = sc.SDA(started).assimilate(problem, members, key)
    if figure:
        draw_maps(analysis, truth, values.view_as(truth), figure)
    states = analysis.states.double().flatten(2)
    unseen = values.isnan() & space.inside
    mean = started.standardisation.mean.double().flatten(1)
    ensemble = states.mean(0), (states.var(0) * (members + 1) / members).sqrt()
    crps = sc.metrics.crps(states[:, unseen], flat[unseen]).mean()
    rmse, _, ratio = gaussian_scores(flat, *ensemble, unseen)
    found = {"SDA": (rmse, float(crps), ratio)}
    std = covariance(prior).diagonal().sqrt()
    found["climatology"] = gaussian_scores(flat, mean, std.expand_as(flat), unseen)
    found["linear interpolation"] = gaussian_scores(flat, *linear(values, space), unseen)
    guess, none = linear(values - mean, space)
    found["the same, of anomalies"] = gaussian_scores(flat, mean + guess, none, unseen)
    found["optimal interpolation"] = gaussian_scores(flat, *optimal(values, mean, prior), unseen)
    return found


def draw_maps(analysis, truth, values, path):
    """Draw truth, observations, mean and spread of one month as strips; land stays blank."""
    import matplotlib.pyplot as plt

    space, states = analysis.space, analysis.states[:, MAPPED].double()
    x, y = (np.asarray(space.coordinates[name]) for name in ("longitude", "latitude"))
    fields = {"Truth": truth[MAPPED], "Observations": values[MAPPED], "Mean": states.mean(0)}
    low, high = map(float, fields["Truth"][fields["Truth"].isfinite()].aminmax())
    figure, axes = plt.subplots(4, 1, figsize=(10, 6), sharex=True, layout="constrained")
    for ax, (name, field) in zip(axes, fields.items(), strict=False):
        if name == "Observations":
            row, column = field.isfinite().nonzero(as_tuple=True)
            shown = ax.scatter(
                x[column], y[row], 12, field[row, column], cmap="viridis", vmin=low, vmax=high
            )
        else:
            shown = ax.pcolormesh(x, y, field, cmap="viridis", vmin=low, vmax=high)
        ax.set(title=name, ylabel="latitude", ylim=axes[0].get_ylim())
    figure.colorbar(shown, ax=axes[:3], label="K")
    shown = axes[3].pcolormesh(x, y, states.std(0), cmap="magma", vmin=0)
    axes[3].set(title="Spread", xlabel="longitude", ylabel="latitude")
    figure.colorbar(shown, ax=axes[3], label="K")
    figure.savefig(path, dpi=150)


def covariance(prior):
    """Return the covariance of one month of the prior's Gaussian law."""
    net, scale = prior.network, prior.standardisation.std.double().flatten()
    basis, spectrum = net.basis.double(), net.spectrum.double()
    inside = prior.space.inside.double()
    cov = (basis * (spectrum[:-1] - spectrum[-1])) @ basis.T + spectrum[-1] * torch.diag(inside)
    return cov * scale[:, None] * scale


def linear(values, space):
    """Interpolate linearly within the triangles of the points, and by the nearest outside.

    The points around the seam are repeated a turn away; a month without values has the mean of
    its neighbours in time.
    """
    grid = space.positions().double().numpy()
    guess = torch.full_like(values, torch.nan)
    for month, row in enumerate(values):
        seen = ~row.isnan()
        if not seen.any():
            continue
        places = np.concatenate([grid[seen] + [0.0, turn] for turn in (-360.0, 0.0, 360.0)])
        known = np.tile(row[seen].numpy(), 3)
        inside = LinearNDInterpolator(places, known)(grid)
        outside = NearestNDInterpolator(places, known)(grid)
        guess[month] = torch.from_numpy(np.where(np.isnan(inside), outside, inside))
    guess[SILENT] = (guess[SILENT - 1] + guess[SILENT + 1]) / 2
    return guess, torch.zeros_like(guess)


def optimal(values, mean, prior):
    """Return the best linear estimate of each month from its own values, and its std."""
    cov = covariance(prior)
    guess, std = mean.clone(), cov.diagonal().sqrt().repeat(len(values), 1)
    for month, row in enumerate(values):
        seen = ~row.isnan()
        if seen.any():
            noisy = cov[seen][:, seen] + STD**2 * torch.eye(int(seen.sum()), dtype=cov.dtype)
            gain = torch.linalg.solve(noisy, cov[seen])
            guess[month] += (row[seen] - mean[month, seen]) @ gain
            std[month] = (cov.diagonal() - (gain * cov[seen]).sum(0)).clamp(min=0).sqrt()
    return guess, std


def gaussian_scores(truth, mean, std, unseen):
    """Return RMSE, CRPS and spread/skill at the points that were not observed."""
    error, std = (truth - mean)[unseen], std[unseen]
    rmse = error.square().mean().sqrt()
    if not std.any():
        return float(rmse), float(error.abs().mean()), 0.0
    crps = sc.metrics.gaussian_crps(torch.zeros_like(error), std, error).mean()
    return float(rmse), float(crps), float(std.square().mean().sqrt() / rmse)


if __name__ == "__main__":
    main()
