"""The example of the posterior of rho: its reference, distances, and file."""

import csv

import pytest
import torch

from scorda.core import rng
from scripts import load_script

example = load_script("examples/calibration_rho.py")


def test_draws_have_the_law_of_the_evidence_on_the_grid():
    """Two values of the grid with odds of three to one: shares within 4 standard errors."""
    log_w = torch.full((example.POINTS,), -torch.inf)
    log_w[3], log_w[20] = 0.0, torch.tensor(3.0).log()
    x = example.draws(log_w, 50, 1)
    width = (example.UPPER - example.LOWER) / example.POINTS
    low = (x - example.grid()[3]).abs() <= width / 2
    high = (x - example.grid()[20]).abs() <= width / 2
    assert (low | high).all()
    assert abs(high.double().mean() - 0.75) < 4 * (0.75 * 0.25 / x.numel()) ** 0.5
    # One interval is uniform: mean and variance of its numbers.
    z = (x[high] - example.grid()[20]) / width
    assert abs(z.mean()) < 4 / (12 * len(z)) ** 0.5 and abs(z.var() - 1 / 12) < 0.005


def test_the_distance_is_that_of_sorted_numbers():
    """A shift by one of one set, of none of the other: half."""
    x = torch.tensor([3.0, 1.0, 2.0])
    y = torch.tensor([[2.0, 3.0, 1.0], [4.0, 2.0, 3.0]])
    assert example.w1(x, y) == 0.5


@pytest.mark.slow
def test_the_evidence_of_a_known_rho_is_highest_near_it():
    """A long, precise record of a truth at 32; the prior of the truth alone knows nothing."""
    sc = example.sc
    system = sc.WithParameters(sc.systems.Lorenz63(), {"rho": sc.systems.Uniform(31.9, 32.1)})
    model = sc.ObservationModel(sc.Select([0, 1, 2]), std=1.0)
    _, problem = sc.twin_experiment(system, model, example.STEPS, 1, 0, start=0)
    log_w = example.log_evidence(problem, example.first_states(512, 1), 2)
    x = example.draws(log_w, 100, 3)
    assert abs(x.mean() - 32) < 4 * x.std() + 0.5 and x.std() < 1.5


def test_a_file_goes_on_where_it_ended_and_distances_are_of_the_first(tmp_path, monkeypatch):
    asked = []

    def judged(seed, prior, clouds):
        asked.append((seed, len(clouds)))
        distances = dict.fromkeys(example.COLUMNS[3:9], 1.0) if clouds else {}
        return {"seed": seed, "rank": 3, "polished_rank": 0, **distances}

    monkeypatch.setattr(example, "judged", judged)
    monkeypatch.setattr(example, "first_states", lambda particles, seed: rng.normal(1, (1,), seed))
    monkeypatch.setattr(example.sc.priors, "load", lambda name: None)
    for truths in (3, 5):
        words = f"calibration_rho.py --truths {truths} --distances 2 --out {tmp_path / 'rho.csv'}"
        monkeypatch.setattr("sys.argv", words.split())
        example.main()
    assert asked == [(0, 2), (1, 2), (2, 0), (3, 0), (4, 0)]
    with (tmp_path / "rho.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1", "2", "3", "4"]
