"""Stored trajectories: killed and resumed they have the bytes of a run that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scorda.cli import main
from scorda.priors.trajectory import load
from scorda.store.seals import write_json
from scorda.store.series import BLOCK, holds_series, read_series, simulate_series
from scorda.systems.lorenz import Lorenz96

SYSTEM = Lorenz96(dim=6, spinup=0.2, noise_std=0.1)
SERIES, LENGTH = 3 * BLOCK + 5, 4


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def simulate(path, **options):
    simulate_series(SYSTEM, SERIES, LENGTH, path, seed=3, **options)


@pytest.fixture
def whole(tmp_path):
    simulate(tmp_path / "whole.zarr")
    return tmp_path / "whole.zarr"


def test_series_are_trajectories_of_the_system(whole):
    """Each state follows from the one before, and no two series or blocks are the same."""
    states, space, record = read_series(whole)
    assert states.shape == (SERIES, LENGTH, 6) and states.dtype == torch.float64
    assert (space.shape, space.dt, space.period) == ((6,), 0.05, {"site": 6.0})
    assert (record["seed"], record["system"]["forcing"]) == (3, 8.0)
    error = states[:, 1:] - SYSTEM.advance(states[:, :-1])
    # 953 independent numbers: five standard errors of their spread are 12 %.
    assert abs(float(error.std()) / SYSTEM.noise_std - 1) < 0.12
    assert len(states[:, 0, 0].unique()) == SERIES


def test_xarray_opens_a_store(whole):
    import xarray

    dataset = xarray.open_zarr(whole)
    assert dataset["states"].dims == ("series", "time", "site")
    assert dataset["time"].values.tolist() == pytest.approx([0.0, 0.05, 0.1, 0.15])


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_run_is_resumed_to_the_same_bytes(whole, tmp_path, threads):
    """With the leftovers of a kill inside a block."""

    def stop(done, total):
        raise KeyboardInterrupt

    path = tmp_path / "b.zarr"
    with pytest.raises(KeyboardInterrupt):
        simulate(path, progress=stop, threads=threads)
    assert holds_series(path)
    with pytest.raises(ValueError, match="incomplete"):
        read_series(path)
    # Two threads may finish the last block before the first is reported: it is killed too.
    (tmp_path / ".b.zarr.progress" / "unit-000003.json").unlink(missing_ok=True)
    chunk = path / "states" / "c" / "3" / "0"
    chunk.mkdir(parents=True, exist_ok=True)
    (chunk / "0").write_bytes(b"half")
    (chunk / "0.abc.partial").write_bytes(b"half")
    seen = []
    simulate(path, resume=True, threads=threads, progress=lambda *counts: seen.append(counts))
    # A block that is finished is not done again.
    assert len(seen) < 4 and seen[-1] == (SERIES, SERIES)
    assert contents(path) == contents(whole)
    assert not (tmp_path / ".b.zarr.progress").exists()
    simulate(path, resume=True, progress=stop)


def test_what_is_there_is_neither_overwritten_nor_mixed(whole, tmp_path):
    with pytest.raises(ValueError, match="already there"):
        simulate(whole)
    with pytest.raises(ValueError, match=r"must end in \.zarr"):
        simulate(tmp_path / "series")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "b.zarr", progress=stop)
    with pytest.raises(ValueError, match="differs in seed"):
        simulate_series(SYSTEM, SERIES, LENGTH, tmp_path / "b.zarr", seed=4, resume=True)
    simulate(tmp_path / "b.zarr", overwrite=True)
    assert contents(tmp_path / "b.zarr") == contents(whole)


def test_states_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(FloatingPointError, match="Series 0 to 1 of lorenz96 are not finite"):
        simulate_series(Lorenz96(dim=6, dt=1.0, spinup=0), 2, 50, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="at least one of each"):
        simulate_series(SYSTEM, 0, 4, tmp_path / "b.zarr")


COMMAND = "simulate lorenz96 --system.dim 6 --system.spinup 0.2 --series 8 --length 40"


def test_command_simulates_and_trains_on_what_it_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = f"{COMMAND} --dtype float32 --threads 1 --out set.zarr"
    assert main(command.split()) == 0
    assert "8 series of 40 states of lorenz96" in capsys.readouterr().out
    assert main(command.split()) == 2
    assert main([*command.split(), "--resume"]) == 0
    training = "train --data set.zarr --quick --width 8 --blocks 1 --segment 16 --threads 1"
    assert main(training.split()) == 0
    provenance = load("prior.safetensors").provenance
    assert provenance["system"]["settings"]["dim"] == 6
    assert provenance["recipe"]["series"] == 8 and provenance["recipe"]["length"] == 40
    capsys.readouterr()
    series = "simulate lorenz96 --series 2 --length 4 --out other.zarr --stride 2"
    assert main(series.split()) == 2 and "no use for" in capsys.readouterr().err
    training += " --overwrite"
    other = f"{training} --system.forcing 9"
    assert main(other.split()) == 2 and "what system it is of" in capsys.readouterr().err
    for wrong in (f"{training} --series 4", "simulate lorenz96 --length 4"):
        assert main(wrong.split()) == 2
        assert "only" in capsys.readouterr().err


# A model that takes its time, so that the kill falls into a block.
MODEL = """
import time

