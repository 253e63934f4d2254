"""The measurement-aware process against its differential equations, and its refusals."""

import math

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.bridge import BridgeSDE
from scorda.diffusion.measurement_aware import MeasurementAware
from scorda.priors.gaussian import FittedGaussian, Gaussian
from scorda.testing.diffusion import check_process

F64 = torch.float64
GAIN = torch.tensor([[0.0, 1.0, 0.3], [0.0, 1.0, 1.0]], dtype=F64)
STD = torch.tensor([[0.5, 1.0, 0.1], [2.0, 1e-4, 30.0]], dtype=F64)
SPECTRAL = torch.tensor([[0.0, 4.0, 0.0], [1e8, 1e-6, 1.0]], dtype=F64)


def spectral(precision, prior_var):
    """The process whose gains are 1 where a mode is observed and 0 elsewhere, with its clock."""
    seen = precision > 0
    lam = precision.where(seen, 1.0)
    std = torch.where(seen, lam.rsqrt(), prior_var.sqrt())
    speed = torch.where(seen, 1 + 1 / (lam * prior_var), 1.0)
    return MeasurementAware(seen.to(precision), std, speed)


PROCESSES = {
    "published": MeasurementAware(GAIN, STD, offset=0.008),
    "spectral": spectral(SPECTRAL, torch.full((2, 3), 0.7, dtype=F64)),
    "fast": MeasurementAware(GAIN, STD, speed=5.0),
}
# Where a gain is 0 the drift is infinite at t = 1.
TIMES = torch.tensor([0.02, 0.5, 0.97], dtype=F64)


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def process(request):
    return request.param


def test_contract(process):
    check_process(process)


def derivative(function, t):
    return torch.autograd.functional.jacobian(lambda t: function(t[None])[0], t)


def test_drift_and_diffusion_are_derivatives_of_the_moments(process):
    """F = A'/A and GG^T = S' - 2 F S, by automatic differentiation."""
    for t in TIMES:
        F = derivative(process.scale, t) / process.scale(t)[0]
        square = derivative(process.var, t) - 2 * F * process.var(t)[0]
        assert_close(process.drift(t)[0], F)
        assert_close(process.diffusion(t)[0], square, rtol=1e-9, atol=0)
        assert (square >= 0).all()


def test_integrated_moments_are_scale_and_variance(process):
    """RK4 on m' = F m and S' = 2 F S + GG^T: 150 steps leave less than 1e-4."""
    start, end, steps = torch.tensor(0.05), torch.tensor(0.97), 150
    h = (end - start) / steps
    moments = torch.stack([process.scale(start)[0], process.var(start)[0]])

    def slope(t, moments):
        F, square = process.drift(t)[0], process.diffusion(t)[0]
        return torch.stack([F * moments[0], 2 * F * moments[1] + square])

    for i in range(steps):
        t = start + i * h
        k1 = slope(t, moments)
        k2 = slope(t + h / 2, moments + h / 2 * k1)
        k3 = slope(t + h / 2, moments + h / 2 * k2)
        k4 = slope(t + h, moments + h * k3)
        moments = moments + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert_close(moments[0], process.scale(end)[0], rtol=1e-4, atol=0)
    assert_close(moments[1], process.var(end)[0], rtol=1e-4, atol=0)


def test_the_end_is_the_measurement():
    """Observed modes end as z' itself, the others as noise; so says the precision at r = 0."""
    process = PROCESSES["spectral"]
    end = torch.tensor(1.0)
    seen = SPECTRAL > 0
    assert_close(process.scale(end)[0], seen.double(), atol=1e-15, rtol=0)
    assert_close(process.var(end)[0][seen], 1 / SPECTRAL[seen])
    assert torch.equal(process.precision(torch.tensor(0.0)) > 0, seen)
    assert_close(process.precision(torch.tensor(0.0)), SPECTRAL)
    r = torch.tensor(3.7)
    expected = SPECTRAL + (SPECTRAL + 1 / 0.7) * r
    assert_close(process.precision(r), expected)
    t = process.time(r)
    assert_close((process.scale(t) ** 2 / process.var(t))[0], expected)


def test_published_variances():
    """At q = 1 the variance is s^2 (1 - a^2), and the amplitudes are those of the code."""
    process = PROCESSES["published"]
    a = process.amplitude(torch.tensor([0.992, 0.992**2, 0.5]))
    assert a.tolist() == pytest.approx([0.01247, 0.02483, 0.7027], abs=5e-5)
    assert_close(process.var(TIMES[1])[0], STD**2 * (1 - process.amplitude(TIMES[1]) ** 2))


def test_time_inverts_the_signal_to_noise_ratio(process):
    r = torch.tensor([1e-8, 0.3, 1.0, 50.0, 1e6])
    assert_close(process.snr(process.time(r)), r, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("eigenvalue", "where"), [(1.05, "0.0476"), (2.0, "0.5"), (20.0, "0.95")])
def test_gains_above_one_are_refused(eigenvalue, where):
    """GG^T < 0 exactly where a < 1 - 1/c: refused with the eigenvalue and the remedy."""
    with pytest.raises(ValueError, match=rf"eigenvalue {eigenvalue:g} .* < {where}.*MASF"):
        MeasurementAware(torch.tensor([0.5, eigenvalue]), torch.ones(2))
    process = MeasurementAware(torch.tensor([0.5]), torch.ones(1))
    object.__setattr__(process, "gain", torch.tensor([eigenvalue]))
    edge = torch.tensor(2 / math.pi * math.acos(1 - 1 / eigenvalue))
    assert process.diffusion(edge - 1e-3) > 0 > process.diffusion(edge + 1e-3)


def test_negative_gains_are_refused():
    with pytest.raises(ValueError, match=r"eigenvalue -0.25 of H: .* vanish at .* 0.2"):
        MeasurementAware(torch.tensor([-0.25, 1.0]), torch.ones(2))


def test_the_bridge_walks_the_spectral_form():
    """Its noise levels are those of the process at each signal-to-noise ratio, 0 included."""
    fitted = Gaussian().fit(rng.normal(9, (2, 3), rng.seeded(0), like=SPECTRAL))
    process, levels = spectral(SPECTRAL, fitted.var), []

    class Listening(FittedGaussian):
        def denoise(self, u, noise):
            levels.append(noise[0])
            return super().denoise(u, noise)

    listening = Listening(fitted.mean, fitted.basis, fitted.spectrum, fitted.var)
    sampler = BridgeSDE(noise_levels=4, order=1)
    sampler.sample(listening, SPECTRAL, SPECTRAL, rng.normal(5, (2, 3), rng.seeded(1), SPECTRAL))
    ratios = [0.0, *torch.logspace(math.log10(5e-2), 3, 3, dtype=F64).tolist()]
    assert len(levels) == len(ratios)
    for noise, r in zip(levels, ratios, strict=True):
        assert_close(noise**-2, process.precision(torch.tensor(r, dtype=F64)))
