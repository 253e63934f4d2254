"""The exact posterior of a window, which the comparison of laws uses."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch.testing import assert_close

from scorda.nn.spectral import TIMES
from scripts import load_script

example = load_script("examples/station_records.py")


@pytest.fixture(scope="module")
def record():
    draw = np.random.default_rng(0)
    a = draw.normal(size=(60, 2)).cumsum(1)
    columns = {"a": (("time", "x"), a), "b": (("time", "x"), a + draw.normal(size=(60, 2)))}
    times = np.datetime64("2019-01-01T00") + np.arange(60) * np.timedelta64(5, "h")
    data = xr.Dataset(columns, {"time": times.astype("M8[ns]"), "x": [0.0, 1.0]})
    return example.Record(data, "2019-01-10", 3, (0.5, 0.5))


@pytest.mark.slow
def test_the_posterior_is_that_of_the_covariance_entry_by_entry(record):
    prior, truth = record.prior("a", "b"), record.values[50:53].flatten(1)
    seen = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    mean, std = example.posterior(prior, truth, seen, torch.full((4,), 0.5).double(), 7)
    network = prior.network
    basis, spectrum, memory = (
        p.double() for p in (network.basis, network.spectrum, network.memory)
    )
    cov = torch.zeros(12, 12, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            decay = torch.exp(-abs(i // 4 - j // 4) / torch.tensor(TIMES).double())
            each = spectrum * (memory @ decay)
            modes = basis[i % 4] * basis[j % 4]
            cov[i, j] = (modes * (each[:-1] - each[-1])).sum() + each[-1] * (i % 4 == j % 4)
    scale = prior.standardisation.std.double().flatten().repeat(3)
    center = prior.standardisation.mean.double().flatten().repeat(3)
    cov, at = scale[:, None] * cov * scale, seen.flatten()
    noise = torch.randn(
        int(at.sum()), generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    y = (truth.flatten() - center)[at] + 0.5 * noise
    gain = torch.linalg.solve(cov[at][:, at] + 0.25 * torch.eye(len(y)), cov[at]).T
    assert_close(mean.flatten(), center + gain @ y, rtol=1e-5, atol=1e-6)
    assert_close(std.flatten().square(), (cov - gain @ cov[at]).diagonal(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_what_is_not_observed_of_a_variable_is_known_from_the_other(record, monkeypatch):
    monkeypatch.setattr(example, "WINDOWS", 3)
    found = example.scores(record)
    assert len(found) == 8
    kind = example.KINDS[1]
    assert found["b", kind, "joint law"][0] < found["b", kind, "one variable at a time"][0]
