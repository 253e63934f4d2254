"""SDA on linear-Gaussian problems, where the posterior and each sampler's moments are known.

A guided sampler without corrections is affine in its noise, so `examples/exactness.py` reads its
moments off unit vectors, through the public interface and without sampling error.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.diffusion.denoisers import Conditioned
from scorda.diffusion.guidance import DPS, MMPS, InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, PredictorCorrector
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.methods.kalman import KalmanSmoother
from scorda.methods.sda import SDA, WindowForecast, merge_entries, trajectory_model
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Pointwise, Select
from scorda.observations.problem import Problem
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.trajectory import load
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63
from scripts import ROOT, load_script

NAN = float("nan")


exactness = load_script("examples/exactness.py")


def two_instruments():
    """Irregular steps, missing values, a row without any, a full covariance; 11 states of three
    variables."""
    A = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, -0.1, 0.8]])
    Q = torch.tensor([[0.1, 0.02, 0.0], [0.02, 0.2, 0.0], [0.0, 0.0, 0.05]])
    system = LinearGaussian(
        A, Q, torch.tensor([5.0, -1.0, 0.5]), torch.diag(torch.tensor([1.0, 0.5, 2]))
    )
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]])
    correlated = ObservationModel(Linear(matrix), cov=torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
    values = torch.tensor([[4.4, 1.0], [NAN, -0.7], [1.5, NAN], [NAN, NAN]])
    first = Observations(correlated, (0, 1, 6, 7), values)
    second = Observations(
        ObservationModel(Select([0]), std=0.3), (6, 10), torch.tensor([[0.3], [-0.8]])
    )
    return Problem(system, [first, second], 10)


PROBLEMS = {"partial": exactness.partially_observed, "two instruments": two_instruments}


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request):
    return PROBLEMS[request.param]()


def sda(problem, guidance, sampler=None):
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    return SDA(prior, guidance, sampler)


def number(problem):
    return sum(int((~part.values.isnan()).sum()) for part in problem.observations)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["gmres", "cg"])
def test_mmps_is_the_exact_smoother(problem, solver):
    """Promised: 0.03 posterior std and 3%. the prior's own 64 steps, no sampling error."""
    method = sda(problem, MMPS(number(problem), solver))
    assert method.prior.sampler.evaluations <= 64
    mean, cov = exactness.affine_moments(method, problem)
    exact = KalmanSmoother().moments(problem)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    assert ((mean - exact.means).abs() < 0.01 * std).all()
    n = torch.arange(problem.steps + 1)
    # Whole covariance matrices of each step and of successive steps, in units of the std.
    same, next_ = cov[n, :, n], cov[n[1:], :, n[:-1]]
    assert ((same.diagonal(dim1=1, dim2=2) / std**2 - 1).abs() < 0.01).all()
    assert ((same - exact.covs).abs() < 0.01 * std[:, :, None] * std[:, None]).all()
    assert ((next_ - exact.lag_one).abs() < 0.01 * std[1:, :, None] * std[:-1, None]).all()


@pytest.mark.slow
def test_samples_of_mmps_have_the_moments_of_the_smoother():
    """20 000 draws: standard errors 0.007 posterior std and 1% of the variance.

    The largest of up to 34 components stays below 4 of them; discretisation adds less than 0.5%
    to both. Lag-one covariances have a standard error of at most 1% of the product of the stds.
    """
    problem = exactness.partially_observed()
    method = replace(sda(problem, MMPS(number(problem))), chunk=20_000)
    analysis = method.assimilate(problem, 20_000, rng.seeded(5))
    exact = KalmanSmoother().moments(problem)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    z = (analysis.states - exact.means) / std
    assert (z.mean(0).abs() < 0.03).all()
    assert ((z.var(0) - 1).abs() < 0.045).all()
    lagged = torch.einsum("nti,ntj->tij", z[:, 1:], z[:, :-1]) / len(z)
    expected = exact.lag_one / (std[1:, :, None] * std[:-1, None])
    assert ((lagged - expected).abs() < 0.045).all()
    assert analysis.info["evaluations"] == 64 * (1 + number(problem)) and analysis.method == "SDA"


