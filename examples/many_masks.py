"""Train one network for many observing networks of a flow, and filter with it through others.

MASF's amortised network learns from the forecasts of an LETKF on Kolmogorov flow, 32 x 32 points
at Re = 2000, seen every 10 steps. In each cycle of its training other points are seen, with
another error: scattered ones, a grid, or lines, drawn at random. It is then run through eight
masks and three truths, error 0.1, beside an EnKF whose radius and inflation are chosen for each
mask by its CRPS on another truth; on the first truth also beside MASF with the local Gaussians
that the network corrects. The scattered masks are not among those of the training; a grid may be.
A row for each mask, method and truth goes to benchmarks/results/kolmogorov-masks.csv, and the
differences are printed.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.shapes import Float, Int, Tensor
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.prior import NetworkTraining
from scorda.systems.kolmogorov import KolmogorovFlow

RESULTS = Path(__file__).parents[1] / "benchmarks/results/kolmogorov-masks.csv"
LOCAL, OURS = "MASF, local Gaussians", "MASF, one network"
HEADER = ("mask", "method", "seed", "crps", "rmse", "spread_skill", "cycle_seconds", "settings")
SIDE, GAP, MEMBERS, STD = 32, 10, 40, 0.1
FLOW = KolmogorovFlow(SIDE, 2 * SIDE, viscosity=1 / 2000)
# Error of the finest observations in training; the coarsest have 6.3 times as much.
LEAST, WIDEST = 0.05, 0.8
LEARN, CHOOSE, TRUTHS = (900, 901), 800, (0, 1, 2)
BASE = sc.priors.LocalGaussian(sc.GaspariCohn(0.4), 2)
SAMPLER = sc.diffusion.BridgeODE(noise_levels=9, order=2)
GRID = tuple(product((0.6, 0.9), (1.1, 1.2, 1.3, 1.4, 1.5)))


def grid(stride: int, first: int = 0) -> Int[Tensor, "points"]:
    """Return the points of a grid."""
    points = torch.arange(SIDE**2).view(SIDE, SIDE)
    return points[first::stride, first::stride].flatten()


def scattered(share: float, seed: int) -> Int[Tensor, "points"]:
    """Return points drawn at random."""
    order = torch.randperm(SIDE**2, generator=rng.seeded(seed))
    return order[: round(share * SIDE**2)].sort().values


MASKS = {
    "stride 4": grid(4),
    "stride 4, offset 2": grid(4, 2),
    "stride 5": grid(5, 1),
    "stride 3": grid(3),
    "5 % scattered": scattered(0.05, 71),
    "10 % scattered": scattered(0.10, 72),
    "20 % scattered": scattered(0.20, 73),
    "every fourth row": torch.arange(SIDE**2).view(SIDE, SIDE)[1::4].flatten(),
}


def seen(points: Int[Tensor, "points"], std: float = STD) -> sc.ObservationModel:
    """Return the observation of both velocities at some points."""
    return sc.ObservationModel(sc.Select(torch.cat([points, points + SIDE**2]).tolist()), std=std)


def drawn_mask(at: torch.Generator) -> Tensor:
    """Draw a mask of scattered points, of a grid, or of lines."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    kind = int(torch.randint(3, (1,), generator=at))
    if kind == 0:
        share = 0.03 * 10 ** float(torch.rand(1, generator=at) * 1.2)
        return torch.rand(SIDE, SIDE, generator=at) < share
    stride = int(torch.randint(2, 7, (1,), generator=at))
    first = int(torch.randint(0, stride, (1,), generator=at))
    if kind == 1:
        mask[first::stride, int(torch.randint(0, stride, (1,), generator=at)) :: stride] = True
    elif torch.rand(1, generator=at) < 0.5:
        mask[first::stride] = True
    else:
        mask[:, first::stride] = True
    return mask