from scorda.systems import Lorenz96


class Slow(Lorenz96):
    def advance(self, x):
        time.sleep(0.01)
        return super().advance(x)


def make() -> Lorenz96:
    return Slow(dim=6, spinup=0.05, noise_std=0.1)
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_bytes(tmp_path):
    (tmp_path / "mymodel.py").write_text(MODEL)
    command = [sys.executable, "-m", "scorda", *"simulate mymodel:make --series 60".split()]
    command += "--length 10 --threads 2 --seed 2 --out".split()
    source = Path(__file__).parents[2] / "src"
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
    }
    subprocess.run([*command, "a.zarr"], check=True, **options)
    process = subprocess.Popen([*command, "b.zarr"], **options)
    while not list((tmp_path / ".b.zarr.progress").glob("unit-*.json")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "b.zarr", "--resume"], check=True, **options)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    assert json.loads((tmp_path / "b.zarr.json").read_text())["units"] == 4


def test_stored_fields_are_learned_at_another_size(tmp_path, monkeypatch, capsys):
    """In slices: the unet of an 8 x 8 flow, from states at 12 x 12."""
    monkeypatch.chdir(tmp_path)
    flow = "--system.size 12 --system.resolution 12 --system.viscosity 0.05 --system.spinup 0.4"
    store = f"simulate kolmogorov {flow} --system.wavenumber 2 --series 6 --length 6"
    assert main([*store.split(), "--out", "set.zarr"]) == 0
    training = "train --data set.zarr --system.size 8 --architecture unet --width 4 --blocks 1"
    training += (
        " --training-steps 4 --every 2 --batch 4 --minutes 0 --threads 1 --out p.safetensors"
    )
    assert main(training.split()) == 0
    assert "stopped after step 2 of 4: continue with --resume" in capsys.readouterr().out
    assert main([*training.split(), "--resume"]) == 0
    assert "stopped" not in capsys.readouterr().out
    prior = load("p.safetensors")
    assert prior.space.shape == (2, 8, 8) and prior.architecture["name"] == "unet"
    assert [entry["step"] for entry in prior.provenance["history"]] == [2, 4]
    assert not (tmp_path / "p.checkpoint").exists()


def test_a_kill_while_markers_are_removed_leaves_the_store_complete(whole):
    """A store that is complete is never made anew, whatever is left of its markers."""
    before = {file: (whole / file).stat().st_mtime_ns for file in contents(whole)}
    for name in ("progress", "removed"):
        folder = whole.parent / f".whole.zarr.{name}"
        folder.mkdir()
        write_json(folder / "unit-000003.json", {})
        with pytest.raises(ValueError, match="differs in seed"):
            simulate_series(SYSTEM, SERIES, LENGTH, whole, seed=4, resume=True)
        simulate(whole, resume=True)
        assert sorted(p.name for p in whole.parent.iterdir()) == ["whole.zarr", "whole.zarr.json"]
    assert before == {file: (whole / file).stat().st_mtime_ns for file in contents(whole)}
    # Without its record nothing tells of what it was made.
    (whole.parent / "whole.zarr.json").unlink()
    with pytest.raises(ValueError, match=r"whole\.zarr\.json is missing"):
        simulate(whole, resume=True)
    assert len(read_series(whole)[0]) == SERIES
