"""The short form of the endurance runs: some kills of each job, and writers of one output."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(script, *flags):
    command = [sys.executable, HERE / script, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_killed_commands_leave_the_bytes_of_whole_ones():
    done = run("kills.py", "--kills", "33")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_of_several_writers_of_one_output_one_writes_and_the_others_refuse():
    done = run("writers.py", "--rounds", "1", "--writers", "4")
    assert done.returncode == 0, done.stdout + done.stderr
