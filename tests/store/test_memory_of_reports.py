"""The memory of a run, and of a report on it, does not grow with its length."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from endurance.memory import SOURCE, measured
from scorda import store
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem

# A report, and the peak of its process in MB.
REPORT = """
import sys
from pathlib import Path
from scorda.report import reliability
reliability.DRAWN = 2**16
from scorda.report.html import write_report
from scorda.store import open_posterior
write_report({"EnKF": open_posterior(sys.argv[1])}, sys.argv[1] + ".html")
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_five_thousand_cycles_take_the_memory_of_one_thousand():
    """Of 360 MB, imports included, a tenth may be what the observations take."""
    short, long = measured(1000), measured(5000)
    assert long["end"] <= 1.1 * short["end"]
    assert long["most"] <= 1.1 * short["most"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_report_on_a_store_four_times_as_large_takes_the_same_memory(tmp_path):
    """Stores of 52 and 208 MB: read in full, the larger takes 2000 MB more (16 times its bytes).

    Blocks are of one size, but what is freed leaves gaps between what is held: 90 MB were seen,
    and as much as the larger store has more, 156 MB, is allowed.
    """
    draw, peaks = np.random.default_rng(0), []
    space = StateSpace((64, 64), variables=("t",))
    system = FunctionSystem(lambda x: 0.99 * x, draw.normal(size=(40, 64, 64)), space)
    for steps in (40, 160):
        values = torch.zeros(2, 8)
        seen = Observations(ObservationModel(Select(range(8)), std=1.0), [1, steps], values)
        truth = torch.from_numpy(draw.normal(size=(steps + 1, 64, 64)))
        path = tmp_path / f"{steps}.zarr"
        # Chunks of one size, since several are unpacked at once.
        store.run(EnKF(), Problem(system, seen, steps), 40, path, truth=truth, block=4)
        command = [sys.executable, "-c", REPORT, str(path)]
        environment = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        made = subprocess.run(command, env=environment, check=True, capture_output=True)
        peaks.append(float(made.stdout))
    assert peaks[1] <= peaks[0] + 156, peaks
