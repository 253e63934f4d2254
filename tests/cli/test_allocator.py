"""The command keeps freed memory for the next tensor."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from scorda.cli.allocator import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("none")
def work():
    for _ in range(10):
        held = [np.ones(2**17) for _ in range(20)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Page faults of taking and freeing twenty megabytes ten times, in a process of its own."""
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.strip() == "none":
        pytest.skip("the C library has no settings of its allocator")
    return int(done.stdout)


@pytest.mark.slow
def test_freed_memory_is_kept():
    assert faults("keep") < 100
    assert faults("by default") > 10_000
