"""Cost of a cycle of a small state beside bare loops, and of random numbers beside NumPy's.

Lorenz-96 with 40 sites, all observed at every step, 40 members (the particle filter: 400). The
loops do the mathematics of an analysis alone, in the same precision, without checks, diagnostics
or streams of random numbers: in torch with the model of Scorda, and in NumPy with one of its own.
DAPPER, where it is installed, runs with the statistics that it computes, as `assimilate` does.
All take turns in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

import numpy as np
import torch

from scorda.assimilation.filter import Filter
from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.core.threads import one_thread
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.lorenz import Lorenz96

__all__ = ["speed"]

DIM, MEMBERS, PARTICLES = 40, 40, 400
INFLATION, JITTER, TAPER = 1.05, 0.1, GaspariCohn(4.0)
SHAPES = ((16384, 3), (40, 40), (1, 3), (20, 50_000))

Call = Callable[[], object]


def speed() -> Speed:
    """Return the benchmark."""
    filters = (
        EnKF(INFLATION),
        ETKF(INFLATION),
        LETKF(INFLATION, localization=TAPER),
        ParticleFilter(resample=1.0, jitter=JITTER),
    )
    entries = [
        Entry(m.name, m, PARTICLES if isinstance(m, ParticleFilter) else MEMBERS) for m in filters
    ]
    entries += [Entry(f"normal numbers {n} x {size}", (n, size), n) for n, size in SHAPES]
    return Speed(tuple(entries))


@dataclass(frozen=True)
class Speed:
    """Times of filters and of random numbers, and their ratios to those of others.

    Arguments:
        entries: Filters, and shapes of random numbers.
        cycles: Cycles of a run.
        rounds: Runs of each, of which the least time counts.
    """

    entries: tuple[Entry, ...]
    cycles: int = 100
    rounds: int = 20
    seeds: int = 1
    statistic: str = "mean"
    source: str = "processor time beside bare loops"
    shown = ("milliseconds", "over_torch", "over_numpy", "assimilate_over_dapper")

    def prepare(self, seed: int) -> None:
        """Prepare nothing: each entry has a problem of its own."""

    def score(self, entry: Entry, prepared: None, seed: int) -> dict[str, float]:
        """Return the scores of an entry.

        ``milliseconds`` of processor time of a cycle, or of a draw; ``over_torch`` and
        ``over_numpy``: the same over that of a bare loop; ``assimilate``: of a cycle whose states
        and statistics are kept, ``assimilate_over_torch`` and ``assimilate_over_dapper`` likewise.
        """
        numbers = isinstance(entry.method, tuple)
        calls = _draws(*entry.method) if numbers else _runs(entry, self.cycles, seed)
        count = _repeats(*entry.method) if numbers else self.cycles
        with one_thread():
            took = least(calls, self.rounds)
        scores = {"milliseconds": took["scorda"] / count * 1e3}
        for name in took.keys() & {"torch", "numpy"}:
            scores[f"over_{name}"] = took["scorda"] / took[name]
        if "assimilate" in took:
            scores["assimilate"] = took["assimilate"] / count * 1e3
            for name in took.keys() & {"torch", "dapper"}:
                scores[f"assimilate_over_{name}"] = took["assimilate"] / took[name]
        return scores

    def shortened(self) -> Speed:
        """Return the benchmark with few cycles, to test that it runs."""
        return replace(self, cycles=2, rounds=1)


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


def _runs(entry: Entry, count: int, seed: int) -> dict[str, Call]:
    """Return runs of a filter and of what it is compared with."""
    system, method = Lorenz96(dim=DIM, spinup=1.0), entry.method
    model = ObservationModel(Select(range(DIM)), std=1.0)
    _, problem = twin_experiment(system, model, count, 1, seed)
    values, x = problem.instruments[0].values, system.prior(entry.members, 1)
    if isinstance(method, ParticleFilter):
        # With errors so large that the weights do not fall on one particle.
        vague = ObservationModel(Select(range(DIM)), std=20.0)
        problem = Problem(system, Observations(vague, range(1, count + 1), values), count)
    problem = replace(problem, initial=x)
    loops: dict[str, dict[str, Call]] = {
        "EnKF": {
            "torch": lambda: torch_enkf(system, x, values),
            "numpy": lambda: numpy_enkf(system, x, values),
        },
        "ETKF": {"torch": lambda: torch_etkf(system, x, values)},
        "LETKF": {"torch": partial(torch_letkf, system, x, values, *_near(system))},
        "ParticleFilter": {"torch": lambda: torch_particles(system, x, values)},
    }
    return {
        "scorda": partial(cycled, method, problem, entry.members),
        "assimilate": partial(method.assimilate, problem, entry.members, 0),
        **loops[type(method).__name__],
        **_dapper(method, count),
    }


def _dapper(method: Filter, count: int) -> dict[str, Call]:
    """Return the run of DAPPER, if it is installed and has the method."""
    kinds = {EnKF: "PertObs", ETKF: "Sqrt"}
    if type(method) not in kinds:
        return {}
    names = "da_methods", "tools.progressbar", "mods.Lorenz96.sakov2008"
    try:
        methods, bar, twin = (import_module(f"dapper.{name}") for name in names)
    except ImportError:
        return {}
    vars(bar)["disable_progbar"] = True
    twin.HMM.tseq.K, twin.HMM.tseq.BurnIn = count, 0
    states, values = twin.HMM.simulate()
    found = methods.EnKF(kinds[type(method)], N=MEMBERS, infl=INFLATION)
    return {"dapper": lambda: found.assimilate(twin.HMM, states, values, liveplots=False)}


def _near(system: Lorenz96) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sites near each site, and the roots of their weights, a last axis of one."""
    places = system.space.positions()
    weights = TAPER(system.space.distance(places, places)).double()
    near = torch.stack([row.nonzero().flatten() for row in weights])
    return near, weights.gather(1, near).sqrt().unsqueeze(-1)


def _repeats(rows: int, size: int) -> int:
    """Return how many draws are timed together."""
    return max(3, 30_000 // (rows * size))


def _draws(rows: int, size: int) -> dict[str, Call]:
    """Return draws of normal numbers, from row 63 on, and those of NumPy."""
    like, draw, repeats = torch.zeros(0), np.random.default_rng(0), _repeats(rows, size)

    def ours() -> None:
        for _ in range(repeats):
            rng.normal_rows((1, 2), 63, 63 + rows, (size,), like)

    def theirs() -> None:
        for _ in range(repeats):
            draw.standard_normal((rows, size))

    return {"scorda": ours, "numpy": theirs}
