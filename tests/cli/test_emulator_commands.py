"""An emulator from the command line: trained, assimilated with, resumed, and what is refused."""

import pytest
import torch

import scorda
from scorda.cli import main

TRAIN = "train --system lorenz63 --transition --quick --width 8 --blocks 1 --threads 1"
SYSTEM = "--system emulator --system.file next.safetensors"
RUN = (
    f"assimilate --observations sim/observations.csv {SYSTEM} --method enkf --members 6 "
    "--steps 8 --seed 3 --threads 1 --out run.zarr"
)


@pytest.mark.slow
def test_an_emulator_is_trained_assimilated_with_and_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(f"{TRAIN} --out next.safetensors".split()) == 0
    assert main("simulate --system lorenz63 --steps 8 --every 4 --out sim".split()) == 0
    assert main(RUN.split()) == 0
    system = scorda.systems.load_system("emulator", file="next.safetensors")
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    torch.set_default_dtype(torch.float32)
    expected = scorda.EnKF().assimilate(scorda.Problem(system, observations, 8), 6, 3)
    assert torch.equal(scorda.open_posterior("run.zarr").analysis.states, expected.states)
    assert main(f"{RUN} --resume".split()) == 0
    assert main("forecast run.zarr --steps 2 --out forecast.zarr".split()) == 0


@pytest.mark.slow
def test_a_transition_is_no_prior_of_trajectories(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(f"{TRAIN} --out next.safetensors".split()) == 0
    assert main("simulate --system lorenz63 --steps 8 --every 4 --out sim".split()) == 0
    run = "assimilate --observations sim/observations.csv --method sda --members 2 --steps 8"
    assert main(f"{run} --prior next.safetensors --out run.zarr".split()) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "was trained on transitions" in said and "--system emulator" in said


def test_an_emulator_without_its_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("simulate --system emulator --steps 2 --out sim".split()) != 0
    assert "name its file" in " ".join(capsys.readouterr().err.split())
