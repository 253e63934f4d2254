"""Normal scores of a sample as a transform of a variable."""

import json
import math

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.transforms import NormalScores
from scorda.observations.operators import Pointwise
from scorda.systems import FunctionSystem

GAMMA = np.random.default_rng(0).gamma(2.0, size=500)


def test_scores_are_the_normal_quantiles_of_the_ranks():
    sample = [3.0, 1.0, 2.0, 2.0, 9.0, math.nan]
    scores = NormalScores(sample)
    z = scores.forward(torch.tensor([1.0, 2.0, 3.0, 9.0, 2.5]))
    ranks = torch.tensor([0.5, 2.0, 3.5, 4.5]) / 5
    knots = torch.special.ndtri(ranks)
    assert torch.allclose(z[:4], knots, rtol=1e-14)
    assert torch.allclose(z[4], (knots[1] + knots[2]) / 2, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_undoes_the_scores_also_beyond_the_sample(dtype):
    """Rounding is that of x, 40 at most, and z, whose slope is below 50 here."""
    scores = NormalScores(GAMMA)
    x = torch.linspace(-10, 40, 501, dtype=dtype)
    z = scores.forward(x)
    assert z.dtype == dtype and (z.diff() > 0).all()
    off = (scores.inverse(z) - x).abs().max()
    assert off < 1e4 * torch.finfo(dtype).eps


def test_the_tails_go_on_with_the_mean_slope_of_the_outer_tenth():
    scores = NormalScores(GAMMA)
    knots = torch.from_numpy(np.sort(GAMMA))
    z = scores.forward(knots)
    for end, inner, away in ((0, 50, -7.0), (-1, -51, 7.0)):
        slope = (z[end] - z[inner]) / (knots[end] - knots[inner])
        beyond = scores.forward(knots[end] + away)
        assert torch.allclose(beyond, z[end] + slope * away, rtol=1e-12)


def test_the_slope_is_the_derivative():
    scores = NormalScores(GAMMA)
    x = torch.linspace(-3.01, 20.02, 97).requires_grad_()
    (slope,) = torch.autograd.grad(scores.forward(x).sum(), x)
    assert torch.allclose(scores.log_slope(x.detach()), slope.log(), rtol=1e-10)


def test_a_space_with_scores_is_described_and_made_again():
    space = StateSpace((2,), variables=("a", "b"), transforms={"b": NormalScores(GAMMA)})
    x = torch.rand(5, 2)
    assert torch.allclose(space.bounded(space.unbounded(x)), x, rtol=1e-10)
    again = StateSpace.from_json(json.loads(json.dumps(space.as_json())))
    assert again == space
    assert torch.equal(again.unbounded(x), space.unbounded(x))
    content = space.as_json()
    for wrong in (["scores"], ["scores", 1.0], ["scores", ["a"]], ["scores", [1.0]]):
        content["transforms"] = {"b": wrong}
        with pytest.raises(ValueError, match="sample"):
            StateSpace.from_json(content)


@pytest.mark.parametrize("sample", [[1.0, 1.0], [], [1.0, math.inf], np.arange(10_001.0)])
def test_a_sample_that_makes_no_map_is_refused(sample):
    with pytest.raises(ValueError, match="Got a sample of"):
        NormalScores(sample)


def test_an_analysis_in_scores_of_a_lognormal_law_has_its_posterior():
    """ln x ~ N(0, .5), ln y = ln x + N(0, .25), y = 2: mean 1.7254, variance .5399.

    The scores of 4001 quantiles are ln x / sqrt(.5), but in the tails; 2000 members, equally.
    """
    q = torch.special.ndtri((torch.arange(4001) + 0.5) / 4001)
    space = StateSpace(
        (1,), variables=("x",), transforms={"x": NormalScores((0.5**0.5 * q).exp())}
    )
    draws = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000)
    x = (0.5**0.5 * draws / draws.std()).exp()[:, None]
    system = FunctionSystem(lambda x: x, lambda n, seed: x, space, library="torch")
    seen = sc.Observations(
        sc.ObservationModel(Pointwise(torch.log), std=0.5), [0], [[math.log(2)]]
    )
    found = sc.ETKF().assimilate(sc.Problem(system, seen, 0, x), 2000, rng.seeded(0)).states
    assert abs(float(found.mean()) - 1.7254) < 0.01
    assert abs(float(found.var()) - 0.5399) < 0.02
