"""`scorda train --data` on a record with land and gaps, and the posterior that it leads to."""

import numpy as np
import pytest
import torch
import xarray

import scorda
from scorda.cli import main

TRAIN = "train --data t.nc --quick --width 4 --corrected 2 --segment 5 --threads 1"


@pytest.fixture
def fields(tmp_path, monkeypatch):
    """A folder with a record of 60 hours on a sea with an island, of which a field is missing."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(280, 2, (60, 4, 5)).astype("f4")
    values[:, 1, 2] = np.nan
    values[7] = -999.0
    data = xarray.Dataset(
        {"t": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(60) * np.timedelta64(1, "h"),
            "latitude": ("latitude", np.arange(4.0), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(5.0), {"units": "degrees_east"}),
        },
    )
    data.to_netcdf("t.nc", engine="h5netcdf")
    return data


def test_training_says_what_it_understood_of_a_record(fields, capsys):
    assert main([*TRAIN.split(), "--missing=-999"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "record: 1 of 20 points have no values (land)" in told
    assert "record: 19 values are missing (1.67%)" in told
    assert "record: missing values are filled by its own Gaussian law" in told
    prior = scorda.load("prior.safetensors")
    assert prior.provenance["filled"] == 19 and not prior.space.mask[1, 2]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--data t.nc", "declare them as missing"),
        ("--data t.nc --missing=-999 --no-fill", "19 values are missing"),
        ("--data t.nc --series-axis member", "must be one of them"),
        ("--system lorenz63 --no-fill", "goes with --data of fields only"),
        ("--system lorenz63 --missing 1", "goes with --data of fields only"),
        ("--system lorenz63 --clock 1", "goes with --data of fields only"),
        ("--data t.nc --missing=-999 --clock 1", "three years"),
        ("--data t.nc --missing=-999 --clock 1000", "0 to 12"),
        ("--data t.nc --transition --clock 1", "--transition learns steps"),
    ],
)
def test_records_that_are_not_meant_so_are_refused(fields, capsys, flags, says):
    assert main(["train", "--quick", *flags.split()]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert says in error and "Traceback" not in error


def test_a_leading_axis_is_one_of_series(fields, capsys):
    runs = fields.expand_dims({"run": 2}).copy(deep=True)
    runs.to_netcdf("t.nc", engine="h5netcdf")
    assert main([*TRAIN.split(), "--missing=-999", "--series-axis", "run"]) == 0
    prior = scorda.load("prior.safetensors")
    assert prior.provenance["series"] == 2 and prior.space.shape == (4, 5)


@pytest.mark.slow
def test_nothing_is_made_up_on_land_from_the_record_to_the_report(fields, capsys):
    """Fields with land as observations and as truth; a posterior and a report of the sea."""
    assert main([*TRAIN.split(), "--missing=-999"]) == 0
    day = fields.isel(time=slice(24, 30))
    day.to_netcdf("day.nc", engine="h5netcdf")
    command = "assimilate --prior prior.safetensors --method sda --observations day.nc --std 0.5"
    command += " --truth day.nc --start 2020-01-02 --members 3 --threads 1 --netcdf run.nc"
    assert main(command.split()) == 0
    told = capsys.readouterr().out
    assert "0 rows not used" in told and "nan" not in told.lower().split("truth:")[-1]
    with xarray.open_dataset("run.nc") as made:
        land = made["t"].isnull()
        assert land[..., 1, 2].all() and land.sum() == 3 * 6
    assert main(["report", "run.zarr"]) == 0
    run = scorda.open_posterior("run.zarr")
    assert run.analysis.states.isnan().sum() == 3 * 6
    assert torch.isfinite(scorda.metrics.rmse(run.analysis.states, run.truth))


@pytest.mark.slow
def test_several_files_and_remote_stores_train_as_one_file_does(fields, tmp_path):
    data = fields.where(fields["t"] != -999).isel(time=slice(8, None))
    data.to_netcdf("t.nc", engine="h5netcdf")
    data.isel(time=slice(30)).to_netcdf("part1.nc", engine="h5netcdf")
    data.isel(time=slice(30, None)).to_netcdf("part2.nc", engine="h5netcdf")
    data.to_zarr("t.zarr", zarr_format=2)
    priors = []
    for k, source in enumerate(("t.nc", "part*.nc", f"file://{tmp_path}/t.zarr")):
        arguments = TRAIN.replace("t.nc", source).split()
        assert main([*arguments, "--out", f"{k}.safetensors"]) == 0
        priors.append(scorda.load(f"{k}.safetensors"))
    for prior in priors[1:]:
        assert prior.space == priors[0].space
        weights = zip(prior.network.parameters(), priors[0].network.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in weights)


@pytest.mark.slow
def test_one_variable_is_observed_and_the_other_is_drawn_with_its_season(tmp_path, monkeypatch):
    """Days of three years: the prior asks when a window begins, and July is warm."""
    monkeypatch.chdir(tmp_path)
    draw, days = np.random.default_rng(0), np.arange(1200)
    season = -10 * np.cos(2 * np.pi * (days - 15) / 365.25)
    t = 280 + season + draw.normal(size=1200)
    q = 5 + 0.4 * (t - 280) + 0.1 * draw.normal(size=1200)
    times = np.datetime64("2001-01-01", "ns") + days * np.timedelta64(1, "D")
    made = {"t": ("time", t, {"units": "K"}), "q": ("time", q, {"units": "g/kg"})}
    xarray.Dataset(made, {"time": times}).to_netcdf("days.nc", engine="h5netcdf")
    train = "train --data days.nc --quick --width 4 --corrected 1 --segment 5 --threads 1"
    assert main(train.split()) == 0
    prior = scorda.load("prior.safetensors")
    assert prior.provenance["harmonics"] == {"q": 1, "t": 1}
    assert len(prior.provenance["groups"]) == 1
    (tmp_path / "o.csv").write_text("time,variable,value\n2005-07-16,t,292\n2005-07-18,t,288\n")
    command = "assimilate --prior prior.safetensors --method sda --observations o.csv --std 0.1"
    command += " --members 8 --threads 1 --steps 4 --start 2005-07-15 --netcdf run.nc"
    assert main(command.split()) == 0
    with xarray.open_dataset("run.nc") as run:
        found = run["q"].mean("ensemble").values
    assert np.abs(found[[1, 3]] - [9.8, 8.2]).max() < 0.3
