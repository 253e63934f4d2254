"""Memory of the methods: measured at two sizes, and refused before the start if it lacks."""

import importlib
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scorda.assimilation import local, memory
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.memory import available, in_words
from scorda.core.plugins import declared
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import EnKF
from scorda.methods.gaussian_mixture import GaussianMixtureFilter
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.methods.letkf import LETKF
from scorda.methods.masf import MASF
from scorda.methods.particle import ParticleSmoother
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.priors import mixture
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.priors.local import LocalGaussian
from scorda.priors.mixture import Mixture
from scorda.systems.linear import LinearGaussian

TAPER = GaspariCohn(0.8)


class Still:
    """A system that never moves, on a periodic square."""

    def __init__(self, side):
        axes, period = {name: np.arange(float(side)) for name in "yx"}, float(side)
        self.space = StateSpace((side, side), 1.0, ("field",), axes, dict.fromkeys(axes, period))

    def prior(self, members, generator=None):
        return rng.normal(members, self.space.shape, generator)

    def step(self, x, generator=None):
        return x


class Peak(TorchDispatchMode):
    """The largest number of bytes of tensors that are alive at once, of those made inside."""

    def __init__(self):
        super().__init__()
        self.alive, self.most, self.holders = 0, 0, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            try:
                place, size = storage.data_ptr(), storage.nbytes()
            except RuntimeError:
                # It stands, inside of a transform of functions, for one that is seen beside it.
                continue
            self.alive += size if not self.holders[place] else 0
            self.holders[place] += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(tensor, self._freed, place, size)
        return made

    def _freed(self, place, size):
        self.holders[place] -= 1
        self.alive -= size if not self.holders[place] else 0


def case(side, members, share=8):
    system = Still(side)
    order = torch.randperm(side * side, generator=rng.seeded(0))[: side * side // share]
    model = ObservationModel(Select(order.tolist()), std=0.5)
    forecast = system.prior(members, 1)
    y = model.sample(system.prior(1, 2), 3)
    return Problem(system, Observations(model, [0], y), 0), forecast, y[0], model


def peak(method, side, members):
    """The peak of one analysis."""
    problem, forecast, y, model = case(side, members)
    run = method.begin(problem)
    with Peak() as seen:
        run.analyse(forecast, y, model, rng.seeded(4))
    return seen.most


def filters():
    """An example of each filter that can do the problem, and of the priors and localizations."""
    problem = case(8, 6)[0]
    found = {}
    for module, node, _ in declared("scorda.methods", "exact"):
        kind = getattr(importlib.import_module(module), node.name)
        if issubclass(kind, Filter) and kind.least_members <= 6:
            found[node.name] = kind.example(problem)
    priors = {
        "Gaussian": Gaussian(),
        "Mixture": Mixture(),
        "Kernel": Kernel(0.3),
        "LocalGaussian": LocalGaussian(TAPER, 2),
    }
    found |= {f"MASF {name}": MASF(prior) for name, prior in priors.items()}
    localized = LETKF(localization=TAPER), GaussianMixtureFilter(localization=TAPER)
    found |= {f"{method.name} localized": method for method in localized}
    # Its example reaches over all of the domain.
    del found["LETKF"]
    return found


FILTERS = filters()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS)
def test_memory_grows_with_the_state_as_it_does(name, monkeypatch):
    """Four times the state and the observations; batches are as small as for large states."""
    monkeypatch.setattr(local, "BATCH", 2**12)
    first, second = (peak(FILTERS[name], side, 6) for side in (16, 32))
    assert second < 4.6 * first


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILTERS if name.startswith("MASF")])
def test_no_prior_has_a_tensor_of_members_by_members_by_state(name, monkeypatch):
    """Four times the members."""
    monkeypatch.setattr(local, "BATCH", 2**12)
    first, second = (peak(FILTERS[name], 16, members) for members in (6, 24))
    assert second < 4.6 * first


@pytest.mark.slow
def test_weights_of_places_are_made_some_places_at_once(monkeypatch):
    """Of a mixture whose modes have weights of their own; the same numbers with one at a time."""
    method = MASF(Mixture(localization=TAPER, weight_localization=TAPER))
    _, forecast, y, model = case(8, 6)
    run = method.begin(case(8, 6)[0])
    expected, _ = run.analyse(forecast, y, model, rng.seeded(4))
    monkeypatch.setattr(mixture, "PLACES", 1)
    analysis, _ = run.analyse(forecast, y, model, rng.seeded(4))
    torch.testing.assert_close(analysis, expected, atol=1e-10, rtol=0)
    # Eight times the members: the square of them, for each entry, would be 64 times as much.
    first, second = (peak(method, 8, members) for members in (12, 96))
    assert second < 10 * first


def test_the_peak_sees_a_square():
    def most(size):
        x = torch.zeros(size)
        with Peak() as seen:
            (x[:, None] - x).sum()
        return seen.most

    assert most(200) > 3.9 * most(100) > 3.9 * 8 * 100**2


