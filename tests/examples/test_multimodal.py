"""The example of a posterior of two halves that are mirror images."""

import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng
from scripts import load_script

example = load_script("examples/multimodal.py")


def test_the_posterior_does_not_change_in_the_mirror():
    """Steps and observations of a mirrored trajectory are as likely as those of its original."""
    system = sc.systems.Lorenz63()
    states = system.trajectory(system.prior(4, rng.seeded(0)), example.STEPS, rng.seeded(1))
    mirrored = example.mirrored(states)
    # In single precision: sums of 48 terms of size 3.
    assert_close(
        sc.metrics.log_prior(mirrored, system),
        sc.metrics.log_prior(states, system),
        rtol=1e-4,
        atol=1e-2,
    )
    observations = example.twin(0)[1].instruments[0]
    assert_close(observations.log_likelihood(mirrored), observations.log_likelihood(states))


def test_members_are_counted_by_the_half_they_belong_to():
    x = torch.tensor([[1.0, 5.0, -1.0, 2.0]]).T * torch.tensor([1.0, -1.0, 1.0, 1.0])
    states = torch.stack((x.T, x.T, torch.ones_like(x.T)), -1)
    modes = example.Modes.of(states)
    assert (modes.positive, modes.error) == (0.75, 0.25)
    assert example.Modes.of(example.mirrored(states)).positive == 0.25
    assert example.turns(states) == [1]
    assert example.histories(states, [1, 2]) == ["+-", "-+", "+-", "+-"]


@pytest.mark.slow
def test_sda_finds_both_halves_and_covers_the_observations(tmp_path):
    out = tmp_path / "multimodal.png"
    settings = (
        "--members 160 --levels 16 --corrections 1 --sweeps 1 16 --particles 0 --out".split()
    )
    modes, check = example.main([*settings, str(out)])
    # Members are independent: four standard errors of a fair coin.
    assert abs(modes.positive - 0.5) < 4 * modes.error
    # Of observations that the posterior has seen more lie inside than of others.
    assert check.passed
    assert out.stat().st_size > 10_000
