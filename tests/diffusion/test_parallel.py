"""Several processes train the network that one alone would: real ones, over gloo."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_training import SETTINGS, data, network, run, weights
from torch.testing import assert_close

from scorda.core.files import read_tensors, write_tensors
from scorda.diffusion import parallel
from scorda.diffusion.training import fit

TRAIN = """
import sys, torch
sys.path[:0] = {paths!r}
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
import test_parallel
test_parallel.train(*sys.argv[1:])
"""
# Rows that two processes cannot share evenly.
UNEVEN = replace(SETTINGS, batch=5)


def train(folder, stop):
    """What each process does: twice, when told to stop in between."""
    folder = Path(folder)
    with parallel.joined():
        net = network()
        with torch.no_grad():
            # Process 0's weights are those that count.
            net.last.weight += parallel.rank()
        made = parallel.make_once(lambda: data() + parallel.rank())
        options = {"checkpoint": folder / "run.checkpoint"}
        if stop == "stop":
            history = fit(net, made, UNEVEN, slice_seconds=0.0, **options)
            assert history[-1]["step"] == UNEVEN.every
            net = network()
        seen = []
        history = fit(net, made, UNEVEN, report=seen.append, **options)
        assert len(seen) == (len(history) - (stop == "stop") if parallel.rank() == 0 else 0)
        path = folder / f"{parallel.rank()}.safetensors"
        write_tensors(path, {"weights": weights(net)}, {"history": history})


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["run", "stop"])
def test_two_processes_give_the_weights_of_one(tmp_path, stop):
    here = Path(__file__).parent
    script = tmp_path / "train.py"
    script.write_text(TRAIN.format(paths=[str(here), str(here.parents[1] / "src")]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "--standalone", str(script), str(tmp_path), stop],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected, history = run(UNEVEN)
    first, second = (read_tensors(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert torch.equal(first[0]["weights"], second[0]["weights"])
    # Rounding of double precision, in sums of another order, over 30 steps.
    assert_close(first[0]["weights"], expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(first[1]["history"], history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_one_process_is_left_alone():
    x = torch.arange(3.0)
    assert parallel.sum_over(x) is x and torch.equal(x, torch.arange(3.0))
    module = torch.nn.Linear(2, 2)
    assert parallel.replicated(module) is module
    assert parallel.agree(True) and not parallel.agree(False)
    assert torch.equal(parallel.make_once(lambda: x), x)
    assert torch.arange(5)[parallel.rows(5)].tolist() == [0, 1, 2, 3, 4]
    with parallel.joined() as device:
        assert device.type == "cpu" and not dist.is_initialized()


def test_a_slice_ends_with_a_checkpoint_and_is_continued(tmp_path):
    path, net = tmp_path / "run.checkpoint", network()
    steps = []
    for _ in range(6):
        history = fit(net, data(), SETTINGS, checkpoint=path, slice_seconds=0.0)
        steps.append(history[-1]["step"])
    assert steps == [5, 10, 15, 20, 25, 30]
    expected, entries = run()
    assert torch.equal(weights(net), expected) and history == entries


def test_bad_requests_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="cpu or cuda"), parallel.joined("tpu"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(ValueError, match="no GPU of its own"), parallel.joined("cuda"):
        pass
    monkeypatch.setattr(parallel, "count", lambda: 5)
    with pytest.raises(ValueError, match="batch of 4 for 5 processes"):
        run()
