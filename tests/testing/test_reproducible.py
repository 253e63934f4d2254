"""Every method has the same bits, however its work is cut into parts."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.diffusion import batches as sizes
from scorda.diffusion.batches import at_once, batches
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.methods.sda import SDA
from scorda.nn import build
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Pointwise, Select
from scorda.observations.problem import Problem
from scorda.priors.trajectory import Standardisation, TrainedTrajectory
from scorda.testing.reproducible import check_reproducible
from testing.test_contracts import ASSIMILATORS, FILTERS, linear_problem, name


@pytest.mark.slow
@pytest.mark.parametrize("method", FILTERS, ids=name)
def test_a_filter_that_is_continued_has_the_same_bits(method):
    check_reproducible(method)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [m for m in ASSIMILATORS if not isinstance(m, Filter)], ids=name
)
def test_a_smoother_in_parts_has_the_same_bits(method):
    check_reproducible(method, linear_problem())


SPACE = StateSpace((2, 8), variables=("p", "q"))
ARCHITECTURES = [
    {"name": "temporal-conv", "channels": 16, "width": 16, "blocks": 1},
    {"name": "window-mlp", "channels": 16, "k": 1, "width": 16, "depth": 1},
]


def prior(architecture):
    """A network that nobody trained: its weights matter as little as its accuracy."""
    torch.manual_seed(0)
    network = build(architecture)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    standardisation = Standardisation(torch.zeros(2, 1), torch.ones(2, 1))
    return TrainedTrajectory(architecture, network, SPACE, standardisation)


def problem(steps=3):
    @dataclass(frozen=True)
    class Nothing:
        space: Any = SPACE

    values = rng.normal(2, (3,), rng.seeded(5))
    model = ObservationModel(Chain(Pointwise(torch.atan), Select([0, 5, 9])), std=0.5)
    return Problem(Nothing(), Observations(model, [0, 2], values), steps)


GUIDANCE = [InflatedLikelihood(), MMPS(2), MMPS(2, solver="cg"), DPS()]
SAMPLERS = [
    PredictorCorrector(3, 1),
    Ancestral(3, 0),
    Multistep(3, 0),
    StochasticMultistep(3, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("guidance", GUIDANCE, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_sda_has_the_same_bits_for_any_chunk_and_unit(sampler, guidance):
    check_reproducible(SDA(prior(ARCHITECTURES[0]), guidance, sampler), problem())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a["name"])
def test_every_network_has_the_same_bits_for_any_number_of_members(architecture):
    trained = prior(architecture)
    check_reproducible(SDA(trained, sampler=SAMPLERS[1]), problem())
    many = trained.sample(40, 3, rng.seeded(0), SAMPLERS[0])
    for members in (1, 3, 17):
        assert torch.equal(trained.sample(members, 3, rng.seeded(0), SAMPLERS[0]), many[:members])


def test_the_contract_finds_a_member_that_depends_on_its_neighbours():
    class Leaning(SDA):
        def assimilate_members(self, problem, first, last, generator=None, report=None):
            analysis = super().assimilate_members(problem, first, last, generator, report)
            analysis.states.mul_(1 + 1e-7 * (last - first))
            return analysis

    with pytest.raises(AssertionError, match="has other bits in float32 for members 1 at a time"):
        check_reproducible(Leaning(prior(ARCHITECTURES[0]), sampler=Multistep(2, 0)), problem())


def test_the_contract_finds_a_filter_that_remembers():
    class Counting(type(FILTERS[1])):
        def begin(self, problem, weights=None):
            run = copy.copy(super().begin(problem, weights))
            made = [0]

            def analyse(*given):
                made[0] += 1
                analysis, info = type(self).analyse(self, *given)
                return analysis + made[0], info

            object.__setattr__(run, "analyse", analyse)
            return run

    with pytest.raises(AssertionError, match="has other bits at step 2 in parts of 1 steps"):
        check_reproducible(Counting())


@pytest.mark.parametrize("first, last", [(0, 1), (0, 17), (3, 4), (5, 40), (64, 128), (0, 300)])
@pytest.mark.parametrize("chunk", [1, 5, 16, 20, 128, 1000])
def test_batches_of_small_states_are_multiples_of_eight_from_sixteen_on(chunk, first, last):
    parts = list(batches((10, 3), first, last, chunk))
    assert parts[0][0] <= first < parts[0][1] and parts[-1][0] < last <= parts[-1][1]
    assert all(high == low for (_, high), (low, _) in pairwise(parts))
    assert all(low % 8 == 0 and (high - low) % 8 == 0 for low, high in parts)
    assert all(16 <= high - low <= max(16, -(-chunk // 8) * 8) for low, high in parts)


@pytest.mark.parametrize("chunk", [1, 5, 128])
def test_batches_of_large_states_have_one_size(chunk):
    shape = (10, sizes.NUMBERS // 45)
    assert at_once(shape) == 4
    assert list(batches(shape, 3, 9, chunk)) == [(0, 4), (4, 8), (8, 12)]
    assert at_once((1, 2 * sizes.NUMBERS)) == 1
