"""The memory of a run does not grow with its length."""

import sys

import pytest

from endurance.memory import measured


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_five_thousand_cycles_take_the_memory_of_one_thousand():
    """Of 360 MB, imports included, a tenth may be what the observations take."""
    short, long = measured(1000), measured(5000)
    assert long["end"] <= 1.1 * short["end"]
    assert long["most"] <= 1.1 * short["most"]