@pytest.mark.slow
def test_another_process_gives_the_same_posterior(problem):
    """Variance preserving with a far end: the same levels of noise, so the same samples."""
    method = sda(problem, MMPS(number(problem)))
    preserving = replace(method.prior, process=VariancePreserving(eta=1e-4, floor=1e-5))
    states = [
        SDA(p, method.guidance).assimilate(problem, 5, rng.seeded(0)).states
        for p in (method.prior, preserving)
    ]
    assert_close(*states, rtol=1e-6, atol=1e-6)


def dense(problem):
    """Matrix, values and error covariance of all observations, and moments of the trajectory."""
    size, steps = problem.space.size, problem.steps
    rows, values, blocks = [], [], []
    for part in problem.observations:
        matrix = part.model.operator(torch.eye(size)).T
        for step, value in zip(part.steps, part.values, strict=True):
            kept = ~value.isnan()
            line = torch.zeros(int(kept.sum()), (steps + 1) * size)
            line[:, step * size : (step + 1) * size] = matrix[kept]
            rows.append(line)
            values.append(value[kept])
            blocks.append(part.model.error_cov(tuple(value.shape), value)[kept][:, kept])
    mean, cov = problem.system.trajectory_moments(steps)
    return torch.cat(rows), torch.cat(values), torch.block_diag(*blocks), mean, cov


@pytest.mark.slow
@pytest.mark.parametrize("build", [Ancestral, PredictorCorrector])
def test_inflated_likelihood_follows_its_own_moment_recursion(problem, build):
    """Dense matrices in physical units, where standardised noise nu eps has the covariance nu^2 S.

    One level: D = m + G (u - m), G = C (C + nu^2 S)^{-1}, and eq. 15 adds
    nu^2 S G^T... = nu^2 S (G^T H^T) (R + gamma nu^2 H S H^T)^{-1} (y - H D).
    """
    gamma, sampler = 0.1, build(40, 0, max_noise=1e3)
    method = sda(problem, InflatedLikelihood(gamma, bound=None), sampler)
    H, y, R, m, C = dense(problem)
    S = method.prior.standardisation.std.repeat(problem.steps + 1).square().diag()
    levels = torch.logspace(3, torch.tensor(sampler.min_noise).log10().item(), 40)
    centre = method.prior.standardisation.mean.repeat(problem.steps + 1)
    mean, cov, eye = centre, (1 + levels[0] ** 2) * S, torch.eye(len(m))
    for i, nu in enumerate(levels):
        G = C @ torch.linalg.inv(C + nu**2 * S)
        # G^T with respect to standardised states: S^{-1/2} G S^{1/2} transposed.
        W = nu**2 * S @ G.T @ H.T @ torch.linalg.inv(R + gamma * nu**2 * H @ S @ H.T)
        A, b = (eye - W @ H) @ G, (eye - W @ H) @ (m - G @ m) + W @ y
        if i + 1 < len(levels):
            after = levels[i + 1]
            if build is Ancestral:
                ratio, extra = (after / nu) ** 2, after**2 * (1 - (after / nu) ** 2) * S
            else:
                ratio, extra = after / nu, 0 * S
            A, b = ratio * eye + (1 - ratio) * A, (1 - ratio) * b
        else:
            extra = 0 * S
        mean, cov = A @ mean + b, A @ cov @ A.T + extra
    propagated_mean, propagated_cov = exactness.affine_moments(method, problem)
    std = cov.diagonal().sqrt()
    # eq. 15's linear solver stops at a relative residual of 1e-4.
    assert ((propagated_mean.flatten() - mean).abs() < 2e-3 * std).all()
    error = propagated_cov.reshape(cov.shape) - cov
    assert (error.abs() < 2e-3 * std[:, None] * std).all()


