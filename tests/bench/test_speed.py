"""The benchmark of speed runs, and says what it compares."""

import pytest

from scorda.bench.problems import PROBLEMS
from scorda.bench.run import run_benchmark


@pytest.mark.slow
def test_times_are_positive_and_beside_those_of_bare_loops(tmp_path, single):
    setup = PROBLEMS["speed"]().shortened()
    rows = run_benchmark("speed", path=tmp_path / "runs.csv", setup=setup)
    assert [row.label for row in rows[:4]] == ["EnKF", "ETKF", "LETKF", "ParticleFilter"]
    for row in rows:
        assert not row.failures and all(value > 0 for value in row.mean.values())
        other = "over_numpy" if row.label.startswith("normal") else "assimilate_over_torch"
        assert {"milliseconds", other} <= row.mean.keys()
