"""Resident memory of long runs of an EnKF, each stored by a process of its own.

By hand::

    python tests/endurance/memory.py 1000 10000 100000

prints, for each number of cycles, the resident memory at the end, its largest value, and the time.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def status(name):
    """A line of the process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def store_run(cycles, folder):
    """Store a run of Lorenz-63 with an observation at each step."""
    import torch

    from scorda import store
    from scorda.core import rng
    from scorda.methods.enkf import EnKF
    from scorda.observations.model import ObservationModel
    from scorda.observations.observations import Observations
    from scorda.observations.operators import Select
    from scorda.observations.problem import Problem
    from scorda.systems.lorenz import Lorenz63

    torch.set_num_threads(1)
    system = Lorenz63(spinup=1.0, noise_std=0.1)
    # Near the mean of the attractor: the filter works as with any values.
    values = 8 * rng.normal(cycles, (1,), rng.seeded(0))
    seen = Observations(ObservationModel(Select([0]), std=5.0), range(1, cycles + 1), values)
    store.run(EnKF(), Problem(system, seen, cycles), 20, Path(folder) / "run.zarr")


def measured(cycles):
    """Resident memory at the end and its largest value in MB, and seconds, of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--store", str(cycles), folder]
        environment = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        text = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    return json.loads(text)


if __name__ == "__main__":
    if sys.argv[1] == "--store":
        begin = time.perf_counter()
        store_run(int(sys.argv[2]), sys.argv[3])
        took = time.perf_counter() - begin
        print(json.dumps({"end": status("VmRSS"), "most": status("VmHWM"), "seconds": took}))
    else:
        print("cycles    VmRSS    VmHWM  seconds")
        for number in map(int, sys.argv[1:]):
            found = measured(number)
            row = f"{found['end']:8.0f} {found['most']:8.0f} {found['seconds']:8.0f}"
            print(f"{number:6} {row}", flush=True)
