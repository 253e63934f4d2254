"""Observation models and observations: densities, absent values, what is refused."""

import math
import time
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel, stack
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.spatial import Average

NAN = math.nan
COV = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)
FIRST_THREE = Select([0, 1, 2])


def models():
    return {
        "std": ObservationModel(FIRST_THREE, std=0.7),
        "std of each": ObservationModel(FIRST_THREE, std=torch.tensor([0.3, 1.0, 2.0])),
        "cov": ObservationModel(FIRST_THREE, cov=COV),
    }


@pytest.mark.parametrize("kind", models())
def test_log_likelihood_is_the_density_of_torch(kind):
    """1e-12: rounding."""
    model, x, y = models()[kind], normal(4, (5,), seeded(0)), torch.tensor([0.3, -1.0, 2.0])
    cov = model.error_cov((3,), y)
    expected = MultivariateNormal(x[:, :3], cov).log_prob(y)
    torch.testing.assert_close(model.log_likelihood(y, x), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(model.error_std((3,), y), cov.diagonal().sqrt())


def test_log_likelihood_of_a_field_takes_the_error_of_each_place():
    """1e-12: rounding."""
    std, x, y = torch.rand(3, 4) + 1, normal(5, (3, 4), seeded(0)), normal(3, (4,), seeded(1))
    found = ObservationModel(Pointwise(torch.sin), std=std).log_likelihood(y, x)
    expected = Normal(x.sin(), std).log_prob(y).sum((1, 2))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_model_that_was_used_without_gradients_has_them_later():
    # Its std is converted to double precision.
    model = ObservationModel(Select([0, 2]), std=torch.tensor([1, 2], dtype=torch.float32))
    x, y = torch.ones(4, 3), torch.zeros(2)
    with torch.inference_mode():
        model.misfit(y, x)
    x.requires_grad_()
    model.misfit(y, x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([2.0, 0.0, 0.5]).expand(4, 3))


def test_a_model_is_copied_after_a_derivative():
    model, y = ObservationModel(Select([0, 2]), std=[1.0, 2.0]), torch.zeros(2)
    torch.func.grad(lambda x: model.misfit(y, x).sum())(torch.ones(4, 3))
    assert torch.equal(deepcopy(model).std, model.std)


@pytest.mark.parametrize("kind", models())
def test_whitening_makes_the_error_standard(kind):
    """W R W^T = 1 for the matrix W of `whiten`; 1e-12: rounding."""
    model = models()[kind]
    whiten = model.whiten(torch.eye(3)).T
    identity = whiten @ model.error_cov((3,), torch.eye(3)) @ whiten.T
    torch.testing.assert_close(identity, torch.eye(3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", models())
def test_errors_have_the_covariance_and_do_not_depend_on_the_batch(kind):
    """Entries of a sample covariance of 40 000 have a standard error up to 4 sqrt(2/40000)."""
    model = models()[kind]
    errors = model.error(40_000, (3,), torch.zeros(1), seeded(1))
    exact = model.error_cov((3,), errors)
    assert ((errors.T.cov() - exact).abs() < 5 * 4 * (2 / 40_000) ** 0.5).all()
    torch.testing.assert_close(model.error(10, (3,), torch.zeros(1), seeded(1)), errors[:10])


def test_sample_adds_the_error_to_the_operator():
    model, x = ObservationModel(Average(2), std=0.5), normal(6, (2, 4, 4), seeded(0))
    y = model.sample(x, seeded(1))
    assert y.shape == (6, 2, 2, 2)
    assert torch.equal(y, Average(2)(x) + model.error(6, (2, 2, 2), x, seeded(1)))
    assert torch.equal(y, model.sample(x, seeded(1)))


def test_float32_states_stay_float32():
    x = torch.zeros(2, 5, dtype=torch.float32)
    for model in models().values():
        assert model.sample(x, seeded(0)).dtype == torch.float32
        # Sums of many terms, whose differences are weights.
        assert model.log_likelihood(torch.zeros(3, dtype=torch.float32), x).dtype == torch.float64


def test_an_observation_that_is_one_number_per_state():
    model = ObservationModel(Function(lambda x: x.sum(-1)), std=2.0)
    x = normal(4, (3,), seeded(0))
    values = model.sample(x, seeded(1))
    assert values.shape == (4,)
    observations = Observations(model, range(4), values)
    y, flat = observations.at(2)
    assert y.shape == (1,) and flat.operator(x).shape == (4, 1)
    exact = Normal(x.sum(-1), 2.0).log_prob(values)
    torch.testing.assert_close(observations.log_likelihood(x[None]), exact.sum()[None])


def test_absent_entries_are_dropped_from_value_operator_and_error():
    values = torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, NAN], [4.0, 5.0, 6.0]])
    x = normal(4, (5,), seeded(0))
    for model in models().values():
        observations = Observations(model, [0, 3, 4], values)
        y, present = observations.at(0)
        assert y.tolist() == [1.0, 3.0]
        assert torch.equal(present.operator(x), x[:, [0, 2]])
        cov = model.error_cov((3,), x)[[0, 2]][:, [0, 2]]
        torch.testing.assert_close(present.error_cov((2,), x), cov)
        assert observations.at(1)[0].numel() == 0
        y, whole = observations.at(2)
        assert y.tolist() == [4.0, 5.0, 6.0]
        assert torch.equal(whole.operator(x), x[:, :3])
        assert [observations.observed(k) for k in range(3)] == [True, False, True]


