"""Score filters of Lorenz-96 that forecast with an emulator, in the set-up of lorenz96-masf-gap.

    HOW="--transition --series 256 --length 256 --width 32 --blocks 2 --training-steps 20000"
    scorda train --system lorenz96 --system.noise-std 0.4 $HOW --threads 1 --out next.safetensors
    scorda train --system lorenz96 $HOW --threads 1 --out exact.safetensors
    python examples/emulator_gaps.py next.safetensors exact.safetensors

makes benchmarks/results/lorenz96-emulator-filters.csv. The truth has no model error, and particles
need some: the emulator "with error" has learned the model with an error of 0.4 a step, the one of
0.2, 0.4 and 0.8 that the benchmark chooses at each of these gaps for the particle filter of the
model. All choose among six options on the benchmark's own seeds for that; particles of the
emulator have those chosen with the model.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import scorda as sc
from scorda.assimilation.cycle import Cycle
from scorda.bench.entry import Entry, grid
from scorda.bench.filtering import Setup
from scorda.bench.setups.lorenz_gaps import cycles_of, lorenz96_masf_gap
from scorda.bench.tuning import tune
from scorda.core import rng
from scorda.observations.problem import Problem
from scorda.systems.base import System

OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "lorenz96-emulator-filters.csv"
GAPS, NOISE_STD, PARTICLES = (4, 8, 12), 0.4, "adapted particle filter"
HEADER = ("filter", "model", "gap", "rmse", "crps", "crps_error", "spread_skill", "options")


@dataclass(frozen=True)
class Forecasting:
    """A filter that forecasts with another system than the truth's.

    Arguments:
        filter: The filter; its options are those of `options`.
        system: What it forecasts with.
        options: Names and values.
    """

    filter: Any
    system: System
    options: tuple[tuple[str, Any], ...] = ()

    def run(self, problem: Problem, members: int, generator: rng.Seed) -> Iterator[Cycle]:
        """Yield the steps of a run."""
        method = replace(self.filter, **dict(self.options))
        problem = replace(problem, system=self.system)
        if isinstance(method, sc.EmulatorParticleFilter):
            yield from cycles_of(method, problem, members, generator)
        else:
            yield from method.run(problem, members, generator)


def chosen(entry: Entry, setup: Setup, system: System) -> Entry:
    """Return an entry that forecasts with a system, with the options that do best in trials."""
    points = tuple({"options": tuple(options.items())} for options in entry.grid)
    tried = replace(entry, method=Forecasting(entry.method, system), grid=points)
    # The trials look for an entry of the same name in their set-up.
    return tune(replace(setup, entries=(tried,)), tried)[0]


def scores(entry: Entry, setup: Setup) -> list[str]:
    """Return the scores of an entry, and its options in words."""
    rows = [setup.score(entry, setup.prepare(seed), seed) for seed in range(setup.seeds)]
    found = torch.tensor(
        [[row[name] for name in ("rmse", "crps", "spread_skill")] for row in rows]
    )
    rmse, crps, ratio = found.mean(0).tolist()
    error = float(found[:, 1].std()) / len(rows) ** 0.5
    words = ", ".join(f"{name}={value}" for name, value in entry.method.options)
    return [f"{rmse:.3f}", f"{crps:.3f}", f"{error:.3f}", f"{ratio:.2f}", words]


def main(noisy: str, exact: str) -> None:
    """Write the table."""
    torch.set_default_dtype(torch.float32)
    emulators = [sc.systems.load_system("emulator", file=file) for file in (exact, noisy)]
    sweep, rows = lorenz96_masf_gap(), []
    particles = grid(draws=(4, 8), least_effective=(0.2, 0.5, 0.8))
    for gap in GAPS:
        setup = sweep.points[f"gap={gap}"]
        with_error = replace(setup.system, noise_std=NOISE_STD)
        beside = [entry for entry in setup.entries if entry.label in ("LETKF", "mixture")]
        adapted = sc.EmulatorParticleFilter(ahead=gap)
        for entry in (*beside, Entry(PARTICLES, adapted, beside[0].members, particles)):
            systems = {"model with error": with_error, "emulator with error": emulators[1]}
            if entry.label != PARTICLES:
                # Particles without model error do not spread.
                systems = {"model": setup.system, "emulator": emulators[0], **systems}
            for model, system in systems.items():
                # Trials of particles with the emulator took 8 CPU minutes at gaps 4 and 8, and
                # chose the options that those with the model choose.
                tried = with_error if entry.label == PARTICLES else system
                best = chosen(entry, setup, tried)
                best = replace(best, method=replace(best.method, system=system))
                rows.append([entry.label, model, gap, *scores(best, setup)])
                print(*rows[-1], flush=True)
    with OUT.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
