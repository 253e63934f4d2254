"""The mixture prior against its plain formula, quadrature and the filters that it lies between."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import BridgeODE, BridgeSDE
from scorda.methods.enkf import ETKF
from scorda.methods.masf.bridge import MASF
from scorda.metrics.distance import wasserstein
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Select
from scorda.observations.problem import Problem
from scorda.observations.spatial import Average, Blur, Stride
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import Gaussian
from scorda.priors.mixture import Mixture
from scorda.systems.lorenz import Lorenz63, Lorenz96

# It reaches less than half around, so that it is a correlation function.
TAPER = GaspariCohn(1.0)
RING = Lorenz96(dim=8).space


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=rng.seeded(seed), dtype=torch.float64)


def members(count, size, seed=0):
    """Correlated, far from zero, and of unequal variances."""
    return 3 + matrix(count, size, seed=seed) @ (
        matrix(size, size, seed=99) * torch.logspace(-1, 1, size, dtype=torch.float64)
    )


def plain(ensemble, cov, beta, u, noise, share):
    """The formula with inverses of matrices, in the modes about which something is known."""
    N = len(ensemble)
    mean = ensemble.mean(0)
    centres = mean + math.sqrt((1 - beta) * N / (N - 1)) * (ensemble - mean)
    seen = noise.isfinite()
    kernels = [(c, beta, (1 - share) / N) for c in centres] + [(mean, 1.0, share)]
    logits, expected = [], []
    for centre, scale, weight in kernels:
        B = scale * cov
        S = B[seen][:, seen] + noise[seen].square().diag()
        misfit = (u - centre)[:, seen]
        solved = torch.linalg.solve(S, misfit.T).T
        logits.append(math.log(weight) - 0.5 * (misfit * solved).sum(1) - 0.5 * S.logdet())
        expected.append(centre + solved @ B[seen])
    return (torch.stack(logits).softmax(0)[..., None] * torch.stack(expected)).sum(0)


LEVELS = {
    "finite": [0.5, 2.0, 1.0, 0.7, 3.0, 0.2, 1.0, 4.0],
    "some infinite": [0.5, math.inf, 1.0, math.inf, math.inf, 0.2, math.inf, 4.0],
    "tiny and large": [1e-3, math.inf, 1e3, 1.0, 1e-3, math.inf, math.inf, 10.0],
}


@pytest.mark.parametrize("share", [1e-30, 0.2])
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("operator", [Stride(2), Average(2)], ids=["entries", "rotated"])
@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("taper", [None, TAPER], ids=["whole", "localized"])
def test_denoiser_is_the_plain_formula(share, levels, operator, count, taper):
    """Fewer and more members than components; the tolerance is the rounding of the formula."""
    ensemble = members(count, 8)
    modes = ObservationModel(operator, std=1.0).modes((8,))
    fitted = Mixture(0.3, share, taper).fit(ensemble, modes, RING)
    V = modes.inverse(torch.eye(8)).T
    rho = 1.0 if taper is None else taper(RING.distance(RING.positions(), RING.positions()))
    cov = V.T @ (rho * ensemble.T.cov()) @ V
    noise = torch.tensor(levels, dtype=torch.float64)
    truth = modes.forward(ensemble[:4] + 0.3 * matrix(4, 8, seed=1))
    u = torch.where(noise.isfinite(), truth + noise.nan_to_num(posinf=0) * 0.5, 0.0)
    expected = plain(modes.forward(ensemble), cov, 0.3, u, noise, share)
    found = fitted.denoise(u, noise[None])
    assert_close(found, expected, atol=1e-6, rtol=1e-7)
    kernels = 0.3 * cov + 0.7 * V.T @ ensemble.T.cov() @ V
    total = (1 - share) * kernels + share * cov
    assert_close(fitted.var, total.diagonal())


def test_denoiser_is_the_expectation_by_quadrature():
    """One component, members on two sides: a sum over a fine grid."""
    ensemble = torch.tensor([[-1.0], [-1.4], [0.8], [1.1], [1.2]], dtype=torch.float64)
    fitted = Mixture(0.05, 0.1).fit(ensemble)
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    var = ensemble.var()
    centres = ensemble.mean() + math.sqrt(0.95 * 5 / 4) * (ensemble - ensemble.mean())
    density = 0.9 / 5 * (-0.5 * (grid - centres).square() / (0.05 * var)).exp().sum(0)
    density = density / 0.05**0.5
    density += 0.1 * (-0.5 * (grid - ensemble.mean()).square() / var).exp()
    for level in (0.05, 0.6, 3.0):
        for u in (-1.1, 0.1, 2.0):
            weight = density * (-0.5 * (grid - u).square() / level**2).exp()
            found = fitted.denoise(torch.full((1, 1), u), torch.full((1, 1), level))
            assert float(found) == pytest.approx(float((grid * weight).sum() / weight.sum()))
    assert_close((grid * density).sum() / density.sum(), ensemble.mean())
    spread = (grid.square() * density).sum() / density.sum() - ensemble.mean() ** 2
    assert_close(spread, var)


@pytest.mark.parametrize(("count", "taper"), [(30, None), (5, None), (5, TAPER)])
def test_without_information_the_denoiser_is_the_mean(count, taper):
    ensemble = members(count, 8)
    fitted = Mixture(0.1, localization=taper).fit(ensemble, None, RING)
    found = fitted.denoise(torch.zeros(3, 8), torch.full((1, 8), math.inf))
    assert_close(found, ensemble.mean(0).expand(3, 8))


@pytest.mark.parametrize(("count", "taper"), [(30, None), (5, None), (5, TAPER)])
def test_a_bandwidth_of_one_is_the_gaussian(count, taper):
    ensemble, u = members(count, 8), members(6, 8, seed=3)
    one = Mixture(1.0, localization=taper).fit(ensemble, None, RING)
    other = Gaussian(taper).fit(ensemble, None, RING)
    for levels in LEVELS.values():
        noise = torch.tensor([levels], dtype=torch.float64)
        u = torch.where(noise.isfinite(), u, 0.0)
        assert_close(one.denoise(u, noise), other.denoise(u, noise), atol=1e-6, rtol=1e-6)
    assert_close(one.var, other.var)


@pytest.mark.parametrize("count", [30, 5])
def test_small_bandwidths_are_the_weights_of_a_particle_filter(count):
    """Kernels of 1e-10 of the variance: points with the likelihood as weights."""
    ensemble = members(count, 8)
    noise = torch.tensor([[2.0, 3.0, math.inf, math.inf, 5.0, math.inf, math.inf, 9.0]])
    u = torch.where(noise.isfinite(), ensemble[:3] + 1, 0.0)
    spread = (ensemble - ensemble.mean(0)) * math.sqrt(count / (count - 1))
    points = ensemble.mean(0) + spread
    misfit = ((u[:, None] - points) / noise).square().sum(2)
    found = Mixture(1e-10, 0.0).fit(ensemble).denoise(u, noise)
    assert_close(found, (-0.5 * misfit).softmax(1) @ points, atol=1e-5, rtol=0)


def test_large_states_need_no_matrix_of_their_size():
    """400 000 components: the square would take a terabyte. The members' own plane is exact."""
    size = 400_000
    ensemble = torch.zeros(6, size, dtype=torch.float64)
    ensemble[:, :2] = matrix(6, 2)
    ensemble[:, 2:4] = matrix(6, 2, seed=1)
    small = ensemble[:, :4]
    fitted = Mixture(0.2, 0.3).fit(ensemble)
    noise = torch.full((1, size), math.inf, dtype=torch.float64)
    noise[0, [0, 3, 7]] = torch.tensor([0.5, 0.1, 0.3], dtype=torch.float64)
    u = torch.zeros(2, size, dtype=torch.float64)
    u[:, [0, 3]] = small[:2, [0, 3]]
    found = fitted.denoise(u, noise)
    expected = plain(small, small.T.cov(), 0.2, u[:, :4], noise[0, :4], 0.3)
    assert_close(found[:, :4], expected)
    assert not found[:, 4:].any()