DOCUMENTED = ROOT / "docs" / "exactness.md"


@pytest.mark.slow
@pytest.mark.skipif(not DOCUMENTED.exists(), reason="the documentation is not in this tree")
@pytest.mark.parametrize("guidance", ["MMPS(4)", "InflatedLikelihood(0.01)"])
def test_documented_distances_are_those_of_today(guidance):
    line = exactness.row(guidance, "Multistep()", exactness.partially_observed())
    table = [row for row in DOCUMENTED.read_text().splitlines() if row.startswith("|")]
    recorded = [row for row in table if row.split("|")[1:3] == line.split("|")[1:3]]
    assert len(recorded) == 1
    now, then = ([float(x) for x in row.split("|")[3:6]] for row in (line, recorded[0]))
    # Three digits are recorded.
    assert max(abs(a - b) for a, b in zip(now, then, strict=True)) < 2e-3


def test_no_observation_leaves_the_prior(problem):
    nothing = Problem(problem.system, [], problem.steps)
    absent = Observations(ObservationModel(Select([0]), std=1.0), [2], torch.tensor([[NAN]]))
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    expected = prior.sample(6, problem.steps, rng.seeded(0))
    for empty in (nothing, Problem(problem.system, absent, problem.steps)):
        for guidance in (MMPS(), InflatedLikelihood()):
            states = SDA(prior, guidance).assimilate(empty, 6, rng.seeded(0)).states
            assert_close(states, expected)


@pytest.mark.slow
def test_an_instrument_without_rows_is_no_obstacle(problem):
    model = ObservationModel(Select([0]), std=1.0)
    idle = Observations(model, [], torch.zeros(0, 1))
    more = Problem(problem.system, [*problem.observations, idle], problem.steps)
    method = sda(problem, MMPS())
    a, b = (method.assimilate(p, 3, rng.seeded(0)).states for p in (problem, more))
    assert_close(a, b)


@pytest.mark.slow
def test_samples_do_not_depend_on_the_chunk(problem):
    method = sda(problem, InflatedLikelihood(), PredictorCorrector(8, 1, max_noise=100.0))
    whole = method.assimilate(problem, 7, rng.seeded(0)).states
    parts = replace(method, chunk=3).assimilate(problem, 7, rng.seeded(0)).states
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_samples_have_the_precision_of_the_observed_values(problem, dtype, default):
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    method = SDA(prior, sampler=PredictorCorrector(8, 0), guidance=MMPS(1))
    parts = [replace(part, values=part.values.to(dtype)) for part in problem.observations]
    torch.set_default_dtype(default)
    states = method.assimilate(replace(problem, observations=parts), 2, rng.seeded(0)).states
    assert states.dtype == dtype


def test_a_network_takes_samples_in_double_precision():
    """It computes in single precision itself; what it returns is not rounded further."""
    problem = Problem(
        Lorenz63(),
        Observations(ObservationModel(Select([0]), std=1.0), (2,), torch.zeros(1, 1)),
        4,
    )
    sampler = Ancestral(3, 0)
    states = SDA(load("lorenz63"), sampler=sampler).assimilate(problem, 2, rng.seeded(0)).states
    assert states.dtype == torch.float64
    assert not torch.equal(states, states.float().double())


def test_all_observations_become_one_of_the_trajectory(problem):
    """Order: instrument, step, entry; in physical units whatever the standardisation."""
    H, y, R, _, _ = dense(problem)
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    flat, model = trajectory_model(problem.observations, prior.standardisation)
    assert_close(flat, y)
    assert_close(model.error_cov(tuple(y.shape), y), R)
    x = rng.normal(3, (problem.steps + 1, problem.space.size), rng.seeded(0))
    assert_close(model.operator(prior.standardisation.forward(x)), x.flatten(1) @ H.T)


