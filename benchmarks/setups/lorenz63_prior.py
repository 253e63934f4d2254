"""Samples of a trained prior of Lorenz-63 are compared with trajectories of the system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.samplers import Multistep, Sampler
from scorda.metrics.distance import wasserstein
from scorda.metrics.trajectory import autocorrelation, log_prior
from scorda.priors.trajectory import Prior, load
from scorda.systems.base import System
from scorda.systems.lorenz import Lorenz63

__all__ = ["lorenz63_prior"]

Statistic = Callable[[Float[Tensor, "ensemble time state"]], Float[Tensor, "..."]]
LAGS = 32
# Groups of members that the standard errors are estimated from.
GROUPS = 32
# Draws of the system that the expected W1 of its marginal laws is averaged over.
FLOORS = 8


@dataclass(frozen=True)
class Generator:
    """A prior and the sampler that draws from it.

    Arguments:
        prior: The prior.
        sampler: The sampler (default: the prior's).
    """

    prior: Prior
    sampler: Sampler | None = None


@dataclass(frozen=True)
class Generation:
    """Unconditional samples are compared with trajectories of the system.

    Arguments:
        entries: Priors; their `method` is a `Generator`.
        steps: Steps of the trajectories.
        reference: Trajectories of the system that the samples are compared with.
        seeds: Number of draws.
        source: Where the set-up is from.
    """

    entries: tuple[Entry, ...]
    steps: int = 64
    reference: int = 2**15
    seeds: int = 2
    statistic: str = "mean"
    source: str = "Lorenz (1963); system of Rozet & Louppe (2023), section 4.1"

    def prepare(self, seed: int) -> Float[Tensor, "ensemble time state"]:
        """Draw trajectories of the system, independent of those of other seeds."""
        return _trajectories(self.reference, self.steps, seed)

    def score(
        self, entry: Entry, reference: Float[Tensor, "ensemble time state"], seed: int
    ) -> dict[str, float]:
        r"""Return the scores of one run.

        For each of `statistics` its difference from the system's (the largest over variables, or
        lags) and, with the suffix "/se", the same over the standard error of a difference.
        w1: W1 between the laws of single variables and the reference's, mean over variables, over
        what draws of the system as large have on average; w1_path: W1 between whole trajectories
        and as many of the system, over that of a second such draw.
        """
        method: Generator = entry.method
        x = method.prior.sample(
            entry.members, self.steps, rng.at((seed, 1), 0), sampler=method.sampler
        )
        scores: dict[str, float] = {}
        for name, (difference, error) in differences(x, reference).items():
            worst = int((difference / error).abs().flatten().argmax())
            scores[name] = float(difference.flatten()[worst])
            scores[f"{name}/se"] = float((difference / error).abs().max())
        draws = reference.split(entry.members)
        floor = sum(marginal_distance(draw, reference) for draw in draws[:FLOORS]) / FLOORS
        scores["w1"] = marginal_distance(x, reference) / floor
        scores["w1_path"] = float(wasserstein(draws[0], x) / wasserstein(*draws[:2]))
        return scores

    def shortened(self) -> Generation:
        """Return the benchmark with few members, to test that it runs."""
        entries = tuple(replace(entry, members=2 * GROUPS) for entry in self.entries[:1])
        return replace(self, entries=entries, reference=2**10, seeds=1)


def statistics(system: System) -> dict[str, Statistic]:
    r"""Return the statistics that are compared, functions of ``(ensemble, time, state)``.

    mean, std, skewness, kurtosis: per variable. autocorrelation: per variable, at lags 1 to 32.
    lobe: share of x > 0. switches: changes of the sign of x per unit of time.
    log_density: median over trajectories of :math:`\log p(x_{k+1} \mid x_k)` per step;
    log_density_low: its lowest tenth.
    """

    def central(x: Tensor, power: int) -> Tensor:
        z = x - x.mean((0, 1))
        return (z / z.square().mean((0, 1)).sqrt()).pow(power).mean((0, 1))

    def density(x: Tensor, level: float) -> Tensor:
        return log_prior(x, system).quantile(level) / (x.shape[1] - 1)

    return {
        "mean": lambda x: x.mean((0, 1)),
        "std": lambda x: x.std((0, 1)),
        "skewness": lambda x: central(x, 3),
        "kurtosis": lambda x: central(x, 4),
        "autocorrelation": lambda x: autocorrelation(x, LAGS)[1:],
        "lobe": lambda x: (x[..., 0] > 0).to(x).mean(),
        "switches": lambda x: _switches(x) / system.space.dt,
        "log_density": lambda x: density(x, 0.5),
        "log_density_low": lambda x: density(x, 0.1),
    }


def differences(
    x: Float[Tensor, "ensemble time state"], reference: Float[Tensor, "others time state"]
) -> dict[str, tuple[Tensor, Tensor]]:
    r"""Return each statistic of x minus that of the reference, and its standard error.

    The error is that of two independent draws of the system of these sizes,

    .. math:: \mathrm{se}^2 = s^2 \left(\frac{1}{n} + \frac{1}{m}\right), \quad
        s^2 = \frac{m}{g} \mathrm{Var}_g(\text{statistic of one of g groups of the reference}),

    so that a sample which is too narrow does not hide behind its own spread.
    """
    x, reference = x.double(), reference.double()
    sizes = 1 / len(x) + 1 / len(reference)
    found = {}
    for name, statistic in statistics(Lorenz63()).items():
        groups = torch.stack([statistic(part) for part in reference.chunk(GROUPS)])
        error = groups.std(0) * (len(reference) / GROUPS * sizes) ** 0.5
        found[name] = statistic(x) - statistic(reference), error
    return found


def marginal_distance(
    x: Float[Tensor, "ensemble time state"], reference: Float[Tensor, "others time state"]
) -> float:
    """Return W1 between the laws of single variables over all times, mean over variables.

    Raises:
        ValueError: If the reference has not a multiple of the members of x.
    """
    if len(reference) % len(x):
        raise ValueError(
            f"Got {len(x)} members and a reference of {len(reference)}: its size must be a "
            "multiple of theirs."
        )
    a, b = x.flatten(0, 1).sort(0).values, reference.flatten(0, 1).sort(0).values
    return float((a.repeat_interleave(len(b) // len(a), 0) - b).abs().mean())


def lorenz63_prior(prior: str = "lorenz63") -> Generation:
    """Samples of a prior (default: the shipped one), with its sampler and with another one."""
    trained = load(prior)
    multistep = Multistep(
        64, 0, min_noise=trained.sampler.min_noise, max_noise=trained.sampler.max_noise
    )
    return Generation(
        (
            Entry("default sampler", Generator(trained), 1024),
            Entry("multistep 64", Generator(trained, multistep), 1024),
        )
    )


def _switches(x: Tensor) -> Tensor:
    right = x[..., 0] > 0
    return (right[:, 1:] != right[:, :-1]).to(x).mean()


@cache
def _trajectories(members: int, steps: int, seed: int) -> Float[Tensor, "ensemble time state"]:
    """Draw trajectories that start on the attractor, which takes seconds."""
    system = Lorenz63()
    start, error = rng.spawn(rng.seeded(2**31 + seed), 2)
    return system.trajectory(system.prior(members, start), steps, error)
