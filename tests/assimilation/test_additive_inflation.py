"""Additive inflation: the law of its draws, their streams, and what does not fit."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.assimilation.additive_inflation import Additive
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.enkf import ETKF, EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem
from scorda.systems.lorenz import Lorenz63
from scorda.testing import check_filter, check_reproducible

# Almost singular: the first two variables move together.
COV = torch.tensor([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 0.25]]).double()


def added(inflation, members=20_000, system=None, seed=3):
    """What is added to members that an analysis has left as they were."""
    system = system or Lorenz63()
    observations = Observations(ObservationModel(Select([0]), 1.0), [0], [[0.0]])
    running = inflation.begin(Problem(system, observations, 0))
    x = torch.zeros(members, *system.space.shape)
    return running.after(x, x, rng.seeded(seed))


def test_draws_have_the_covariance_and_no_mean():
    """Of 20 000 draws, whose covariances have a standard error below 0.01; the mean is exact."""
    sample = 3 + rng.normal(400, (3,), rng.seeded(1)) @ COV
    for inflation, expected in (
        (Additive(0.5), 0.25 * torch.eye(3)),
        (Additive((0.5, 1.0, 0.0)), torch.diag(torch.tensor([0.25, 1.0, 0.0]))),
        (Additive(cov=COV), COV),
        (Additive(sample=sample), sample.T.cov()),
    ):
        draws = added(inflation)
        assert_close(draws.T.cov(), expected, atol=0.06, rtol=0)
        assert_close(draws.mean(0), torch.zeros(3), atol=1e-12, rtol=0)


def test_draws_of_a_sample_stay_in_its_span():
    draws = added(Additive(sample=[[0.0, 0.0, 1.0], [2.0, 2.0, 1.0]]))
    assert_close(draws[:, 0], draws[:, 1])
    assert (draws[:, 2] == 0).all()
    assert float(draws[:, 0].var()) == pytest.approx(2.0, rel=0.05)


def test_the_draw_of_a_member_does_not_depend_on_the_number_of_members():
    """But for the mean, which is taken off, and it is another in each step."""
    few, many = added(Additive(0.5), 4), added(Additive(0.5), 9)[:4]
    assert_close(few - few[0], many - many[0], atol=1e-12, rtol=0)
    assert not torch.equal(added(Additive(0.5), 4, seed=4), few)


def test_the_draws_of_the_method_are_those_without_inflation():
    """A stream of its own: what is added is the whole difference."""
    observations = Observations(ObservationModel(Select([0]), 1.0), [0], [[0.0]])
    problem = Problem(Lorenz63(), observations, 0)
    plain, more = (
        EnKF(inflation).assimilate(problem, 30, 0).states[:, 0]
        for inflation in (1.0, Additive(1e-3))
    )
    assert 5e-4 < float((more - plain).std()) < 2e-3


def test_the_forecast_may_be_inflated_instead():
    observations = Observations(ObservationModel(Select([0]), 1e-4), [0], [[0.0]])
    problem = Problem(Lorenz63(), observations, 0)
    before, behind = (
        ETKF(Additive(2.0, stage=stage)).assimilate(problem, 200, 0).states[:, 0, 0].std()
        for stage in ("forecast", "analysis")
    )
    assert before < 1e-3 and behind > 1.5


def test_nothing_is_added_outside_of_a_mask():
    mask = np.array([True, True, False, True])
    space = StateSpace((4,), variables=("q",), coordinates={"x": np.arange(4)}, mask=mask)
    system = FunctionSystem(lambda x: x, lambda n, s: torch.zeros(n, 4), space, library="torch")
    draws = added(Additive(1.0), 50, system)
    assert (draws[:, 2] == 0).all() and (draws[:, [0, 1, 3]] != 0).all()


def test_filters_keep_their_promises_with_additive_inflation():
    check_filter(ETKF(Additive(0.1)))
    check_reproducible(ETKF(Additive(0.1)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Additive(), "exactly one"),
        (lambda: Additive(0.1, cov=COV), "exactly one"),
        (lambda: Additive(-0.1), ">= 0"),
        (lambda: Additive(float("nan")), ">= 0"),
        (lambda: Additive(cov=COV[:2]), "size, size"),
        (lambda: Additive(cov=torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        (lambda: Additive(sample=COV[:1]), "at least two"),
        (lambda: Additive(sample=COV * float("inf")), "not finite"),
        (lambda: added(Additive((0.1, 0.2))), "variables x, y, z"),
        (lambda: added(Additive(cov=COV[:2, :2])), "of 2 rows for states of 3"),
        (lambda: added(Additive(sample=COV[:, :2])), "of the run have"),
    ],
)
def test_what_does_not_fit_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