@pytest.mark.slow
def test_rows_of_several_steps_are_observed_together():
    """An observed difference of two steps, which no filter can use, moves both."""
    base = exactness.partially_observed()
    difference = Function(lambda x: (x[:, 1] - x[:, 0])[:, :1])
    model = ObservationModel(difference, std=0.1)
    problem = Problem(base.system, Observations(model, [(3, 9)], torch.tensor([[1.5]])), 16)
    method = replace(sda(problem, MMPS(1)), chunk=500)
    states = method.assimilate(problem, 500, rng.seeded(0)).states
    observed = states[:, 9, 0] - states[:, 3, 0]
    # Prior variance of the difference is about 0.4: posterior std 0.1, standard error 0.005.
    assert abs(observed.mean() - 1.5) < 0.1 and 0.08 < observed.std() < 0.12


@pytest.mark.slow
def test_misfits_are_refused(problem):
    method = sda(problem, InflatedLikelihood())
    with pytest.raises(ValueError, match="use a prior that was trained on this system"):
        method.assimilate(Problem(Lorenz63(), [], 4), 3)
    with pytest.raises(ValueError, match="make it with steps = 4"):
        method.assimilate(Problem(problem.system, [], 4), 3)
    started = replace(problem, initial=torch.zeros(3, problem.space.size))
    with pytest.raises(ValueError, match="leave `initial` out"):
        method.assimilate(started, 3)
    black_box = ObservationModel(Function(lambda x: x[:, :1], differentiable=False), std=1.0)
    values = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"SDA needs .* a gradient .*EnKF"):
        method.assimilate(replace(problem, observations=Observations(black_box, [1], values)), 3)


@pytest.mark.slow
def test_nonlinear_observations_pull_the_posterior():
    base = exactness.partially_observed()
    model = ObservationModel(Pointwise(torch.tanh), std=0.05)
    observations = Observations(model, [8], torch.tensor([[0.5, -0.5]]))
    problem = Problem(base.system, observations, 16)
    states = (
        sda(problem, InflatedLikelihood(), Multistep(32, 1, max_noise=100.0))
        .assimilate(problem, 200, rng.seeded(0))
        .states
    )
    error = states[:, 8].tanh().mean(0) - torch.tensor([0.5, -0.5])
    assert (error.abs() < 0.05).all()


def entries_problem():
    """Entries of two variables: two instruments on one of them, missing values, stds by row."""
    problem = two_instruments()
    first = Observations(
        ObservationModel(Select([2, 0]), std=torch.tensor([0.3, 0.5])),
        (0, 3, 6, 7),
        torch.tensor([[4.4, 1.0], [NAN, -0.7], [1.5, NAN], [NAN, NAN]]),
    )
    second = Observations(
        ObservationModel(Select([0]), std=9.0),
        (3, 10),
        torch.tensor([[0.3], [-0.8]]),
        std=torch.tensor([[0.2], [0.7]]),
    )
    return Problem(problem.system, [first, second], 10)


@pytest.mark.slow
def test_observed_entries_are_exact_with_every_sampler():
    """No guidance, so no approximation: what is left is the sampler's step."""
    problem = entries_problem()
    method = sda(problem, None)
    exact = KalmanSmoother().moments(problem)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    mean, cov = exactness.affine_moments(method, problem)
    n = torch.arange(problem.steps + 1)
    assert ((mean - exact.means).abs() < 0.01 * std).all()
    assert ((cov[n, :, n].diagonal(dim1=1, dim2=2) / std**2 - 1).abs() < 0.01).all()
    # First order, so many steps; its mean is exact at any number of them.
    first = replace(method, sampler=Ancestral(200, 0, max_noise=1e3, min_noise=1e-3, upper=0.5))
    mean, cov = exactness.affine_moments(first, problem)
    assert ((mean - exact.means).abs() < 0.01 * std).all()
    assert ((cov[n, :, n].diagonal(dim1=1, dim2=2) / std**2 - 1).abs() < 0.02).all()


