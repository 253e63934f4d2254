"""Measure what analyses of large states cost: CPU seconds and peak memory, a fresh process each.

    python benchmarks/scale.py                         # lists the rows
    python benchmarks/scale.py letkf                   # one row at its usual size
    python benchmarks/scale.py letkf side=256 observations=4096
    PYTHONPATH=OTHER/src python benchmarks/scale.py letkf     # the same of another version

A row prints one line: the CPU seconds of a first analysis, which finds what is near what, and of a
second one, which has it, and the peak memory of the process. The state is a periodic square of
``side * side`` points that are white noise of unit variance smoothed over a few points; the
observations are of points at random, with errors of standard deviation 0.5.
"""

from __future__ import annotations

import inspect
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scorda as sc
from scorda import store
from scorda.core.space import StateSpace
from scorda.observations.operators import Select

Clock = tuple[float, float]


class Still:
    """A system whose states do not move, on a periodic square."""

    def __init__(self, side: int) -> None:
        axis = np.arange(float(side))
        period = {"y": float(side), "x": float(side)}
        self.space = StateSpace((side, side), 1.0, ("field",), {"y": axis, "x": axis}, period)

    def prior(self, members: int, generator: Any = None) -> torch.Tensor:
        """Return smooth random fields."""
        side = self.space.shape[0]
        k = torch.fft.fftfreq(side) * side
        wave = (k[:, None].square() + k[: side // 2 + 1].square()) * (2 * np.pi / side) ** 2
        smooth = torch.exp(-2.0 * wave)
        x = torch.empty(members, side, side)
        seed = torch.Generator().manual_seed(0)
        for member in x:
            noise = torch.fft.rfft2(torch.randn(side, side, generator=seed))
            member.copy_(torch.fft.irfft2(noise * smooth, s=(side, side)))
        return x / x[0].std()

    def step(self, x: torch.Tensor, generator: Any = None) -> torch.Tensor:
        """Return the states."""
        return x


def twin(side: int, observations: int, members: int) -> tuple[Any, ...]:
    """Return a problem, a forecast, an observation and its model."""
    system = Still(side)
    fields = system.prior(members + 1)
    order = torch.randperm(side * side, generator=torch.Generator().manual_seed(1))
    model = sc.ObservationModel(Select(order[:observations].tolist()), std=0.5)
    y = model.sample(fields[:1], 2)
    problem = sc.Problem(system, sc.Observations(model, [0], y), 0)
    return problem, fields[1:].contiguous(), y[0], model


def analysed(method: Any, side: int, observations: int, members: int) -> list[Clock]:
    """Return the CPU and wall seconds of two analyses of one run."""
    problem, forecast, y, model = twin(side, observations, members)
    run = method.begin(problem)
    return [
        clocked(lambda: run.analyse(forecast, y, model, torch.Generator().manual_seed(3)))
        for _ in range(2)
    ]


def clocked(work: Callable[[], object]) -> Clock:
    """Return the CPU and wall seconds of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def letkf(
    side: int = 1000,
    observations: int = 10_000,
    members: int = 20,
    radius: float = 5.0,
    block: int = 1,
    tile: int = 0,
) -> list[Clock]:
    """LETKF."""
    more = {"tile": tile} if tile else {}
    method = sc.LETKF(localization=sc.GaspariCohn(radius), block=block, **more)
    return analysed(method, side, observations, members)


def stored(
    side: int = 316,
    observations: int = 10_000,
    members: int = 1000,
    radius: float = 6.0,
    block: int = 1,
    tile: int = 0,
) -> list[Clock]:
    """A run of LETKF into a store of two steps, the first of which is observed."""
    problem, forecast, *_ = twin(side, observations, members)
    problem = replace(problem, initial=forecast, steps=1)
    method = sc.LETKF(localization=sc.GaspariCohn(radius), block=block, tile=tile or None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.zarr")
        clock = clocked(partial(store.run, method, problem, members, path))
        analysis = float(store.Posterior(path).info["report"]["seconds"][0])
        written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"analysis {analysis:.1f} s, store {written / 1e6:.0f} MB")
    return [clock]


def enkf(
    side: int = 1000, observations: int = 10_000, members: int = 20, radius: float = 5.0
) -> list[Clock]:
    """EnKF with localization."""
    method = sc.EnKF(localization=sc.GaspariCohn(radius))
    return analysed(method, side, observations, members)


def enkf_numpy(
    side: int = 64, observations: int = 1024, members: int = 20, radius: float = 5.0
) -> list[Clock]:
    """The same in NumPy, a few lines for one set of positions: the first clock is of tapers."""
    problem, forecast, y, model = twin(side, observations, members)
    space, x, seen = problem.space, forecast.flatten(1).numpy(), y.numpy()
    where = model.operator.coordinates(space)
    indices = list(model.operator.indices)
    taper, tapers = sc.GaspariCohn(radius), []

    def prepare() -> None:
        tapers.append(taper(space.distance(where, where)).numpy().astype(float))
        tapers.append(taper(space.distance(where, space.positions())).numpy())

    def analyse() -> np.ndarray:
        noise = 0.5 * np.random.default_rng(3).standard_normal((members, observations))
        A = x - x.mean(0)
        Y = A[:, indices].astype(float)
        S = tapers[0] * (Y.T @ Y) + (members - 1) * 0.25 * np.eye(observations)
        residuals = seen + noise - noise.mean(0) - x[:, indices]
        solved = np.linalg.solve(S, residuals.T).astype(np.float32)
        return x + solved.T @ ((Y.T.astype(np.float32) @ A) * tapers[1])

    return [clocked(prepare), clocked(analyse)]


def mixture(
    side: int = 1000, observations: int = 10_000, members: int = 20, radius: float = 5.0
) -> list[Clock]:
    """GaussianMixtureFilter with localization."""
    method = sc.GaussianMixtureFilter(localization=sc.GaspariCohn(radius))
    return analysed(method, side, observations, members)


def mixture_members(members: int = 1000) -> list[Clock]:
    """GaussianMixtureFilter with localization on Lorenz-96, many members for 40 variables."""
    system = sc.systems.Lorenz96(40)
    x = system.prior(members + 1, 0)
    model = sc.ObservationModel(Select(range(40)), std=1.0)
    y = model.sample(x[:1], 1)
    problem = sc.Problem(system, sc.Observations(model, [0], y), 0)
    run = sc.GaussianMixtureFilter(localization=sc.GaspariCohn(4.0)).begin(problem)
    seed = torch.Generator()
    return [clocked(lambda: run.analyse(x[1:], y[0], model, seed)) for _ in range(2)]


def ensf(side: int = 1000, members: int = 20, steps: int = 5) -> list[Clock]:
    """Some steps of EnSF, with all points observed: the difference of two analyses."""
    problem, forecast, y, model = twin(side, side * side, members)

    def analyse(steps: int) -> None:
        run = sc.EnSF(euler_steps=steps).begin(problem)
        run.analyse(forecast, y, model, torch.Generator().manual_seed(3))

    short, long = clocked(lambda: analyse(steps)), clocked(lambda: analyse(2 * steps))
    return [(long[0] - short[0], long[1] - short[1])]


def masf(
    side: int = 256,
    observations: int = 4096,
    members: int = 20,
    radius: float = 5.0,
    block: int = 4,
) -> list[Clock]:
    """MASF with a LocalGaussian."""
    prior = sc.priors.LocalGaussian(sc.GaspariCohn(radius), block)
    return analysed(sc.MASF(prior), side, observations, members)


ROWS = {
    row.__name__: row
    for row in (letkf, stored, enkf, enkf_numpy, mixture, mixture_members, ensf, masf)
}


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    """Run one row with settings ``name=value``, or list the rows."""
    if not arguments:
        for name, row in ROWS.items():
            print(f"{name}{inspect.signature(row)}".split(" ->")[0], "--", row.__doc__)
        return
    row, settings = ROWS[arguments[0]], dict(part.split("=") for part in arguments[1:])
    kinds = {name: type(p.default) for name, p in inspect.signature(row).parameters.items()}
    before = peak()
    clocks = row(**{name: kinds[name](value) for name, value in settings.items()})
    print(
        " ".join(arguments),
        *(f"| {cpu:.2f} CPU s, {wall:.2f} s" for cpu, wall in clocks),
        f"| {peak():.0f} MiB, {before:.0f} before",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
