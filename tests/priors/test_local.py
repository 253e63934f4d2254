"""The local Gaussian prior against inverses of matrices, block by block, and the Kalman update."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import BridgeODE
from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.nonlinear import NonlinearMASF
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Chain, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.observations.spatial import Average, Stride
from scorda.priors.local import LocalGaussian
from scorda.systems.lorenz import Lorenz63, Lorenz96

RING = Lorenz96(dim=10).space
TORUS = StateSpace((2, 6, 5), variables=("u", "v"), period={"y": 6.0, "x": 5.0})
EVERYWHERE = GaspariCohn(math.inf)


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=rng.seeded(seed), dtype=torch.float64)


def members(count, space, seed=0):
    """Correlated, far from zero, and of unequal variances."""
    mixed = matrix(count, space.size, seed=seed) @ (
        matrix(space.size, space.size, seed=99)
        * torch.logspace(-1, 1, space.size, dtype=torch.float64)
    )
    return 3 + mixed.view(count, *space.shape)


def covariance(ensemble, diagonal):
    P = ensemble.flatten(1).T.cov()
    return (1 - diagonal) * P + diagonal * P.diagonal().diag()


def plain(ensemble, diagonal, u, noise, weights):
    """Each entry by itself, with its weights of all entries' precisions: inverses of matrices."""
    C, mean = covariance(ensemble, diagonal), ensemble.flatten(1).mean(0)
    found = []
    for entry, rho in enumerate(weights):
        seen = noise.flatten().isfinite() & (rho > 0)
        S = C[seen][:, seen] + (noise.flatten()[seen].square() / rho[seen]).diag()
        misfit = (u.flatten(1) - mean)[:, seen]
        found.append(mean[entry] + torch.linalg.solve(S, misfit.T).T @ C[seen, entry])
    return torch.stack(found, 1).view_as(u)


def levels(space, kind):
    noise = torch.logspace(-1, 1, space.size, dtype=torch.float64).view(space.shape)
    if kind == "some infinite":
        noise.flatten()[1::3] = math.inf
    return noise


