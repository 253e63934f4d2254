"""Each guidance against its own closed form for a Gaussian prior."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector, VarianceExploding
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select

D = 4
PROCESSES = [VariancePreserving(), VarianceExploding()]
LEVELS = [0.15, 0.5, 0.9]


@pytest.fixture(params=PROCESSES, ids=["preserving", "exploding"])
def process(request):
    return request.param


def prior():
    root = rng.normal(D, (D,), rng.seeded(0))
    return rng.normal(1, (D,), rng.seeded(1))[0], root @ root.T / D + 0.05 * torch.eye(D)


def observed(kind):
    """Matrix H, error covariance R, values, and the flat ``(y, model)`` that guidance gets."""
    matrix = torch.tensor([[1.0, 0.5, 0.0, -2.0], [0.0, -1.0, 2.0, 0.3], [0.2, 0.0, 0.0, 1.0]])
    cov = torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.3, 0.0], [0.1, 0.0, 0.4]])
    values = torch.tensor([0.7, -1.2, 2.0])
    if kind == "std":
        std = torch.tensor([0.1, 0.5, 2.0])
        cov, model = std.square().diag(), ObservationModel(Linear(matrix), std=std)
    else:
        model = ObservationModel(Linear(matrix), cov=cov)
    kept = torch.tensor([0, 1, 2])
    if kind == "absent":
        values[1], kept = torch.nan, torch.tensor([0, 2])
    y, model = Observations(model, [0], values[None]).at(0)
    return matrix[kept], cov[kept][:, kept], y, model


def posterior_of_noise(process, x, t):
    """E[x_0 | x_t], its gain dD/dx and Cov[x_0 | x_t] by the textbook formula."""
    mean, cov = prior()
    alpha, var = process.alpha(t), process.var(t)
    gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + var * torch.eye(D))
    return mean + (x - alpha * mean) @ gain.T, gain, cov - alpha * gain @ cov


def guided(guidance, process, x, t, y, model):
    mean, cov = prior()
    return process.denoise(guidance.bind(GaussianDenoiser.from_cov(mean, cov), y, model), x, t)


KINDS = ["std", "cov", "absent"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_inflated_likelihood_is_its_formula(process, kind, level):
    r"""D + (sigma^2 / alpha) G^T H^T (R + gamma nu^2 H H^T)^{-1} (y - H D), G = dD/dx."""
    t, x = torch.tensor(level), 2 * rng.normal(5, (D,), rng.seeded(2))
    matrix, cov, y, model = observed(kind)
    mean, gain, _ = posterior_of_noise(process, x, t)
    inflated = cov + 0.3 * process.noise_level(t) ** 2 * matrix @ matrix.T
    q = (y - mean @ matrix.T) @ torch.linalg.inv(inflated)
    shift = process.var(t) / process.alpha(t) * q @ matrix @ gain
    out = guided(InflatedLikelihood(0.3, bound=None), process, x, t, y, model)
    # The solver stops at a relative residual of 1e-4, or when it is exact: here after 3 products.
    assert_close(out - mean, shift, rtol=2e-4, atol=2e-4 * float(shift.abs().max()))


@pytest.mark.parametrize("solver", ["cg", "gmres"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_mmps_is_the_exact_posterior_denoiser(process, kind, level, solver):
    """x_0 given x_t and y, by adding precisions: another route than the gain that MMPS solves."""
    t, x = torch.tensor(level), 2 * rng.normal(5, (D,), rng.seeded(2))
    matrix, cov, y, model = observed(kind)
    (mean, prior_cov), alpha, var = prior(), process.alpha(t), process.var(t)
    inverse = torch.linalg.inv
    precision = (
        inverse(prior_cov) + alpha**2 / var * torch.eye(D) + matrix.T @ inverse(cov) @ matrix
    )
    right = inverse(prior_cov) @ mean + alpha / var * x + matrix.T @ inverse(cov) @ y
    out = guided(MMPS(len(y), solver), process, x, t, y, model)
    assert_close(out, right @ inverse(precision), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_dps_is_a_step_along_the_gradient_of_the_norm(process, level):
    t, x = torch.tensor(level), 2 * rng.normal(5, (D,), rng.seeded(2))
    matrix, _, y, model = observed("cov")
    mean, gain, _ = posterior_of_noise(process, x, t)
    residual = y - mean @ matrix.T
    gradient = -(residual / residual.norm(dim=1, keepdim=True)) @ matrix @ gain
    shift = -0.7 * process.var(t) / process.alpha(t) * gradient
    out = guided(DPS(0.7), process, x, t, y, model)
    assert_close(out, mean + shift, rtol=1e-8, atol=1e-9)


def test_inflated_likelihood_linearises_a_nonlinear_operator_at_the_denoised_state(process):
    t, x = torch.tensor(0.5), rng.normal(5, (D,), rng.seeded(2))
    y, model = torch.tensor([0.3] * D), ObservationModel(Pointwise(torch.sin), std=0.2)
    mean, gain, _ = posterior_of_noise(process, x, t)
    inflated = 0.04 + 0.5 * process.noise_level(t) ** 2 * mean.cos() ** 2
    shift = process.var(t) / process.alpha(t) * ((y - mean.sin()) / inflated * mean.cos()) @ gain
    out = guided(InflatedLikelihood(0.5, bound=None), process, x, t, y, model)
    assert_close(out - mean, shift, rtol=2e-4, atol=2e-4 * float(shift.abs().max()))


def test_inflated_likelihood_solves_for_many_unequal_errors():
    """60 instruments with errors from 1e-2 to 1: plain conjugate gradients would need 60 steps."""
    n, process = 60, PROCESSES[1]
    std = torch.logspace(-2, 0, n)
    model = ObservationModel(Select(list(range(n))), std=std)
    denoiser = GaussianDenoiser.from_cov(torch.zeros(n), torch.eye(n))
    x, y = rng.normal(3, (n,), rng.seeded(0)), rng.normal(1, (n,), rng.seeded(1))[0]
    for level in LEVELS:
        t = torch.tensor(level)
        var = process.var(t)
        mean = process.denoise(denoiser, x, t)
        expected = var / (1 + var) * (y - mean) / (std**2 + 1e-2 * var)
        bound = InflatedLikelihood(1e-2, None).bind(denoiser, y, model)
        assert_close(process.denoise(bound, x, t) - mean, expected, rtol=1e-3, atol=1e-4)


class Matrix:
    """Denoiser x -> x A^T per member, of no density where A is not symmetric and positive."""

    def __init__(self, matrices):
        self.matrices = matrices

    def denoise(self, u, noise):
        return torch.einsum("eij,ej->ei", self.matrices, u)


def test_conjugate_gradients_stop_at_negative_curvature():
    """Per member: the first is left alone by the second, whose Jacobian is negative."""
    noise, eye = torch.tensor(1.0), torch.eye(D)
    x, (matrix, cov, y, model) = rng.normal(2, (D,), rng.seeded(0)), observed("std")
    denoiser = Matrix(torch.stack([0.5 * eye, -50 * eye]))
    mean, shift = MMPS(3, "cg").displacement(denoiser, x, noise, y, model)
    q = torch.linalg.solve(cov + 0.5 * matrix @ matrix.T, y - mean[0] @ matrix.T)
    assert_close(shift[0], 0.5 * matrix.T @ q, rtol=1e-8, atol=1e-9)
    assert_close(shift[1], torch.zeros(D), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("iterations", [3, 12])
def test_gmres_is_a_dense_solve_also_without_symmetry_and_when_exhausted(iterations, dtype):
    """12 iterations exhaust the space of 3 observations early: directions of rounding only."""
    noise = torch.tensor(0.8)
    x, (matrix, cov, y, model) = rng.normal(3, (D,), rng.seeded(0)), observed("cov")
    A = torch.eye(D) + 0.8 * rng.normal(3, (D, D), rng.seeded(5))
    u, denoiser = x.to(dtype), Matrix(A.to(dtype))
    _, shift = MMPS(iterations, "gmres").displacement(denoiser, u, noise.to(dtype), y, model)
    mean = torch.einsum("eij,ej->ei", A, x)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    for i in range(3):
        pulled = 0.64 * A[i].T @ matrix.T
        q = torch.linalg.solve(cov + matrix @ pulled, y - matrix @ mean[i])
        assert_close(shift[i].double(), pulled @ q, rtol=tolerance, atol=tolerance)


def test_gmres_is_stable_where_one_iteration_solves():
    """J V J^T = 0 and R = I: the first direction is exact and the second is zero."""
    noise, model = torch.tensor(0.8), ObservationModel(Select([0, 1]), std=1.0)
    x, y = rng.normal(3, (D,), rng.seeded(0)), torch.tensor([1.0, 2.0])
    nothing = Matrix(torch.zeros(3, D, D))
    _, shift = MMPS(4, "gmres").displacement(nothing, x, noise, y, model)
    assert_close(shift, torch.zeros(3, D))
    # Nor does a member without any residual disturb the others.
    eye = Matrix(torch.eye(D).expand(3, D, D))
    x[0, :2] = y
    _, shift = MMPS(4, "gmres").displacement(eye, x, noise, y, model)
    assert_close(shift[0], torch.zeros(D))
    assert_close(shift[1:, :2], 0.64 / 1.64 * (y - x[1:, :2]))


@pytest.mark.parametrize("guidance", [InflatedLikelihood, MMPS], ids=["inflated", "mmps"])
def test_bound_limits_the_displacement_of_each_component(guidance, process):
    noise = process.noise_level(torch.tensor(0.5))
    _, _, y, model = observed("std")
    mean, cov = prior()
    denoiser = GaussianDenoiser.from_cov(mean, cov)
    x = torch.linspace(0, 40, 9)[:, None] * torch.ones(D)
    free = guidance(bound=None).displacement(denoiser, x, noise, y, model)[1]
    limit = free.abs().median()
    bound = float(limit / noise)
    bounded = guidance(bound=bound).displacement(denoiser, x, noise, y, model)[1]
    assert 0 < (free.abs() > limit).sum() < free.numel()
    assert_close(bounded, torch.where(free.abs() > limit, limit * free.sign(), free))


def test_observation_without_information_leaves_the_prior(process):
    mean, cov = prior()
    denoiser = GaussianDenoiser.from_cov(mean, cov)
    x, t = rng.normal(3, (D,), rng.seeded(0)), torch.tensor(0.5)
    model = ObservationModel(Select([0, 2]), std=1e8)
    for guidance in (InflatedLikelihood(gamma=0), MMPS()):
        bound = guidance.bind(denoiser, torch.tensor([1.0, 2.0]), model)
        out, expected = process.denoise(bound, x, t), process.denoise(denoiser, x, t)
        assert_close(out, expected, rtol=0, atol=1e-10)


def test_gradients_are_used_also_where_the_caller_has_switched_them_off(process):
    x, t, (_, _, y, model) = torch.ones(2, D), torch.tensor(0.5), observed("cov")
    for guidance in (InflatedLikelihood(), MMPS(), DPS()):
        inside = x.clone()
        with torch.no_grad():
            off = guided(guidance, process, inside, t, y, model)
        assert not off.requires_grad and torch.equal(inside, x)
        assert_close(off, guided(guidance, process, x, t, y, model))


@pytest.mark.parametrize("guidance", [InflatedLikelihood(), MMPS(), DPS()], ids=str)
def test_black_box_is_refused_before_the_run(guidance):
    black_box = Function(lambda x: x[:, :1], differentiable=False)
    with pytest.raises(TypeError, match=r"needs the gradient .* black box: use .*EnKF"):
        guidance.bind(Matrix(torch.eye(D)), torch.zeros(1), ObservationModel(black_box, std=1.0))


@pytest.mark.parametrize("build", [Ancestral, Multistep, PredictorCorrector])
@pytest.mark.parametrize(
    "guidance", [InflatedLikelihood(), MMPS(2), MMPS(3, "cg"), DPS()], ids=str
)
@pytest.mark.parametrize("corrections", [0, 1])
def test_any_guidance_works_with_any_sampler(guidance, build, corrections, process):
    """The observed combination moves from its prior mean towards the value."""
    mean, cov = prior()
    matrix = torch.tensor([[1.0, 0.5, 0.0, -1.0]])
    model = ObservationModel(Linear(matrix), std=0.5)
    before = matrix @ mean
    y = before + 3
    denoiser = guidance.bind(GaussianDenoiser.from_cov(mean, cov), y, model)
    samples = build(16, corrections).sample(denoiser, process, (D,), 64, rng.seeded(0))
    assert samples.shape == (64, D) and samples.isfinite().all()
    # The prior mean has a standard error of 0.2 or less: 1 is far outside, and y + 1 too.
    observed_mean = (samples @ matrix.T).mean()
    assert before + 1 < observed_mean < y + 1


def test_settings_are_checked():
    with pytest.raises(ValueError, match="gamma must be >= 0"):
        InflatedLikelihood(gamma=-1.0)
    with pytest.raises(ValueError, match="bound positive"):
        InflatedLikelihood(bound=0.0)
    with pytest.raises(ValueError, match="at least one iteration"):
        MMPS(0)
    with pytest.raises(ValueError, match='"cg" or "gmres"'):
        MMPS(3, "lu")
