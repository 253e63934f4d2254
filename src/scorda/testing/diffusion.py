"""Contracts of the parts of a diffusion: processes, denoisers, guidance, samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.diffusion.denoisers import Denoiser, GaussianDenoiser
from scorda.diffusion.guidance import Guidance
from scorda.diffusion.process import ForwardProcess
from scorda.diffusion.samplers import Sampler, ScalarProcess
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function, Select
from scorda.testing.promise import alike, draw, keeps, leaves_untouched, promise

__all__ = ["check_denoiser", "check_guidance", "check_process", "check_sampler"]

SHAPE = (2, 3)
PRECISIONS = (torch.float32, torch.float64)
# Noise levels, in units of the data: nearly none, about one, and nothing left of the data.
LEVELS = (0.05, 0.7, 4.0, 1e3)


def check_process(process: ForwardProcess, members: int = 4000) -> None:
    r"""Check a forward process.

    Promises: data at t = 0, positive variance after; transitions compose (Chapman-Kolmogorov),
    lead to `mean` and `var`, and the one from s to t < s inverts the one from t to s; `sample`
    follows `mean` and `var` within 5 standard errors, with the same result for the same seed;
    `score` is :math:`(m_t - x_t) / C_t`; precision kept, inputs untouched. A scalar process
    inverts its noise level by `time`.

    Arguments:
        process: The process.
        members: Number of samples for the moments.

    Raises:
        AssertionError: If a promise is broken.
    """
    times = torch.linspace(0, 1, 9, dtype=torch.float64) * process.end
    x0 = draw(members, SHAPE, torch.float64, "cpu")
    promise(alike(process.mean(x0, times[0]), x0), process, "does not start at the data at t = 0")
    promise((process.var(times[1:]) > 0).all(), process, "has no noise at a time t > 0")
    for i, j, k in ((0, 2, 5), (1, 4, 8), (3, 6, 7)):
        _check_transitions(process, x0, times[[0, i, j, k]])
    for t in times[1::3]:
        _check_samples(process, x0, t)
    leaves_untouched(process, "sample", lambda x: process.sample(x, times[4], rng.seeded(1)), x0)
    for dtype in PRECISIONS:
        x = x0[:3].to(dtype)
        for t in (times[4].to(dtype), times[3:6].to(dtype)):
            keeps(process, "sample", x, process.sample(x, t, rng.seeded(1)))
    if isinstance(process, ScalarProcess):
        inverse = process.time(process.noise_level(times[1:]))
        promise(alike(inverse, times[1:], 1e8), process, "has a `time` that does not invert")


def _check_transitions(process: ForwardProcess, x0: Tensor, times: Tensor) -> None:
    """Check transitions between a first time, 0, and three later ones in their order."""
    zero, s, r, t = times
    first, second, whole = (process.transition(*ends) for ends in ((s, r), (r, t), (s, t)))
    promise(
        alike(second.scale * first.scale, whole.scale)
        and alike(second.scale**2 * first.var + second.var, whole.var),
        process,
        "has transitions that do not compose (Chapman-Kolmogorov)",
    )
    back = process.transition(r, s)
    promise(
        alike(back.scale * first.scale, torch.ones_like(back.scale))
        and alike(back.scale**2 * first.var + back.var, torch.zeros_like(back.var)),
        process,
        "has a transition backwards that does not invert the one forwards",
    )
    lead = process.transition(zero, t)
    promise(
        alike(lead.scale**2 * process.var(zero) + lead.var, process.var(t))
        and alike(lead.scale * process.mean(x0, zero), process.mean(x0, t)),
        process,
        "has a transition from t = 0 that does not lead to its own mean and variance",
    )


def _check_samples(process: ForwardProcess, x0: Tensor, t: Tensor) -> None:
    x_t = process.sample(x0, t, rng.seeded(1))
    promise(
        torch.equal(x_t, process.sample(x0, t, rng.seeded(1))),
        process,
        "samples differently for the same seed",
    )
    error = (x_t - process.mean(x0, t)) / process.var(t).sqrt()
    size = error.numel()
    promise(
        abs(float(error.mean())) < 5 / size**0.5
        and abs(float(error.square().mean()) - 1) < 5 * (2 / size) ** 0.5,
        process,
        "does not sample with its own mean and variance",
    )
    promise(
        alike(process.score(x_t, t, x0) * process.var(t), process.mean(x0, t) - x_t),
        process,
        "has a score that is not (mean - x_t) / var",
    )


def check_denoiser(
    denoiser: Denoiser, shape: tuple[int, ...], members: int = 4, device: str = "cpu"
) -> None:
    """Check a denoiser.

    Promises: the shape, precision and device of the noisy samples kept, finite at every noise
    level, inputs untouched, twice the same; members independent; one level per member as good as
    one for all; finite gradients with respect to the samples.

    Arguments:
        denoiser: The denoiser.
        shape: Shape of one sample.
        members: Number of samples, at least 2.
        device: Where the samples live.

    Raises:
        AssertionError: If a promise is broken.
    """
    denoise = denoiser.denoise
    for dtype in PRECISIONS:
        for level in LEVELS:
            x_0 = draw(members, shape, dtype, device)
            noise = torch.tensor(level, dtype=dtype, device=device).reshape(1, *(1,) * len(shape))
            u = x_0 + noise * draw(members, shape, dtype, device, seed=1)
            mean = denoise(u, noise)
            keeps(denoiser, "a call", u, mean)
            promise(torch.equal(denoise(u, noise), mean), denoiser, "denoises twice differently")
            leaves_untouched(denoiser, "a call", denoise, u, noise)
            moved = u.clone()
            moved[0] = 2 * u[1]
            # A network computes in single precision whatever it is given.
            single = 1e3 if dtype == torch.float32 else 1e12
            promise(
                alike(denoise(moved, noise)[1:], mean[1:], single),
                denoiser,
                "lets one member influence another",
            )
            promise(
                alike(denoise(u, noise.expand(members, *noise.shape[1:])), mean, single),
                denoiser,
                "gives another result for one level per member than for one level for all",
            )
            u = u.requires_grad_()
            (gradient,) = torch.autograd.grad(denoise(u, noise).sum(), u)
            keeps(denoiser, "the gradient", u, gradient)


def check_guidance(guidance: Guidance, ignores_error: bool = False, device: str = "cpu") -> None:
    """Check a guidance, with the exact denoiser of a Gaussian prior and observed components.

    Promises: `displacement` returns the denoised samples and a shift of the same shape, precision
    and device, finite, inputs untouched; no shift where the denoised sample already has the
    observed value; a shift towards the observation elsewhere; none for a huge observation error;
    members independent; `bind` gives a denoiser that keeps its contract, and refuses a black-box
    operator with a `TypeError` that names the class.

    Arguments:
        guidance: The guidance.
        ignores_error: Whether the observation error does not enter, as in DPS: skips that promise.
        device: Where the samples live.

    Raises:
        AssertionError: If a promise is broken.
    """
    for dtype in PRECISIONS:
        denoiser = _gaussian(dtype, device)
        y = torch.tensor([1.5, -0.5], dtype=dtype, device=device)
        model = ObservationModel(Select([0, 4]), std=0.3)
        for level in (0.1, 1.7, 80.0):
            noise = torch.full((1, *(1,) * len(SHAPE)), level, dtype=dtype, device=device)
            u = draw(4, SHAPE, dtype, device) + noise * draw(4, SHAPE, dtype, device, seed=1)
            shift = _check_displacement(guidance, denoiser, u, noise, y, model)
            if not ignores_error:
                vague = ObservationModel(model.operator, std=1e6)
                none = guidance.displacement(denoiser, u, noise, y, vague)[1]
                promise(
                    bool((none.abs() <= 1e-3 * shift.abs().max()).all()),
                    guidance,
                    "moves samples for an observation of huge error",
                )
        bound = guidance.bind(denoiser, y, model)
        keeps(guidance, "the bound denoiser", u, bound.denoise(u, noise))
    black_box = Function(lambda x: x.reshape(len(x), -1)[:, :2], differentiable=False)
    try:
        guidance.bind(denoiser, y, ObservationModel(black_box, std=0.3))
    except TypeError as error:
        promise(type(guidance).__name__ in str(error), guidance, "does not name itself in errors")
    else:
        promise(False, guidance, "accepts a black-box operator, of which it has no gradient")


def _check_displacement(
    guidance: Guidance,
    denoiser: Denoiser,
    u: Tensor,
    noise: Tensor,
    y: Tensor,
    model: ObservationModel,
) -> Tensor:
    """Check the promises that hold for any error of observation, and return the shift."""

    def displace(u: Tensor, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return guidance.displacement(denoiser, u, noise, y, model)

    mean, shift = displace(u, noise, y)
    keeps(guidance, "displacement", u, shift)
    denoised = denoiser.denoise(u, noise)
    promise(alike(mean, denoised), guidance, "does not return the denoised samples")
    leaves_untouched(guidance, "displacement", displace, u, noise, y)
    residual = y - model.operator(mean)
    promise(
        ((residual * model.operator(shift)).sum(1) > 0).all(),
        guidance,
        "moves the denoised samples away from the observation",
    )
    alone = displace(u[1:2], noise, y)[1]
    promise(alike(alone, shift[1:2], 1e5), guidance, "lets one member influence another")
    # Of this one sample again: DPS would magnify a residual of mere rounding.
    met = model.operator(displace(u[:1], noise, y)[0])[0]
    still = displace(u[:1], noise, met)[1]
    promise(
        bool((still.abs() <= 1e-3 * shift[:1].abs().max()).all()),
        guidance,
        "moves a sample that already has the observed value",
    )
    return shift


def check_sampler(
    sampler: Sampler, tolerance: float = 0.1, members: int = 600, device: str = "cpu"
) -> None:
    """Check a sampler on a Gaussian prior with its exact denoiser.

    Promises: ``(members, *shape)`` finite samples in the precision and on the device asked for,
    the same for the same seed, the same to rounding for any chunk and for fewer members; as many
    calls of the denoiser as `evaluations` says; the mean of the prior within 4 standard errors
    and its standard deviations, both up to `tolerance`.

    Arguments:
        sampler: The sampler.
        tolerance: Largest error of discretisation, in standard deviations of the prior. Langevin
            corrections need more: their stationary variance is too large, most in few dimensions.
        members: Number of samples for the moments.
        device: Where the samples live.

    Raises:
        AssertionError: If a promise is broken.
    """
    for dtype in PRECISIONS:
        like = torch.zeros(0, dtype=dtype, device=device)
        denoiser = _Counting(_gaussian(dtype, device))

        def sample(
            count: int,
            seed: int = 0,
            chunk: int | None = None,
            prior: Any = denoiser,
            as_: Any = like,
        ) -> Tensor:
            generator = rng.seeded(seed)
            return sampler.sample(
                prior, VariancePreserving(), SHAPE, count, generator, chunk=chunk, like=as_
            )

        few = sample(7)
        keeps(sampler, "sample", like, few, (7, *SHAPE))
        promise(
            denoiser.calls == sampler.evaluations,
            sampler,
            f"says {sampler.evaluations} evaluations and makes {denoiser.calls}",
        )
        promise(torch.equal(sample(7), few), sampler, "samples differently for the same seed")
        promise(alike(sample(7, chunk=3), few, 1e5), sampler, "samples differently in chunks")
        promise(
            alike(sample(4), few[:4], 1e5),
            sampler,
            "draws a sample that depends on how many are drawn",
        )
    _check_moments(sampler, denoiser.denoiser, sample(members, seed=1).flatten(1), tolerance)


def _check_moments(
    sampler: Sampler, prior: GaussianDenoiser, samples: Tensor, tolerance: float
) -> None:
    mean, members = prior.mean.flatten(), len(samples)
    std = (prior.basis.square() @ prior.spectrum).sqrt()
    promise(
        ((samples.mean(0) - mean).abs() <= (4 / members**0.5 + tolerance) * std).all(),
        sampler,
        "does not sample the mean of a Gaussian prior",
    )
    # The standard error of a sample's standard deviation is its value / sqrt(2 n).
    promise(
        ((samples.std(0) / std - 1).abs() <= 4 / (2 * members) ** 0.5 + tolerance).all(),
        sampler,
        "does not sample the standard deviations of a Gaussian prior",
    )


@dataclass
class _Counting:
    """A denoiser that counts its calls."""

    denoiser: GaussianDenoiser
    calls: int = 0

    def denoise(self, u: Tensor, noise: Tensor) -> Tensor:
        self.calls += 1
        return self.denoiser.denoise(u, noise)


def _gaussian(dtype: torch.dtype, device: str) -> GaussianDenoiser:
    """A correlated Gaussian of variance about one, as standardised data have."""
    factor = draw(6, (6,), dtype, device, seed=3)
    cov = 0.5 * torch.eye(6, dtype=dtype, device=device) + factor @ factor.mT / 12
    mean = draw(1, SHAPE, dtype, device, seed=4)[0]
    return GaussianDenoiser.from_cov(mean, cov)
