"""Cost of a cycle of a small state beside bare loops, and of random numbers beside NumPy's.

    OMP_NUM_THREADS=1 python benchmarks/cycle.py [--cycles 100] [--rounds 20]

Lorenz-96 with 40 sites, all observed at every step, 40 members (the particle filter: 400). The
loops do the mathematics of an analysis alone, in the same precision, without checks, diagnostics
or streams of random numbers: in torch with the model of Scorda, and in NumPy with one of its own.
All take turns in one process; the numbers are processor milliseconds of a cycle, the least of all
rounds, and their ratio to Scorda's. A run that is kept as well (`assimilate`) has its statistics.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.lorenz import Lorenz96

DIM, MEMBERS, PARTICLES = 40, 40, 400
INFLATION, JITTER, TAPER = 1.05, 0.1, GaspariCohn(4.0)
SHAPES = ((16384, 3), (40, 40), (1, 3), (20, 50_000))


def inflated(x: torch.Tensor) -> torch.Tensor:
    """Return an inflated ensemble."""
    mean = x.mean(0)
    return mean + INFLATION * (x - mean)


def torch_enkf(system: Lorenz96, x: torch.Tensor, values: torch.Tensor) -> None:
    """Run the stochastic EnKF."""
    for y in values.double():
        forecast = system.advance(x).double()
        anomalies = forecast - forecast.mean(0)
        noise = torch.randn(MEMBERS, DIM, dtype=torch.float64)
        residuals = y + noise - noise.mean(0) - forecast
        gram = anomalies.mT @ anomalies
        gram.diagonal().add_(MEMBERS - 1)
        solved = torch.cholesky_solve(residuals.mT, torch.linalg.cholesky(gram)).mT
        x = inflated((forecast + solved @ (anomalies.mT @ anomalies)).float())


def torch_etkf(system: Lorenz96, x: torch.Tensor, values: torch.Tensor) -> None:
    """Run the ETKF."""
    for y in values.double():
        forecast = system.advance(x).double()
        mean = forecast.mean(0)
        anomalies = forecast - mean
        spectrum, vectors = torch.linalg.eigh(anomalies @ anomalies.mT)
        total = spectrum.clamp_min(0) + MEMBERS - 1
        weights = (vectors / total) @ (vectors.mT @ (anomalies @ (y - mean)))
        root = (vectors * ((MEMBERS - 1) / total).sqrt()) @ vectors.mT
        x = (mean + (INFLATION * root + weights) @ anomalies).float()


def torch_letkf(
    system: Lorenz96,
    x: torch.Tensor,
    values: torch.Tensor,
    near: torch.Tensor,
    roots: torch.Tensor,
) -> None:
    """Run the LETKF, with the sites `near` each and the roots of their weights."""
    for y in values.double():
        forecast = system.advance(x).double()
        mean = forecast.mean(0)
        anomalies = forecast - mean
        seen = anomalies.mT[near] * roots
        innovation = (y - mean)[near].unsqueeze(-1) * roots
        spectrum, vectors = torch.linalg.eigh(seen @ seen.mT)
        total = (spectrum.clamp_min(0) + MEMBERS - 1).unsqueeze(-2)
        basis = seen.mT @ vectors
        weights = (basis / total) @ (vectors.mT @ innovation)
        factor = -1 / (total.sqrt() * (total.sqrt() + (MEMBERS - 1) ** 0.5))
        local = anomalies.mT.unsqueeze(-1)
        moved = local + (basis * factor) @ (basis.mT @ local)
        x = (mean + (weights.mT @ local + INFLATION * moved).squeeze(-1).mT).float()


def torch_particles(system: Lorenz96, x: torch.Tensor, values: torch.Tensor) -> None:
    """Run a particle filter that resamples at every step, and moves the members by N(0, b^2 C)."""
    for y in values:
        x = system.advance(x)
        weights = torch.softmax(-0.5 * ((y - x).double() / 20).square().sum(1), 0)
        w = weights.float()
        root = torch.linalg.qr((x - w @ x) * w.sqrt().unsqueeze(1), mode="r").R
        root = root / (1 - w.square().sum()).sqrt()
        places = (torch.arange(PARTICLES) + torch.rand(())) / PARTICLES
        chosen = torch.searchsorted(weights.cumsum(0), places.double()).clamp_max(PARTICLES - 1)
        x = x[chosen] + JITTER * (torch.randn(PARTICLES, DIM) @ root)


def numpy_enkf(system: Lorenz96, start: torch.Tensor, values: torch.Tensor) -> None:
    """Run the stochastic EnKF, with a model in NumPy."""
    draw, dt = np.random.default_rng(0), system.dt

    def tendency(x: np.ndarray) -> np.ndarray:
        found = np.roll(x, -1, 1) - np.roll(x, 2, 1)
        return found * np.roll(x, 1, 1) - x + system.forcing

    x = start.double().numpy()
    for y in values.double().numpy():
        k1 = tendency(x)
        k2 = tendency(x + 0.5 * dt * k1)
        k3 = tendency(x + 0.5 * dt * k2)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + tendency(x + dt * k3))
        anomalies = x - x.mean(0)
        noise = draw.standard_normal((MEMBERS, DIM))
        gram = anomalies.T @ anomalies
        system_matrix = gram + (MEMBERS - 1) * np.eye(DIM)
        solved = np.linalg.solve(system_matrix, (y + noise - noise.mean(0) - x).T).T
        x = x + solved @ gram
        x = x.mean(0) + INFLATION * (x - x.mean(0))


def cycled(method: Filter, problem: Problem, members: int) -> None:
    """Run a filter of Scorda."""
    for _ in method.run(problem, members, 0):
        pass


def least(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return processor seconds of each call: the least of rounds in which all take turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - begin)
    return found


def cycles(count: int, rounds: int) -> None:
    """Print the cost of a cycle."""
    system = Lorenz96(dim=DIM, spinup=1.0)
    model = ObservationModel(Select(range(DIM)), std=1.0)
    _, problem = twin_experiment(system, model, count, 1, 0)
    values = problem.instruments[0].values
    x, particles = system.prior(MEMBERS, 1), system.prior(PARTICLES, 1)
    problem = replace(problem, initial=x)
    # With errors so large that the weights do not fall on one particle.
    vague = Observations(
        ObservationModel(Select(range(DIM)), std=20.0), range(1, count + 1), values
    )
    local = _near(system)
    loops: dict[str, tuple[Filter, Problem, dict[str, Callable[[], object]]]] = {
        "EnKF": (
            EnKF(INFLATION),
            problem,
            {
                "torch": lambda: torch_enkf(system, x, values),
                "NumPy": lambda: numpy_enkf(system, x, values),
            },
        ),
        "ETKF": (ETKF(INFLATION), problem, {"torch": lambda: torch_etkf(system, x, values)}),
        "LETKF": (
            LETKF(INFLATION, localization=TAPER),
            problem,
            {"torch": lambda: torch_letkf(system, x, values, *local)},
        ),
        "ParticleFilter": (
            ParticleFilter(resample=1.0, jitter=JITTER),
            Problem(system, vague, count, particles),
            {"torch": lambda: torch_particles(system, particles, values)},
        ),
    }
    columns = ("run", "assimilate", "torch", "NumPy")
    print("| cycle, ms | " + " | ".join(columns) + " | run / torch | assimilate / torch |")
    print("|---" * (len(columns) + 3) + "|")
    for name, (method, posed, peers) in loops.items():
        members = PARTICLES if isinstance(method, ParticleFilter) else MEMBERS
        calls: dict[str, Callable[[], object]] = {
            "run": partial(cycled, method, posed, members),
            "assimilate": partial(method.assimilate, posed, members, 0),
            **peers,
        }
        took = {key: value / count * 1e3 for key, value in least(calls, rounds).items()}
        cells = [f"{took[key]:.3f}" if key in took else "" for key in columns]
        cells += [f"{took[key] / took['torch']:.2f}" for key in ("run", "assimilate")]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _near(system: Lorenz96) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sites near each site, and the roots of their weights, a last axis of one."""
    places = system.space.positions()
    weights = TAPER(system.space.distance(places, places)).double()
    near = torch.stack([row.nonzero().flatten() for row in weights])
    return near, weights.gather(1, near).sqrt().unsqueeze(-1)


def random_numbers(rounds: int) -> None:
    """Print the cost of normal numbers, from row 63 on."""
    like, draw = torch.zeros(0), np.random.default_rng(0)
    print("\n| normal numbers | scorda, ms | NumPy, ms | ratio |\n|---|---|---|---|")
    for rows, size in SHAPES:
        repeats = max(3, 300_000 // (rows * size))

        def ours(rows: int = rows, size: int = size, repeats: int = repeats) -> None:
            for _ in range(repeats):
                rng.normal_rows((1, 2), 63, 63 + rows, (size,), like)

        def theirs(rows: int = rows, size: int = size, repeats: int = repeats) -> None:
            for _ in range(repeats):
                draw.standard_normal((rows, size))

        took = least({"ours": ours, "theirs": theirs}, rounds)
        mine, other = (took[name] / repeats * 1e3 for name in ("ours", "theirs"))
        print(f"| {rows} x {size} | {mine:.4f} | {other:.4f} | {mine / other:.2f} |", flush=True)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cycles(given.cycles, given.rounds)
    random_numbers(given.rounds)


if __name__ == "__main__":
    main()
