"""The example of simulation-based calibration: its ranks, intervals and file."""

import pytest
import torch

from scorda.core import rng
from scripts import load_script

example = load_script("examples/calibration.py")


def test_ranks_and_intervals_of_draws_of_one_law_are_those_of_uniform_numbers():
    """Truth and members alike, 400 times: within 4 standard errors; too narrow ones are seen."""
    x = rng.normal(400 * (example.MEMBERS + 1), (65, 3), 0).view(400, -1, 65, 3)
    found = torch.stack([example.ranks(one[1:], one[0]) for one in x])
    counts = torch.bincount(found.flatten() * example.BINS // example.MEMBERS)
    assert len(counts) == example.BINS and ((counts - 250).abs() < 4 * 250**0.5).all()
    for level in (0.5, 0.9):
        share, error = example.coverage(found, level)
        assert abs(share - level) < 4 * error + 1 / example.MEMBERS
    narrow = torch.stack([example.ranks(0.5 * one[1:], one[0]) for one in x])
    assert example.coverage(narrow, 0.9)[0] < 0.8
    # The smallest of five p-values is below 0.001 in one of 200 such tests; the seed is fixed.
    assert min(example.uniformity(found).values()) > 0.001
    assert max(example.uniformity(narrow).values()) < 1e-3


def test_a_file_of_ranks_goes_on_where_it_ended(tmp_path, monkeypatch):
    asked = []

    def drawn(seed, prior):
        asked.append(seed)
        return {name: [seed] * len(example.SUMMARIES) for name in example.LABELS}

    monkeypatch.setattr(example, "drawn", drawn)
    path, out = tmp_path / "ranks.csv", tmp_path / "figure.png"
    for truths in (3, 5):
        words = f"calibration.py --truths {truths} --ranks {path} --out {out}"
        monkeypatch.setattr("sys.argv", words.split())
        example.main()
    assert asked == [0, 1, 2, 3, 4] and out.exists()
    assert example.read(path)["plain"][4] == [4] * len(example.SUMMARIES)


@pytest.mark.slow
def test_a_truth_is_ranked_by_both_methods():
    found = example.drawn(0, example.sc.priors.load("lorenz63"))
    assert found.keys() == example.LABELS.keys()
    assert all(0 <= rank < example.MEMBERS for row in found.values() for rank in row)
