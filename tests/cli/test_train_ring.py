"""`scorda train` takes the network of a ring for states on one, and another where it is named."""

import pytest

from scorda.cli import main
from scorda.priors.trajectory import load

COMMAND = "train --system lorenz96 --system.dim 8 --quick --width 4 --blocks 1 --threads 1"


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["", "--architecture temporal-conv"])
def test_states_on_a_ring_get_its_network(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND.split(), *flag.split(), "--out", "p.safetensors"]) == 0
    prior = load("p.safetensors")
    expected = flag.split()[-1] if flag else "ring-conv"
    assert prior.architecture["name"] == expected
    assert prior.provenance["recipe"]["architecture"] == expected
