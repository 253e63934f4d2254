"""The Gaussian-mixture filter against quadrature, and against the two filters at its ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scorda.core import rng
from scorda.core.tapers import GaspariCohn
from scorda.methods.enkf import ETKF
from scorda.methods.gaussian_mixture import filter
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.gaussian_mixture.posterior import (
    MixturePosterior,
    Projection,
    adaptive_factor,
)
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Chain, Function, Linear, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.systems.lorenz import Lorenz63, Lorenz96

H = torch.tensor([[1.0, 0.4], [0.3, -0.8]], dtype=torch.float64)
COV = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64)
MODEL = ObservationModel(Linear(H), cov=COV)
Y = torch.tensor([0.9, -0.4], dtype=torch.float64)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def forecast(members, size=2, seed=0):
    """Members in two groups, on top of a common shift."""
    x = rng.normal(members, (size,), rng.seeded(seed))
    x[: members // 2, 0] += 3
    return x + 0.5


def mixture(x, beta, H, cov):
    """Centres and kernel of the prior, from the definition in the docstring, with inverses."""
    mean, n = x.mean(0), len(x)
    P = torch.atleast_2d(x.T.cov())
    information = H.T @ torch.linalg.solve(cov, H)
    B = torch.linalg.inv((torch.linalg.inv(P) + information) / beta - information)
    # The root of I - B P^-1 in the coordinates where P is the identity, where it is symmetric.
    values, vectors = torch.linalg.eigh(P)
    W = vectors * values.sqrt()
    inverse = torch.linalg.inv(W)
    rest, modes = torch.linalg.eigh(torch.eye(len(P)) - inverse @ B @ inverse.T)
    root = W @ (modes * rest.clamp_min(0).sqrt()) @ modes.T @ inverse
    return mean + (n / (n - 1)) ** 0.5 * (x - mean) @ root.T, B


def quadrature(x, beta, share):
    """Mean, covariance and evidence of the posterior, on a grid of 801 x 801 points."""
    centres, B = mixture(x, beta, H, COV)
    whole = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    axis = torch.linspace(-12, 14, 801)
    points = torch.cartesian_prod(axis, axis)
    kernel = torch.distributions.MultivariateNormal(centres[:, None], B)
    error = torch.distributions.MultivariateNormal(Y, COV)
    prior = (1 - share) / len(x) * kernel.log_prob(points).exp().sum(0)
    prior = prior + share * whole.log_prob(points).exp()
    logs = prior.log() + error.log_prob(points @ H.T)
    cell = (axis[1] - axis[0]) ** 2
    evidence = (logs.logsumexp(0) + cell.log()).item()
    w = (logs - logs.logsumexp(0)).exp()
    mean = w @ points
    return mean, (points - mean).T @ (w[:, None] * (points - mean)), evidence


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("local", [False, True])
def test_moments_and_evidence_are_those_of_the_mixture_by_quadrature(beta, local, share):
    """The grid is finer than a tenth of the kernels: the rectangle rule has converged."""
    x = forecast(9)
    mean, cov, evidence = quadrature(x, beta, share)
    taper = GaspariCohn(math.inf) if local else None
    method = GaussianMixtureFilter(beta, localization=taper, gaussian_weight=share)
    if local:
        # Localization takes independent errors: the same observation, made white.
        root = torch.linalg.inv(torch.linalg.cholesky(COV))
        system = Lorenz96(dim=4)
        problem = twin_experiment(system, ObservationModel(Select([0]), std=1.0), 2, 1)[1]
        method = method.begin(problem)
        wide = torch.cat((x, x), 1)
        matrix = torch.cat((root @ H, torch.zeros(2, 2)), 1)
        model = ObservationModel(Linear(matrix, positions=torch.zeros(2, 1)), std=1.0)
        analysis = method.update(wide, root @ Y, model, rng.seeded(0))[:, :2]
    else:
        analysis = method.update(x, Y, MODEL, rng.seeded(0))
    white = MODEL.whiten(torch.cat((x @ H.T - (x @ H.T).mean(0), (Y - (x @ H.T).mean(0))[None])))
    found = MixturePosterior(Projection.of(white[:-1], white[-1]), torch.tensor(beta), share)
    kernels, w0 = found.weights
    weights = kernels + w0 / len(x)
    # That of the Gaussian times what the mixture has of it.
    v, var = found.prior.innovation, 1 + found.prior.values
    evidence_found = -0.5 * (v.square() / var + var.log()).sum()
    evidence_found += (share + (1 - share) * found.logits.exp().mean()).log()
    sampling = (1 + weights.square().sum()) / (1 + 1 / len(x))
    torch.testing.assert_close(analysis.mean(0), mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(analysis.T.cov(), sampling * cov, atol=1e-9, rtol=0)
    constant = -math.log(2 * math.pi) - 0.5 * COV.logdet()
    assert evidence_found.item() + constant == pytest.approx(evidence, abs=1e-9)


@pytest.mark.parametrize("beta", [0.02, 0.4, 1.0])
def test_the_prior_has_the_moments_of_the_ensemble(beta):
    """So an observation of no weight leaves both as they are."""
    x = forecast(12)
    analysis = GaussianMixtureFilter(beta).update(
        x, Y, ObservationModel(Linear(H), std=1e7), rng.seeded(0)
    )
    torch.testing.assert_close(analysis.mean(0), x.mean(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(analysis.T.cov(), x.T.cov(), atol=1e-9, rtol=0)
    centres, B = mixture(x, beta, H, COV)
    torch.testing.assert_close(centres.T.cov(correction=0) + B, x.T.cov())


@pytest.mark.parametrize(("members", "size"), [(12, 4), (4, 12)])
def test_the_upper_end_is_the_etkf(members, size):
    x = forecast(members, size)
    model = ObservationModel(Select([0, 2, 3]), std=0.7)
    y = torch.tensor([0.3, -0.5, 1.0])
    kalman = ETKF(1.1).update(x, y, model)
    method = GaussianMixtureFilter(1.0, inflation=1.1, rotation=False)
    torch.testing.assert_close(method.update(x, y, model, rng.seeded(0)), kalman)
    turned = replace(method, rotation=True).update(x, y, model, rng.seeded(0))
    torch.testing.assert_close(turned.mean(0), kalman.mean(0))
    torch.testing.assert_close(turned.T.cov(), kalman.T.cov())


def test_the_upper_end_is_the_letkf_with_localization():
    system = Lorenz96(dim=12)
    model = ObservationModel(Select(range(0, 12, 2)), std=1.0)
    _, problem = twin_experiment(system, model, 3, 1, rng.seeded(0))
    runs = [
        method.assimilate(problem, 6, rng.seeded(1)).states
        for method in (
            LETKF(1.05, localization=GaspariCohn(2.0)),
            GaussianMixtureFilter(1.0, inflation=1.05, localization=GaspariCohn(2.0)),
        )
    ]
    torch.testing.assert_close(*runs)


def test_the_lower_end_is_the_particle_filter():
    """Weights on members moved away from their mean, which keeps their covariance."""
    x = forecast(11)
    white = MODEL.whiten(torch.cat((x @ H.T - (x @ H.T).mean(0), (Y - (x @ H.T).mean(0))[None])))
    found = MixturePosterior(Projection.of(white[:-1], white[-1]), torch.tensor(1e-12))
    wider = x.mean(0) + (11 / 10) ** 0.5 * (x - x.mean(0))
    info = ParticleFilter(0.0).analyse(wider, Y, MODEL)[1]
    torch.testing.assert_close(found.weights[0], info["weights"])
    analysis = GaussianMixtureFilter(1e-12, gaussian_weight=0.0).update(x, Y, MODEL, rng.seeded(0))
    torch.testing.assert_close(analysis.mean(0), info["weights"] @ wider, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotation", [False, True])
def test_coordinates_of_state_and_observation_do_not_matter(rotation):
    x, L = forecast(10), torch.tensor([[2.0, 0.3], [-1.0, 0.5]])
    method = GaussianMixtureFilter(0.3, rotation=rotation)
    plain = method.update(x, Y, MODEL, rng.seeded(0))
    G = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    moved = ObservationModel(Linear(G @ H @ torch.linalg.inv(L)), cov=G @ COV @ G.T)
    found = method.update(x @ L.T, G @ Y, moved, rng.seeded(0)) @ torch.linalg.inv(L).T
    torch.testing.assert_close(found.mean(0), plain.mean(0))
    torch.testing.assert_close(found.T.cov(), plain.T.cov())


def test_more_observations_than_members():
    """Both eigenproblems give the same; copies of an observation are one of smaller error."""
    x = forecast(5, 3)
    y = torch.tensor([0.4, -0.2])
    one = ObservationModel(Select([0, 2]), std=0.5)
    many = ObservationModel(Select([0, 2] * 8), std=0.5 * 8**0.5)
    found = [
        GaussianMixtureFilter(0.3).update(x, *arguments, rng.seeded(2))
        for arguments in ((y, one), (y.repeat(8), many))
    ]
    torch.testing.assert_close(found[0].mean(0), found[1].mean(0))
    torch.testing.assert_close(found[0].T.cov(), found[1].T.cov())


def test_a_black_box_is_a_component_of_the_state():
    """h enters through its values on the members: as if h(x) were observed of (x, h(x))."""
    x = forecast(9)
    box = Function(lambda u: np.sin(u.prod(1, keepdims=True)), differentiable=False)
    method, y = GaussianMixtureFilter(0.3, rotation=False), torch.tensor([0.2])
    plain = method.update(x, y, ObservationModel(box, std=0.4), rng.seeded(0))
    wide = torch.cat((x, box(x)), 1)
    found = method.update(wide, y, ObservationModel(Select([2]), std=0.4), rng.seeded(0))
    torch.testing.assert_close(plain.mean(0), found.mean(0)[:2])
    torch.testing.assert_close(plain.T.cov(), found.T.cov()[:2, :2])


def test_where_no_kernel_reaches_the_gaussian_has_the_weight():
    """Then the analysis is the Kalman filter's, not copies of the nearest member."""
    x = forecast(30, 1)
    model, y = ObservationModel(Select([0]), std=0.1), torch.tensor([15.0])
    found = GaussianMixtureFilter(0.01).update(x, y, model, rng.seeded(0))
    kalman = GaussianMixtureFilter(1.0).update(x, y, model, rng.seeded(0))
    torch.testing.assert_close(found.mean(0), kalman.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(0), kalman.std(0), atol=1e-6, rtol=0)
    alone = GaussianMixtureFilter(0.01, gaussian_weight=0.0).update(x, y, model, rng.seeded(0))
    assert alone.std() < 0.2 * kalman.std()


