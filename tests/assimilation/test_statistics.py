"""The statistics of a run: the same bits for a cycle alone and with others, and in time."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from scorda import metrics
from scorda.assimilation.diagnostics import WAITING, Statistics
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.systems.lorenz import Lorenz63

SHAPES = [
    (2, 1, 1),
    (3, 3, 1),
    (20, 3, 2),
    (40, 40, 40),
    (7, 129, 5),
    (33, 1000, 17),
    (5, 9000, 3),
]


def some(members, size, observations, dtype, cycles=9):
    """Ensembles, and white anomalies and innovations."""
    for seed in range(cycles):
        x = 5 + rng.normal(members, (size,), seed, like=torch.zeros(0, dtype=dtype))
        white = rng.normal(members + 1, (observations,), seed + 99).double()
        yield x, (white[:-1] - white[:-1].mean(0), white[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_cycle_has_the_same_statistics_alone_and_with_others(shape, dtype):
    """So that a run that is continued in the middle of them has the same report."""
    space, alone, together = StateSpace((shape[1],)), [], []
    statistics = Statistics()
    for x, white in some(*shape, dtype):
        own = Statistics()
        alone.append(own.report(0, {"white": white}, space, x, None))
        own.settle()
        together.append(statistics.report(0, {"white": white}, space, x, None))
        assert statistics._numbers <= WAITING
    statistics.settle()
    assert alone == together


def test_statistics_are_those_of_their_formulas():
    x, white = next(some(20, 6, 4, torch.float64))
    anomalies, innovation = white
    statistics = Statistics()
    report = statistics.report(0, {"white": white}, StateSpace((6,)), x, None)
    statistics.settle()
    assert report["spread"] == pytest.approx(float(metrics.spread(x[:, None])), rel=1e-12)
    assert report["innovation"] == pytest.approx(float(innovation.square().mean().sqrt()))
    expected = 1 + anomalies.var(0)
    assert report["chi2"] == pytest.approx(float((innovation.square() / expected).mean()))


def problem():
    model = ObservationModel(Select([0, 2]), std=2.0)
    return twin_experiment(Lorenz63(spinup=0.5), model, 40, 1, 5)[1]


def test_a_report_is_the_same_whenever_it_is_read():
    """At once, after some more cycles, and at the end of the run."""
    at_once = [dict(cycle.info) for cycle in EnKF().run(problem(), 7, 3)]
    cycles = list(EnKF().run(problem(), 7, 3))
    for cycle, known in zip(cycles, at_once, strict=True):
        for name in set(known) - {"seconds", "forecast_seconds"}:
            assert cycle.info[name] == known[name]
    analysis = EnKF().assimilate(problem(), 7, 3)
    assert analysis.info["chi2"].tolist() == [report["chi2"] for report in at_once[1:]]


@dataclass(frozen=True)
class Constant(Filter):
    """A filter of a user, which returns one and the same report."""

    told: dict[str, float] = field(default_factory=dict)

    def analyse(self, forecast, y, model, generator=None):
        return forecast.clone(), self.told


def test_a_report_of_a_method_is_not_changed_and_each_cycle_has_its_innovation():
    method = Constant()
    own = Constant({"spread": 7.0, "mine": 1.0})
    found, told = (one.assimilate(problem(), 7, 3).info for one in (method, own))
    assert method.told == {} and len(set(found["innovation"].tolist())) == 40
    assert set(told["spread"].tolist()) == {7.0}
    assert torch.equal(told["innovation"], found["innovation"])


class Breaking(Lorenz63):
    """The third member is NaN from a step on."""

    def __init__(self, last, **settings):
        super().__init__(**settings)
        object.__setattr__(self, "left", iter(range(last - 1, -99, -1)))

    def advance(self, x):
        x = super().advance(x)
        x[2, 1] = math.nan if next(self.left) <= 0 else x[2, 1]
        return x


@pytest.mark.parametrize("step", [1, 2, 17, 40])
def test_a_member_that_is_not_finite_stops_the_run_at_its_step(step):
    """However many cycles have noise that was drawn, or statistics that wait; reports stay."""
    base, cycles = problem(), []
    broken = Problem(Breaking(step, spinup=0.5), base.observations, base.steps)
    with pytest.raises(DivergenceError) as caught:
        for cycle in EnKF().run(replace(broken, initial=base.system.prior(7, 1)), 7, 3):
            cycles.append(cycle)
    assert (caught.value.step, caught.value.cycle, caught.value.members) == (step, step - 1, (2,))
    assert [cycle.step for cycle in cycles] == list(range(step))
    assert all(math.isfinite(cycle.info["spread"]) for cycle in cycles[1:])
