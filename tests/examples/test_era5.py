"""Real input: skipped where $SCORDA_ERA5 does not name the file."""

import os
from pathlib import Path

import pytest

from scripts import load_script

DATA = os.environ.get("SCORDA_ERA5", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path(DATA).is_file(), reason="no file of fields: set SCORDA_ERA5")
def test_posterior_beats_interpolation_of_the_stations(tmp_path):
    scores = load_script("examples/era5.py").main(
        ["--data", DATA, "--quick", "--out", str(tmp_path)]
    )
    # One day and 8 members decide no more than that.
    assert scores["SDA"]["rmse"] < scores["linear interpolation"]["rmse"]
    assert (tmp_path / "posterior.png").is_file() and (tmp_path / "stations-0-0.nc").is_file()