# Two members of five at one end, three at the other: a mixture of two modes, isotropic since the
# taper leaves no correlation.
PAIR = torch.tensor([[-1.0, -1.0]] * 2 + [[1.0, 1.0]] * 3, dtype=torch.float64)
PLACES = Lorenz96(dim=4).space


@dataclass(frozen=True)
class Given(EnsemblePrior):
    """The prior of these members, whatever the forecast."""

    bandwidth: float

    def fit(self, ensemble, modes=None, space=None):
        still = torch.zeros(5, 2, dtype=torch.float64)
        still[:, 0], still[:, 1] = PAIR[:, 0].flip(0), PAIR[:, 0]
        known = torch.cat((PAIR, still), 1)
        return Mixture(self.bandwidth, 0.0, GaspariCohn(1e-3)).fit(known, modes, PLACES)


def draws(weights, means, var, count, seed):
    generator = rng.seeded(seed)
    chosen = torch.multinomial(weights, count, True, generator=generator)
    noise = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return means[chosen] + noise * var.sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [BridgeODE(), BridgeODE(coupled=False), BridgeSDE()], ids=str)
@pytest.mark.parametrize("precision", [1.5, 10.0])
def test_bridge_samples_the_posterior_of_a_mixture(sampler, precision):
    """One of four components observed: two modes in one plane, two components beside it.

    W1 within 1.5 of that between exact draws; a frequency of 8000 has a standard error of 0.006.
    """
    beta = 0.1
    fitted = Given(beta).fit(PAIR)
    prior_var = beta * fitted.gaussian.var
    centres = fitted.gaussian.mean + fitted.gamma * fitted.anomalies
    seen = torch.tensor([precision, 0.0, 0.0, 0.0], dtype=torch.float64)
    z = 0.15
    misfit = (z - centres[:, 0]).square() / (prior_var[0] + 1 / precision)
    weights = (-0.5 * misfit).softmax(0)
    var = (1 / prior_var + seen).reciprocal()
    means = var * (centres / prior_var + seen * z)
    exact = [draws(weights, means, var, 1000, seed) for seed in (1, 2, 3)]
    floor = (wasserstein(exact[0], exact[1]) + wasserstein(exact[0], exact[2])) / 2
    forecast = draws(torch.full((5,), 0.2), centres, prior_var, 8000, 4)
    model = ObservationModel(Select([0]), std=precision**-0.5)
    method = MASF(Given(beta), sampler=sampler)
    x = method.update(forecast, torch.tensor([z]), model, rng.seeded(5))
    assert wasserstein(exact[0], x[:1000]) < 1.5 * floor
    share = float((x[:, 1] > 0).double().mean())
    component = 0.5 * (1 + torch.erf(means[:, 1] / (2 * var[1]).sqrt()))
    assert abs(share - float(weights @ component)) < 0.02


