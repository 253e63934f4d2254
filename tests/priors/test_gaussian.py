"""Priors from ensembles: numbers of the members, carried to the posterior's clock."""

import numpy as np
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.priors.gaussian import Gaussian, taper_matrix


def test_numbers_are_turned_by_as_little_as_takes_one_span_to_the_other():
    x = rng.normal(4, (6,), rng.seeded(0), like=torch.zeros(1, dtype=torch.float64))
    fitted = Gaussian().fit(x * torch.tensor([1.0, 3.0, 0.2, 1.0, 2.0, 0.5]))
    clock = torch.tensor([2.0, 0.1, 5.0, 1.0, 0.3, 4.0], dtype=torch.float64)
    before, after = (
        torch.linalg.qr(root[:, None] * fitted.basis)[0]
        for root in (fitted.var.rsqrt(), clock.sqrt())
    )
    carried = fitted.map_latents(before.T, clock)
    assert_close(carried @ after @ after.T, carried)
    assert_close(carried @ carried.T, torch.eye(3).double())
    # No map of orthonormal bases has a larger trace than the sum of the singular values.
    singular = torch.linalg.svdvals(after.T @ before)
    assert_close((before.T * carried).sum(), singular.sum())
    assert_close(fitted.map_latents(before.T, 1 / fitted.var), before.T)


def test_the_taper_of_several_variables_is_that_of_their_places():
    space = StateSpace((2, 5), variables=("u", "v"), coordinates={"x": np.arange(5.0)})
    taper = taper_matrix(GaspariCohn(1.0), space).reshape(2, 5, 2, 5)
    near = GaspariCohn(1.0)(torch.tensor([0.0, 1.0, 2.0]))
    for a in range(2):
        for b in range(2):
            assert torch.allclose(taper[a, 1, b, 1:4], near.to(taper))


def test_a_run_keeps_its_taper_while_the_space_is_the_same(monkeypatch):
    made, x = [], rng.normal(6, (5,), rng.seeded(0))
    wide, near = (StateSpace((5,), coordinates={"x": s * np.arange(5.0)}) for s in (0.5, 2.0))
    prior = Gaussian(GaspariCohn(1.0))
    expected = {id(space): prior.fit(x, None, space) for space in (wide, near)}
    counted = lambda *given: made.append(1) or taper_matrix(*given)  # noqa: E731
    monkeypatch.setattr("scorda.priors.gaussian.taper_matrix", counted)
    run = prior.begin(None)
    for space in (wide, wide, near, near, wide):
        assert torch.equal(run.fit(x, None, space).spectrum, expected[id(space)].spectrum)
    assert len(made) == 3