def test_draws_of_the_gaussian_have_its_width():
    """Between two narrow groups there is only what is drawn from the Gaussian's share."""
    members, share, std = 2000, 0.5, 3.0
    x = 0.01 * rng.normal(members, (1,), rng.seeded(3))
    x[::2] += 3
    x[1::2] -= 3
    y, cov = torch.tensor([0.5]), torch.tensor([[std**2]])
    method = GaussianMixtureFilter(1e-8, gaussian_weight=share)
    analysis = method.update(x, y, ObservationModel(Select([0]), std=std), rng.seeded(0))

    centres, B = mixture(x, 1e-8, torch.eye(1), cov)
    mean, var = x.mean(), x.var()
    kernels = torch.distributions.Normal(centres[:, 0], (B[0, 0] + std**2).sqrt())
    near = (1 - share) * kernels.log_prob(y).exp().mean()
    far = share * torch.distributions.Normal(mean, (var + std**2).sqrt()).log_prob(y).exp()[0]
    w0, gain = far / (near + far), var / (var + std**2)
    kalman = torch.distributions.Normal(mean + gain * (y - mean), gain.sqrt() * std)
    inside = (kalman.cdf(torch.tensor(1.5)) - kalman.cdf(torch.tensor(-1.5))).item()
    found = (analysis.abs() < 1.5).double().mean().item()
    # How many are drawn from the Gaussian is not random, as the draw is systematic; where is.
    error = (w0.item() * inside * (1 - inside) / members) ** 0.5
    assert found == pytest.approx(w0.item() * inside, abs=3 * error)


