import math

import numpy as np
import pytest
import torch
from scipy import stats

from scorda.core import rng
from scorda.systems.base import rk4
from scorda.systems.lorenz import Lorenz63, Lorenz96


def test_rk4_is_of_fourth_order():
    """Fitted slope of the error at fixed time over step lengths 1/8 ... 1/128, within 0.2 of 4."""

    def pendulum(x):
        return torch.stack((x[..., 1], -x[..., 0].sin()), -1)

    def at_time_two(steps):
        x = torch.tensor([1.0, 0.5])
        for _ in range(steps):
            x = rk4(pendulum, x, 2 / steps)
        return x

    exact = at_time_two(4096)
    steps = np.array([16, 32, 64, 128, 256])
    error = [float((at_time_two(n) - exact).norm()) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(error), 1)[0]
    assert abs(slope - 4) < 0.2


def test_lorenz63_contracts_volumes_at_a_constant_rate():
    system = Lorenz63()
    x = torch.tensor([1.0, -2.0, 23.0])
    jacobian = torch.func.jacrev(system.tendency)(x)
    rate = -(system.sigma + 1 + system.beta)
    assert math.isclose(float(jacobian.trace()), rate, rel_tol=1e-12)


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_lorenz63_fixed_points(sign):
    system = Lorenz63(dt=0.01, noise_std=0)
    root = sign * math.sqrt(system.beta * (system.rho - 1))
    x = torch.tensor([root, root, system.rho - 1 if sign else 0.0])
    assert torch.allclose(system.tendency(x), torch.zeros(3), atol=1e-12)
    assert torch.allclose(system.step(x), x, atol=1e-12)


@pytest.mark.slow
def test_lorenz63_attractor_moments():
    """Climatology of the deterministic system: mean z 23.55, std 7.92, 9.01, 8.62 (long runs).

    2000 independent states: 4 standard errors of a mean are 0.8, of a std about 0.6.
    """
    x = Lorenz63(dt=0.02, noise_std=0).prior(2000, rng.seeded(0))
    assert abs(float(x[:, 2].mean()) - 23.55) < 0.8
    assert ((x.std(0) - torch.tensor([7.92, 9.01, 8.62])).abs() < 0.6).all()


def test_lorenz96_fixed_point():
    system = Lorenz96(dim=7, forcing=8.0)
    x = torch.full((7,), 8.0)
    assert torch.equal(system.tendency(x), torch.zeros(7))


def test_lorenz96_follows_its_equation():
    x = rng.normal(1, (9,), rng.seeded(0))[0]
    slow = [(x[(i + 1) % 9] - x[i - 2]) * x[i - 1] - x[i] + 8.0 for i in range(9)]
    assert torch.allclose(Lorenz96(dim=9).tendency(x), torch.stack(slow), atol=1e-13)


def test_lorenz96_advection_conserves_energy():
    """Sum of x dx/dt without damping and forcing is zero: -|x|^2 + F sum(x) remains."""
    x = 5 * rng.normal(6, (40,), rng.seeded(0))
    change = (x * Lorenz96().tendency(x)).sum(-1)
    assert torch.allclose(change, (8 * x - x.square()).sum(-1), atol=1e-10)


def test_lorenz96_batches_as_single_members():
    """Guards against a roll that leaks from one member into the next."""
    system = Lorenz96(dim=8)
    x = 8 + rng.normal(5, (3, 8), rng.seeded(0))
    batched = system.trajectory(x, 20)
    for i in range(5):
        for j in range(3):
            alone = system.trajectory(x[i, j], 20)
            # Vectorised and scalar sums differ in the last bits, which 20 chaotic steps amplify.
            assert torch.allclose(batched[i, j], alone, atol=1e-12)


@pytest.mark.parametrize("system", [Lorenz63(noise_std=0.3), Lorenz96(dim=6, noise_std=0.3)])
def test_log_transition_is_the_normal_density(system):
    x = 3 + rng.normal(4, system.space.shape, rng.seeded(0))
    x_next = system.step(x, rng.seeded(1))
    got = system.log_transition(x, x_next)
    mean = system.advance(x)
    cov = 0.09 * np.eye(system.space.size)
    for i in range(4):
        exact = stats.multivariate_normal(mean[i].numpy(), cov).logpdf(x_next[i].numpy())
        assert math.isclose(float(got[i]), exact, rel_tol=1e-10)


def test_model_error_has_its_std_and_no_mean():
    """100 000 numbers: 4 standard errors are 4 s / sqrt(n) and 4 s / sqrt(2 n)."""
    system = Lorenz96(noise_std=0.7)
    x = 8 + torch.zeros(2500, 40)
    error = (system.step(x, rng.seeded(0)) - system.advance(x)).flatten()
    assert abs(float(error.mean())) < 4 * 0.7 / math.sqrt(len(error))
    assert abs(float(error.std()) - 0.7) < 4 * 0.7 / math.sqrt(2 * len(error))


@pytest.mark.parametrize("system", [Lorenz63(spinup=0.5), Lorenz96(noise_std=0.1, spinup=0.5)])
def test_members_do_not_depend_on_the_ensemble_size(system):
    """To rounding only: vectorised arithmetic may group the last bits differently."""
    few, many = (system.prior(n, rng.seeded(7)) for n in (10, 100))
    assert torch.allclose(few, many[:10], atol=1e-10)
    few, many = (system.trajectory(x, 5, rng.seeded(8)) for x in (few, many))
    assert torch.allclose(few, many[:10], atol=1e-9)


def test_deterministic_systems_have_no_transition_density():
    x = torch.zeros(3)
    with pytest.raises(TypeError, match="Lorenz63 has no transition density"):
        Lorenz63(noise_std=0).log_transition(x, x)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="time step"):
        Lorenz63(dt=0)
    for std in (-1, math.inf):
        with pytest.raises(ValueError, match="standard deviation"):
            Lorenz96(noise_std=std)
    with pytest.raises(ValueError, match="time step"):
        Lorenz96(dt=math.inf)
    with pytest.raises(ValueError, match="at least 4"):
        Lorenz96(dim=3)
    with pytest.raises(ValueError, match="not finite"):
        Lorenz63().trajectory(torch.tensor([0.0, float("nan"), 0.0]), 1)
