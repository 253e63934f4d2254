"""Score particle filters of Lorenz-63 that carry 100 members against the bootstrap filter.

    python examples/emulator_particles.py next.safetensors

makes benchmarks/results/lorenz63-particles.csv; the file is the emulator of examples/emulator.py.
x is observed every 8 steps with std 0.05, 20 times. Scores are W1 of 100 members to 100 draws of
a bootstrap filter of the model with 2^15 particles, the mean over the observations but the first.

A filter that carries 100 members from one observation to the next can at best draw them from the
exact posterior given those of the last one, unless it moves them elsewhere: here from 327 copies
of each, which the model moves and the likelihood weighs ("ideal").
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.resampling import resample
from scorda.core.shapes import Float, Tensor

SEEDS, EVERY, TIMES, STD = range(4), 8, 20, 0.05
MEMBERS, REFERENCE, DRAWS, ROOTS = 100, 2**15, 4, 10
MODEL = sc.systems.Lorenz63()
OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "lorenz63-particles.csv"
# Members ``(observations, members, 3)`` of a filter for a problem and a seed.
Run = Callable[[sc.Problem, int], Tensor]


def filtered(
    method: sc.ParticleFilter | sc.EmulatorParticleFilter,
    members: int,
    system: sc.systems.System = MODEL,
) -> Run:
    """Return the members of a filter at the observed steps, which all count alike."""

    def run(problem: sc.Problem, seed: int) -> Tensor:
        problem = replace(problem, system=system)
        states = method.assimilate(problem, members, seed).states
        return states[:, EVERY::EVERY].transpose(0, 1)

    return run


def ideal(problem: sc.Problem, seed: int) -> Float[Tensor, "observations members 3"]:
    """Return the members of the ideal filter."""
    key, found = rng.key(rng.seeded(seed)), []
    x = problem.members_at_start(MEMBERS, rng.at(key, 0))
    for k, (y, model) in problem.observed().items():
        z = x.repeat(REFERENCE // len(x), 1)
        for j in range(k - EVERY, k):
            z = MODEL.step(z, rng.at(key, 1 + j))
        weights = model.log_likelihood(y, z).softmax(0)
        x = z[resample(weights, MEMBERS, "systematic", rng.at(key, 10**6 + k))]
        found.append(x)
    return torch.stack(found)


def score(x: Float[Tensor, "observations ensemble 3"], reference: Tensor) -> float:
    """Return the mean W1 of 100 members to draws of a reference."""
    total, number = 0.0, 0
    for k in range(1, TIMES):
        for i in range(DRAWS):
            own, other = (
                s[k][torch.randperm(s.shape[1], generator=rng.seeded(DRAWS * k + i))[:MEMBERS]]
                for s in (x, reference)
            )
            total, number = total + float(sc.metrics.wasserstein(own, other)), number + 1
    return total / number


def filters(file: str) -> dict[str, Run]:
    """Return the filters by name."""
    bootstrap = sc.ParticleFilter(1.0)
    runs: dict[str, Run] = {
        f"bootstrap, {n} members": filtered(bootstrap, n)
        for n in (REFERENCE, 100 * MEMBERS, 10 * MEMBERS, MEMBERS)
    }
    runs["ideal, 100 members"] = ideal
    for ahead in (1, EVERY):
        run = filtered(sc.EmulatorParticleFilter(draws=8, ahead=ahead), MEMBERS)
        runs[f"adapted {ahead} ahead, 100 members"] = run
    rooted = sc.EmulatorParticleFilter(draws=8, ahead=EVERY, roots=ROOTS)
    name = f"adapted {EVERY} ahead, {ROOTS} roots, 100 members"
    runs[name] = filtered(rooted, MEMBERS)
    runs[f"{name} of the emulator"] = filtered(
        rooted, MEMBERS, sc.systems.load_system("emulator", file=file)
    )
    return runs


def main(file: str) -> None:
    """Write the table."""
    torch.set_default_dtype(torch.float64)
    runs = filters(file)
    scores: dict[str, list[float]] = {name: [] for name in runs}
    for seed in SEEDS:
        observed = sc.ObservationModel(sc.Select([0]), std=STD)
        problem = sc.twin_experiment(MODEL, observed, EVERY * TIMES, EVERY, seed)[1]
        reference = filtered(sc.ParticleFilter(1.0), REFERENCE)(problem, 1000 + seed)
        for i, (name, run) in enumerate(runs.items()):
            x = run(problem, 2000 + 10 * seed + i)
            scores[name].append(score(x, reference))
            print(seed, name, f"{scores[name][-1]:.3f}", flush=True)
    with OUT.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["filter", "w1", "error", "seeds"])
        for name, found in scores.items():
            mean, std = torch.tensor(found).mean(), torch.tensor(found).std()
            error = std / math.sqrt(len(found))
            writer.writerow([name, f"{mean:.3f}", f"{error:.3f}", len(found)])


if __name__ == "__main__":
    main(sys.argv[1])
