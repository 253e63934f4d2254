"""Circular variables from the shell: simulated, assimilated, stored, resumed, forecast."""

import pytest
import torch

import scorda as sc
from scorda.cli import main
from scorda.cli.bounds import circles_of
from scorda.cli.settings import UserError
from scorda.core.transforms import Circular
from scorda.store import open_posterior
from scorda.store.scores import scores

LORENZ = "lorenz96 --system.dim 8"
CIRCLE = "--circular x=-30,30"
RUN = "--observations sim/observations.csv --truth sim/truth.nc --members 12 --steps 5"


@pytest.mark.slow
def test_circles_are_stored_resumed_and_compared(tmp_path, monkeypatch, capsys):
    """No state of Lorenz-96 comes near the cut at 30, so that all numbers are those without."""
    monkeypatch.chdir(tmp_path)
    assert main(f"simulate --system {LORENZ} {CIRCLE} --steps 8 --every 2 --out sim".split()) == 0
    run = f"assimilate --system {LORENZ} {CIRCLE} {RUN} --method etkf --withhold 0.3"
    assert main(run.split()) == 0
    posterior = open_posterior("run.zarr")
    assert posterior.space.transforms == {"x": Circular(60.0, -30.0)}
    assert 'circular = ["x=-30,30"]' in open("run.zarr.toml").read()
    plain = run.replace(f"{CIRCLE} ", "") + " --out plain.zarr"
    assert main(plain.split()) == 0
    assert torch.equal(posterior.analysis.states, open_posterior("plain.zarr").analysis.states)
    found = [scores(open_posterior(p)) for p in ("run.zarr", "plain.zarr")]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert main("assimilate --config run.zarr.toml --out again.zarr".split()) == 0
    assert torch.equal(posterior.analysis.states, open_posterior("again.zarr").analysis.states)
    assert main(f"{run} --resume".split()) == 0
    capsys.readouterr()
    assert main(f"{run} --resume".replace("x=-30,30", "x=-30,40").split()) != 0
    assert "circular" in capsys.readouterr().err
    assert main("report run.zarr".split()) == 0
    assert main(f"{run} --keep mean,std,q05,q95 --out part.zarr".split()) == 0
    assert main("report part.zarr --out part.html".split()) == 0
    assert main("forecast run.zarr --steps 3 --out next.zarr".split()) == 0
    assert open_posterior("next.zarr").space.transforms == {"x": Circular(60.0, -30.0)}
    capsys.readouterr()
    (tmp_path / "later.csv").write_text("time,site,value,std\n0.3,0,1,1\n")
    goes_on = "assimilate --continue run.zarr --observations later.csv --out more.zarr"
    assert main(f"{goes_on} --circular x=-30,40".split()) != 0
    said = "circular variables x (-30 to 30), and the system now x (-30 to 40)"
    assert said in " ".join(capsys.readouterr().err.split())
    assert main(goes_on.split()) == 0
    with pytest.raises(ValueError, match="and the system now none"):
        sc.forecast("run.zarr", sc.systems.Lorenz96(dim=8), 3, "plain-next.zarr")


def test_circles_are_read_from_text():
    given = ["direction=360", "phase = -180,180"]
    assert circles_of(given) == {"direction": Circular(360.0), "phase": Circular(360.0, -180.0)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("direction", "give direction=360"),
        ("=360", "give direction=360"),
        ("phase=0,", "give direction=360"),
        ("phase=a", "Give numbers"),
        ("phase=180,-180", "positive period"),
        ("phase=inf", "positive period"),
    ],
)
def test_circles_that_do_not_fit_end_with_a_sentence(text, said):
    with pytest.raises(UserError, match=said):
        circles_of([text])


def test_circles_are_given_once_and_of_a_variable(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="there twice"):
        circles_of(["wind=360", "wind=400"])
    monkeypatch.chdir(tmp_path)
    assert main("simulate lorenz96 --circular q=360 --steps 2 --every 1".split()) != 0
    assert "--circular: " in capsys.readouterr().err
    both = "simulate lorenz96 --circular x=360 --bounded x=-90,90 --steps 2 --every 1"
    assert main(both.split()) != 0
    assert "--bounded and --circular of x" in capsys.readouterr().err
