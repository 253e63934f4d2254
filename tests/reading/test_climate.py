"""A code far from all values is none of them; tails, modes and few values are."""

import numpy as np
import pytest

from scorda.reading import climate
from scorda.reading.climate import suspicious

NORMAL = np.random.default_rng(0).normal(280.0, 3.0, 500)


@pytest.mark.parametrize("code", [-9999.0, -999.9, 1e20, 99999.9, -888888.0, np.inf])
@pytest.mark.parametrize("count", [1, 20])
def test_codes_are_found(code, count):
    values = NORMAL.copy()
    values[:count] = code
    assert np.flatnonzero(suspicious(values)).tolist() == list(range(count))


@pytest.mark.parametrize(
    "values",
    [
        NORMAL,
        np.append(NORMAL, np.nan),
        np.exp(1.5 * np.random.default_rng(1).normal(size=5000)),
        np.concatenate([NORMAL - 280.0, NORMAL - 180.0]),
        np.zeros(100),
        np.append(np.zeros(100), 5.0),
        np.array([1.0, 2.0, 50.0]),
        np.array([]),
    ],
)
def test_ordinary_values_are_kept(values):
    assert not suspicious(values).any()


def test_one_of_a_few_values_is_found():
    assert (
        suspicious(np.array([1.0, 2.0, 0.5, -9999.0, 1.5, 3.0])).tolist()
        == [False] * 3 + [True] + [False] * 2
    )


def test_a_sample_with_its_extremes_has_the_climate_of_all(monkeypatch):
    """One code among many values is found, and the bounds are those of all of the values."""
    values = np.random.default_rng(0).normal(280, 2, (50, 400))
    values[31, 7] = -9999.0
    monkeypatch.setattr(climate, "SAMPLE", 2000)
    monkeypatch.setattr(climate, "EXTREMES", 5)
    sample = climate.sampled(iter(values), values.size)
    assert len(sample) <= 50 * (400 // 10 + 10)
    assert climate.climate_of(sample) == climate.climate_of(values)
