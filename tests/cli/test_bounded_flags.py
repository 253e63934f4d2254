"""Bounds of variables from the shell: simulated, assimilated, stored, resumed, trained."""

import numpy as np
import pytest
import torch
import xarray

import scorda
from scorda.cli import main
from scorda.cli.bounds import bounds_of
from scorda.cli.settings import UserError
from scorda.core.transforms import Log, Logit
from scorda.store import open_posterior

SYSTEM = "lorenz96 --system.dim 8 --bounded x=-30,30"
RUN = f"assimilate --system {SYSTEM} --observations sim/observations.csv --members 12 --steps 5"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(f"simulate {SYSTEM} --steps 8 --every 2 --out sim".split()) == 0
    return tmp_path


@pytest.mark.slow
def test_bounds_are_stored_shown_and_compared(simulated, capsys):
    assert main(f"{RUN} --truth sim/truth.nc --method etkf".split()) == 0
    posterior = open_posterior("run.zarr")
    assert posterior.space.transforms == {"x": Logit(-30.0, 30.0)}
    assert 'bounded = ["x=-30,30"]' in open("run.zarr.toml").read()
    assert 'bounded = ["x=-30,30"]' in open("sim/simulate.toml").read()
    assert main("assimilate --config run.zarr.toml --out again.zarr".split()) == 0
    one, again = (open_posterior(p).analysis.states for p in ("run.zarr", "again.zarr"))
    assert torch.equal(one, again) and (one.abs() < 30).all()
    resumed = f"{RUN} --truth sim/truth.nc --method etkf --resume"
    assert main(resumed.split()) == 0
    capsys.readouterr()
    assert main(resumed.replace("x=-30,30", "x=-40,40").split()) != 0
    assert "bounded" in capsys.readouterr().err
    assert main("report run.zarr".split()) == 0
    assert main("forecast run.zarr --steps 3 --out next.zarr".split()) == 0
    assert open_posterior("next.zarr").space.transforms == {"x": Logit(-30.0, 30.0)}
    goes_on = "assimilate --continue run.zarr --observations sim/observations.csv --out more.zarr"
    assert main(goes_on.split()) == 0
    assert open_posterior("more.zarr").space.transforms == {"x": Logit(-30.0, 30.0)}


@pytest.mark.slow
def test_a_prior_of_a_file_has_bounds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    z = np.random.default_rng(0).normal(size=(200, 4))
    cover = xarray.DataArray(1 / (1 + np.exp(-2 * z)), dims=("time", "x"), name="cover")
    cover.assign_coords(time=np.arange(200.0), x=np.arange(4.0)).to_netcdf("cover.nc")
    made = "train --data cover.nc --bounded cover=0,1 --quick"
    assert main(made.split()) == 0
    prior = scorda.load("prior.safetensors")
    assert prior.space.transforms == {"cover": Logit(0.0, 1.0)}
    assert 'bounded = ["cover=0,1"]' in open("prior.toml").read()
    draws = prior.sample(50, 4, 0)
    assert ((draws > 0) & (draws < 1)).all() and (draws > 0.95).any() and (draws < 0.05).any()
    assert main("train --config prior.toml --out again.safetensors".split()) == 0
    assert torch.equal(scorda.load("again.safetensors").sample(5, 4, 0), draws[:5])
    capsys.readouterr()
    assert main([*made.replace("0,1", "0.2,1").split(), "--overwrite"]) != 0
    assert "values of cover in the record beyond its bounds" in capsys.readouterr().err
    assert main([*made.replace("cover=", "cloud=").split(), "--overwrite"]) != 0
    assert "--bounded: " in capsys.readouterr().err
    table = "time,variable,x,value,std\n2,cover,1,1.02,0.1\n"
    (tmp_path / "seen.csv").write_text(table)
    run = "assimilate --method sda --prior prior.safetensors --observations seen.csv --members 20"
    assert main(run.split()) == 0
    states = open_posterior("run.zarr").analysis.states
    assert ((states > 0) & (states < 1)).all()
    assert main([*run.split(), "--overwrite", "--bounded", "cover=0,2"]) != 0
    assert "Got --bounded without --system" in capsys.readouterr().err


def test_bounds_are_read_from_text():
    given = ["humidity=0,1", "rain = 0,", "depth=-1e3,0.5"]
    assert bounds_of(given) == {"humidity": Logit(0, 1), "rain": Log(0), "depth": Logit(-1e3, 0.5)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("humidity", "give humidity=0,1"),
        ("humidity=0", "give humidity=0,1"),
        ("=0,1", "give humidity=0,1"),
        ("humidity=,1", "give humidity=0,1"),
        ("humidity=a,1", "Give numbers"),
        ("humidity=1,0", "smaller one first"),
        ("humidity=inf,", "finite"),
    ],
)
def test_bounds_that_do_not_fit_end_with_a_sentence(text, said):
    with pytest.raises(UserError, match=said):
        bounds_of([text])


def test_bounds_are_given_once_and_with_a_system(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="there twice"):
        bounds_of(["rain=0,", "rain=1,"])
    monkeypatch.chdir(tmp_path)
    assert main("simulate lorenz96 --bounded q=0, --steps 2 --every 1".split()) != 0
    assert "--bounded: " in capsys.readouterr().err