def test_restricted_models_keep_flags_and_places():
    space = StateSpace((5,))
    values = torch.tensor([[1.0, NAN, 3.0]])
    _, model = Observations(ObservationModel(Select([4, 1, 0]), std=1.0), [0], values).at(0)
    assert model.operator.linear and model.operator.differentiable
    assert model.operator.variables(space) == ("x4", "x0")
    black_box = ObservationModel(Function(lambda x: x[:, :3], differentiable=False), std=1.0)
    _, model = Observations(black_box, [0], values).at(0)
    assert not model.operator.linear and not model.operator.differentiable
    with pytest.raises(ValueError, match="Function does not know where"):
        model.operator.coordinates(space)
    ring = StateSpace((5,), variables=("x",))
    _, model = Observations(ObservationModel(Select([4, 1, 0]), std=1.0), [0], values).at(0)
    assert model.operator.coordinates(ring)[:, 0].tolist() == [4.0, 0.0]


@pytest.mark.parametrize("std", ["per value", "per row", "per entry"])
def test_std_of_the_observations_replaces_that_of_the_model(std):
    values = torch.tensor([[1.0, NAN, 3.0], [4.0, 5.0, 6.0]])
    given = {
        "per value": torch.tensor([[0.1, NAN, 0.3], [0.4, 0.5, 0.6]]),
        "per row": torch.tensor([[0.1], [0.4]]),
        "per entry": torch.tensor([0.1, 0.2, 0.3]),
    }[std]
    observations = Observations(models()["cov"], [0, 1], values, std=given)
    full = given.expand(2, 3)
    y, model = observations.at(0)
    assert torch.equal(model.error_std(tuple(y.shape), y), full[0, [0, 2]])
    y, model = observations.at(1)
    assert torch.equal(model.error_std(tuple(y.shape), y), full[1])
    assert model.cov is None


@pytest.mark.parametrize("kind", [*models(), "std of each value"])
def test_log_likelihood_of_trajectories_sums_the_present_values(kind):
    """1e-10: rounding."""
    values = normal(4, (3,), seeded(3))
    values[1, 2], values[2] = NAN, NAN
    std = normal(4, (3,), seeded(4)).abs() + 0.1 if kind == "std of each value" else None
    model = models()["std" if kind == "std of each value" else kind]
    observations = Observations(model, [0, 2, 3, 7], values, std=std)
    trajectory = normal(5, (9, 4), seeded(5)).requires_grad_()
    expected = torch.zeros(5)
    for k, step in enumerate(observations.steps):
        kept = ~values[k].isnan()
        if kept.any():
            cov = model.error_cov((3,), values) if std is None else std[k].square().diag()
            density = MultivariateNormal(trajectory[:, step, :3][:, kept], cov[kept][:, kept])
            expected = expected + density.log_prob(values[k, kept])
    found = observations.log_likelihood(trajectory)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), trajectory)
    assert gradient.isfinite().all() and not gradient[:, 3].any()