def test_entries_merge_into_the_likelihood_of_all_observations():
    """Sum of the squared misfits, up to what does not depend on the trajectory."""
    problem = entries_problem()
    prior = GaussianTrajectory.of(problem.system, problem.steps)
    values, precision = merge_entries(problem.observations, prior.standardisation, (11, 3))
    z = 3 * rng.normal(20, (11, 3), rng.seeded(0))
    merged = -0.5 * (precision * (z - values).square()).flatten(1).sum(1)
    x = prior.standardisation.inverse(z)
    direct = sum(part.log_likelihood(x) for part in problem.observations)
    assert_close(merged - merged[0], direct - direct[0], rtol=1e-8, atol=1e-8)
    assert int((precision > 0).sum()) == 5


@pytest.mark.slow
def test_other_observations_are_guided_beside_merged_entries():
    """The correlated instrument is guided given the entries; together they are the smoother."""
    problem = two_instruments()
    method = sda(problem, None)
    mean, _ = exactness.affine_moments(replace(method, guidance=None), problem)
    alone = Problem(problem.system, problem.observations[1:], 10)
    entries_only, _ = exactness.affine_moments(method, alone)
    exact = KalmanSmoother().moments(problem)
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    # eq. 15 is approximate: closer to the truth by far than without the second instrument.
    distance, before = ((m - exact.means).abs() / std for m in (mean, entries_only))
    assert distance.max() < 0.5 * before.max()


def test_a_network_prior_merges_above_its_handover_and_guides_below():
    """The denoiser of the posterior, at one level on either side of the handover."""
    prior = load("lorenz63")
    system = Lorenz63()
    observed = Observations(ObservationModel(Select([0]), std=0.4), (0, 8), torch.ones(2, 1))
    problem, shape = Problem(system, observed, 10), (11, 3)
    denoiser = SDA(prior)._posterior(problem, shape)
    entries = merge_entries(problem.observations, prior.standardisation, shape)
    merged = Conditioned(prior.denoiser(11), *entries)
    guided = SDA(prior, InflatedLikelihood())._posterior(problem, shape)
    x = rng.normal(3, shape, rng.seeded(0))
    for factor, expected in ((1.1, merged), (0.9, guided)):
        noise = torch.tensor(factor * prior.handover)
        assert torch.equal(denoiser.denoise(x, noise), expected.denoise(x, noise))


def lorenz63_problem():
    """Two observed components at three steps of nine."""
    values = torch.tensor([[0.3, 20.0], [NAN, 25.0], [-2.0, 22.0]])
    observed = Observations(ObservationModel(Select([0, 2]), std=1.0), (0, 4, 8), values)
    return Problem(Lorenz63(), observed, 8)


SHORT = PredictorCorrector(4, corrections=1)


@pytest.mark.parametrize("settings", [{}, {"guidance": DPS()}], ids=["merged", "guided"])
def test_nothing_stays_behind_when_the_prior_is_on_another_device(settings):
    """The meta device computes nothing, but refuses what mixes it with the CPU."""
    prior = replace(load("lorenz63").to("meta"), handover=0.0, sampler=SHORT)
    states = SDA(prior, **settings).assimilate(lorenz63_problem(), 3, 0).states
    assert states.device.type == "meta"
    assert tuple(states.shape) == (3, 9, 3)
    assert prior.sample(2, 4, 0).device.type == "meta"
    assert load("lorenz63").device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"guidance": InflatedLikelihood()}], ids=str)
def test_devices_agree(settings):
    """Products of the two devices differ by 1e-6, which 8 evaluations carry on."""
    prior = replace(load("lorenz63"), sampler=SHORT)
    problem = lorenz63_problem()
    here = SDA(prior, **settings).assimilate(problem, 8, 0).states
    there = SDA(prior.to("cuda"), **settings).assimilate(problem, 8, 0).states
    assert there.device.type == "cuda"
    assert_close(there.cpu(), here, atol=1e-2, rtol=1e-3)


