"""The parameters of the simulated river are found, and nothing becomes negative."""

import pytest
import torch

import scorda as sc
from scorda.core.rng import seeded
from scripts import load_script

river = load_script("examples/river.py")


@pytest.mark.slow
def test_the_posterior_of_a_river_covers_its_parameters(single):
    """Three standard deviations about the mean; these are a sixth of the prior's at most."""
    truth, problem = river.experiment()
    states = sc.ETKF(inflation=1.01).assimilate(problem, 60, seeded(2)).states
    assert (states > 0).all() and (states[..., 2] < 4).all()
    for i, name in enumerate(river.LAWS, start=1):
        before, after = states[:, 0, i], states[:, -1, i]
        assert abs(float(after.mean()) - river.TRUE[name]) < 3 * float(after.std())
        assert float(after.std()) < float(before.std()) / 6
    assert torch.equal(truth[0, 1:], torch.tensor(list(river.TRUE.values())))


def test_water_is_conserved_without_rain_and_evaporation(monkeypatch):
    monkeypatch.setattr(river, "RAIN", [0.0])
    own = {"recession": 0.1, "evaporation": 0.0}
    x = torch.tensor([50.0]).numpy()
    assert abs(float(river.step(x, own, member=0, step=0, seed=1)[0]) - 45.0) < 1e-12