@pytest.mark.parametrize("kind", ["finite", "some infinite"])
@pytest.mark.parametrize("diagonal", [0.01, 0.4])
@pytest.mark.parametrize("space", [RING, TORUS], ids=["ring", "torus"])
@pytest.mark.parametrize("count", [5, 90])
def test_points_by_themselves_are_the_plain_formula(kind, diagonal, space, count):
    """Where a block is a point, its own entries have the weight 1, as the formula has it."""
    ensemble, noise = members(count, space), levels(space, kind)
    taper = GaspariCohn(0.8)
    u = torch.where(noise.isfinite(), members(4, space, seed=1), 0.0)
    at = space.positions().repeat(space.size // len(space.positions()), 1)
    weights = taper(space.distance(at, at)).double()
    assert (weights == 0).any()
    fitted = LocalGaussian(taper, diagonal=diagonal).fit(ensemble, None, space)
    found = fitted.denoise(u, noise[None])
    # Distances are in single precision.
    assert_close(found, plain(ensemble, diagonal, u, noise, weights), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["finite", "some infinite"])
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("space", [RING, TORUS], ids=["ring", "torus"])
def test_without_a_taper_the_denoiser_is_exact(kind, block, space):
    ensemble, noise = members(7, space), levels(space, kind)
    u = torch.where(noise.isfinite(), members(4, space, seed=1), 0.0)
    fitted = LocalGaussian(EVERYWHERE, block, 0.2).fit(ensemble, None, space)
    weights = torch.ones(space.size, space.size, dtype=torch.float64)
    assert_close(fitted.denoise(u, noise[None]), plain(ensemble, 0.2, u, noise, weights))
    assert_close(fitted.var, ensemble.var(0))


@pytest.mark.parametrize("block", [1, 2])
def test_members_may_have_levels_of_their_own(block):
    ensemble, u = members(7, TORUS), members(3, TORUS, seed=1)
    fitted = LocalGaussian(GaspariCohn(1.0), block).fit(ensemble, None, TORUS)
    noise = torch.stack([factor * levels(TORUS, "finite") for factor in (0.3, 1.0, 5.0)])
    each = [fitted.denoise(u[i : i + 1], noise[i : i + 1])[0] for i in range(3)]
    assert_close(fitted.denoise(u, noise), torch.stack(each))


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_ends_are_the_mean_and_the_identity(block):
    ensemble, u = members(7, TORUS), members(4, TORUS, seed=1)
    fitted = LocalGaussian(GaspariCohn(0.6), block).fit(ensemble, None, TORUS)
    nothing = fitted.denoise(torch.zeros_like(u), torch.full((1, *TORUS.shape), math.inf))
    assert_close(nothing, ensemble.mean(0).expand_as(u))
    everything = fitted.denoise(u, torch.full((1, *TORUS.shape), 1e-7))
    assert_close(everything, u, atol=1e-9, rtol=1e-9)


def test_a_field_moved_around_is_denoised_alike():
    ensemble, u = members(7, TORUS), members(4, TORUS, seed=1)
    noise = levels(TORUS, "finite")
    prior = LocalGaussian(GaspariCohn(0.8))

    def moved(x):
        return x.roll((2, 1), (-2, -1))

    found = prior.fit(moved(ensemble), None, TORUS).denoise(moved(u), moved(noise)[None])
    expected = moved(prior.fit(ensemble, None, TORUS).denoise(u, noise[None]))
    assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_simulated_observations_belong_to_a_block():
    """Two values, on a point and between two, beside the entries of a ring."""
    operator = Average(2)
    space = AugmentedSpace(RING, operator, torch.tensor([0, 3]))
    values = matrix(7, 2, seed=5)
    ensemble = torch.cat((members(7, RING), values), 1)
    noise = torch.logspace(-1, 1, 12, dtype=torch.float64)
    u = ensemble[:3] + 1
    fitted = LocalGaussian(EVERYWHERE, 3, 0.2).fit(ensemble, None, space)
    weights = torch.ones(12, 12, dtype=torch.float64)
    assert_close(fitted.denoise(u, noise[None]), plain(ensemble, 0.2, u, noise, weights))
    at = space.positions()
    near = LocalGaussian(GaspariCohn(0.7), 1, 0.2).fit(ensemble, None, space)
    expected = plain(ensemble, 0.2, u, noise, GaspariCohn(0.7)(RING.distance(at, at)).double())
    # Entries of the state: their block's centre is where they are.
    assert_close(near.denoise(u, noise[None])[:, :10], expected[:, :10], atol=1e-5, rtol=1e-5)


def begun(prior, model, **options):
    _, problem = twin_experiment(Lorenz96(dim=10), model, 2, 1, rng.seeded(0))
    return MASF(prior, **options).begin(problem)


def test_masf_with_it_is_the_kalman_update_of_its_covariance():
    """Bridge, not coupled: 8000 draws, so standard errors of 1.1 and 1.6 %."""
    ensemble = members(40, RING) / 5
    model = ObservationModel(Stride(2), std=0.7)
    y = matrix(5, seed=3)
    fitted = LocalGaussian(EVERYWHERE, 2, 0.2).fit(ensemble, None, RING)
    modes = model.modes((10,))
    draws = BridgeODE(coupled=False).sample(
        fitted,
        modes.precision.double(),
        modes.information(y),
        ensemble.repeat(200, 1),
        rng.seeded(0),
    )
    C, H = covariance(ensemble, 0.2), torch.eye(10, dtype=torch.float64)[::2]
    K = C @ H.T @ torch.linalg.inv(H @ C @ H.T + 0.49 * torch.eye(5))
    mean, cov = ensemble.mean(0) + K @ (y - ensemble.mean(0) @ H.T), C - K @ H @ C
    std = cov.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 0.045 * std).all()
    assert ((draws.T.cov() - cov) / std / std[:, None]).abs().max() < 0.065


def test_simulated_observations_move_what_is_near_them():
    """Beyond the reach entries move with their neighbours alone, less with every reach."""
    ensemble = members(20, RING)
    taper = GaspariCohn(0.5)
    model = ObservationModel(Chain(Select([2]), Pointwise(torch.atan)), std=0.01)
    method = begun(LocalGaussian(taper), model)
    y = model.operator(ensemble).mean(0)
    moved, _ = method.analyse(ensemble, y, model, rng.seeded(0))
    distance = RING.distance(RING.positions(), torch.tensor([[2.0]]))[:, 0]
    shift = (moved - ensemble).abs().amax(0) / ensemble.std(0)
    assert shift[2] > 0.1
    assert shift[distance >= taper.reach].max() < 0.03
    assert shift[distance >= 2 * taper.reach].max() < 1e-5


def test_refusals(unchecked):
    ensemble = members(7, RING)
    with pytest.raises(ValueError, match="block = 0"):
        LocalGaussian(GaspariCohn(1.0), 0)
    with pytest.raises(ValueError, match="diagonal = 1"):
        LocalGaussian(GaspariCohn(1.0), diagonal=1.0)
    with pytest.raises(ValueError, match="GaspariCohn"):
        LocalGaussian(0.4)
    with pytest.raises(ValueError, match="larger radius"):
        LocalGaussian(GaspariCohn(0.4), 4).fit(ensemble, None, RING)
    with pytest.raises(ValueError, match="coordinates"):
        LocalGaussian(GaspariCohn(1.0)).check(Lorenz63().space)
    with pytest.raises(ValueError, match="begin"):
        LocalGaussian(GaspariCohn(1.0)).fit(ensemble)
    with pytest.raises(ValueError, match="Got LocalGaussian for NonlinearMASF"):
        NonlinearMASF(LocalGaussian(GaspariCohn(1.0)))
    modes = ObservationModel(Average(2), std=1.0).modes((10,))
    with pytest.raises(ValueError, match="Gaussian"):
        LocalGaussian(GaspariCohn(1.0)).fit(ensemble, modes, RING)
    entries = ObservationModel(Select([3]), std=1.0).modes((10,))
    assert LocalGaussian(GaspariCohn(1.0)).fit(ensemble, entries, RING) is not None
    with pytest.raises(DegenerateEnsemble, match="spread"):
        LocalGaussian(GaspariCohn(1.0)).fit(ensemble[:1].expand(7, 10), None, RING)