def test_members_that_are_drawn_stay_in_their_place():
    """Kernels without width leave each member where its own particle is, up to the map."""
    x = forecast(40, 1)
    model = ObservationModel(Select([0]), std=3.0)
    analysis = GaussianMixtureFilter(1e-8).update(x, torch.tensor([2.0]), model, rng.seeded(0))
    gap = ((analysis - x).abs() < 0.5).double().mean()
    assert gap > 0.6


def balance(x, beta, share):
    """Beta times the effective sample size, from the definitions with inverses."""
    centres, B = mixture(x, beta, H, COV)
    kernels = torch.distributions.MultivariateNormal(centres @ H.T, H @ B @ H.T + COV)
    whole = torch.distributions.MultivariateNormal(H @ x.mean(0), H @ x.T.cov() @ H.T + COV)
    parts = (1 - share) / len(x) * kernels.log_prob(Y).exp()
    gaussian = share * whole.log_prob(Y).exp()
    weights = (parts + gaussian / len(x)) / (parts.sum() + gaussian)
    return beta / float(weights.square().sum())


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("local", [False, True])
def test_the_adaptive_factor_balances_the_effective_members(local, share, monkeypatch):
    """Two components: 0.8 members. Bisections leave (30 / 0.8)^(1 / 4096) - 1 < 0.1 %."""
    x = forecast(30)
    taper = GaspariCohn(math.inf) if local else None
    method = GaussianMixtureFilter(gaussian_weight=share, localization=taper)
    if local:
        # Every point sees everything: the same factor at all, with r = N - 1. Localization
        # takes independent errors: the observation made white.
        root = torch.linalg.inv(torch.linalg.cholesky(COV))
        problem = twin_experiment(Lorenz96(dim=4), ObservationModel(Select([0]), std=1.0), 2, 1)[1]
        matrix = torch.cat((root @ H, torch.zeros(2, 2)), 1)
        model = ObservationModel(Linear(matrix, positions=torch.zeros(2, 1)), std=1.0)
        monkeypatch.setattr(filter, "ADAPTIVE", 0.8 / 29)
        info = method.begin(problem).analyse(torch.cat((x, x), 1), root @ Y, model, rng.seeded(0))[
            1
        ]
    else:
        info = method.analyse(x, Y, MODEL, rng.seeded(0))[1]
    beta = float(info["kernel_factor"])
    assert 0.8 / 30 < beta < 1
    assert balance(x, beta, share) == pytest.approx(0.8, rel=1e-3)
    assert float(info["ess"]) == pytest.approx(0.8 / beta, rel=1e-3)


