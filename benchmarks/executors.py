"""Time that workers save in a forecast, and time that they cost in a cycle.

    python benchmarks/executors.py [--only saved|cost] [--dask]

``saved``: one forecast of 8 members whose model takes half a second each, in this process and over
two processes: for a model that waits, one that computes, and a program that is started for each
member and does the one or the other. ``cost``: the time of a step of 20 members of 10^4 variables
in 20 tasks, less that of the same step without workers; the model is next to nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorda.core import rng
from scorda.core.engines import opened
from scorda.core.space import StateSpace
from scorda.systems.base import System
from scorda.systems.executable import Executable
from scorda.systems.function import FunctionSystem
from scorda.systems.mapped import Mapped

MEMBERS, SECONDS, WORKERS = 8, 0.5, 2
PROGRAM = (
    "import numpy, sys, time\n{work}numpy.save('forecast.npy', numpy.load('state.npy') / 2)\n"
)
WAIT = "time.sleep(float(sys.argv[1]))\n"
COMPUTE = "n = 0\nfor i in range(int(sys.argv[1])):\n    n += i * i\n"


def waiting(x: np.ndarray, *, member: int, step: int, seed: int) -> np.ndarray:
    """A model that waits, as one that runs elsewhere."""
    time.sleep(SECONDS)
    return x / 2


class Computing:
    """A model that computes in Python: so many rounds of a loop."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __call__(self, x: np.ndarray, *, member: int, step: int, seed: int) -> np.ndarray:
        n = 0
        for i in range(self.rounds):
            n += i * i
        return x / 2


def rounds() -> int:
    """Rounds that take half a second here, now, with nothing beside."""
    begin = time.process_time()
    Computing(2_000_000)(np.zeros(1), member=0, step=0, seed=0)
    return int(2_000_000 * SECONDS / (time.process_time() - begin))


def program(folder: Path, work: str, argument: Any) -> Executable:
    """Return a program of Python that works so long."""
    file = folder / f"program{len(list(folder.glob('*.py')))}.py"
    file.write_text(PROGRAM.format(work=work))
    return Executable([sys.executable, str(file), str(argument)], folder / file.stem)


def seconds_of(system: System, x: torch.Tensor, repeats: int) -> tuple[list[float], torch.Tensor]:
    """Return the times of some steps, and the states after the last."""
    times = []
    for k in range(repeats):
        begin = time.perf_counter()
        moved = system.at(0).step(x, rng.seeded(k))
        times.append(time.perf_counter() - begin)
    return times, moved


def saved(repeats: int = 3) -> None:
    """Print the times of a forecast with and without workers, in turn."""
    space, x = StateSpace((3,), 0.1), rng.normal(MEMBERS, (3,), 0)
    number = rounds()
    with tempfile.TemporaryDirectory() as folder, opened(f"processes:{WORKERS}") as engine:
        models: dict[str, Any] = {
            "waits": waiting,
            "computes": Computing(number),
            "program that waits": program(Path(folder), WAIT, SECONDS),
            "program that computes": program(Path(folder), COMPUTE, number),
        }
        for name, model in models.items():
            system = FunctionSystem(model, np.zeros((1, 3)), space, per_member=True)
            mapped = Mapped(system, engine)
            mapped.step(x, 0)
            one, two = [], []
            for _ in range(repeats):
                times, expected = seconds_of(system, x, 1)
                one += times
                times, moved = seconds_of(mapped, x, 1)
                two += times
                assert torch.equal(moved, expected)
            a, b = statistics.median(one), statistics.median(two)
            print(
                f"{name:22} {a:6.2f} s alone, {b:6.2f} s with {WORKERS} workers: {a / b:.2f}; "
                f"the least of each: {min(one) / min(two):.2f}",
                flush=True,
            )


def halved(x: np.ndarray) -> np.ndarray:
    """A model that is next to nothing."""
    return 0.5 * x


def cost(name: str, engine: AbstractContextManager[Executor | None], repeats: int = 40) -> None:
    """Print what a step costs beside the model."""
    x = rng.normal(20, (10_000,), 0)
    system = FunctionSystem(halved, np.zeros((1, 10_000)), StateSpace((10_000,), 0.1))
    with engine as executor:
        mapped = Mapped(system, executor)
        seconds_of(mapped, x, 10)
        plain, _ = seconds_of(system, x, repeats)
        times, _ = seconds_of(mapped, x, repeats)
    over = [1e3 * (t - statistics.median(plain)) for t in times]
    least = 1e3 * (min(times) - min(plain))
    print(f"{name:16} {statistics.median(over):7.1f} ms, least {least:.1f} ms", flush=True)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("saved", "cost"))
    parser.add_argument("--dask", action="store_true", help="measure the cost of Dask as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only != "cost":
        saved()
    if given.only != "saved":
        cost("no workers", nullcontext())
        cost("threads:2", opened("threads:2"))
        cost("processes:2", opened("processes:2"))
        if given.dask:
            from distributed import Client, LocalCluster

            with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
                with Client(made) as client:
                    cost("dask, 2 workers", nullcontext(client.get_executor()))


if __name__ == "__main__":
    main()