@pytest.mark.parametrize("count", [30, 5])
def test_gaussian_problems_have_the_kalman_update(count):
    """With a bandwidth of one the coupled bridge has the moments of the ETKF, up to the steps."""
    forecast = members(count, 8)
    model = ObservationModel(Linear(matrix(3, 8)), std=1.0)
    y = matrix(3, seed=4)
    exact = ETKF().update(forecast, y, model)
    sampler = BridgeODE(30, min_snr=1e-6, max_snr=1e8)
    found = MASF(Mixture(1.0), sampler=sampler).update(forecast, y, model, rng.seeded(0))
    assert_close(found.mean(0) / exact.std(0), exact.mean(0) / exact.std(0), atol=2e-3, rtol=0)
    scale = exact.std(0)[:, None] * exact.std(0)
    assert_close(found.T.cov() / scale, exact.T.cov() / scale, atol=5e-3, rtol=0)


@pytest.mark.parametrize("count", [30, 5])
@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_draws_have_the_moments_of_the_mixture(count, beta):
    """Exactly those of the ensemble, in fewer members than components and in more."""
    ensemble = members(count, 8)
    fitted = Mixture(beta).fit(ensemble)
    drawn = fitted.sample_members(ensemble, lambda: matrix(count, 8, seed=8))
    assert_close(drawn.mean(0), ensemble.mean(0))
    assert_close(drawn.T.cov(), ensemble.T.cov(), atol=1e-8, rtol=1e-8)
    assert (drawn - ensemble).abs().max() > 1e-3
    still = Mixture(beta, rotation=False).fit(ensemble)
    assert still.sample_members(ensemble, lambda: matrix(count, 8)) is ensemble


def test_evidence_from_everywhere_is_the_law():
    ensemble, u = members(6, 8), members(4, 8, seed=3)
    noise = torch.tensor([LEVELS["some infinite"]], dtype=torch.float64)
    u = torch.where(noise.isfinite(), u, 0.0)
    whole = Mixture(0.3, 0.2, TAPER).fit(ensemble, None, RING)
    wide = Mixture(0.3, 0.2, TAPER, GaspariCohn(math.inf)).fit(ensemble, None, RING)
    assert_close(wide.denoise(u, noise), whole.denoise(u, noise))


