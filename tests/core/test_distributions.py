import math

import pytest
import torch

from scorda.core import rng
from scorda.core.distributions import (
    LogNormal,
    Normal,
    Uniform,
    Value,
    distribution_of,
)

LAWS = [
    Uniform(20, 35),
    LogNormal(8, 0.3),
    Normal(28, 3),
    Normal(1, 2, 0),
    Normal(1, 2, 0, 1.5),
]


@pytest.mark.parametrize("law", LAWS)
def test_the_density_is_the_slope_of_the_distribution_function(law):
    """At quantiles q(p) the density is 1 / q'(p); central differences of 1e-5 are good to 1e-6."""
    p, h = torch.linspace(0.02, 0.98, 49), 1e-5
    slope = (law.quantile(p + h) - law.quantile(p - h)) / (2 * h)
    assert torch.allclose(law.log_density(law.quantile(p)), -slope.log(), atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_a_law_integrates_to_one(law):
    x = torch.linspace(-20, 60, 400_001)
    assert abs(float(torch.trapezoid(law.log_density(x).exp(), x)) - 1) < 1e-4


@pytest.mark.parametrize("law", LAWS)
def test_draws_have_the_law_and_are_inside_of_the_bounds(law):
    """4000 draws: quartiles within 5 standard errors of their probability, 0.007 at most."""
    x = law.sample(4000, rng.seeded(0))
    for p in (0.25, 0.5, 0.75):
        assert abs(float((x < law.quantile(torch.tensor(p))).double().mean()) - p) < 0.04
    assert law.log_density(x).isfinite().all()
    if law.transform is not None:
        assert law.transform.forward(x).isfinite().all()


@pytest.mark.parametrize("law", LAWS)
def test_the_spread_is_that_of_the_coordinate_without_bounds(law):
    """20000 draws: the standard error of a standard deviation is 0.5 to 0.8 %."""
    x = law.sample(20_000, rng.seeded(1))
    z = x if law.transform is None else law.transform.forward(x)
    assert abs(float(z.std()) / law.spread - 1) < 0.03


def test_a_draw_depends_on_its_member_alone():
    few, many = (Uniform(0, 1).sample(n, rng.seeded(3)) for n in (4, 9))
    assert torch.equal(few, many[:4])


def test_laws_are_read_from_text():
    assert distribution_of("uniform:20,35") == Uniform(20, 35)
    assert distribution_of("log-normal: 8, 0.2") == LogNormal(8, 0.2)
    assert distribution_of("normal:1,2,0,1.5") == Normal(1, 2, 0, 1.5)
    assert distribution_of("28") == Value(28)


@pytest.mark.parametrize(
    "text", ["", "gamma:1,2", "uniform:1", "uniform:2,1", "normal:1,x", "1,2", "lognormal:-1,1"]
)
def test_text_that_is_no_law_is_refused_with_its_forms(text):
    with pytest.raises(ValueError, match="give uniform:LOWER,UPPER"):
        distribution_of(text)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Normal(0, 0),
        lambda: Normal(math.nan, 1),
        lambda: Normal(0, 1, upper=2),
        lambda: Normal(0, 1, 8, 9),
        lambda: LogNormal(0, 1),
        lambda: Value(math.inf),
    ],
)
def test_laws_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        wrong()
