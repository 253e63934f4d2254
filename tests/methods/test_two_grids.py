"""Methods on a state of parts: two parts on one grid are the two variables of that grid."""

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.kalman import KalmanFilter
from scorda.methods.letkf import LETKF
from scorda.methods.masf.bridge import MASF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.observations.spatial import Interpolate
from scorda.priors.gaussian import Gaussian
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian

TAPER = GaspariCohn(1.5)


def grid(variables, shape=(), x=np.arange(6.0), y=np.arange(4.0)):
    """Variables on a channel, periodic along x."""
    full = (*shape, len(y), len(x))
    return StateSpace(full, 0.5, variables, {"y": y, "x": x}, {"x": 6.0})


def problem(space, members=9):
    """Two variables that shift and mix, observed between grid points, at any of four steps."""

    def step(x):
        z = x.reshape(-1, 2, 4, 6)
        return (0.9 * z.roll(1, 3) + 0.3 * z.flip(1).sin()).reshape(x.shape)

    def initial(members, seed):
        drawn = rng.normal(members, (2, 4, 6), rng.seeded(seed))
        return (drawn + 0.5 * drawn.roll(1, 2)).reshape(members, *space.shape)

    system = FunctionSystem(step, initial, space, 0.1, "torch")
    where = np.random.default_rng(0).uniform([0, 0], [3, 6], (7, 2))
    names = ("u", "t", "t", "u", "u", "t", "u")
    model = ObservationModel(Interpolate(where, space, names), std=torch.linspace(0.2, 0.5, 7))
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 7)))
    return Problem(system, Observations(model, [1, 2, 4], values), 4)


@pytest.mark.parametrize(
    "method",
    [
        ETKF(inflation=1.05),
        EnKF(localization=TAPER),
        LETKF(localization=TAPER),
        LETKF(localization=TAPER, block=2),
        MASF(prior=Gaussian()),
        MASF(prior=Gaussian(localization=TAPER)),
        GaussianMixtureFilter(),
        GaussianMixtureFilter(localization=TAPER),
    ],
    ids=repr,
)
def test_two_parts_on_one_grid_are_two_variables(method):
    """The same arithmetic in another order: double precision leaves 1e-10."""
    whole = grid(("u", "t"), (2,))
    parts = StateSpace.of_parts({"wind": grid(("u",)), "heat": grid(("t",))})
    expected, found = (
        method.assimilate(problem(space), 9, rng.seeded(3)).states for space in (whole, parts)
    )
    assert torch.allclose(found, expected.flatten(2), rtol=0, atol=1e-10)


def test_kalman_filter_on_two_grids_is_exact():
    """One analysis of a state on two grids, against a matrix that is filled by hand."""
    coarse = StateSpace((3,), variables=("a",), coordinates={"x": np.array([0.0, 2.0, 4.0])})
    fine = StateSpace((5,), variables=("b",), coordinates={"x": np.arange(5.0)})
    space = StateSpace.of_parts({"coarse": coarse, "fine": fine})
    assert space.axes == () and space.position_names == ("x",)
    root = torch.randn(8, 8, generator=rng.seeded(0))
    cov, mean = root @ root.T + torch.eye(8), torch.arange(8.0)
    system = LinearGaussian(torch.eye(8), torch.zeros(8, 8), mean, cov, space)
    operator = Interpolate(np.array([[1.0], [1.5], [4.0]]), space, ("a", "b", "b"))
    H = torch.zeros(3, 8)
    H[0, :2], H[1, 4:6], H[2, 7] = 0.5, 0.5, 1.0
    assert np.allclose(operator.as_matrix((8,)).toarray(), H, atol=1e-15)
    y, R = torch.tensor([0.3, -1.0, 2.0]), 0.25 * torch.eye(3)
    K = cov @ H.T @ torch.linalg.inv(H @ cov @ H.T + R)
    observed = Observations(ObservationModel(operator, std=0.5), [0], y[None])
    moments = KalmanFilter().moments(Problem(system, observed, 0))
    assert torch.allclose(moments.means[0], mean + K @ (y - H @ mean), atol=1e-10)
    assert torch.allclose(moments.covs[0], cov - K @ H @ cov, atol=1e-10)


def test_methods_with_localization_say_what_parts_lack():
    fast = StateSpace((6,), 0.5, ("t",), {"small": np.arange(6.0)})
    slow = StateSpace((4,), 0.5, ("u",), {"site": np.arange(4.0)})
    space = StateSpace.of_parts({"slow": slow, "fast": fast})
    for check in (MASF(prior=Gaussian(localization=TAPER)).prior.check,):
        with pytest.raises(ValueError, match=r"same kind in all parts \(slow has site; fast has"):
            check(space)
    with pytest.raises(ValueError, match="same kind in all parts"):
        space.distance(space.positions(), space.positions())
    together = StateSpace.of_parts({"slow": slow, "fast": fast}, {"small": "site"})
    far = together.distance(together.positions()[:1], together.positions())
    assert torch.equal(far[0], torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3, 4, 5]))
