"""Arrays that lie in a temporary file are ordinary tensors, and leave memory after each block."""

import os
import subprocess
import sys

import pytest
import torch

from scorda.core import scratch

PASSES = """
import torch
from scorda.core.scratch import blocks, scratch

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

x, before, most = scratch((1, 400, 2**18), torch.float32), resident(), 0.0
for k in range(2):
    for rows, block in blocks(x):
        block.copy_(torch.arange(rows.start, rows.stop)[:, None] + k)
        most = max(most, resident() - before)
total = sum(float(block[:, :, 7].double().sum()) for _, block in blocks(x))
assert total == sum(range(1, 401)), total
print(most)
"""


def test_a_scratch_array_is_a_tensor_that_ends_with_its_last_view(monkeypatch):
    monkeypatch.setattr(scratch, "IN_MEMORY", 100)
    x = scratch.scratch((2, 30, 5), torch.float64)
    for rows, block in scratch.blocks(x, 40):
        block.copy_(torch.arange(30.0)[rows][:, None])
    assert torch.equal(x, torch.arange(30.0)[:, None].expand(2, 30, 5))
    view, key = x[1, 3:], x.data_ptr()
    del x, block
    scratch.release(view)
    assert torch.equal(view[:, 0], torch.arange(3.0, 30.0))
    del view
    assert key not in scratch._maps
    assert scratch.scratch((2, 3), torch.float64).untyped_storage().data_ptr() not in scratch._maps


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_pass_over_a_large_array_keeps_one_block_in_memory():
    """An array of 400 MB in blocks of 32 MB: three of them and the interpreter's own at most."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PASSES],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | path,
    )
    assert float(done.stdout) < 100