def test_half_precision_is_in_the_network_alone():
    """bfloat16 has 8 bits: some evaluations later means differ by some percent of the spread."""
    prior = replace(load("lorenz63"), sampler=replace(SHORT, noise_levels=16))
    problem = lorenz63_problem()
    full = SDA(prior).assimilate(problem, 64, 0).states
    half = SDA(prior, precision="bfloat16").assimilate(problem, 64, 0).states
    assert half.dtype == full.dtype
    assert not torch.equal(half, full)
    assert float((half.mean(0) - full.mean(0)).abs().max() / full.std(0).mean()) < 0.1
    assert_close(half.std(0), full.std(0), rtol=0.2, atol=0.1)


def test_precisions_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match=r"float32 or bfloat16\.$"):
        SDA(load("lorenz63"), precision="float16").assimilate(lorenz63_problem(), 2, 0)
    problem = two_instruments()
    exact = GaussianTrajectory.of(problem.system, problem.steps)
    with pytest.raises(ValueError, match=r"has no network: leave it at \"float32\"\.$"):
        SDA(exact, precision="bfloat16").assimilate(problem, 2, 0)


@pytest.mark.slow
def test_a_forecast_of_a_window_has_the_law_of_what_follows_the_past_of_each_member():
    """The prior is exact and the system Markov, so that one past state tells all."""
    system = LinearGaussian(
        [[0.9, 0.2], [-0.2, 0.8]], [[0.1, 0.02], [0.02, 0.2]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]
    )
    steps, half = 3, 150
    ends = torch.tensor([[1.0, -0.5], [-0.7, 0.4]], dtype=torch.float64)
    past = ends.repeat_interleave(half, 0)[:, None]
    prior = GaussianTrajectory.of(system, steps)
    method = WindowForecast(SDA(prior), past)
    problem = Problem(system, (), steps)
    found = method.assimilate(problem, 2 * half, 3).states
    assert torch.equal(found[:, 0], past[:, 0])
    assert torch.equal(found[7:9], method.assimilate_members(problem, 7, 9, 3).states)
    A, Q = system.transition, system.noise_cov
    for end, members in zip(ends, found.split(half), strict=True):
        mean, cov = end, torch.zeros(2, 2, dtype=torch.float64)
        for k in range(1, steps + 1):
            mean, cov = A @ mean, A @ cov @ A.T + Q
            error = members[:, k].mean(0) - mean
            # Four standard errors, and 0.01 standard deviations of the known state.
            assert (error.abs() < 4 * (cov.diagonal() / half).sqrt() + 0.01).all()
            # A variance of 150 draws has a standard error of 12 %.
            torch.testing.assert_close(members[:, k].T.cov(), cov, rtol=0.45, atol=0.05)


def test_a_forecast_of_a_window_refuses_what_it_has_no_past_for():
    system = LinearGaussian([[0.9]], [[0.1]], [0.0], [[1.0]])
    method = WindowForecast(SDA(GaussianTrajectory.of(system, 2)), torch.zeros(3, 1, 1))
    seen = Observations(ObservationModel(Select([0]), std=1.0), [1], torch.zeros(1, 1))
    with pytest.raises(ValueError, match="got 4 members"):
        method.assimilate(Problem(system, (), 2), 4, 0)
    with pytest.raises(ValueError, match="1 observed steps"):
        method.assimilate(Problem(system, seen, 2), 3, 0)


def test_members_that_leave_the_climate_end_the_run(problem):
    """In the parts of a run they have the numbers that they have in all of it."""

    @dataclass(frozen=True)
    class Losing(Multistep):
        def sample(self, *arguments, **options):
            z = super().sample(*arguments, **options)
            z[2, 1] = 1e3
            return z

    prior = GaussianTrajectory.of(problem.system, problem.steps)
    method = SDA(prior, MMPS(), Losing(8, corrections=0))
    with pytest.raises(DivergenceError, match=r"1 of 4 members left the climate.* member 6;"):
        method.assimilate_members(problem, 4, 8, rng.seeded(0))
