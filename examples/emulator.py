"""Score forecasts of an emulator of Lorenz's systems by lead time, beside those without a model.

    scorda train --system lorenz63 --transition --series 1024 --length 256 --width 64 --blocks 3 \
        --training-steps 6000 --threads 1 --out next.safetensors
    python examples/emulator.py next.safetensors

makes benchmarks/results/lorenz63-emulator.csv, and lorenz96-emulator.csv of the emulator of
examples/emulator_gaps.py. Forecasts start from the truth itself, which has model error, so that
even the model's own forecasts spread.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.shapes import Float, Tensor

TRUTHS, MEMBERS = 100, 20
LEADS = {"lorenz63": (1, 4, 10, 20, 40, 80), "lorenz96": (1, 2, 4, 8, 12, 20, 40)}
RECORD = 20_000
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def linear_law(record: Float[Tensor, "time state"]) -> sc.systems.LinearGaussian:
    """Return the linear step with Gaussian error that fits a record best, about its mean."""
    x = record - record.mean(0)
    transition = torch.linalg.lstsq(x[:-1], x[1:]).solution.T
    error = x[1:] - x[:-1] @ transition.T
    return sc.systems.LinearGaussian(
        transition, error.T.cov(), torch.zeros(len(transition)), x.T.cov()
    )


def forecasts(
    emulator: sc.priors.Emulator, model: sc.systems.System
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name of each forecast, members ``(members, truths, leads, state)``, the truth."""
    leads = LEADS[model.name]
    start = model.prior(TRUTHS, rng.seeded(0))
    truth = model.trajectory(start, leads[-1], rng.seeded(1))[:, list(leads)]
    first = start.expand(MEMBERS, *start.shape)
    record = model.trajectory(model.prior(1, rng.seeded(2)), RECORD, rng.seeded(3))[0]
    mean = record.mean(0)

    def run(system: sc.systems.System, x: Tensor) -> Tensor:
        return system.trajectory(x, leads[-1], rng.seeded(4))[..., list(leads), :]

    yield "model", run(model, first), truth
    yield "emulator", run(emulator, first), truth
    if model.name == "lorenz63":
        few = sc.diffusion.StochasticMultistep(16, corrections=0, min_noise=6e-3, max_noise=15.0)
        read_off = sc.priors.Emulator(sc.load("lorenz63"), few)
        yield "read off the prior of trajectories", run(read_off, first), truth
    yield "linear law of the record", run(linear_law(record), first - mean) + mean, truth
    places = torch.randint(RECORD, (MEMBERS, TRUTHS, 1), generator=rng.seeded(5))
    yield "climatology", record[places].expand(-1, -1, len(leads), -1), truth
    yield "persistence", first[:1, :, None].expand(-1, -1, len(leads), -1), truth


def main(file: str) -> None:
    """Write the table of the system that the emulator is of."""
    torch.set_default_dtype(torch.float32)
    prior = sc.load(file)
    told = prior.provenance["system"]
    model = sc.systems.load_system(told["name"], **told["settings"])
    with (RESULTS / f"{model.name}-emulator.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "lead", "crps", "rmse", "spread_skill"])
        for name, members, truth in forecasts(sc.priors.Emulator(prior), model):
            for i, lead in enumerate(LEADS[model.name]):
                x, y = members[:, :, i], truth[:, i]
                # One member has the mean absolute error as its score, and no spread.
                score = sc.metrics.crps(x, y) if len(x) > 1 else (x[0] - y).abs().mean()
                error = (x.mean(0) - y).square().mean().sqrt()
                ratio = f"{sc.metrics.spread_skill(x, y):.2f}" if len(x) > 1 else ""
                time = f"{lead * model.space.dt:g}"
                writer.writerow([name, time, f"{score:.3f}", f"{error:.3f}", ratio])
                print(name, time, f"{score:.3f}", f"{error:.3f}", ratio, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