def test_predict_observes_each_step_of_each_member():
    model = ObservationModel(Average(2), std=1.0)
    observations = Observations(model, [1, 4], torch.zeros(2, 2, 2, 2))
    trajectory = normal(3, (6, 2, 4, 4), seeded(0))
    predicted = observations.predict(trajectory)
    assert predicted.shape == (3, 2, 2, 2, 2)
    torch.testing.assert_close(predicted[:, 1], Average(2)(trajectory[:, 4]))


def test_a_row_may_observe_several_steps():
    """The mean of three steps, then the difference of two: each gets (ensemble, len, *state)."""
    trajectory = normal(4, (6, 3), seeded(0))
    model = ObservationModel(Function(lambda x: x.mean(1)), std=1.0)
    observations = Observations(model, [(0, 1, 2), (3, 5)], torch.zeros(2, 3))
    means = torch.stack([trajectory[:, :3].mean(1), trajectory[:, [3, 5]].mean(1)], 1)
    torch.testing.assert_close(observations.predict(trajectory), means)
    exact = Normal(means, 1.0).log_prob(torch.zeros(())).sum((1, 2))
    torch.testing.assert_close(observations.log_likelihood(trajectory), exact)
    alike = replace(observations, steps=[(0, 1), (1, 4)])
    pair = torch.stack([trajectory[:, [0, 1]].mean(1), trajectory[:, [1, 4]].mean(1)], 1)
    torch.testing.assert_close(alike.predict(trajectory), pair)


def test_stacked_instruments_are_independent():
    x = normal(4, (5,), seeded(0))
    parts = []
    for k, model in enumerate(models().values()):
        parts.append(Observations(model, [0], torch.tensor([[0.5 + k, NAN, 1.0 - k]])).at(0))
    y, model = stack(parts)
    assert y.numel() == 6 and model.operator.linear
    total = sum(m.log_likelihood(part, x) for part, m in parts)
    torch.testing.assert_close(model.log_likelihood(y, x), total)
    y, diagonal = stack(parts[:2])
    assert diagonal.cov is None
    total = sum(m.log_likelihood(part, x) for part, m in parts[:2])
    torch.testing.assert_close(diagonal.log_likelihood(y, x), total)
    assert not stack(
        [parts[0], (y[:4], replace(model, operator=Pointwise(torch.sin), std=1.0, cov=None))]
    )[1].operator.linear


def test_at_hands_out_copies():
    observations = Observations(models()["std"], [0], torch.ones(1, 3))
    observations.at(0)[0].zero_()
    assert observations.values.tolist() == [[1.0, 1.0, 1.0]]


def test_at_is_quick_where_nothing_is_missing(unchecked):
    """A cached view: 6 microseconds on one core; the bound leaves room for a busy machine."""
    values = normal(1000, (40,), seeded(0))
    observations = Observations(ObservationModel(Select(range(40)), std=1.0), range(1000), values)
    observations.at(0)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        for k in range(1000):
            observations.at(k)
        seconds.append((time.perf_counter() - begin) / 1000)
    assert min(seconds) < 50e-6


