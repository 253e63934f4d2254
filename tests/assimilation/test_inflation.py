"""Inflation as an object: relaxation, factors of forecast and analysis, and who takes them."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.assimilation.filter import Filter
from scorda.assimilation.inflation import RTPP, RTPS, Inflation, Multiplicative
from scorda.cli.catalogue import methods
from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.methods.denkf import DEnKF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.letkf import LETKF
from scorda.methods.masf.bridge import MASF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.lorenz import Lorenz63, Lorenz96
from scorda.testing import check_filter, check_reproducible, check_units

GENERATOR = rng.seeded(0)


def ensembles(shape=(4, 3), members=9):
    """A forecast, and an analysis of less spread, one component of which is untouched."""
    forecast = 5 + rng.normal(members, shape, rng.seeded(1))
    analysis = forecast.mean(0) + 0.3 * rng.normal(members, shape, rng.seeded(2))
    analysis[:, 0, 0] = forecast[:, 0, 0]
    return forecast, analysis


def one_analysis(steps=0):
    """Lorenz-96 of eight variables, of which two are observed at the start."""
    initial = 2 * rng.normal(12, (8,), rng.seeded(3))
    observations = Observations(ObservationModel(Select([0, 3]), std=0.8), [0], [[0.5, -1.0]])
    return Problem(Lorenz96(8), observations, steps, initial)


def analysed(method):
    return method.assimilate(one_analysis(), 12, 0).states[:, 0]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.3])
def test_rtps_makes_the_spread_that_its_formula_says(alpha):
    """(1 - a) s_a + a s_b in each component, with the mean as it was."""
    forecast, analysis = ensembles()
    relaxed = RTPS(alpha).after(forecast, analysis, GENERATOR)
    expected = (1 - alpha) * analysis.std(0) + alpha * forecast.std(0)
    assert_close(relaxed.std(0), expected, rtol=1e-12, atol=1e-12)
    assert_close(relaxed.mean(0), analysis.mean(0), rtol=1e-12, atol=1e-12)


def test_rtpp_mixes_the_anomalies_of_both():
    forecast, analysis = ensembles()
    relaxed = RTPP(0.3).after(forecast, analysis, GENERATOR)
    mixed = 0.7 * (analysis - analysis.mean(0)) + 0.3 * (forecast - forecast.mean(0))
    assert_close(relaxed - relaxed.mean(0), mixed, rtol=1e-12, atol=1e-12)
    assert_close(relaxed.mean(0), analysis.mean(0), rtol=1e-12, atol=1e-12)
    whole = RTPP(1.0).after(forecast, analysis, GENERATOR)
    assert_close(whole - whole.mean(0), forecast - forecast.mean(0), rtol=1e-12, atol=1e-12)


def test_rtpp_and_rtps_are_one_for_a_scalar_that_a_deterministic_filter_narrows():
    """The analysis anomalies are then a multiple of those of the forecast."""
    forecast = rng.normal(9, (1,), rng.seeded(1))
    analysis = 3 + 0.2 * forecast
    pair = [kind(0.6).after(forecast, analysis, GENERATOR) for kind in (RTPP, RTPS)]
    assert_close(*pair, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [RTPP, RTPS])
def test_relaxation_keeps_what_the_analysis_kept_bit_for_bit(kind):
    forecast, analysis = ensembles()
    relaxed = kind(0.7).after(forecast, analysis, GENERATOR)
    assert torch.equal(relaxed[:, 0, 0], analysis[:, 0, 0])
    assert torch.equal(kind(0.0).after(forecast, analysis, GENERATOR), analysis)
    analysis[:, 1] = 2.5  # No spread is left: no direction to spread it in.
    assert RTPS(0.7).after(forecast, analysis, GENERATOR).isfinite().all()


@pytest.mark.parametrize(
    "method",
    [
        EnKF(),
        EnKF(localization=GaspariCohn(2.0)),
        ETKF(rotation=True),
        DEnKF(),
        LETKF(localization=GaspariCohn(1.0)),
        GaussianMixtureFilter(),
        GaussianMixtureFilter(localization=GaspariCohn(1.0)),
        EnKS(),
        MASF(),
    ],
    ids=lambda method: method.name,
)
def test_a_number_is_multiplicative_inflation_of_the_analysis(method):
    """To the bit, and no inflation is a factor of 1, on both sides of the analysis."""
    number, made = (analysed(replace(method, inflation=i)) for i in (1.2, Multiplicative(1.2)))
    plain = analysed(method)
    assert torch.equal(number, made) and not torch.equal(number, plain)
    for none in (Multiplicative(1), Multiplicative(1, "forecast"), RTPS(0), RTPP(0)):
        assert torch.equal(analysed(replace(method, inflation=none)), plain)


def test_the_forecast_is_inflated_before_the_analysis():
    """It is the analysis of an ensemble that is wider from the start."""
    problem = one_analysis()
    x = problem.initial
    wide = replace(problem, initial=x.mean(0) + 1.2 * (x - x.mean(0)))
    expected = EnKF().assimilate(wide, 12, 0)
    inflated = EnKF(Multiplicative(1.2, "forecast")).assimilate(problem, 12, 0)
    assert_close(inflated.states, expected.states, rtol=1e-12, atol=1e-12)
    # The innovation is told of the forecast that was analysed.
    assert_close(inflated.info["chi2"], expected.info["chi2"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inflation", [1.3, RTPS(0.8), RTPP(0.8)])
def test_filters_without_an_own_inflation_take_any(inflation):
    """Those whose formula has none are inflated by the cycle."""

    class Halved(Filter):
        def analyse(self, forecast, y, model, generator=None):
            return forecast.mean(0) + 0.5 * (forecast - forecast.mean(0)), {}

    method, problem = Halved(inflation=inflation), one_analysis()
    spread = method.assimilate(problem, 12, 0).states[:, 0].std(0) / problem.initial.std(0)
    expected = 0.65 if isinstance(inflation, float) else 0.2 * 0.5 + 0.8
    assert_close(spread, torch.full_like(spread, expected), rtol=1e-12, atol=1e-12)


def test_a_filter_with_its_own_inflation_is_not_inflated_twice():
    assert_close(analysed(ETKF(1.5)).std(0), 1.5 * analysed(ETKF()).std(0), rtol=1e-12, atol=1e-12)


def test_every_filter_takes_an_inflation_or_says_why_not():
    """The setting is there for all, and refused where members have weights."""
    for kind in methods().values():
        if issubclass(kind, Filter) and kind is not ParticleFilter:
            made = replace(kind.example(one_analysis()), inflation=RTPS(0.5))
            assert made.inflation == RTPS(0.5) and made.inflation_factor == 1
    with pytest.raises(ValueError, match="use `jitter`"):
        ParticleFilter(inflation=RTPS(0.5))
    with pytest.raises(ValueError, match="use `jitter`"):
        ParticleFilter(inflation=1.1)


def test_members_with_weights_are_not_inflated():
    class Weighing(Filter):
        def analyse(self, forecast, y, model, generator=None):
            return forecast, {"weights": torch.full((len(forecast),), 1 / len(forecast))}

    with pytest.raises(ValueError, match="Weighing weighs its members"):
        Weighing(inflation=RTPS(0.5)).assimilate(one_analysis(), 12, 0)


def test_what_an_inflation_carries_is_its_own():
    """The method gets back what it carried, and the inflation what it did."""

    class Counting(Filter):
        def begin(self, problem, weights=None):
            self.__dict__["count"] = 0
            return self

        def analyse(self, forecast, y, model, generator=None):
            self.__dict__["count"] += 1
            return forecast.clone(), {"carried": {"count": torch.tensor(self.count)}}

        def restore(self, carried):
            assert set(carried) == {"count"}
            self.__dict__["count"] = int(carried["count"])

    class Growing(Inflation):
        factor = torch.tensor(1.0)

        def before(self, forecast, y, model, generator):
            self.factor = self.factor + 1
            return forecast

        @property
        def carried(self):
            return {"factor": self.factor}

        def restore(self, carried):
            self.factor = carried["factor"]

        def report(self):
            return {"factor": float(self.factor)}

    system = Lorenz63(spinup=0.5)
    _, problem = twin_experiment(system, ObservationModel(Select([0]), 1.0), 6, 2, 0)
    cycles = list(Counting(inflation=Growing()).run(problem, 5, 0))
    assert {n: float(t) for n, t in cycles[-1].carried.items()} == {
        "count": 3,
        "inflation.factor": 4,
    }
    assert cycles[-1].info["factor"] == 4
    again = Counting(inflation=Growing()).run(problem, 5, 0, cycles[3])
    assert list(again)[-1].carried == cycles[-1].carried


@pytest.mark.parametrize("inflation", [RTPS(0.8), RTPP(0.8), Multiplicative(1.1, "forecast")])
def test_filters_keep_their_promises_with_inflation(inflation):
    """Shapes, precision, seeds, other parts of a run, and units."""
    check_filter(ETKF(inflation))
    check_reproducible(ETKF(inflation))
    check_units(ETKF(inflation))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RTPS(-0.1), "at least 0"),
        (lambda: RTPS(math.inf), "at least 0"),
        (lambda: RTPP(1.1), "between 0 and 1"),
        (lambda: Multiplicative(0.9), "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_inflations_are_public_names():
    assert (sc.RTPS, sc.RTPP, sc.Multiplicative) == (RTPS, RTPP, Multiplicative)
    assert issubclass(sc.Adaptive, Inflation) and issubclass(sc.Additive, Inflation)
