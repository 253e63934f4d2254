"""EnFF: the closed form of its local guidance, moments of its flows, the exact guidance."""

import re
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.methods.enff import EnFF
from scorda.methods.kalman import KalmanFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

Y = 1.5


def kalman(R):
    """Mean and variance for N(0, 1)."""
    return Y / (1 + R), R / (1 + R)


def f2p(R, c, n):
    factor = (1 - c / (n * R)) ** n
    return Y * (1 - factor), factor**2


def ot(R, c, n, s=0.0):
    r"""Infinitely many members of N(0, 1): an affine flow, of which these are the moments.

    x_t of the flow without y has the variance v = t^2 + sigma^2, so that E[x_1 | x_t] = t x / v,
    u = sigma' / sigma (x - t E) + E = a x, and x-hat = x + (1 - t) u.
    """
    m, var = 0.0, 1.0
    for k in range(n):
        t = k / n
        sigma = 1 - (1 - s) * t
        share = t / (t**2 + sigma**2)
        a = (s - 1) / sigma * (1 - t * share) + share
        ahead = 1 + (1 - t) * a
        slope = a - c / R * ahead
        m, var = m + (slope * m + c / R * Y) / n, (1 + slope / n) ** 2 * var
    return m, var


def analysis(method, x, y=Y, R=0.25, operator=None, seed=0):
    model = ObservationModel(operator or Select([0]), std=R**0.5)
    y = torch.as_tensor(y, dtype=x.dtype).reshape(-1)
    return method.update(x, y, model, rng.seeded(seed))


@pytest.mark.parametrize(("R", "c", "n"), [(1.0, 1.0, 10), (0.25, 0.402, 30), (0.05, 0.05, 7)])
def test_local_guidance_of_narrow_kernels_is_the_shrinkage_of_its_closed_form(R, c, n):
    """Each member by itself; kernels of 1e-6 leave their own draws, and nothing else."""
    x = rng.normal(40, (1,), rng.seeded(1))
    method = EnFF(strength=c, kernel=1e-6, flow_steps=n, scale="none")
    expected = Y + (x - Y) * (1 - c / (n * R)) ** n
    assert_close(analysis(method, x, R=R), expected, rtol=0, atol=1e-5)


def test_mean_and_variance_are_right_for_different_strengths_and_never_both():
    R = 0.25
    mean, var = kalman(R)
    c = R * torch.tensor(1 + 1 / R).log().item()
    n = 100_000  # The limit of many steps.
    assert f2p(R, c, n)[0] == pytest.approx(mean, rel=1e-4)
    assert f2p(R, c, n)[1] / var == pytest.approx(R / (1 + R), rel=1e-3)
    assert f2p(R, c / 2, n)[1] == pytest.approx(var, rel=1e-3)
    assert f2p(R, c / 2, n)[0] == pytest.approx(Y * (1 - (R / (1 + R)) ** 0.5), rel=1e-3)


def test_distances_from_the_kalman_update_are_those_of_the_docstring():
    """To the digits that it gives."""
    number = r"([-+.\d]+)"
    rows = re.findall(
        rf"{number}, {number}, (\d+) +{number} / {number} +{number} / {number}", EnFF.__doc__
    )
    assert len(rows) == 4
    for R, c, n, *said in rows:
        mean, var = kalman(float(R))
        for moments, bias, ratio in ((ot, *said[:2]), (f2p, *said[2:])):
            m, v = moments(float(R), float(c), int(n))
            assert (m - mean) / var**0.5 == pytest.approx(float(bias), abs=0.0051)
            assert v / var == pytest.approx(float(ratio), abs=0.0051)


@pytest.mark.slow
@pytest.mark.parametrize("c", [0.25, 1.0])
@pytest.mark.parametrize(("path", "kernel"), [("f2p", 1e-3), ("ot", 0.2)])
def test_flows_of_many_members_have_the_moments_of_the_recursion(path, kernel, c):
    """The law of 2000 members, seen by the softmax of all of them; errors of their own moments."""
    members, n = 2000, 50
    x = rng.normal(members, (1,), rng.seeded(1))
    x = (x - x.mean()) / x.std()
    found = analysis(EnFF(path, strength=c, kernel=kernel, flow_steps=n, scale="none"), x)
    m, v = f2p(0.25, c, n) if path == "f2p" else ot(0.25, c, n, kernel)
    exact = kalman(0.25)[1]
    assert abs(float(found.mean()) - m) < 4 * (exact / members) ** 0.5
    # The start of "ot" is noise, with a sampling error of its variance.
    assert abs(float(found.var()) - v) < 4 * v * (2 / members) ** 0.5 + 1e-6


