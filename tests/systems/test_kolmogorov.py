"""The solver against exact solutions and its own budgets; then against independent data."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.load import load_system
from scorda.testing.physics import check_system

DATA = os.environ.get("SCORDA_KOLMOGOROV", "")
# Wave numbers below 16 on both grids: nothing is dropped between steps.
SMALL = KolmogorovFlow(size=32, resolution=48, viscosity=5e-3, dt=0.05, spinup=4.0)


def grid(system):
    """Positions x and y of the points of a state."""
    points = torch.from_numpy(system.space.coordinates["x"])
    return points[None, :], points[:, None]


def vortices(system, time, mean=(0.0, 0.0), m=2):
    """Taylor-Green vortices that a mean flow carries; drag slows both (exact, by hand)."""
    x, y = grid(system)
    slowed = math.exp(-system.drag * time)
    way = (1 - slowed) / system.drag if system.drag else time
    x, y = x - mean[0] * way, y - mean[1] * way
    decay = slowed * math.exp(-2 * m * m * system.viscosity * time)
    u = mean[0] * slowed + decay * (m * x).sin() * (m * y).cos()
    v = mean[1] * slowed - decay * (m * x).cos() * (m * y).sin()
    return torch.stack(torch.broadcast_tensors(u, v))


def derivatives(x):
    """d/dx and d/dy of fields ``(..., y, x)``, exact for what is below half the points."""
    n = x.shape[-1]
    k = torch.fft.fftfreq(n, 1 / n) * 1j
    h = torch.fft.fft2(x)
    return torch.fft.ifft2(k * h).real, torch.fft.ifft2(k[:, None] * h).real


def vorticity(x):
    return derivatives(x[..., 1, :, :])[0] - derivatives(x[..., 0, :, :])[1]


def developed(members=2, system=SMALL, seed=0):
    return system.prior(members, rng.seeded(seed))


def test_taylor_green_vortices_decay():
    """Viscosity and drag are in the integrating factor: only rounding is left."""
    system = KolmogorovFlow(size=16, resolution=16, viscosity=0.02, forcing=0)
    path = system.trajectory(vortices(system, 0), 10)
    assert_close(path[-1], vortices(system, 2.0), atol=1e-13, rtol=0)


@pytest.mark.parametrize("speed", [3.0, 0.3])
def test_taylor_green_vortices_drift_with_a_mean_flow(speed):
    """The error of RK4; members faster than `speed` take more substeps and keep to it."""
    system = KolmogorovFlow(size=24, resolution=32, viscosity=0.01, forcing=0, speed=speed)
    mean = (0.7, -1.1)
    path = system.trajectory(vortices(system, 0, mean), 5)
    assert_close(path[-1], vortices(system, 1.0, mean), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_order_of_convergence_is_four():
    """Fitted slope of the error of one step over 8 to 32 substeps, within 0.2 of 4."""
    flow = replace(SMALL, drag=0.3).flow
    spectrum = flow.spectrum(developed(1))

    def after(substeps):
        made = replace(flow, speed=(substeps - 0.5) * 2.6 / (0.4 * flow.largest))
        assert made.substeps(0.4) == substeps
        return made.integrate(spectrum, 0.4)

    exact, steps = after(256), [16, 24, 32, 48, 64]
    error = [float((after(n) - exact).abs().max()) for n in steps]
    assert abs(-np.polyfit(np.log(steps), np.log(error), 1)[0] - 4) < 0.2


def test_states_are_free_of_divergence():
    x = SMALL.step(rng.normal(2, SMALL.space.shape, rng.seeded(0)))
    divergence = derivatives(x[:, 0])[0] + derivatives(x[:, 1])[1]
    assert float(divergence.abs().max()) < 1e-12 * float(vorticity(x).abs().max())


def test_a_gradient_is_no_flow():
    """What is added to a state as the gradient of a potential is projected out."""
    x = developed()
    a, b = grid(SMALL)
    potential = torch.stack(((a + 2 * b).cos(), 2 * (a + 2 * b).cos()))
    assert_close(SMALL.step(x + potential), SMALL.step(x), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("drag", [0.1, 0.7])
def test_budgets_of_energy_and_enstrophy_are_closed(drag):
    """Change = work of the force - dissipation - drag, integrated by the trapezoidal rule.

    The claim is 1 %; the rule leaves less than 0.1 % at steps of 0.05.
    """
    system = replace(SMALL, drag=drag)
    path = system.trajectory(developed(), 40)
    _, y = grid(system)
    w = vorticity(path)
    gradient = torch.stack(derivatives(w)).square().sum(0)
    mean = lambda field: field.mean((-2, -1))  # noqa: E731
    energy, enstrophy = mean(path.square().sum(-3)) / 2, mean(w.square()) / 2
    work = mean(path[..., 0, :, :] * (4 * y).sin())
    stretch = mean(w * -4 * (4 * y).cos())
    for amount, source, loss in (
        (energy, work, 2 * system.viscosity * enstrophy),
        (enstrophy, stretch, system.viscosity * mean(gradient)),
    ):
        rate = source - loss - 2 * drag * amount
        change = torch.trapezoid(rate, dx=system.dt)
        turnover = torch.trapezoid(source.abs() + loss + 2 * drag * amount, dx=system.dt)
        assert ((amount[:, -1] - amount[:, 0] - change).abs() < 1e-3 * turnover).all()


def test_translations_commute_with_the_flow():
    """Along x by any length; along y by a period of the force."""
    x = developed()
    n = x.shape[-1]

    def along_x(x):
        k = torch.fft.rfftfreq(n, 1 / n)
        return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-0.123j * k), n=n)

    for moved in (along_x, lambda x: x.roll(n // 4, -2)):
        assert_close(SMALL.step(moved(x)), moved(SMALL.step(x)), atol=1e-12, rtol=0)
    wrong = SMALL.step(x.roll(n // 8, -2)) - SMALL.step(x).roll(n // 8, -2)
    assert float(wrong.abs().max()) > 1e-2


def test_gradient_matches_finite_differences():
    """Of a slow and a fast member; central differences of 1e-5 leave about 1e-9."""
    system = KolmogorovFlow(size=12, resolution=16, speed=3.0)
    x, d, weight = rng.normal(3, (2, *system.space.shape), rng.seeded(0))
    x = torch.tensor([0.5, 2.0])[:, None, None, None] * x
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((weight * system.trajectory(x, 2)[:, -1]).sum(), x)

    def value(step):
        return (weight * system.trajectory(x.detach() + step * d, 2)[:, -1]).sum()

    assert_close((gradient * d).sum(), (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-7, atol=0)


def test_fast_and_slow_members_do_not_share_substeps():
    system = KolmogorovFlow(size=16, resolution=24, speed=3.0)
    x = torch.tensor([0.2, 1.0, 6.0, 1.0])[:, None, None, None] * developed(4, system)
    together = system.step(x)
    for i in range(4):
        assert_close(together[i], system.step(x[i]), atol=1e-13, rtol=0)


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_contract(noise_std):
    check_system(KolmogorovFlow(size=12, resolution=16, spinup=0.4, noise_std=noise_std))


def test_precisions_agree():
    """Single precision: rounding of 1e-7 over some ten substeps."""
    x = developed()
    single = SMALL.step(x.float())
    assert single.dtype == torch.float32
    assert_close(single.double(), SMALL.step(x), atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_devices_agree():
    x = developed(6) + 0.3
    assert_close(SMALL.step(x.cuda()).cpu(), SMALL.step(x), atol=1e-11, rtol=0)


def test_names():
    assert repr(load_system("kolmogorov", size=32)) == repr(KolmogorovFlow(size=32))
    assert repr(load_system("kolmogorov-sda")) == repr(KolmogorovFlow.sda())
    assert KolmogorovFlow.sda(32, dt=0.1).viscosity == 1.5e-3


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at most the resolution"):
        KolmogorovFlow(size=64, resolution=32)
    with pytest.raises(ValueError, match="keeps 1 to 2; raise `resolution`"):
        KolmogorovFlow(size=8, resolution=8)
    with pytest.raises(ValueError, match="viscosity"):
        KolmogorovFlow(viscosity=-1)
    with pytest.raises(ValueError, match="time step"):
        KolmogorovFlow(dt=0)
    with pytest.raises(ValueError, match="speed"):
        KolmogorovFlow(speed=0)


@pytest.mark.slow
def test_a_long_run_stays_finite():
    """200 time units at a viscosity that 48 points do not resolve; energy stays where it was."""
    system = replace(SMALL, viscosity=1e-3, dt=0.5)
    x = developed(2, system)
    energy = []
    for _ in range(400):
        x = system.step(x)
        energy.append(x.square().sum(1).mean((-2, -1)) / 2)
    energy = torch.stack(energy)
    assert torch.isfinite(x).all()
    assert 0.3 < float(energy.min()) and float(energy.max()) < 3


@pytest.mark.slow
def test_error_of_the_default_substep():
    """The documented 5e-5 per step of 0.2, against a quarter of the substep."""
    system = KolmogorovFlow.sda(spinup=5.0)
    x = system.prior(8, rng.seeded(0))
    error = system.step(x) - replace(system, speed=4 * system.speed).step(x)
    assert float(error.square().mean().sqrt() / x.square().mean().sqrt()) < 5e-5


BANDS = ((1, 3), (4, 7), (8, 12), (13, 20))


def band_energies(x):
    """Mean kinetic energy in rings of rounded wave number, shape ``(..., band)``."""
    n = x.shape[-1]
    k = torch.fft.fftfreq(n, 1 / n)
    ring = torch.hypot(k[:, None], k).round()
    energy = torch.fft.fft2(x, norm="forward").abs().square().sum(-3) / 2
    return torch.stack(
        [(energy * ((ring >= a) & (ring <= b))).sum((-2, -1)) for a, b in BANDS], -1
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(DATA).is_file(), reason="no finite-volume data: set SCORDA_KOLMOGOROV"
)
def test_the_preset_has_the_spectrum_of_the_finite_volume_data():
    """10 % and two standard errors of 20 trajectories; mean speed within 5 %."""
    with np.load(DATA) as file:
        # Axes (trajectory, time, variable, x, y): the force varies along the last one.
        data = torch.from_numpy(file["x"]).mT
    torch.set_default_dtype(torch.float32)
    system = KolmogorovFlow.sda()
    start, error = rng.spawn(rng.seeded(0), 2)
    with torch.no_grad():
        path = system.trajectory(system.prior(20, start), data.shape[1] - 1, error)
    found, expected = band_energies(path).mean(1), band_energies(data).mean((0, 1))
    allowed = 0.1 * expected + 2 * found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < allowed).all(), found.mean(0) / expected
    speed, expected = (x.square().sum(2).sqrt().mean() for x in (path, data))
    assert abs(float(speed / expected) - 1) < 0.05