def test_each_place_has_its_own_adaptive_factor():
    """Three ensembles at once, as with localization; no information gives floor / N."""
    Z = torch.stack([forecast(20, 3, seed) for seed in range(3)])
    Z = Z - Z.mean(1, keepdim=True)
    Z[2] *= 1e-6
    d = rng.normal(3, (3,), rng.seeded(9))
    alone = [adaptive_factor(Projection.of(*pair), 0.1, 2.0) for pair in zip(Z, d, strict=True)]
    found = adaptive_factor(Projection.of(Z, d), 0.1, 2.0)
    torch.testing.assert_close(found, torch.stack(alone))
    assert float(found[2]) == pytest.approx(0.1, rel=1e-3)
    assert found[:2].min() > 0.12


def test_fewer_members_than_components_have_wide_kernels():
    """r is N - 1 then: c (N - 1) / N without information; and it falls as 1 / N beyond."""
    model, y = ObservationModel(Select([0]), std=1e6), torch.zeros(1)
    for members, expected in ((10, 0.4 * 9 / 10), (200, 0.4 * 12 / 200)):
        info = GaussianMixtureFilter().analyse(forecast(members, 12), y, model, rng.seeded(0))[1]
        assert float(info["kernel_factor"]) == pytest.approx(expected, rel=2e-3)


