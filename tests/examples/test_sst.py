"""Monthly sea-surface temperature with land: skipped without the package that has the file."""

from pathlib import Path

import pytest
import xarray

from scripts import load_script

sample = pytest.importorskip("iris_sample_data", reason="pip install iris-sample-data")
DATA = Path(sample.path) / "ostia_monthly.nc"


@pytest.fixture
def example():
    return load_script("examples/sst.py")


@pytest.mark.slow
def test_the_example_maps_a_coarser_grid(example, tmp_path, monkeypatch):
    """Every third latitude and every sixth longitude: a posterior is far better than the mean."""
    with xarray.open_dataset(DATA) as data:
        coarse = data[["surface_temperature"]].isel(
            latitude=slice(None, None, 3), longitude=slice(None, None, 6)
        )
        coarse.to_netcdf(tmp_path / "sst.nc", engine="h5netcdf")
    monkeypatch.setattr("scorda.priors.held_back.RADII", (0.0625, 0.125))
    arguments = ["--data", str(tmp_path / "sst.nc"), "--quick"]
    scores = example.main([*arguments, "--figure", str(tmp_path / "map.png")])
    for other in ("climatology", "optimal interpolation"):
        assert scores["SDA"]["rmse"] < scores[other]["rmse"]
        assert scores["SDA"]["crps"] < scores[other]["crps"]
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.slow
def test_sda_is_the_best_of_all_and_its_spread_is_its_error(example):
    """One draw of stations and 12 members; the example itself takes three and 40."""
    scores = example.main(["--draws", "1", "--members", "12"])
    ours = scores.pop("SDA")
    assert ours["rmse"] <= min(s["rmse"] for s in scores.values())
    assert ours["crps"] < min(s["crps"] for s in scores.values())
    assert 0.8 <= ours["spread/skill"] <= 1.25