def lesson(seed: int, cycles: int = 120) -> Problem:
    """Return a twin experiment with another mask and another error in each cycle."""
    everything = seen(torch.arange(SIDE**2), LEAST)
    _, problem = twin_experiment(FLOW, everything, cycles * GAP, GAP, rng.seeded(seed))
    (exact,) = problem.instruments
    at = rng.seeded(1000 + seed)
    values, std = exact.values.clone(), torch.empty(exact.values.shape)
    for cycle in range(len(values)):
        level = LEAST * 10 ** float(torch.rand(1, generator=at) * WIDEST)
        more = torch.randn(values.shape[1], generator=at) * (level**2 - LEAST**2) ** 0.5
        mask = drawn_mask(at).flatten().repeat(2)
        values[cycle] = torch.where(mask, exact.values[cycle] + more.to(values), torch.nan)
        std[cycle] = level
    return replace(problem, observations=replace(exact, values=values, std=std.to(values)))


def learned(steps: int) -> AmortisedNetwork:
    """Train the network on the forecasts of an LETKF."""
    letkf, forecasts = sc.LETKF(1.1, localization=sc.GaspariCohn(0.4)), []
    for seed in LEARN:
        run = letkf.run(lesson(seed), MEMBERS, rng.at((seed, 2), 0))
        forecasts += [cycle.forecast for cycle in run if cycle.forecast is not None][5:]
    training = NetworkTraining(
        steps, 64, batch=32, rate=2e-3, weighting="state", validation_interval=max(1, steps // 8)
    )
    return AmortisedNetwork.train(
        torch.stack(forecasts), FLOW.space, axis=("y", "x"), base=BASE, training=training
    )


def scores(
    method: Any, points: Int[Tensor, "points"], seed: int, cycles: int
) -> tuple[float, float, float, float]:
    """Return CRPS, RMSE, spread/skill and seconds per cycle; three analyses are left out."""
    truth, problem = twin_experiment(FLOW, seen(points), cycles * GAP, GAP, rng.seeded(seed))
    started = process_time()
    run = method.run(problem, MEMBERS, rng.at((seed, 2), 0))
    analyses: Float[Tensor, "cycle ensemble ..."]
    analyses = torch.stack([c.ensemble for c in run if c.step and c.step % GAP == 0])[3:]
    seconds = (process_time() - started) / cycles
    true = truth[4 * GAP :: GAP]
    rmse = float((analyses.mean(1) - true).square().mean().sqrt())
    spread = float(analyses.var(1).mean().sqrt())
    return (
        float(sc.metrics.crps(analyses.transpose(0, 1), true)),
        rmse,
        spread / rmse,
        seconds,
    )


def enkf(radius: float, inflation: float) -> sc.EnKF:
    """Return the EnKF of a radius and an inflation."""
    return sc.EnKF(inflation, localization=sc.GaspariCohn(radius))


def main() -> None:
    """Train, choose, run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training-steps", type=int, default=3200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = sc.MASF(learned(given.training_steps), sampler=SAMPLER, inflation=1.1)
    gaussians = sc.MASF(BASE, sampler=SAMPLER, inflation=1.1)
    crps: dict[str, dict[tuple[str, int], float]] = {"EnKF": {}, LOCAL: {}, OURS: {}}
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for mask, points in MASKS.items():
            best = min(GRID, key=lambda g: scores(enkf(*g), points, CHOOSE, 12)[0])
            settings = f"radius {best[0]}, inflation {best[1]}"
            rows = {"EnKF": (enkf(*best), TRUTHS, settings), LOCAL: (gaussians, TRUTHS[:1], "")}
            rows[OURS] = (network, TRUTHS, "")
            for label, (method, truths, chosen) in rows.items():
                for seed in truths:
                    found = scores(method, points, seed, 15)
                    crps[label][mask, seed] = found[0]
                    writer.writerow((mask, label, seed, *(f"{v:.4f}" for v in found), chosen))
                    print(mask, label, seed, *(f"{v:.3f}" for v in found), flush=True)
    for label in ("EnKF", LOCAL):
        less = torch.tensor([100 * (1 - crps[OURS][run] / v) for run, v in crps[label].items()])
        error = less.std() / len(less) ** 0.5
        print(f"{OURS}: CRPS {less.mean():.1f} ± {error:.1f} % lower than {label}")


if __name__ == "__main__":
    main()
