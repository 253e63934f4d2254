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


@pytest.mark.parametrize("code", [0.0, -9999.0, 9.96921e36, 200.0])
@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_code_at_all_points_of_land_is_found(code, share):
    """Many values are the same number: the climate is that of the others."""
    land = np.arange(len(NORMAL)) < share * len(NORMAL)
    assert (suspicious(np.where(land, code, NORMAL)) == land).all()


@pytest.mark.parametrize("end", [-32.767, 32.767])
def test_the_end_of_a_packed_range_is_no_heavy_tail(end):
    """Temperatures in K never differ by a multiple, so that a multiple says nothing of them."""
    values = np.append(NORMAL, 280.0 + 2 * end)
    assert np.flatnonzero(suspicious(values)).tolist() == [len(NORMAL)]


@pytest.mark.parametrize(
    "values",
    [
        NORMAL,
        np.append(NORMAL, np.nan),
        np.exp(1.5 * np.random.default_rng(1).normal(size=5000)),
        np.concatenate([NORMAL - 280.0, NORMAL - 180.0]),
        np.zeros(100),
        np.append(np.zeros(100), 5.0),
        np.append(np.zeros(900), np.exp(np.random.default_rng(1).normal(size=100))),
        np.round(NORMAL - 280.0),
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
