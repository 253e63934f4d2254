"""`scorda train --prior` makes a network, and `assimilate --prior FILE` uses it."""

from pathlib import Path

import pytest
import torch

import scorda
from scorda.cli import main
from scorda.cli.common import system_of
from scorda.cli.settings import UserError
from scorda.core import rng
from scorda.priors import AmortisedNetwork

RING = "--system lorenz96 --system.dim 8 --threads 1"
RUN = f"assimilate {RING} --observations sim/observations.csv --members 8 --method masf"
TRAIN = "train --prior gaussian --prior.localization 3 --axis site --quick --training.width 8"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulate = "simulate lorenz96 --system.dim 8 --steps 12 --every 4 --out sim --threads 1"
    assert main(simulate.split()) == 0
    assert main(f"{TRAIN} {RING} --every 4 --members 8 --out net.safetensors".split()) == 0
    return tmp_path


def failed(capsys, command):
    capsys.readouterr()
    assert main(command.split()) == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_network_is_named_by_its_file(folder, capsys):
    """From a system, used as the library does; then from the run that used it."""
    assert main(f"{RUN} --prior net.safetensors --seed 3 --out run.zarr".split()) == 0
    system = scorda.systems.Lorenz96(dim=8)
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    method = scorda.MASF(AmortisedNetwork.load("net.safetensors"))
    problem = scorda.Problem(system, observations, 12)
    expected = method.assimilate(problem, 8, rng.seeded(3)).states
    posterior = scorda.open_posterior("run.zarr")
    assert torch.equal(posterior.analysis.states, expected)
    assert posterior.configuration["method"]["prior"] == "net.safetensors"
    assert main("assimilate --config run.zarr.toml --out b.zarr".split()) == 0
    assert scorda.open_posterior("b.zarr").configuration == posterior.configuration

    assert main(f"{TRAIN} --data run.zarr --threads 1 --out again.safetensors".split()) == 0
    assert AmortisedNetwork.load("again.safetensors").shape == (8,)
    Path("again.safetensors").replace("net.safetensors")
    resumed = failed(capsys, f"{RUN} --prior net.safetensors --seed 3 --out run.zarr --resume")
    assert "differs in" in resumed


@pytest.mark.slow
def test_mistakes_are_told_in_one_sentence(folder, capsys):
    assert "There is no file" in failed(capsys, f"{RUN} --prior nothing.safetensors")
    assert "already there" in failed(capsys, f"{TRAIN} {RING} --out net.safetensors")
    assert "Give --data" in failed(capsys, TRAIN)
    assert main(f"{RUN.replace('masf', 'enkf')} --out enkf.zarr".split()) == 0
    Path("empty.zarr").mkdir()
    assert "no posterior" in failed(capsys, f"{TRAIN} --data empty.zarr --out c.safetensors")
    used = f"{TRAIN} --data enkf.zarr --cycles 5 --out c.safetensors"
    assert "--cycles, which --data has no use for" in failed(capsys, used)
    assert "end in .safetensors" in failed(capsys, f"{TRAIN} {RING} --out net.pt")
    Path("short.safetensors").write_bytes(Path("net.safetensors").read_bytes()[:100])
    assert "short.safetensors" in failed(capsys, f"{RUN} --prior short.safetensors")
    other = f"{RUN} --prior net.safetensors".replace("lorenz96 --system.dim 8", "lorenz63")
    assert "needs a space with coordinates" in failed(capsys, other)
    particles = RUN.replace("masf", "particle-filter")
    assert main(f"{particles} --jitter 0.5 --out particles.zarr".split()) == 0
    weighted = f"{TRAIN} --data particles.zarr --out c.safetensors"
    assert "equal weight" in failed(capsys, weighted)
    options = f"{TRAIN} --data enkf.zarr --system lorenz96 --system.dim 9 --out c.safetensors"
    assert "leave --system.NAME out" in failed(capsys, options)


def test_a_store_names_no_code():
    """It may come from somebody else: a module is imported only if the caller names it too."""
    store, record = Path("a.zarr"), {"system": {"name": "mine:model", "dim": "4"}}
    with pytest.raises(UserError, match="names code, mine:model: give --system mine:model"):
        system_of(store, record, None)
    assert system_of(store, record, "mine:model") == record["system"]
    with pytest.raises(UserError, match="is of mine:model"):
        system_of(store, record, "lorenz96")
    with pytest.raises(UserError, match="does not name its system"):
        system_of(store, {}, None)
