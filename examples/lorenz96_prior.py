"""Has the shipped prior the statistics of Lorenz-96, and the score of its Gaussian limit?

Trajectories drawn from the prior are compared with trajectories of the system. Its denoiser is
compared with that of the Gaussian law of the system's covariance, which turning the ring leaves
as it is: where the noise is much larger than the signal none is better, elsewhere one is.

    python examples/lorenz96_prior.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import scorda as sc
from scorda.bench.scenario import defect
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import GaussianDenoiser

STEPS = 32
# Trajectories of the system, and the groups whose scatter gives the standard errors.
REFERENCE, GROUPS = 2048, 32
NOISE = (1.0, 2.0, 5.0, 10.0, 20.0)
LAGS, NEIGHBOURS = (2, 5, 10, 20), (1, 2, 3, 4)

Trajectories = Float[Tensor, "ensemble time site"]


def statistics() -> dict[str, Callable[[Trajectories], Tensor]]:
    """Return statistics by name: of values, over time, along the ring, of the energy."""

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return ((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())

    def lagged(x: Trajectories) -> Tensor:
        return torch.stack([correlation(x[:, lag:], x[:, :-lag]) for lag in LAGS])

    def neighbours(x: Trajectories) -> Tensor:
        return torch.stack([correlation(x, x.roll(far, -1)) for far in NEIGHBOURS])

    def energy(x: Trajectories) -> Tensor:
        return 0.5 * x.square().mean(-1)

    return {
        "mean": lambda x: x.mean(),
        "std": lambda x: x.std(),
        "skewness": lambda x: ((x - x.mean()) / x.std()).pow(3).mean(),
        "correlation in time": lagged,
        "correlation along the ring": neighbours,
        "energy, mean": lambda x: energy(x).mean(),
        "energy, std": lambda x: energy(x).std(),
    }


def compared(x: Trajectories, reference: Trajectories) -> dict[str, tuple[float, float, float]]:
    """Return value of the system, difference and its standard error, where that is worst.

    The error is that of independent draws of the system of these sizes.
    """
    found = {}
    for name, statistic in statistics().items():
        groups = torch.stack([statistic(part) for part in reference.chunk(GROUPS)])
        sizes = 1 / len(x) + 1 / len(reference)
        error = groups.std(0) * (len(reference) / GROUPS * sizes) ** 0.5
        value = statistic(reference)
        difference = statistic(x) - value
        worst = int((difference / error).abs().argmax()) if difference.ndim else ...
        found[name] = float(value[worst]), float(difference[worst]), float(error[worst])
    return found


def gaussian(z: Trajectories) -> GaussianDenoiser:
    """Return the exact denoiser of the Gaussian law of standardised trajectories, turned alike."""
    states, sites = z.shape[1:]
    spectra = torch.fft.fft(z.double(), dim=-1)
    cross = torch.einsum("etq,esq->tsq", spectra, spectra.conj()) / (len(z) * sites)
    along = torch.fft.ifft(cross, dim=-1).real
    places = torch.arange(sites)
    blocks = along[:, :, (places[:, None] - places) % sites]
    cov = blocks.permute(0, 2, 1, 3).reshape(states * sites, -1)
    return GaussianDenoiser.from_cov(z.new_zeros(states, sites).double(), cov)


def explained(
    prior: sc.priors.Prior, reference: Trajectories, truth: Trajectories
) -> dict[float, tuple[float, float]]:
    """Return the share of the variance that the law and the prior explain, by noise level.

    Arguments:
        prior: Prior whose denoiser is measured.
        reference: Trajectories that the Gaussian law is made of.
        truth: Other trajectories, to which the noise is added.
    """
    forward = prior.standardisation.forward
    z, exact, learned = forward(truth), gaussian(forward(reference)), prior.denoiser(STEPS + 1)
    found = {}
    for number, level in enumerate(NOISE):
        noise = torch.tensor(level).to(z)
        u = z + noise * rng.normal(len(z), tuple(z.shape[1:]), rng.seeded(number)).to(z)
        with torch.no_grad():
            means = exact.denoise(u.double(), noise.double()), learned.denoise(u, noise)
        law, network = (float(1 - (m - z).square().mean() / z.square().mean()) for m in means)
        found[level] = law, network
    return found


def trajectories(members: int, seed: int) -> Trajectories:
    """Draw trajectories of the system."""
    system = sc.systems.Lorenz96()
    return system.trajectory(system.prior(members, rng.seeded(seed)), STEPS, rng.seeded(seed))


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--prior", default="lorenz96")
    given = parser.parse_args()
    prior, reference = sc.load(given.prior), trajectories(REFERENCE, 1)
    for level, (law, network) in explained(prior, reference, trajectories(48, 2)).items():
        print(f"noise level {level:g}: the law explains {law:.3f}, the prior {network:.3f}")
    x = prior.sample(given.members, STEPS, rng.seeded(0))
    for name, (value, difference, error) in compared(x, reference).items():
        print(f"{name:26} {value:7.3f} {difference:+.3f}, standard error {error:.3f}")
    print(f"defect {defect(x, sc.systems.Lorenz96()):.3f}")


if __name__ == "__main__":
    main()
