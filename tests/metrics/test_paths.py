"""Paths of smoothers: effective particles, histories and how far their shares are off."""

import math

import torch

from scorda.core import rng
from scorda.metrics.paths import effective, furthest, histories, known_shares, shares, turns


def paths(*rows):
    """States of which x is given and the rest is zero, in steps 0, 1 and 2."""
    x = torch.tensor(rows, dtype=torch.float64)
    return torch.stack([x, torch.zeros_like(x)], -1)


def test_effective_particles_are_the_inverse_of_the_sum_of_squared_weights():
    """Unbiased in 1 / n: the mean over 2000 sets of 50 draws, within 5 standard errors."""
    weights = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    exact = float(weights.square().sum())
    drawn = torch.multinomial(weights, 100_000, True, generator=rng.seeded(0)).view(2000, 50)
    found = torch.tensor([1 / effective(row[:, None].double()) for row in drawn])
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / 2000**0.5
    assert effective(torch.arange(6.0)[:, None]) == math.inf
    assert effective(torch.ones(6, 1)) == 1


def test_histories_are_signs_where_the_size_peaks():
    x = paths([1, 5, -1], [1, 5, -1], [1, -5, 1], [-1, -5, -1])
    assert turns(x) == [1]
    assert histories(x, [1, 2]) == ["+-", "+-", "-+", "--"]
    assert shares(x, [1, 2]) == {"+-": 0.5, "-+": 0.25, "--": 0.25}


def test_a_share_is_off_in_its_standard_errors():
    """Of 100 members 60 where a half is known: a difference of 0.1 over the error of both."""
    known = {"+": (0.5, 0.03), "-": (0.5, 0.03)}
    members = paths(*([[0, 1, 0]] * 60), *([[0, -1, 0]] * 40))
    assert math.isclose(furthest(members, known, [1]), 0.1 / math.hypot(0.05, 0.03))
    assert furthest(members, {"+": (1.0, 0.0)}, [1]) == 0.4 / 0.01


def test_errors_of_known_shares_count_the_fewest_effective_particles():
    """All 100 paths come from 3 states at step 1; a history of one path is left out."""
    x = paths(*[[i, 1 if i % 2 else -1, i] for i in range(100)])
    x[0, 1, 0] = 2
    known = known_shares(x, [1])
    assert [round(q, 2) for q, _ in known.values()] == [0.51, 0.49]
    least = effective(x[:, 1])
    assert 1.9 < least < 2.1
    assert math.isclose(known["+"][1], (0.51 * 0.49 * (1 / 100 + 1 / least)) ** 0.5)
    assert list(known_shares(x, [0, 1])) == ["++", "+-"]
