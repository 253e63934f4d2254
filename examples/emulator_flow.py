"""Score filters of Kolmogorov flow that forecast with an emulator, beside those with the solver.

    python examples/emulator_flow.py flow.safetensors

makes benchmarks/results/flow-filters.csv; the file is the emulator of examples/emulator_fields.py.
Velocities at 8 x 8 of 32 x 32 points are observed every 5 steps of 0.2 with std 0.1. All filters
of a truth begin from the same states, which the emulator has kept of its record.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import BridgeODE
from scorda.observations.masks import Mask
from scorda.priors.local import LocalGaussian

OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "flow-filters.csv"
FLOW = sc.systems.KolmogorovFlow(32, 64, viscosity=1.5e-3)
SEEDS, MEMBERS, EVERY, CYCLES, SPINUP = range(2), 20, 5, 6, 2
MODEL = sc.ObservationModel(Mask.grid(FLOW.space, 4), std=0.1)
# Radius and inflation are those that filters of a similar flow have in the benchmarks.
LOCAL = LocalGaussian(GaspariCohn(0.4), 2)
FILTERS = {
    "EnKF": sc.EnKF(localization=GaspariCohn(0.6), inflation=1.1),
    "MASF": sc.MASF(LOCAL, sampler=BridgeODE(noise_levels=9, order=2), inflation=1.1),
    "adapted particle filter": sc.EmulatorParticleFilter(draws=4, least_effective=0.2),
}


def main(file: str) -> None:
    """Write the table."""
    torch.set_default_dtype(torch.float32)
    emulator = sc.systems.load_system("emulator", file=file)
    observed = range(EVERY * (SPINUP + 1), EVERY * CYCLES + 1, EVERY)
    rows = []
    for seed in SEEDS:
        truth, problem = sc.twin_experiment(FLOW, MODEL, EVERY * CYCLES, EVERY, seed)
        initial = emulator.prior(MEMBERS, rng.seeded(100 + seed))
        for name, method in FILTERS.items():
            for model, system in (("solver", FLOW), ("emulator", emulator)):
                if name.startswith("adapted") and model == "solver":
                    # It has no model error to adapt.
                    continue
                given = replace(problem, system=system, initial=initial)
                states = method.assimilate(given, MEMBERS, 200 + seed).states
                x, y = states[:, list(observed)].flatten(2), truth[list(observed)].flatten(1)
                error = (x.mean(0) - y).square().mean().sqrt()
                scores = error, sc.metrics.crps(x, y), sc.metrics.spread_skill(x, y)
                rows.append([name, model, seed, *(f"{float(score):.3f}" for score in scores)])
                print(*rows[-1], flush=True)
    with OUT.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["filter", "model", "seed", "rmse", "crps", "spread_skill"])
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1])
