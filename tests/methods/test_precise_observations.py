"""Precise observations beside ordinary ones: single precision has the analysis of double."""

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.denkf import DEnKF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enkf_n import EnKFN
from scorda.methods.enks import EnKS
from scorda.methods.ensrf import EnSRF
from scorda.methods.esmda import ESMDA
from scorda.methods.gaussian_mixture import GaussianMixtureFilter
from scorda.methods.ienks import IEnKS
from scorda.methods.letkf import LETKF
from scorda.methods.normal_score import NormalScoreEnKF
from scorda.methods.rank_histogram import RankHistogramFilter
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem

SIZE, MEMBERS = 40, 20
TAPER = GaspariCohn(4.0)
METHODS = [
    EnKF(),
    EnKF(localization=TAPER),
    EnKS(),
    IEnKS(),
    ESMDA(),
    ETKF(),
    ETKF(rotation=True),
    DEnKF(),
    EnKFN(),
    EnSRF(),
    EnSRF(localization=TAPER),
    RankHistogramFilter(),
    NormalScoreEnKF(),
    LETKF(localization=TAPER),
    GaussianMixtureFilter(),
    GaussianMixtureFilter(localization=TAPER),
]


def forecast():
    z = rng.normal(MEMBERS, (SIZE,), rng.seeded(1))
    return (2 + z + 0.5 * z.roll(1, -1)).float()


def problem(dtype, std, apart):
    """Every `apart`-th entry is observed; a third of the values has the small error."""
    where = torch.arange(0, SIZE, apart)
    error = torch.ones(len(where))
    error[::3] = std
    y = forecast()[0, where] + error * rng.normal(1, (len(where),), rng.seeded(3))[0]
    axis = {"x": np.arange(SIZE)}
    space = StateSpace((SIZE,), 1.0, ("q",), axis, {"x": float(SIZE)})
    system = FunctionSystem(lambda x: x, forecast().numpy(), space, library="torch")
    model = ObservationModel(Select(where.tolist()), std=error.float().to(dtype))
    seen = Observations(model, (0,), y.float().to(dtype)[None])
    return Problem(system, seen, 0, forecast().to(dtype))


@pytest.mark.parametrize("std", [1e-4, 1e-5])
@pytest.mark.parametrize("apart", [1, 4], ids=["more than members", "fewer than members"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_single_precision_has_the_analysis_of_double(method, apart, std):
    """To what the states themselves keep: 3 in 7 digits, so 0.03 of a std of 1e-5."""
    double, single = (
        method.assimilate(problem(dtype, std, apart), MEMBERS, rng.seeded(0)).states[:, 0]
        for dtype in (torch.float64, torch.float32)
    )
    spread = double.std(0)
    assert ((single.double().mean(0) - double.mean(0)).abs() / spread).max() < 0.05
    assert (single.double().std(0) / spread - 1).abs().max() < 0.05
    assert single.dtype == torch.float32
