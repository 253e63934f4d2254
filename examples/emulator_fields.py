"""Score forecasts of emulators of fields by lead time, beside those that need no network.

Kolmogorov flow, from a store of trajectories, with the shipped prior beside it:

    scorda simulate kolmogorov --system.size 32 --system.resolution 64 --system.viscosity 1.5e-3 \
        --series 160 --length 64 --out flow.zarr
    scorda train --data flow.zarr --transition --architecture unet --width 32 \
        --training-steps 4000 --every 250 --precision bfloat16 --threads 1 --out flow.safetensors
    python examples/emulator_fields.py flow flow.safetensors flow.zarr

A record of temperature, whose first 17 days are learned from:

    scorda train --data t2m.nc --until 2019-03-17 --transition --threads 1 --out next.safetensors
    python examples/emulator_fields.py temperature next.safetensors t2m.nc

They make benchmarks/results/flow-emulator.csv and temperature-emulator.csv.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import scorda as sc
from scorda.cli.trajectories import stored_trajectories
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.nn.homogeneous import fields_of, modes_of
from scorda.reading.records import read_fields

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
FLOW = sc.systems.KolmogorovFlow(32, 64, viscosity=1.5e-3)
FLOW_LEADS, FLOW_TRUTHS, FLOW_MEMBERS = (1, 2, 5, 10), 6, 8
# Guided windows cost hundreds of times as much as steps of the transition.
WINDOW_LEADS, WINDOW_TRUTHS, WINDOW_MEMBERS = (1, 2), 4, 4
HOURS, STARTS_EVERY, MEMBERS = (1, 3, 6, 12, 24), 12, 30
SINCE = "2019-03-18T00:00"
# Name of a forecast, its members (members, truths, leads, *state), its leads and the truth.
Named = tuple[str, Tensor, Sequence[int], Tensor]


class Homogeneous:
    """The linear step of a homogeneous field with Gaussian error, one matrix per wave number."""

    def __init__(self, record: Float[Tensor, "series time channels y x"]) -> None:
        self.mean = record.mean((0, 1))
        spectra = torch.view_as_complex(modes_of(record - self.mean)).permute(3, 4, 2, 0, 1)
        before, after = spectra[..., :-1].flatten(3), spectra[..., 1:].flatten(3)
        C00, C10 = before @ before.mH, after @ before.mH
        number = before.shape[-1]
        floor = 1e-6 * C00.diagonal(dim1=-2, dim2=-1).real.amax() * torch.eye(C00.shape[-1])
        self.A = C10 @ torch.linalg.inv(C00 + floor)
        error = (C00 - self.A @ C10.mH) / number
        values, vectors = torch.linalg.eigh(0.5 * (error + error.mH))
        self.root = vectors * values.clamp(min=0).sqrt()[..., None, :]

    def step(self, x: Float[Tensor, "... channels y x"], generator: rng.Seed) -> Tensor:
        """Draw the next states."""
        noise = rng.normal(len(x), tuple(x.shape[1:]), generator, like=x)
        parts = (torch.view_as_complex(modes_of(z)) for z in (x - self.mean, noise))
        moved, drawn = (
            torch.einsum("yxij,...jyx->...iyx", matrix, part)
            for matrix, part in zip((self.A, self.root), parts, strict=True)
        )
        return self.mean + fields_of(torch.view_as_real(moved + drawn), x.shape[-1])


def flow(file: str, data: str) -> Iterator[Named]:
    """Yield the forecasts of Kolmogorov flow, which start from the truth."""
    start = FLOW.prior(FLOW_TRUTHS, rng.seeded(100))
    truth = FLOW.trajectory(start, FLOW_LEADS[-1])
    record = stored_trajectories(data, None, {})[1]
    assert record is not None

    def run(step: object, members: int, truths: int, leads: Sequence[int]) -> Tensor:
        x = start[:truths].expand(members, truths, *start.shape[1:])
        generator, states = rng.seeded(4), []
        for _ in range(leads[-1]):
            x = step(x, generator)  # type: ignore[operator]
            states.append(x)
        return torch.stack([states[lead - 1] for lead in leads], 2)

    def seen(leads: Sequence[int], truths: int = FLOW_TRUTHS) -> Tensor:
        return truth[:truths, list(leads)]

    emulator = sc.systems.load_system("emulator", file=file)
    members = run(emulator.step, FLOW_MEMBERS, FLOW_TRUTHS, FLOW_LEADS)
    yield "emulator", members, FLOW_LEADS, seen(FLOW_LEADS)
    members = run(Homogeneous(record).step, FLOW_MEMBERS, FLOW_TRUTHS, FLOW_LEADS)
    yield "linear law of the record", members, FLOW_LEADS, seen(FLOW_LEADS)
    every = record.flatten(0, 1)
    places = torch.randint(len(every), (FLOW_MEMBERS, FLOW_TRUTHS, 1), generator=rng.seeded(5))
    members = every[places].expand(-1, -1, len(FLOW_LEADS), *every.shape[1:])
    yield "climatology", members, FLOW_LEADS, seen(FLOW_LEADS)
    still = start[None, :, None].expand(1, -1, len(FLOW_LEADS), *start.shape[1:])
    yield "persistence", still, FLOW_LEADS, seen(FLOW_LEADS)
    windows = sc.priors.Emulator(sc.load("kolmogorov"))
    members = run(windows.step, WINDOW_MEMBERS, WINDOW_TRUTHS, WINDOW_LEADS)
    yield "windows of the prior", members, WINDOW_LEADS, seen(WINDOW_LEADS, WINDOW_TRUTHS)


def temperature(file: str, data: str) -> Iterator[Named]:
    """Yield the forecasts of a record, from its own fields after the first 17 days."""
    learned = read_fields(data, until="2019-03-17").states[0].float()
    truth = read_fields(data, since=SINCE).states[0].float()
    starts = torch.arange(0, len(truth) - HOURS[-1], STARTS_EVERY)
    seen = torch.stack([truth[starts + hour] for hour in HOURS], 1)

    def run(prior: sc.priors.TrainedTrajectory) -> Tensor:
        emulator, found = sc.priors.Emulator(prior, start=SINCE), []
        for first in starts.tolist():
            x, generator = truth[first].expand(MEMBERS, *truth.shape[1:]), rng.seeded(first)
            states = []
            for hour in range(HOURS[-1]):
                x = emulator.at(first + hour).step(x, generator)
                states.append(x)
            found.append(torch.stack([states[hour - 1] for hour in HOURS], 1))
        return torch.stack(found, 1)

    prior = sc.load(file)
    yield "emulator", run(prior), HOURS, seen
    torch.nn.init.zeros_(prior.network.correction.last.weight)
    torch.nn.init.zeros_(prior.network.correction.last.bias)
    yield "linear law of the record", run(prior), HOURS, seen
    days = torch.from_numpy(np.random.default_rng(5).integers(0, 17, (MEMBERS, len(starts))))
    hours = torch.stack([(starts + hour) % 24 for hour in HOURS], 1)
    yield "climatology", learned[24 * days[..., None] + hours], HOURS, seen
    still = truth[starts][None, :, None].expand(1, -1, len(HOURS), *truth.shape[1:])
    yield "persistence", still, HOURS, seen


def main(kind: str, file: str, data: str) -> None:
    """Write the table of one system."""
    torch.set_default_dtype(torch.float32)
    forecasts, unit = (flow, FLOW.dt) if kind == "flow" else (temperature, 1.0)
    with (RESULTS / f"{kind}-emulator.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "lead", "crps", "rmse", "spread_skill", "truths", "members"])
        for name, members, leads, truth in forecasts(file, data):
            for i, lead in enumerate(leads):
                x, y = members[:, :, i].flatten(2), truth[:, i].flatten(1)
                # One member has the mean absolute error as its score, and no spread.
                score = sc.metrics.crps(x, y) if len(x) > 1 else (x[0] - y).abs().mean()
                error = (x.mean(0) - y).square().mean().sqrt()
                ratio = f"{sc.metrics.spread_skill(x, y):.2f}" if len(x) > 1 else ""
                row = [name, f"{lead * unit:g}", f"{score:.3f}", f"{error:.3f}", ratio]
                writer.writerow([*row, len(y), len(x)])
                print(*row, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
