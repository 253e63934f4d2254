"""Every method has the same bits, however its work is cut into parts."""

from dataclasses import dataclass, replace

import pytest
import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.diffusion.batches import at_once, batches
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector
from scorda.methods.sda import SDA
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Chain, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.trajectory import load
from scorda.systems.lorenz import Lorenz63
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