def observations(**changes):
    settings = {"steps": [1, 2], "values": torch.zeros(2, 3)} | changes
    return Observations(models()["std"], **settings)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ObservationModel(FIRST_THREE), "exactly one of `std` and `cov`"),
        (lambda: ObservationModel(FIRST_THREE, std=1.0, cov=COV), "exactly one of"),
        (lambda: ObservationModel(FIRST_THREE, std=0.0), "std of 0: it must be positive"),
        (lambda: ObservationModel(FIRST_THREE, std=-2.0), "std of -2: it must be positive"),
        (lambda: ObservationModel(FIRST_THREE, std=NAN), "std of nan"),
        (lambda: ObservationModel(FIRST_THREE, std=math.inf), "positive and finite"),
        (lambda: ObservationModel(FIRST_THREE, cov=-COV), "not symmetric and positive definite"),
        (lambda: ObservationModel(FIRST_THREE, cov=COV.triu()), "not symmetric"),
        (lambda: ObservationModel(FIRST_THREE, cov=COV[:2]), "one row and one column"),
        (
            lambda: ObservationModel(FIRST_THREE, std=torch.ones(2)).sample(torch.zeros(1, 3)),
            r"std of shape \(2,\) for observations of shape \(3,\)",
        ),
        (
            lambda: ObservationModel(FIRST_THREE, cov=COV[:2, :2]).whiten(torch.zeros(1, 3)),
            "2 rows for 3 observations",
        ),
        (lambda: observations(steps=[1]), "one row per entry of `steps`"),
        (lambda: observations(values=torch.tensor(1.0)), "one row per entry of `steps`"),
        (lambda: observations(steps=[2, 1]), "strictly increasing"),
        (lambda: observations(steps=[1, 1]), "merge rows of the same step"),
        (lambda: observations(steps=[-1, 1]), "must be >= 0"),
        (lambda: observations(steps=[(2, 1), (3, 4)]), "strictly increasing"),
        (lambda: observations(steps=[(-2, 1), (3, 4)]), "must be >= 0"),
        (lambda: observations(steps=[0.5, 1]), "Got the step 0.5: give whole numbers"),
        (lambda: observations(steps=[(), 1]), "give whole numbers, or a tuple"),
        (lambda: observations(values=torch.full((2, 3), math.inf)), "use NaN for what is absent"),
        (lambda: observations(std=0.0), "std of 0: it must be positive"),
        (lambda: observations(std=torch.tensor([[1.0], [-1.0]])), "std of -1"),
        (lambda: observations(std=torch.full((2, 3), NAN)), "std of nan"),
        (lambda: observations(std=torch.ones(2)), r"one per row give shape \(cycle, 1\)"),
        (lambda: observations(std=torch.ones(4, 2, 3)), "must be one number or broadcast"),
        (lambda: observations().predict(torch.zeros(1, 2, 3)), "must reach the last observation"),
        (
            lambda: observations().log_likelihood(torch.zeros(1, 2, 3)),
            "must reach the last observation",
        ),
    ],
)
def test_bad_observations_are_refused(make, match, unchecked):
    with pytest.raises(ValueError, match=match) as error:
        make()
    # One sentence: nothing but its end is a full stop before a space.
    assert str(error.value).endswith(".") and ". " not in str(error.value)


def test_steps_may_come_from_numpy_and_torch(unchecked):
    assert observations(steps=np.array([3, 9])).steps == (3, 9)
    assert observations(steps=torch.tensor([3, 9])).steps == (3, 9)
    assert observations(steps=range(4, 6)).steps == (4, 5)
    for steps in (8, None):
        with pytest.raises(TypeError, match="give a list, with one entry per row"):
            observations(steps=steps)
    with pytest.raises(ValueError, match="Got the step False"):
        observations(steps=[False, True])
    assert len(observations()) == 2


def test_nothing_observed_at_all_has_log_likelihood_zero():
    empty = observations(values=torch.full((2, 3), NAN))
    assert empty.log_likelihood(torch.zeros(4, 3, 5)).tolist() == [0.0] * 4
    none = observations(steps=[], values=torch.zeros(0, 3))
    assert none.log_likelihood(torch.zeros(4, 3, 5)).tolist() == [0.0] * 4


def test_linear_instrument_with_absent_rows_has_the_adjoint_of_the_rest():
    matrix = normal(3, (5,), seeded(0))
    values = torch.tensor([[1.0, NAN, 2.0]])
    _, model = Observations(ObservationModel(Linear(matrix), std=1.0), [0], values).at(0)
    back = model.operator.adjoint(torch.eye(2), (5,))
    torch.testing.assert_close(back, matrix[[0, 2]])