@pytest.mark.parametrize("name", ["EnKF", "ETKF", "LETKF localized", "MASF Gaussian"])
def test_estimates_are_those_of_an_analysis_or_more(name):
    """In double precision, where states are several times what the batches hold."""
    problem = case(48, 40)[0]
    most = peak(FILTERS[name], 48, 40)
    # Batches of local analyses hold 2^22 numbers, whatever the state, a few times.
    assert 0.1 * most < FILTERS[name].memory(problem, 40) + 5 * 8 * local.BATCH
    assert FILTERS[name].memory(problem, 40) > 0.9 * most or "localized" in name


@pytest.fixture
def in_single():
    """A function that calls another in single precision."""

    def call(function, *arguments):
        torch.set_default_dtype(torch.float32)
        try:
            return function(*arguments)
        finally:
            torch.set_default_dtype(torch.float64)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS)
def test_estimates_in_single_precision_are_smaller_as_the_memory_is(name, in_single):
    """Many analyses are computed in double precision all the same."""
    method = FILTERS[name]

    def estimate():
        return method.memory(case(16, 20)[0], 20)

    measured = in_single(peak, method, 16, 20) / peak(method, 16, 20)
    assert abs(in_single(estimate) / estimate() - measured) < 0.25


def test_the_precision_is_that_of_the_members_that_are_given(in_single):
    problem, forecast, *_ = case(8, 6)
    given = replace(problem, initial=forecast)
    assert in_single(lambda: (problem.dtype, given.dtype)) == (torch.float32, torch.float64)


def test_what_does_not_fit_is_refused_before_the_start_with_the_method_that_can(monkeypatch):
    problem, *_ = case(64, 20, share=2)
    monkeypatch.setattr(memory, "available", lambda: 100 * 10**6)
    wide = EnKF(localization=GaspariCohn(float("inf")))
    with pytest.raises(ValueError, match=r"EnKF needs about .* MB .* 100 MB are free: take LETKF"):
        next(iter(wide.run(problem, 20, 0)))
    with pytest.raises(ValueError, match=r"MASF needs about .* MB"):
        next(iter(MASF(Gaussian(TAPER)).run(problem, 20, 0)))
    assert next(iter(LETKF(localization=TAPER).run(problem, 20, 0))).step == 0
    monkeypatch.setattr(memory, "available", lambda: 10)
    with pytest.raises(ValueError, match="take fewer members"):
        next(iter(LETKF(localization=TAPER).run(problem, 20, 0)))
    monkeypatch.setattr(memory, "available", lambda: None)
    assert next(iter(LETKF(localization=TAPER).run(problem, 20, 0))).step == 0


def test_the_matrices_of_a_kalman_filter_count(monkeypatch):
    eye = torch.eye(50)
    system = LinearGaussian(eye, eye, torch.zeros(50), eye)
    model = ObservationModel(Select([0]), std=1.0)
    problem = Problem(system, Observations(model, [0], torch.zeros(1, 1)), 10)
    monkeypatch.setattr(memory, "available", lambda: 10**5)
    refused = r"KalmanFilter needs about 762 kB .* 100 kB are free: take .*, or a smaller state\."
    with pytest.raises(ValueError, match=refused):
        KalmanFilter().moments(problem)


@pytest.mark.parametrize("method", [KalmanSmoother(), ParticleSmoother(particles=200)])
def test_estimates_of_smoothers_are_those_of_their_runs(method):
    """Also where what is held does not grow with the members."""
    eye = torch.eye(50)
    system = LinearGaussian(0.9 * eye, eye, torch.zeros(50), eye)
    model = ObservationModel(Select([0, 5]), std=1.0)
    problem = Problem(system, Observations(model, [4, 9], torch.zeros(2, 2)), 30)
    with Peak() as seen:
        method.assimilate(problem, 5, 1)
    assert 0.8 < method.memory(problem, 5) / seen.most < 1.25


def test_the_estimate_of_a_particle_smoother_is_of_its_precision(in_single):
    def run():
        eye = torch.eye(50)
        system = LinearGaussian(0.9 * eye, eye, torch.zeros(50), eye)
        model = ObservationModel(Select([0, 5]), std=1.0)
        problem = Problem(system, Observations(model, [4, 9], torch.zeros(2, 2)), 30)
        with Peak() as seen:
            ParticleSmoother(particles=200).assimilate(problem, 5, 1)
        return ParticleSmoother(particles=200).memory(problem, 5) / seen.most

    assert 0.8 < in_single(run) < 1.25


def test_pairs_within_reach_are_estimated_from_some_points(monkeypatch):
    problem, *_ = case(48, 6)
    monkeypatch.setattr(memory, "FEW", 0)
    where = problem.instruments[0].model.operator.coordinates(problem.space)
    far = problem.space.distance(problem.space.positions(), where)
    exact = int((far < TAPER.reach).sum())
    # 256 of 2304 points with some three observations each.
    assert abs(memory.pairs_near(problem, TAPER) / exact - 1) < 0.15


def test_free_memory_is_known_and_said_as_people_write_it():
    free = available()
    assert free is None or free > 10**7
    assert in_words(1.234e9) == "1.23 GB" and in_words(5e14) == "500 TB"
