"""`scorda train --data --architecture`: a network of the grid of a record, with static fields."""

import numpy as np
import pytest
import torch
import xarray

import scorda as sc
from scorda.cli import main
from scorda.diffusion.training import Training
from scorda.reading.records import read_fields

TRAIN = "train --data r.nc --quick --width 4 --blocks 1 --threads 1"
RING = "--architecture ring-conv --segment 9"


@pytest.fixture
def hovmoeller(tmp_path, monkeypatch):
    """Hourly fields on a circle of longitudes, counted from another meridian, and its ground."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    made = {
        "t": (("time", "longitude"), draw.normal(280, 2, (96, 12)), {"units": "K"}),
        "height": ("longitude", draw.normal(300, 40, 12), {"units": "m"}),
        "land": ("longitude", np.arange(12) < 5),
    }
    times = np.datetime64("2020-01-01", "ns") + np.arange(96) * np.timedelta64(1, "h")
    places = (np.arange(12) * 30.0 + 180) % 360
    where = {"time": times, "longitude": ("longitude", places, {"units": "degrees_east"})}
    data = xarray.Dataset(made, where)
    data.to_netcdf("r.nc", engine="h5netcdf")
    return data


@pytest.mark.slow
def test_a_circle_of_longitudes_is_learned_with_its_ground(hovmoeller, capsys, tmp_path):
    """The shell trains what Python trains, says what it knows, and needs no field again."""
    assert main([*TRAIN.split(), *RING.split(), "--static", "land", "--static", "height"]) == 0
    assert "left out" not in capsys.readouterr().out
    prior = sc.load("prior.safetensors")
    assert [field["name"] for field in prior.provenance["static"]] == ["land", "height"]
    # In the order of the space, from 0 degrees on.
    height = np.roll(hovmoeller.height.values, 6)
    expected = (height - height.mean()) / height.std(ddof=1)
    np.testing.assert_allclose(prior.network.context[1], expected, rtol=1e-5)
    training = {**prior.provenance["training"]}
    torch.set_default_dtype(torch.float32)
    again = sc.train(
        read_fields("r.nc", static=("land", "height")), None, "ring-conv", width=4, blocks=1,
        training=Training(**training), progress=False,
    )  # fmt: skip
    for own, other in zip(prior.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(own, other)
    assert main(["inspect", "prior.safetensors"]) == 0
    told = capsys.readouterr().out
    assert (
        "static fields  land, height" in told
        and "--start DATETIME" in told
        and "longitude (12)" in told
    )
    (tmp_path / "o.csv").write_text(
        "time,longitude,variable,value\n2020-02-01T02:00,30,t,281\n2020-02-01T05:00,90,t,279\n"
    )
    command = "assimilate --prior prior.safetensors --method sda --observations o.csv --std 0.5"
    command += " --start 2020-02-01 --steps 8 --members 2 --threads 1 --sampler.noise-levels 4"
    assert main(command.split()) == 0
    assert sc.open_posterior("run.zarr").analysis.states.isfinite().all()
    assert main("forecast run.zarr --steps 10 --threads 1".split()) == 0
    emulator = "--system emulator --system.file prior.safetensors --system.start 2020-02-01"
    assert (
        main(f"simulate {emulator} --steps 2 --every 1 --seed 1 --out sim --threads 1".split())
        == 0
    )


@pytest.mark.slow
def test_a_periodic_square_is_named_by_its_axes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(60, 4, 6))
    places = {"time": np.arange(60) * 0.5, "y": np.arange(4) * 2.0, "x": np.arange(6.0)}
    xarray.Dataset({"q": (("time", "y", "x"), values)}, places).to_netcdf(
        "r.nc", engine="h5netcdf"
    )
    command = [*TRAIN.split(), "--architecture", "unet", "--levels", "1"]
    assert main([*command, "--periodic", "x", "--periodic", "y"]) == 0
    prior = sc.load("prior.safetensors")
    assert prior.architecture["name"] == "unet" and prior.space.shape == (4, 6)
    assert prior.space.period == {"y": 8.0, "x": 6.0}
    settings = (tmp_path / "prior.toml").read_text()
    assert 'periodic = ["x", "y"]' in settings and "static" not in settings
    assert (
        main(["train", "--config", "prior.toml", "--threads", "1", "--out", "b.safetensors"]) == 0
    )
    other = sc.load("b.safetensors").network.state_dict()
    for name, weight in prior.network.state_dict().items():
        assert torch.equal(weight, other[name])


@pytest.mark.slow
def test_steps_of_a_circle_of_longitudes_are_learned_with_its_ground(hovmoeller):
    """The shell trains what Python trains, and the emulator has the daily cycle of the record."""
    flags = "--architecture ring-conv --transition --static height"
    assert main([*TRAIN.split(), *flags.split()]) == 0
    prior = sc.load("prior.safetensors")
    assert prior.architecture["name"] == "step-ring" and len(prior.network.context) == 1
    training = Training(**prior.provenance["training"])
    assert training.segment == 2
    torch.set_default_dtype(torch.float32)
    again = sc.train(
        read_fields("r.nc", static=("height",)), None, "ring-conv", width=4, blocks=1,
        training=training, progress=False, transition=True,
    )  # fmt: skip
    for own, other in zip(prior.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(own, other)
    emulator = sc.priors.Emulator(prior, start="2020-01-01T05:00")
    # Without a correction, at a level above all others, nothing but the known anomaly is left.
    for p in prior.network.last.parameters():
        torch.nn.init.zeros_(p)
    x, noise = emulator.prior(3, 0), torch.tensor(1e6)
    found = emulator.in_units(emulator.next(x).denoise(torch.zeros_like(x), noise))
    cycle = prior.diurnal_mean
    torch.testing.assert_close(found, x + cycle[6] - cycle[5], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--static height", "patterns, which know every place already"),
        (f"{RING} --static ground", "it needs 'ground', as a static field"),
        (f"{RING} --static t", "has 't' on the time, with which it changes"),
        ("--architecture unet", "the periodic axes ['longitude']; name axes that close"),
        ("--periodic height", "the axes with positions of one grid are ['longitude']"),
        ("--architecture temporal-conv", "it is one of ring-conv, unet, or left out"),
        (f"{RING} --modes 3", "is of patterns: leave --architecture out"),
        (f"{RING} --clock 1", "is of patterns: leave --architecture out"),
        ("--architecture unet --transition", "is of ring-conv and of patterns: name ring-conv"),
        (f"{RING} --transition", "with segments of 9, observed = 0.7, for transitions"),
        ("--levels 2", "or with --architecture, only"),
    ],
)
def test_what_does_not_go_together_is_refused(hovmoeller, capsys, flags, says):
    assert main([*TRAIN.split(), *flags.split()]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert says in error and "Traceback" not in error


def test_static_fields_of_a_system_are_refused(capsys):
    assert main("train --system lorenz96 --quick --static height".split()) == 2
    assert "goes with --data of fields only" in " ".join(capsys.readouterr().err.split())
