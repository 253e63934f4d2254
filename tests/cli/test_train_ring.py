"""`scorda train` takes the network of a ring for states on one, and another where it is named."""

import shutil

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


@pytest.mark.slow
def test_a_training_starts_from_a_prior_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begin = [*COMMAND.split(), "--out", "p.safetensors"]
    assert main(begin) == 0
    more = [*COMMAND.split(), "--start-from", "p.safetensors", "--out", "q.safetensors"]
    assert main(more) == 0
    first, then = load("p.safetensors"), load("q.safetensors")
    before, after = (prior.provenance["history"] for prior in (first, then))
    assert after[0]["step"] == 0
    assert after[0]["validation"] == pytest.approx(min(e["validation"] for e in before), rel=1e-5)
    assert 'start_from = "p.safetensors"' in (tmp_path / "q.toml").read_text()
    # Other weights under the same name are another start.
    shutil.copy("q.safetensors", "p.safetensors")
    assert main([*more, "--resume"]) == 2
    assert "initial" in capsys.readouterr().err
