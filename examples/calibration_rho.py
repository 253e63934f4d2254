r"""Is the posterior of an unknown rho of Lorenz-63 right, of SDA alone and after sweeps?

rho is uniform on 20 to 35, and x is seen at every fourth of 33 states with an error of 1. For some
truths the W1 distance of 128 members from the posterior on a grid of rho is measured, in that of
two sets of 128 exact draws; for all of them the rank of the truth among 19 members, whose smallest
and largest value hold it nine times of ten. Two grids, which share nothing, tell the error of the
reference.

A file grows by one line per truth; what is there is not computed again.

    scorda train --system lorenz63 --parameter rho=uniform:20,35 --width 64 --blocks 4 \
        --training-steps 11000 --segment 33 --out prior.safetensors
    python examples/calibration_rho.py --prior prior.safetensors --out rho.csv
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.shapes import Float, Tensor

STEPS, EVERY, STD = 32, 4, 1.0
LOWER, UPPER, POINTS = 20.0, 35.0, 45
# Members whose distance is measured, and those among which the truth is ranked.
MEMBERS, RANKED = 128, 19
# Sets of exact draws that distances are the mean of.
SETS = 200
COLUMNS = (
    "seed", "rank", "polished_rank", "w1", "polished_w1", "reference_w1", "spread",
    "polished_spread", "exact_spread", "seconds", "polished_seconds",
)  # fmt: skip


def grid() -> Float[Tensor, "points"]:
    """Return the values of rho, midpoints of intervals of equal mass."""
    return LOWER + (UPPER - LOWER) * (torch.arange(POINTS) + 0.5) / POINTS


def first_states(particles: int, seed: int) -> Float[Tensor, "points particles 3"]:
    """Draw states of the attractor at each value of rho."""
    rho = grid().repeat_interleave(particles)
    system = sc.systems.Lorenz63().with_values({"rho": rho})
    return system.prior(len(rho), rng.seeded(seed)).view(POINTS, particles, 3)


def log_evidence(
    problem: sc.Problem, x: Float[Tensor, "points particles 3"], seed: int
) -> Float[Tensor, "points"]:
    """Estimate the log evidence at each value of rho by a particle filter of its own."""
    particles, observed = x.shape[1], problem.observed()
    error, choice = rng.spawn(seed, 2)
    system = sc.systems.Lorenz63().with_values({"rho": grid().repeat_interleave(particles)})
    total = torch.zeros(POINTS, dtype=torch.float64)
    for k in range(STEPS + 1):
        if k:
            x = system.step(x.flatten(0, 1), error).view_as(x)
        if k in observed:
            y, model = observed[k]
            log_w = model.log_likelihood(y.to(x), x.flatten(0, 1)).view(POINTS, -1).double()
            total += log_w.logsumexp(1)
            # Systematic resampling of each filter.
            cumulative = log_w.softmax(1).cumsum(1)
            places = torch.arange(particles) + rng.uniform(POINTS, (1,), choice).double()
            chosen = torch.searchsorted(cumulative, places / particles).clamp_max(particles - 1)
            x = x.gather(1, chosen[..., None].expand_as(x))
    return total


def draws(log_w: Float[Tensor, "points"], count: int, seed: int) -> Float[Tensor, "sets members"]:
    """Draw sets of values of the posterior, uniform within each interval of the grid."""
    u = rng.uniform(SETS, (2, count), seed).double()
    below = torch.cat([torch.zeros(1), log_w.softmax(0).cumsum(0)])
    chosen = torch.searchsorted(below[1:-1].contiguous(), u[:, 0].contiguous())
    return LOWER + (UPPER - LOWER) * (chosen + u[:, 1]) / POINTS


def w1(x: Float[Tensor, "... members"], y: Float[Tensor, "sets members"]) -> float:
    """Return the mean W1 distance of as many numbers each."""
    return float((x.double().sort(-1).values - y.sort(-1).values).abs().mean())


def judged(seed: int, prior: sc.priors.Prior, clouds: list[Tensor]) -> dict[str, float]:
    """Return the line of a truth; distances if there are first states of references."""
    system = sc.WithParameters(sc.systems.Lorenz63(), {"rho": sc.systems.Uniform(LOWER, UPPER)})
    model = sc.ObservationModel(sc.Select([0]), std=STD)
    truth, problem = sc.twin_experiment(
        system, model, STEPS, EVERY, rng.at((seed, 21), 0), start=0
    )
    began = time.perf_counter()
    members = MEMBERS if clouds else RANKED
    x = sc.SDA(prior).assimilate(problem, members, rng.at((seed, 22), 0)).states
    seconds, began = time.perf_counter() - began, time.perf_counter()
    polished = sc.ConditionalSMC().improved(x, problem, rng.at((seed, 23), 0))
    row = {"seed": seed, "seconds": seconds, "polished_seconds": time.perf_counter() - began}
    found = {"": x[:, 0, 3], "polished_": polished[:, 0, 3]}
    for name, rho in found.items():
        row[f"{name}rank"] = int((rho[:RANKED] < truth[0, 3]).sum())
    if clouds:
        one, other = (
            draws(log_evidence(problem, cloud, i), MEMBERS, i) for i, cloud in enumerate(clouds)
        )
        floor = w1(one[: SETS // 2], one[SETS // 2 :])
        # Quantiles of all draws of both: the distance of the two references themselves.
        row["reference_w1"] = w1(one.flatten(), other.flatten()[None]) / floor
        row["exact_spread"] = float(one.std())
        for name, rho in found.items():
            row[f"{name}w1"] = w1(rho, one) / floor
            row[f"{name}spread"] = float(rho.std())
    return row


def told(rows: list[dict[str, str]]) -> None:
    """Print means over truths with their standard errors."""
    for name in COLUMNS[3:]:
        values = torch.tensor([float(row[name]) for row in rows if row[name] and row["w1"]])
        if len(values) > 1:
            error = values.std() / len(values) ** 0.5
            print(f"{name}: {values.mean():.2f} ± {error:.2f} ({len(values)} truths)")
    for name in ("rank", "polished_rank"):
        inside = torch.tensor([0 < int(row[name]) < RANKED for row in rows]).double()
        error = (inside.mean() * (1 - inside.mean()) / len(inside)).sqrt()
        print(f"{name}: 90% holds {inside.mean():.3f} ± {error:.3f} of {len(rows)} truths")


def main() -> None:
    """Judge the truths that are missing, and print what all of them tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--prior", default="prior.safetensors")
    parser.add_argument("--truths", type=int, default=100)
    parser.add_argument("--distances", type=int, default=6, help="truths of which W1 is measured")
    parser.add_argument("--particles", type=int, default=4096, help="for each value of the grid")
    parser.add_argument("--out", type=Path, default=Path("rho.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    there = {}
    if given.out.exists():
        with given.out.open(newline="", encoding="utf-8") as file:
            there = {int(row["seed"]): row for row in csv.DictReader(file)}
    prior = sc.priors.load(given.prior)
    missing = [seed for seed in range(given.truths) if seed not in there]
    clouds = []
    if any(seed < given.distances for seed in missing):
        clouds = [first_states(given.particles, seed) for seed in (1, 2)]
    with given.out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not there:
            writer.writeheader()
        for seed in missing:
            writer.writerow(judged(seed, prior, clouds if seed < given.distances else []))
            file.flush()
    with given.out.open(newline="", encoding="utf-8") as file:
        told(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