@pytest.mark.slow
def test_importance_weights_give_those_of_the_particle_filter_with_kernels():
    """Mean of the weighted members, and their variance plus that of a kernel."""
    x, R, s = rng.normal(400, (1,), rng.seeded(0)), 0.25, 0.05
    w = (-(x - Y).square() / (2 * R)).softmax(0)
    mean = (w * x).sum()
    var = (w * (x - mean).square()).sum() + s**2
    found = analysis(EnFF("ot", "importance", kernel=s, flow_steps=400, scale="none"), x, R=R)
    # 4 standard errors of 400 draws.
    assert abs(float(found.mean() - mean)) < 4 * float(var / 400) ** 0.5
    assert abs(float(found.var() / var) - 1) < 4 * (2 / 400) ** 0.5


@pytest.mark.slow
def test_exact_guidance_of_a_gaussian_is_the_kalman_update():
    """Correlated, one component observed; the members' own moments."""
    x = rng.normal(2000, (2,), rng.seeded(1)) @ torch.tensor([[1.0, 0.7], [0.0, 0.5]])
    found = analysis(EnFF("ot", "exact", flow_steps=20, prior=Gaussian()), x)
    P, m, H = x.T.cov(), x.mean(0), torch.tensor([[1.0, 0.0]])
    K = P @ H.T / (P[0, 0] + 0.25)
    cov = P - K @ H @ P
    mean = m + K[:, 0] * (Y - m[0])
    # 4 standard errors, and the error of the steps, which falls with their square.
    assert ((found.mean(0) - mean).abs() < 4 * (cov.diagonal() / 2000).sqrt() + 2e-3).all()
    assert_close(found.T.cov(), cov, rtol=0.1, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("R", [0.25, 0.05])
def test_exact_guidance_converges_with_the_square_of_the_steps(R):
    """From the same noise; eight times as many steps stand for the limit."""
    x = rng.normal(200, (1,), rng.seeded(1))

    def moments(n):
        found = analysis(EnFF("ot", "exact", flow_steps=n, prior=Gaussian()), x, R=R)
        return torch.stack((found.mean(), found.std()))

    limit = moments(160)
    errors = [float((moments(n) - limit).abs().max()) for n in (5, 10, 20)]
    rates = [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]
    assert rates[-1] > 1.7, errors


def test_exact_guidance_moves_what_is_not_observed_and_local_guidance_does_not():
    x = rng.normal(60, (1,), rng.seeded(0)) + 0.1 * rng.normal(60, (2,), rng.seeded(1))
    local = EnFF(kernel=1e-6, scale="none")
    a, b = (analysis(local, x, y) for y in (1.0, 3.0))
    assert (a[:, 0] != b[:, 0]).all() and torch.equal(a[:, 1], b[:, 1])
    a, b = (analysis(EnFF("ot", "exact"), x, y) for y in (0.0, 2.0))
    assert ((b - a)[:, 1] > 0.5).all()


def test_a_nonlinear_operator_bends_the_velocity_at_the_state_ahead():
    """Euler steps written out one member at a time, with the mixture's density differentiated."""
    x, s, n, c = rng.normal(5, (2,), rng.seeded(1)), 0.3, 6, 0.2
    y, std = torch.tensor([0.2, -0.4]), 0.5
    method = EnFF("ot", strength=c, kernel=s, flow_steps=n, scale="none")
    z = rng.normal_rows(rng.key(rng.seeded(3)), 0, 5, (2,), x)
    for k in range(n):
        t = k / n
        sigma, moved = 1 - (1 - s) * t, []
        for z_i in z:
            w = (-(z_i - t * x).square().sum(1) / (2 * sigma**2)).softmax(0)
            u = (w[:, None] * ((s - 1) / sigma * (z_i - t * x) + x)).sum(0)
            ahead = z_i + (1 - t) * u
            slope = 1 / (1 + ahead**2)
            moved.append(z_i + (u + c * slope * (y - ahead.atan()) / std**2) / n)
        z = torch.stack(moved)
    model = ObservationModel(Pointwise(torch.atan), std=std)
    assert_close(method.update(x, y, model, rng.seeded(3)), z, rtol=1e-9, atol=1e-11)


def test_the_flow_of_a_later_cycle_starts_from_the_analysis_before():
    """With wide kernels and no guidance: the velocity written out, forecasts less analyses."""
    settings = EnFF(strength=0.0, kernel=0.5, flow_steps=1, scale="none")
    model, y = ObservationModel(Select([0]), std=1.0), torch.tensor([0.0])
    run = settings.begin(None)
    x = rng.normal(6, (2,), rng.seeded(0))
    last, info = run.analyse(x, y, model, rng.seeded(1))
    assert_close(last, x + 0.5 * rng.normal_rows(rng.key(rng.seeded(1)), 0, 6, (2,), x))
    forecast = 0.5 * x + 1
    start = last + 0.5 * rng.normal_rows(rng.key(rng.seeded(2)), 0, 6, (2,), x)
    w = (-torch.cdist(start, last).square() / (2 * 0.25)).softmax(1)
    expected = start + w @ (forecast - last)
    assert_close(run.analyse(forecast, y, model, rng.seeded(2))[0], expected)
    again = settings.begin(None)
    again.restore(info["carried"])
    assert_close(again.analyse(forecast, y, model, rng.seeded(2))[0], expected)


@pytest.mark.parametrize(
    "method", [EnFF(), EnFF("ot", "exact", flow_steps=2)], ids=["local", "exact"]
)
def test_a_run_that_goes_on_from_any_step_has_the_same_bits(method):
    system = Lorenz63(dt=0.01, noise_std=0.1)
    _, problem = twin_experiment(system, ObservationModel(Select([0, 2]), std=1.0), 6, 2, 0)
    cycles = list(method.run(problem, 6, rng.seeded(1)))
    for k in (2, 3):
        rest = list(method.run(problem, 6, rng.seeded(1), start=cycles[k]))
        assert torch.equal(rest[-1].ensemble, cycles[-1].ensemble)


@pytest.mark.slow
def test_exact_guidance_tracks_a_linear_gaussian_system_as_kalman_does():
    angle = torch.tensor(0.5)
    A = 0.9 * torch.stack(
        (torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos())))
    )
    system = LinearGaussian(A, 0.2 * torch.eye(2), torch.zeros(2), torch.eye(2))
    model = ObservationModel(Linear(torch.tensor([[1.0, 0.5]])), std=0.5)
    _, problem = twin_experiment(system, model, 10, 1, 0)
    exact = KalmanFilter().moments(problem)
    method: Filter = EnFF("ot", "exact", flow_steps=20, prior=Gaussian())
    states = method.assimilate(problem, 2000, rng.seeded(1)).states
    std = exact.covs.diagonal(dim1=1, dim2=2).sqrt()
    # Noise of the start and of the model, 0.022 standard deviations each, of which half passes on
    # to the next cycle: 0.045 for the mean, and the largest of 22 numbers.
    assert ((states.mean(0) - exact.means).abs() / std).max() < 4 * 0.045
    assert (states.std(0) / std - 1).abs().max() < 4 * 0.045


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "line"}, "path = 'line'"),
        ({"guidance": "global"}, "guidance = 'global'"),
        ({"scale": "std"}, "scale = 'std'"),
        ({"flow_steps": 0}, "flow_steps = 0"),
        ({"strength": -1.0}, "strength = -1.0"),
        ({"kernel": 0.0}, "kernel = 0.0"),
        ({"guidance": "exact"}, "path = 'f2p'"),
    ],
)
def test_a_setting_out_of_range_is_refused(unchecked, options, words):
    with pytest.raises(ValueError, match=words):
        EnFF(**options)
