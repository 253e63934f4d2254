"""Filters on a grid give the same analysis where its points are listed in another order."""

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.core.rng import seeded
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.observations.spatial import Average
from scorda.priors import Gaussian, LocalGaussian, OnlineNetwork
from scorda.systems.function import FunctionSystem

UNITS = {"latitude": "degrees_north", "longitude": "degrees_east"}
AXES = {"latitude": np.linspace(-60, 60, 6), "longitude": np.arange(0.0, 360.0, 40.0)}
GRID = StateSpace(
    (2, 6, 9),
    variables=("u", "t"),
    coordinates=AXES,
    units=UNITS,
    period={"longitude": 360.0},
)
ORDER = np.random.default_rng(0).permutation(54)
MESH = np.meshgrid(*AXES.values(), indexing="ij")
POINTS = StateSpace(
    (2, 54),
    variables=("u", "t"),
    coordinates={"cell": np.arange(54)},
    units=UNITS,
    points={name: m.ravel()[ORDER] for name, m in zip(AXES, MESH, strict=True)},
)
MEMBERS, OBSERVED, REACH = 8, 30, GaspariCohn(2500.0)


def _shuffled(x: torch.Tensor) -> torch.Tensor:
    """Return states on the grid as states on the points."""
    return x.flatten(-2)[..., ORDER]


def _analysis(method, space: StateSpace) -> torch.Tensor:
    """Return the analysis at one step of the same members and observations."""
    members = torch.randn(MEMBERS, *GRID.shape, generator=seeded(0)) * torch.linspace(0.5, 2, 9)
    flat = torch.randperm(108, generator=seeded(1))[:OBSERVED]
    y = torch.randn(1, OBSERVED, generator=seeded(2))
    if space is POINTS:
        members = _shuffled(members)
        there = np.argsort(ORDER)
        flat = flat // 54 * 54 + torch.from_numpy(there)[flat % 54]
    model = ObservationModel(sc.Select(flat.tolist()), std=0.7)
    system = FunctionSystem(lambda x: x, members, space=space)
    problem = Problem(system, Observations(model, [1], y), 1, initial=members)
    return method.assimilate(problem, MEMBERS, seeded(3)).states[:, 1]


@pytest.mark.parametrize(
    "method",
    [
        sc.LETKF(1.1, localization=REACH),
        sc.EnKF(localization=REACH),
        sc.EnKF(),
        sc.MASF(Gaussian(REACH)),
        sc.MASF(LocalGaussian(REACH)),
        sc.GaussianMixtureFilter(localization=REACH, rotation=False),
    ],
    ids=repr,
)
def test_the_analysis_is_that_of_the_grid(method):
    on_grid, on_points = _analysis(method, GRID), _analysis(method, POINTS)
    assert (on_grid - on_points.new_tensor(0)).abs().max() > 0.1
    torch.testing.assert_close(on_points, _shuffled(on_grid), atol=1e-10, rtol=0)


def test_tapers_and_local_blocks_are_those_of_the_grid():
    """Priors draw noise in the order of a state: what they fit is compared, with one noise."""
    members = torch.randn(MEMBERS, *GRID.shape, generator=seeded(0))
    u, noise = torch.randn(2, 3, *GRID.shape, generator=seeded(1))
    level = torch.full(GRID.shape, 0.8)
    u = u + 0.1 * noise
    for prior in (Gaussian(REACH), LocalGaussian(REACH)):
        found = []
        for space, order in ((GRID, lambda x: x), (POINTS, _shuffled)):
            fitted = prior.begin(None).fit(order(members), space=space)
            if hasattr(fitted, "denoise"):
                found.append(fitted.denoise(order(u), order(level)))
            else:
                found.append(fitted.basis @ torch.diag(fitted.spectrum) @ fitted.basis.mT)
        if found[0].shape == u.shape:
            torch.testing.assert_close(found[1], _shuffled(found[0]), atol=1e-10, rtol=0)
            continue
        size = torch.cat((torch.from_numpy(ORDER), 54 + torch.from_numpy(ORDER)))
        torch.testing.assert_close(found[1], found[0][size][:, size], atol=1e-10, rtol=0)


def test_blocks_of_points_are_a_good_approximation():
    exact = _analysis(sc.LETKF(localization=REACH), POINTS)
    blocks = _analysis(sc.LETKF(localization=REACH, block=2), POINTS)
    forecast = _analysis(sc.LETKF(localization=GaspariCohn(1e-3)), POINTS)
    # Points are 40 degrees apart here and a block is as wide: the reach is twice of it.
    assert (blocks - exact).norm() < 0.6 * (forecast - exact).norm()


def test_networks_along_axes_say_that_they_need_a_grid():
    with pytest.raises(ValueError, match="has a position of its own"):
        OnlineNetwork(axis="longitude").check(POINTS)
    OnlineNetwork().check(POINTS)


def test_the_mean_of_a_block_of_points_has_its_position():
    """Two cells on both sides of the seam have their mean on it."""
    axes = {"y": np.arange(1), "x": np.arange(4)}
    east = np.array([[359.0, 1.0, 3.0, 5.0]])
    points = {"latitude": np.zeros((1, 4)), "longitude": east}
    space = StateSpace((1, 4), coordinates=axes, points=points, units=UNITS)
    found = Average((1, 2)).coordinates(space)
    expected = torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    assert space.separation(found, expected).max() < 1e-6
    assert Average((1, 2)).variables(space) == ("field", "field")