def test_single_precision_is_a_rounding_of_double():
    """At low noise too, where the matrices of a block span many orders of magnitude."""
    ensemble, u = members(7, TORUS), members(4, TORUS, seed=1)
    fitted = LocalGaussian(GaspariCohn(0.8), 2).fit(ensemble, None, TORUS)
    noise = torch.full((1, *TORUS.shape), 1e-4, dtype=torch.float64)
    found = fitted.denoise(u.float(), noise.float())
    assert found.dtype == torch.float32
    assert_close(found.double(), fitted.denoise(u, noise), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [1e-2, 0.3, 30.0])
def test_single_precision_is_enough_for_a_loss(share):
    """A loss is in units of the noise, or of the spread where that is smaller."""
    ensemble, u = members(7, TORUS), members(4, TORUS, seed=1)
    fitted = LocalGaussian(GaspariCohn(0.8), 2).fit(ensemble, None, TORUS)
    noise = (share * fitted.var.sqrt())[None]
    u = fitted.mean + (u - fitted.mean) * (1 + share)
    error = fitted.single().denoise(u, noise) - fitted.denoise(u, noise)
    assert 0 < (error.abs() / torch.minimum(noise, fitted.var.sqrt())).max() < 1e-4


def test_one_prior_serves_several_spaces():
    """The same positions, on a ring and on a line."""
    ensemble = members(7, RING)
    line = StateSpace(
        (10,), variables=("x",), coordinates={"site": RING.positions()[:, 0].numpy()}
    )
    noise, prior = levels(RING, "finite")[None], LocalGaussian(GaspariCohn(0.8))
    ring = prior.fit(ensemble, None, RING).denoise(ensemble + 1, noise)
    straight = prior.fit(ensemble, None, line).denoise(ensemble + 1, noise)
    assert (ring - straight).abs()[:, [0, -1]].min() > 0
    assert_close(ring[:, 5], straight[:, 5])


def test_blocks_on_the_globe_are_measured_in_km():
    """Blocks of two points of 1 degree lie some 80 km from their centres."""
    axes = {"lat": np.arange(4.0), "lon": np.arange(4.0)}
    units = {"lat": "degrees_north", "lon": "degrees_east"}
    space = StateSpace((4, 4), 1.0, ("t",), axes, units=units)
    ensemble = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"up to 78\.6 from their centres"):
        LocalGaussian(GaspariCohn(20), block=2).begin(None).fit(ensemble, space=space)
    near = LocalGaussian(GaspariCohn(22), block=2).begin(None).fit(ensemble, space=space)
    assert {blocks.near.shape[1] for blocks in near.blocks} == {4}


def test_states_in_single_precision_lose_only_their_rounding():
    model = ObservationModel(Stride((2, 3)), std=0.05)
    forecast = members(12, TORUS).float()
    y = model.operator(forecast[:1].double()).flatten() + 0.05
    local = MASF(LocalGaussian(GaspariCohn(2.0)))
    run = local.prepared(local.prior.begin(None), TORUS)
    single, _ = run.analyse(forecast[1:], y, model)
    double, _ = run.analyse(forecast[1:].double(), y, model)
    assert single.dtype == torch.float32
    assert_close(single.double(), double, rtol=1e-6, atol=1e-6 * float(forecast.abs().max()))


@pytest.mark.parametrize("unit", [1e-20, 1e17])
def test_single_precision_has_the_analysis_of_double_in_units_whose_squares_it_lacks(unit):
    """Single precision ends at 1e-38 and 3e38."""
    model = ObservationModel(Stride((2, 3)), std=unit)
    forecast = (members(12, TORUS) * unit).float()
    y = model.operator(forecast[:1].double()).flatten() + unit
    local = MASF(LocalGaussian(GaspariCohn(2.0)))
    run = local.prepared(local.prior.begin(None), TORUS)
    single, _ = run.analyse(forecast[1:], y, model)
    double, _ = run.analyse(forecast[1:].double(), y, model)
    assert_close(single.double(), double, rtol=1e-6, atol=1e-6 * float(forecast.abs().max()))