def test_nonlinear_cycle_with_localization():
    """Runs where some points see nothing, with an adaptive factor and a black box."""
    system = Lorenz96(dim=16)
    model = ObservationModel(Chain(Pointwise(torch.atan), Select([0, 1, 2])), std=0.3)
    _, problem = twin_experiment(system, model, 6, 2, rng.seeded(0))
    method = GaussianMixtureFilter(localization=GaspariCohn(2.0))
    analysis = method.assimilate(problem, 10, rng.seeded(1))
    assert torch.isfinite(analysis.states).all()
    assert (analysis.info["ess"] <= 10 + 1e-9).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_factor": 0.0}, "adaptive"),
        ({"kernel_factor": 1.5}, "adaptive"),
        ({"inflation": 0.9}, "inflation"),
        ({"gaussian_weight": 1.0}, "gaussian_weight"),
        ({"weight_localization": GaspariCohn(1.0)}, "localization"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GaussianMixtureFilter(**options)


def test_evidence_from_nearby_weighs_and_all_observations_move():
    """At one site of a ring, from the definition: weights of its own observation alone."""
    system = Lorenz96(dim=8)
    model = ObservationModel(Select(range(8)), std=1.0)
    _, problem = twin_experiment(system, model, 2, 1)
    x, y, beta, share = rng.normal(12, (8,), rng.seeded(3)), torch.linspace(-1, 2, 8), 0.3, 0.2
    x[:6, 3] += 2
    # They end 1.8 and 0.9 sites away.
    reach, near = GaspariCohn(0.5), GaspariCohn(0.25)
    method = GaussianMixtureFilter(
        beta, localization=reach, gaussian_weight=share, weight_localization=near
    )
    found = method.begin(problem).update(x, y, model)[:, 3]
    own = x[:, [2, 3, 4]]
    taper = reach(torch.tensor([1.0, 0.0, 1.0]))

    def parts(H, cov, y):
        """Log of the weights of kernels and Gaussian; their posterior means and variances."""
        centres, B = mixture(own, beta, H, cov)
        centres = torch.cat((centres, own.mean(0, keepdim=True)))
        logs, means, variances = [], [], []
        for i, c in enumerate(centres):
            C, share_i = (B, (1 - share) / 12) if i < 12 else (own.T.cov(), share)
            S = H @ C @ H.T + cov
            K = torch.linalg.solve(S, H @ C).T
            error = torch.distributions.MultivariateNormal(H @ c, S)
            logs.append(error.log_prob(y) + math.log(share_i))
            means.append((c + K @ (y - H @ c))[1])
            variances.append((C - K @ H @ C)[1, 1])
        return torch.stack(logs), torch.stack(means), torch.stack(variances)

    w = parts(torch.eye(3)[1:2], torch.eye(1), y[3:4])[0].softmax(0)
    _, means, variances = parts(torch.eye(3), (1 / taper).diag(), y[2:5])
    mean = w @ means
    var = w @ (variances + (means - mean).square())
    inverse_ess = (w[:-1] + w[-1] / 12).square().sum()
    torch.testing.assert_close(found.mean(), mean)
    torch.testing.assert_close(found.var(), var * (1 + inverse_ess) / (1 + 1 / 12))


@pytest.mark.slow
def test_evidence_as_far_as_the_analysis_is_nothing_new():
    system, reach = Lorenz96(dim=8), GaspariCohn(2.0)
    model = ObservationModel(Select([0, 3, 4]), std=1.0)
    _, problem = twin_experiment(system, model, 3, 1, rng.seeded(0))
    runs = [
        GaussianMixtureFilter(localization=reach, weight_localization=evidence)
        .assimilate(problem, 6, rng.seeded(1))
        .states
        for evidence in (None, reach)
    ]
    torch.testing.assert_close(*runs)


def test_a_forecast_without_spread_is_refused():
    with pytest.raises(ValueError, match="no spread"):
        GaussianMixtureFilter().update(torch.full((5, 2), 0.3), Y, MODEL)


def test_localization_needs_the_space():
    method = GaussianMixtureFilter(localization=GaspariCohn(2.0))
    with pytest.raises(ValueError, match="begin"):
        method.update(forecast(5), Y, MODEL)


@pytest.mark.slow
def test_a_continued_run_goes_on_with_the_same_factor():
    model = ObservationModel(Select(range(3)), std=2.0)
    _, problem = twin_experiment(Lorenz63(), model, 40, 4, rng.seeded(0))
    method = GaussianMixtureFilter()
    whole = list(method.run(problem, 60, rng.seeded(1)))
    rest = list(method.run(problem, 60, rng.seeded(1), whole[25]))
    assert min(float(cycle.info["kernel_factor"]) for cycle in rest if cycle.info) < 1
    assert torch.equal(rest[-1].ensemble, whole[-1].ensemble)


@pytest.mark.parametrize("bandwidth", ["adaptive", 0.3, 1.0])
@pytest.mark.parametrize("std", [1e-1, 1e-4])
def test_precise_observations_near_every_point(std, bandwidth):
    """Little is left of each member: in single precision as in double, and no refusal."""
    model = ObservationModel(Select(range(30)), std=std)
    _, problem = twin_experiment(Lorenz96(dim=30), model, 2, 1, rng.seeded(0))
    method = GaussianMixtureFilter(bandwidth, localization=GaspariCohn(10.0)).begin(problem)
    x = rng.normal(20, (30,), rng.seeded(1)).double()
    y = torch.linspace(-1, 1, 30).double()
    exact, _ = method.analyse(x, y, model)
    found, _ = method.analyse(x.float(), y.float(), model)
    assert exact.isfinite().all() and found.dtype == torch.float32
    # Of single precision's 1e-7 the small matrices, of condition 1 / std^2, make this at most.
    torch.testing.assert_close(found.double(), exact, atol=2e-6 / std**0.5, rtol=0)
