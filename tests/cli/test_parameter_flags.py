"""Unknown parameters from the shell: simulated, assimilated, stored, resumed, reported."""

import numpy as np
import pytest
import torch
import xarray

from scorda.cli import main
from scorda.cli.parameters import with_parameters
from scorda.cli.settings import UserError
from scorda.core.distributions import Normal, Uniform, Value
from scorda.store import open_posterior
from scorda.systems import Lorenz63, Lorenz96

SYSTEM = "--system lorenz96 --system.dim 8"
RUN = f"assimilate {SYSTEM} --parameter forcing=uniform:5,12 --observations sim/observations.csv"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A folder with a short simulation of Lorenz-96, whose forcing is 7."""
    monkeypatch.chdir(tmp_path)
    made = "simulate lorenz96 --system.dim 8 --parameter forcing=7 --steps 8 --every 2 --out sim"
    assert main(made.split()) == 0
    return tmp_path


@pytest.mark.slow
def test_a_parameter_is_estimated_stored_scored_and_reported(simulated, capsys):
    given = f"{RUN} --truth sim/truth.nc --method letkf --localization.radius 2 --members 12"
    assert main(given.split()) == 0
    assert "forcing" in capsys.readouterr().out
    posterior = open_posterior("run.zarr")
    assert posterior.space.parameters == ("forcing",)
    forcing = posterior.to_xarray()["forcing"]
    assert forcing.dims == ("ensemble", "time")
    assert ((forcing > 5) & (forcing < 12)).all()
    assert (posterior.truth[:, 8] == 7).all()
    # What says nothing of a parameter does not observe it.
    assert set(posterior.observations["variable"].values) == {"x"}
    assert main("report run.zarr".split()) == 0
    assert "Histograms of each parameter" in (simulated / "report.html").read_text()


@pytest.mark.slow
def test_the_settings_of_a_run_make_it_again(simulated):
    walk = RUN.replace("uniform:5,12", "uniform:5,12~0.02@3")
    assert main(f"{walk} --method etkf --members 12 --steps 5".split()) == 0
    assert 'parameter = ["forcing=uniform:5,12~0.02@3"]' in open("run.zarr.toml").read()
    assert main("assimilate --config run.zarr.toml --out again.zarr".split()) == 0
    one, again = (open_posterior(p).analysis.states for p in ("run.zarr", "again.zarr"))
    assert torch.equal(one, again)
    goes_on = "assimilate --continue run.zarr --observations sim/observations.csv --out more.zarr"
    assert main(goes_on.split()) == 0
    assert open_posterior("more.zarr").space.parameters == ("forcing",)


@pytest.mark.slow
def test_a_run_without_parameters_says_nothing_of_them(simulated):
    assert main(RUN.replace("--parameter forcing=uniform:5,12", "").split()) == 0
    assert "parameter" not in open("run.zarr.toml").read()
    assert "parameter" not in open_posterior("run.zarr").configuration


def test_texts_make_laws_walks_and_positions():
    texts = ["rho=uniform:20,35~0.02", "beta = normal:2.7,0.1"]
    system = with_parameters(Lorenz63(), texts, values=False)
    assert system.laws == {"rho": Uniform(20, 35), "beta": Normal(2.7, 0.1)}
    assert system.evolution == "random-walk" and system.walk == {"rho": 0.02}
    placed = with_parameters(Lorenz96(), ["forcing=8@12"], values=True)
    assert placed.laws == {"forcing": Value(8.0)} and placed.positions == {"forcing": [12.0]}


@pytest.mark.parametrize(
    "text",
    [
        "rho",
        "=uniform:1,2",
        "rho=",
        "rho=gamma:1,2",
        "rho=28",
        "rho=uniform:20,35~x",
        "rho=uniform:20,35~",
        "rho=uniform:20,35@",
        "tau=normal:1,1",
    ],
)
def test_a_text_that_does_not_fit_is_refused_in_a_sentence(text):
    with pytest.raises(UserError, match="--parameter"):
        with_parameters(Lorenz63(), [text], values=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("assimilate --prior lorenz63 --method sda --observations o.csv", "without --system"),
        ("train --data t.nc --out p.safetensors", "goes with --system only"),
    ],
)
def test_a_parameter_needs_a_system(tmp_path, monkeypatch, capsys, command, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.csv").write_text("time,x,std\n0.1,3,1\n")
    fields = xarray.Dataset({"t": (("time", "y"), np.zeros((9, 2)))}, {"time": np.arange(9.0)})
    fields.to_netcdf("t.nc", engine="h5netcdf")
    assert main(f"{command} --parameter rho=uniform:20,35".split()) == 2
    assert "--parameter" in (error := capsys.readouterr().err) and said in error


def test_a_parameter_is_given_once():
    with pytest.raises(UserError, match="twice"):
        with_parameters(Lorenz63(), 2 * ["rho=uniform:20,35"], values=False)
