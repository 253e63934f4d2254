"""Laws of observations: each is a density with its quantiles, and none takes another's place."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.law_names import law_named
from scorda.observations.laws import Density, Law, Several, joined
from scorda.observations.model import ObservationModel, stack
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.observations.robust_laws import Huber, Laplace, Normal, StudentT
from scorda.observations.value_laws import (
    Bernoulli,
    Censored,
    LogNormal,
    NegativeBinomial,
    Poisson,
)
from scorda.systems.lorenz import Lorenz63

ROBUST = (StudentT(4.0), StudentT(1.5), Laplace(), Huber(), Huber(0.5), Normal())
COUNTS = (Poisson(), NegativeBinomial(3.0), Bernoulli())
CURVED = (*COUNTS, LogNormal(), Censored(0.5), Density(lambda y, h: -((y - h) ** 4)))
STD = torch.tensor(0.5)


def density(law, y, h=0.7):
    return float(law.log_density(torch.tensor(float(y)), torch.tensor(h), STD).exp())


@pytest.mark.parametrize("law", [*ROBUST, LogNormal()], ids=str)
def test_quantiles_are_those_of_the_density(law):
    """Its integral up to each quantile is the probability, by adaptive quadrature."""
    u = torch.tensor([0.01, 0.2, 0.6, 0.97])
    low = 1e-12 if isinstance(law, LogNormal) else -np.inf
    for p, end in zip(u, law.quantile(u, torch.tensor(0.7), STD), strict=True):
        mass = integrate.quad(lambda y: density(law, y), low, float(end), limit=400)[0]
        assert mass == pytest.approx(float(p), abs=1e-7)


def test_a_censored_law_has_the_mass_of_what_is_below_at_its_limit():
    law = Censored(0.5)
    above = integrate.quad(lambda y: density(law, y), 0.5 + 1e-12, np.inf)[0]
    assert density(law, 0.5) + above == pytest.approx(1, abs=1e-8)
    assert density(law, 0.5) == density(law, -3.0)
    drawn = law.draw(torch.full((4000, 1), 0.7), STD, rng.seeded(0))
    # The share of 4000 draws has a standard error of 0.0075.
    assert float((drawn == 0.5).double().mean()) == pytest.approx(density(law, 0.5), abs=0.03)


@pytest.mark.parametrize("law", COUNTS, ids=str)
def test_counts_have_the_stated_mean_and_variance(law):
    y = torch.arange(2.0 if isinstance(law, Bernoulli) else 300.0)
    mass = law.log_density(y, torch.full_like(y, 0.7), STD).exp()
    mean = (mass * y).sum()
    m, s = math.exp(0.7), 1 / (1 + math.exp(-0.7))
    expected = {
        Poisson: (m, m),
        NegativeBinomial: (m, m + m**2 / 3),
        Bernoulli: (s, s * (1 - s)),
    }[type(law)]
    assert_close(mass.sum(), torch.tensor(1.0))
    assert_close(torch.stack((mean, (mass * (y - mean) ** 2).sum())), torch.tensor(expected))
    # A uniform number at the end of a step is the quantile before it.
    cumulative = mass.cumsum(0)
    inside = cumulative[:2] - 1e-9
    assert_close(law.quantile(inside, torch.full((2,), 0.7), STD), y[:2])


@pytest.mark.parametrize("law", ROBUST, ids=str)
def test_a_weight_is_the_slope_of_the_loss_over_the_residual(law):
    e = torch.tensor([-7.0, -0.3, 0.2, 1.0, 5.0], requires_grad=True)
    (slope,) = torch.autograd.grad(law.loss(e).sum(), e)
    assert_close(law.weight(e) * e, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", CURVED, ids=lambda law: type(law).__name__)
def test_the_gaussian_near_a_law_has_its_gradient_and_curvature(law):
    """By central differences; where the law is convex the curvature is the squared gradient."""
    y, h, step = torch.tensor(1.0), torch.tensor([0.3, 0.7, 1.4]), 1e-4
    low, middle, high = (law.log_density(y, h + k * step, STD) for k in (-1, 0, 1))
    slope, bent = (high - low) / (2 * step), (high - 2 * middle + low) / step**2
    residual, var = law.linearised(y, h, STD)
    curvature = torch.where(bent < 0, -bent, slope.square())
    assert_close(residual / var, slope, rtol=1e-5, atol=1e-6)
    assert_close(1 / var, curvature.clamp_max(1 / STD**2) if law == Censored(0.5) else curvature,
                 rtol=1e-4, atol=1e-5)  # fmt: skip


def test_joined_laws_are_those_of_their_parts():
    """Densities, residuals, draws and Gaussians, also of some entries alone."""
    laws = [(StudentT(4.0), 2), (Poisson(), 1), (Normal(), 1)]
    both = joined(laws)
    assert isinstance(both, Several)
    y, h = torch.tensor([0.3, -1.0, 2.0, 0.4]), torch.randn(5, 4)
    std = torch.tensor([0.5, 0.6, 1.0, 0.7])
    kept = torch.tensor([False, True, True, False])
    for law, of in (
        (StudentT(4.0), slice(0, 2)),
        (Poisson(), slice(2, 3)),
        (Normal(), slice(3, 4)),
    ):
        for name in ("log_density", "residual"):
            one = getattr(law, name)(y[of], h[:, of], std[of])
            assert_close(getattr(both, name)(y, h, std)[:, of], one)
        for found, one in zip(both.linearised(y, h, std), law.linearised(y[of], h[:, of], std[of]),
                              strict=True):  # fmt: skip
            assert_close(found[:, of], one.expand_as(h[:, of]))
    some = both.only(kept).log_density(y[kept], h[:, kept], std[kept])
    assert_close(some, both.log_density(y, h, std)[:, kept])
    assert both.texts(4) == ["student:4", "student:4", "poisson", "gaussian"]
    assert joined([(Laplace(), 2), (Laplace(), 3)]) == Laplace()


def test_stacked_models_have_the_density_of_both():
    x = torch.randn(6, 3)
    parts = [
        (torch.tensor([1.0]), ObservationModel(Select([0]), law=Poisson())),
        (torch.tensor([0.2, -0.4]), ObservationModel(Select([1, 2]), std=0.5)),
    ]
    y, model = stack(parts)
    assert_close(model.log_likelihood(y, x), sum(m.log_likelihood(v, x) for v, m in parts))
    kept = torch.tensor([True, False, True])
    one = parts[0][1].log_likelihood(parts[0][0], x)
    other = ObservationModel(Select([2]), std=0.5).log_likelihood(y[2:], x)
    assert_close(model.only(kept, y).log_likelihood(y[kept], x), one + other)


@pytest.mark.parametrize(
    "text",
    ["gaussian", "student:4", "laplace", "huber:1.345", "lognormal", "censored:-0.5", "poisson",
     "negative-binomial:2.5", "bernoulli"],
)  # fmt: skip
def test_a_law_has_a_name(text):
    assert law_named(text).text() == text
    assert law_named(text.upper()) == law_named(text)


@pytest.mark.parametrize(
    "text", ["", "gauss", "student:x", "laplace:2", "censored", "student:", "student:1:2"]
)
def test_a_wrong_name_ends_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"Got the law .* give gaussian, student:4"):
        law_named(text)


@pytest.mark.parametrize("text", ["student:0", "huber:-1", "negative-binomial:nan"])
def test_a_wrong_number_ends_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"give a positive number"):
        law_named(text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"law": Poisson(), "std": 0.5}, "Got a `std` for Poisson, which has none: leave"),
        ({"law": StudentT()}, "StudentT needs `std`"),
        ({"law": StudentT(), "cov": torch.eye(1)}, "Got a `cov` for StudentT, .*: give `std`"),
    ],
)
def test_a_law_that_does_not_fit_its_error_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        ObservationModel(Select([0]), **given)


def test_a_law_is_a_law_or_a_function():
    with pytest.raises(TypeError, match=r"give a law such as StudentT\(4\), or a function"):
        ObservationModel(Select([0]), law="student")
    with pytest.raises(TypeError, match="give a law such as"):
        ObservationModel(Select([0]), std=1.0, law=StudentT)
    model = ObservationModel(Select([0]), law=lambda y, h: (y - h).sum(1))
    with pytest.raises(ValueError, match=r"`log_density\(y, h\)` returns one number per value"):
        model.log_likelihood(torch.zeros(1), torch.zeros(3, 2))


def test_a_model_of_a_law_has_no_gaussian_parts():
    """So that no method takes a Gaussian in its place unnoticed."""
    model, y = ObservationModel(Select([0]), std=0.5, law=StudentT()), torch.zeros(1)
    for ask in (
        lambda: model.whiten(y[None]),
        lambda: model.error_std((1,), y),
        lambda: model.error_cov((1,), y),
        lambda: model.error(2, (1,), y),
        lambda: model.modes((3,)),
    ):
        with pytest.raises(TypeError, match="StudentT where Gaussian ones are needed"):
            ask()


def test_a_subclass_with_its_own_density_is_refused_with_the_way_out():
    """Several methods never asked for it, and took the Gaussian."""
    with pytest.raises(TypeError, match=r"Mine replaces log_likelihood of .* a `law`, such as"):

        class Mine(ObservationModel):
            def log_likelihood(self, y, x):
                return -(y - self.operator(x)).abs().sum(1)

    class Named(ObservationModel):
        """A subclass that replaces nothing is as good as its base."""

    assert Named(Select([0]), std=1.0).error_std((1,), torch.zeros(1)) == 1


def test_a_gaussian_law_is_the_model_without_one():
    model, plain = (
        ObservationModel(Select([0]), 0.5, law=Normal()),
        ObservationModel(Select([0]), 0.5),
    )
    x = torch.randn(4, 2)
    assert model.law is None
    assert torch.equal(model.sample(x, rng.seeded(1)), plain.sample(x, rng.seeded(1)))


def test_a_density_without_quantiles_cannot_be_drawn_from():
    model = ObservationModel(Select([0]), law=lambda y, h: -(y - h).abs())
    with pytest.raises(TypeError, match="cannot be drawn from"):
        model.sample(torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("law", "value"), [(Poisson(), 1.5), (Poisson(), -1.0), (Bernoulli(), 2.0), (LogNormal(), 0.0),
                       (NegativeBinomial(2.0), 0.5)],
)  # fmt: skip
def test_values_that_a_law_cannot_have_are_refused(law, value):
    model = ObservationModel(Select([0]), std=1.0 if law.scaled else None, law=law)
    good = torch.tensor([[1.0], [math.nan]])
    Observations(model, [0, 2], good)
    with pytest.raises(ValueError, match=f"Got the observed value {value:g} for"):
        Observations(model, [0, 2], torch.tensor([[1.0], [value]]))


def test_a_std_of_observations_that_have_none_is_refused():
    model = ObservationModel(Select([0]), law=Poisson())
    with pytest.raises(ValueError, match="Got `std` for observations of Poisson"):
        Observations(model, [0], torch.ones(1, 1), std=0.5)


def test_twin_experiments_draw_from_the_law():
    """Residuals of 1500 Student values: by their share beyond a quantile; one seed, one result."""
    model = ObservationModel(Select(range(3)), std=0.5, law=StudentT(2.0))
    truth, problem = twin_experiment(Lorenz63(), model, 500, 1, rng.seeded(3))
    (seen,) = problem.instruments
    e = ((seen.values - truth[1:]) / 0.5).abs()
    # P(|e| > 2.92) = 0.1 for two degrees of freedom; the standard error is 0.008.
    assert float((e > 2.92).double().mean()) == pytest.approx(0.1, abs=0.03)
    again = twin_experiment(Lorenz63(), model, 500, 1, rng.seeded(3))[1].instruments[0]
    assert torch.equal(again.values, seen.values)


def test_the_likelihood_of_a_record_is_the_sum_over_its_rows():
    """With a std for each row, values that are absent, and two laws in a row."""
    which = torch.tensor([0, 1])
    law = Several((StudentT(3.0), Laplace()), which)
    std = torch.tensor([[0.5, 0.4], [0.6, 0.7]])
    values = torch.tensor([[0.3, math.nan], [1.0, -0.5]])
    model = ObservationModel(Select([0, 1]), std=1.0, law=law)
    seen, x = Observations(model, [0, 1], values, std), torch.randn(4, 2, 2)
    expected = StudentT(3.0).log_density(values[:, 0], x[..., 0], std[:, 0]).sum(1)
    expected = expected + Laplace().log_density(values[1, 1], x[:, 1, 1], std[1, 1])
    assert_close(seen.log_likelihood(x), expected)


SPACE = StateSpace((3,), dt=0.5, variables=("a", "b", "c"))


def test_a_table_says_the_law_of_its_values():
    columns = {
        "time": np.array([0.5, 0.5, 1.0, 1.0]),
        "variable": np.array(["a", "b", "a", "c"], dtype=object),
        "value": np.array([0.1, 4.0, 0.2, 0.3]),
        "std": np.array([0.5, np.nan, 0.5, 0.2]),
        "law": np.array(["student:4", "poisson", "student:4", None], dtype=object),
    }
    seen = Observations.from_table(columns, SPACE, law={"c": Laplace()})
    assert seen.laws().tolist() == ["student:4", "poisson", "laplace"]
    assert seen.flat_std[0].isnan().tolist() == [False, True, False]
    assert "law student:4, poisson, laplace" in seen.summary()
    y, model = seen.at(0)
    assert y.tolist() == [pytest.approx(0.1), 4.0]
    assert model.law.texts(2) == ["student:4", "poisson"]


def test_a_table_that_is_written_reads_back_the_same(tmp_path):
    law = Several((StudentT(4.0), Poisson()), torch.tensor([0, 1]))
    model = ObservationModel(Select([0, 2]), std=torch.tensor([0.5, 1.0]), law=law)
    seen = Observations(model, [1, 3], torch.tensor([[0.2, 3.0], [math.nan, 0.0]]))
    for name in ("table.csv", "table.nc"):
        seen.to_table(tmp_path / name, SPACE)
        back = Observations.from_table(tmp_path / name, SPACE)
        assert back.laws().tolist() == ["student:4", "poisson"]
        assert_close(back.values, seen.values, equal_nan=True)
        x = torch.randn(5, 4, 3)
        assert_close(back.log_likelihood(x), seen.log_likelihood(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"law": ["student:4", "laplace"], "time": [0.5, 1.0]}, "several laws for the values of"),
        ({"law": ["laplace", "laplace"], "value": [0.1, 0.2]}, "of which no mean can be taken"),
        ({"law": ["t4", "t4"]}, "Got the law 't4'"),
    ],
)
def test_tables_that_cannot_be_arranged_by_law_are_refused(change, words):
    columns = {"time": [0.5, 0.5], "variable": ["a", "a"], "value": [0.1, 0.1], "std": [1.0, 1.0]}
    columns = {k: np.array(v, dtype=None if k in ("time", "value", "std") else object)
               for k, v in (columns | change).items()}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        Observations.from_table(columns, SPACE)


def test_a_law_of_your_own_is_a_class_with_a_density():
    class Cauchy(Law):
        def log_density(self, y, h, std):
            return -torch.log1p(((y - h) / std).square()) - (math.pi * std).log()

    model = ObservationModel(Select([0]), std=0.5, law=Cauchy())
    y, x = torch.tensor([1.0]), torch.randn(4, 2)
    assert_close(
        model.log_likelihood(y, x),
        ObservationModel(Select([0]), std=0.5, law=StudentT(1.0)).log_likelihood(y, x),
    )