def test_evidence_from_nowhere_else_makes_every_component_a_mixture_of_its_own():
    """Neither covariance nor evidence reaches a neighbour: eight problems of one component."""
    ensemble, point = members(6, 8), GaspariCohn(1e-3)
    fitted = Mixture(0.3, 0.2, point, point).fit(ensemble, None, RING)
    noise = torch.tensor([LEVELS["finite"]], dtype=torch.float64)
    u = ensemble[:3] + 0.4 * matrix(3, 8, seed=1)
    alone = [
        Mixture(0.3, 0.2).fit(ensemble[:, [k]]).denoise(u[:, [k]], noise[:, [k]]) for k in range(8)
    ]
    assert_close(fitted.denoise(u, noise), torch.cat(alone, 1), atol=1e-8, rtol=1e-8)


def test_the_share_keeps_a_far_observation_from_choosing_one_member():
    """Two components of an attractor away: the Kalman update, not the nearest member."""
    ensemble = members(30, 4)
    y, model = ensemble.mean(0) + 40 * ensemble.std(0), ObservationModel(Stride(1), std=0.3)
    modes = model.modes((4,))
    noise = modes.precision.rsqrt()[None].double()
    gaussian = Gaussian().fit(ensemble, modes).denoise(y[None], noise)
    found = Mixture(0.02, 0.1).fit(ensemble, modes).denoise(y[None], noise)
    assert_close(found, gaussian)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel_factor": 0.0}, r"kernel_factor = .*\(0, 1\]"),
        ({"kernel_factor": 1.1}, r"kernel_factor = .*\(0, 1\]"),
        ({"kernel_factor": math.nan}, r"kernel_factor = .*\(0, 1\]"),
        ({"gaussian_weight": 1.0}, r"gaussian_weight = .*\[0, 1\)"),
        ({"gaussian_weight": -0.1}, r"gaussian_weight = .*\[0, 1\)"),
        ({"weight_localization": TAPER}, "no `localization`"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        Mixture(**settings)


def test_bad_input_is_named():
    still = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    with pytest.raises(DegenerateEnsemble, match="no spread"):
        Mixture().fit(still)
    model = ObservationModel(Select([0]), 1.0)
    problem = Problem(Lorenz63(), Observations(model, (1,), torch.zeros(1, 1)), 2)
    with pytest.raises(ValueError, match="localization needs a space with coordinates"):
        MASF(Mixture(localization=TAPER)).assimilate(problem, 10)
    blur = ObservationModel(Blur(torch.tensor([2.0, 1, 0, 0, 0, 0, 0, 1])), std=1.0).modes((8,))
    with pytest.raises(ValueError, match="waves, which have no place"):
        Mixture(0.3, 0.1, TAPER, TAPER).fit(members(5, 8), blur, RING)


def test_weights_by_distance_are_the_plain_formula():
    """Each mode weighs by the terms of the modes near it; several levels of one fitted prior."""
    ensemble, beta, share = members(9, 8), 0.3, 0.2
    taper, reach = TAPER, GaspariCohn(0.5)
    fitted = Mixture(beta, share, taper, reach).fit(ensemble, None, RING)
    distance = RING.distance(RING.positions(), RING.positions())
    r, C = reach(distance), taper(distance) * ensemble.T.cov()
    assert 0 < r[0, 1] < 1 and r[0, 4] == 0
    mean = ensemble.mean(0)
    centres = mean + math.sqrt((1 - beta) * 9 / 8) * (ensemble - mean)
    u = ensemble[:3] + 0.4 * matrix(3, 8, seed=1)
    for noise in (torch.linspace(0.5, 2, 8), torch.linspace(3, 1, 8)):
        logs, expected = [], []
        for centre, scale, weight in [
            *((c, beta, (1 - share) / 9) for c in centres),
            (mean, 1.0, share),
        ]:
            W = (1 / noise).diag()
            F = torch.linalg.inv(torch.linalg.cholesky(torch.eye(8) + scale * W @ C @ W)) @ W
            log_det = (F.diagonal() * noise).log()
            terms = log_det - 0.5 * ((u - centre) @ F.T).square()
            logs.append(math.log(weight) + terms @ r)
            expected.append(centre + scale * (u - centre) @ F.T @ F @ C)
        w = torch.stack(logs).softmax(0)
        assert_close(fitted.denoise(u, noise[None]), (w * torch.stack(expected)).sum(0))
