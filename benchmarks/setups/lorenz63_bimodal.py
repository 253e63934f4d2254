"""The posterior of Lorenz-63 has two modes where only z is observed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import torch

from scorda.bench.entry import Entry, grid
from scorda.bench.sweep import Sweep
from scorda.bench.tuning import Tuning
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enkf import EnKF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.masf.bridge import MASF
from scorda.methods.particle import ParticleFilter
from scorda.metrics.distance import wasserstein
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.kernel import Kernel
from scorda.priors.mixture import Mixture
from scorda.systems.lorenz import Lorenz63

from .lorenz_gaps import ensf

__all__ = ["lorenz63_bimodal"]

MEMBERS = (50, 100, 250, 500, 1000)


@dataclass(frozen=True)
class Posterior:
    """A problem has two draws of its posterior at each step that is scored."""

    problem: Problem
    reference: dict[int, Float[Tensor, "draws 3"]]
    second: dict[int, Float[Tensor, "draws 3"]]
    floors: dict[tuple[int, int], float] = field(default_factory=dict)

    def floor(self, step: int, members: int) -> float:
        """Return W1 between the draws and as many of the second draw as there are members."""
        if (step, members) not in self.floors:
            distance = wasserstein(self.reference[step], self.second[step][:members])
            self.floors[step, members] = float(distance)
        return self.floors[step, members]


@dataclass(frozen=True)
class Bimodal:
    """The analyses of a filter have a W1 distance to a particle filter with 100 000 members.

    If x and y both change their signs, z does not change. So each posterior is symmetric, and has
    at least two modes on the outer parts of the lobes. No observation tells them apart: a filter
    has to carry both as long as it runs.

    Arguments:
        entries: Methods.
        every: Steps between observations of z.
        std: Their error.
        cycles: Analyses that are scored.
        spinup: Analyses before them.
        particles: Members of the reference, resampled at every analysis.
        draws: Members drawn from it, twice: the second draw gives the floor.
        seeds: Number of problems.
        source: Where the set-up is from.
        tuning: How the options of entries with a grid are chosen.
        shown: Scores that the command prints.
    """

    entries: tuple[Entry, ...]
    every: int = 8
    std: float = 1.0
    cycles: int = 4
    spinup: int = 4
    particles: int = 100_000
    draws: int = 1000
    seeds: int = 5
    statistic: str = "mean"
    source: str = "after Binder & Oberai (2026), arXiv:2603.21291, section 4.2; observations ours"
    tuning: Tuning = field(default_factory=lambda: Tuning(score="w1"))
    shown: tuple[str, ...] = ("w1", "w1/floor", "mode", "evaluations")

    def prepare(self, seed: int) -> Posterior:
        """Return problem and reference of one seed."""
        return _reference(
            self.every, self.std, self.spinup, self.cycles, self.particles, self.draws, seed
        )

    def score(self, entry: Entry, posterior: Posterior, seed: int) -> dict[str, float]:
        r"""Return the scores of one run, mean over the scored analyses.

        w1: exact W1 between the members and draws of the reference, in units of the state;
        w1/floor: over that of as many draws of the reference; mode: distance of the share of
        members with x > 0 from 1/2; evaluations: of score or denoiser per analysis, where the
        method has them; cycle_seconds: seconds of an analysis.
        """
        problem, sums = posterior.problem, dict[str, float]()
        initial = Lorenz63().prior(entry.members, rng.at((seed, 1), 0))
        problem = replace(problem, initial=initial)
        for cycle in entry.method.run(problem, entry.members, rng.at((seed, 2), 0)):
            if cycle.step not in posterior.reference:
                continue
            reference = posterior.reference[cycle.step]
            x = cycle.ensemble
            found = {
                "w1": float(wasserstein(reference, x)),
                "floor": posterior.floor(cycle.step, len(x)),
                "mode": abs(float((x[:, 0] > 0).to(x).mean()) - 0.5),
                "cycle_seconds": float(cycle.info["seconds"]),
            }
            if "evaluations" in cycle.info:
                found["evaluations"] = float(cycle.info["evaluations"])
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value / len(posterior.reference)
        sums["w1/floor"] = sums["w1"] / sums.pop("floor")
        return sums

    def shortened(self) -> Bimodal:
        """Return the benchmark with few particles, to test that it runs."""
        entries = tuple(replace(entry, grid=entry.grid[:2]) for entry in self.entries)
        quick = replace(self.tuning, seeds=self.tuning.seeds[:1])
        return replace(
            self,
            entries=entries,
            particles=2000,
            draws=100,
            cycles=1,
            spinup=1,
            seeds=1,
            tuning=quick,
        )

    def trial(self) -> Bimodal:
        """Return the set-up in which options are chosen: the same, on other seeds."""
        return self


def lorenz63_bimodal() -> Sweep:
    """Lorenz-63 with model error, z observed every 0.2 time units with unit error.

    Members start as independent states of the attractor. Scored are the last 4 of 8 analyses.
    """
    bandwidths = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45)
    closed = grid(relative_bandwidth=bandwidths)
    inflations = grid(inflation=(1.0, 1.02, 1.05, 1.1, 1.2, 1.4))
    kernels = grid(prior=[Kernel(width, "none") for width in (0.2, 0.4, 0.7, 1.0, 1.5, 2.5)])
    mixtures = grid(prior=[Mixture(beta) for beta in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)])
    betas = grid(kernel_factor=(0.01, 0.03, 0.1, 0.3, 0.7, "adaptive"))
    points = {
        f"N={n}": Bimodal(
            (
                Entry("EnKF", EnKF(), n, inflations),
                Entry("particle filter", ParticleFilter(1.0), n, grid(jitter=bandwidths)),
                Entry("closed form", ClosedFormFilter(), n, closed),
                Entry("closed form, coupled", ClosedFormFilter(draw="coupled"), n, closed),
                Entry("mixture", GaussianMixtureFilter(), n, betas),
                ensf(n),
                Entry("MASF bridge, Gaussian", MASF(), n, inflations),
                Entry("MASF bridge, kernel", MASF(Kernel(1.0, "none")), n, kernels),
                Entry("MASF bridge, mixture", MASF(Mixture()), n, mixtures),
            )
        )
        for n in MEMBERS
    }
    return Sweep(points, points["N=50"].source)


@cache
def _reference(
    every: int, std: float, spinup: int, cycles: int, particles: int, draws: int, seed: int
) -> Posterior:
    """Draw the reference, which all points of a sweep share; it takes seconds."""
    system, steps = Lorenz63(), every * (spinup + cycles)
    twin, start, run, pick = rng.spawn(rng.at((seed, 3), 0), 4)
    model = ObservationModel(Select([2]), std=std)
    _, problem = twin_experiment(system, model, steps, every, twin)
    large = replace(problem, initial=system.prior(particles, start))
    scored, reference, second = range(every * (spinup + 1), steps + 1, every), {}, {}
    for cycle in ParticleFilter(resample=1.0).run(large, particles, run):
        if cycle.step in scored:
            order = torch.randperm(particles, generator=pick)[: 2 * draws]
            x = cycle.ensemble[order].double()
            reference[cycle.step], second[cycle.step] = x[:draws], x[draws:]
    return Posterior(problem, reference, second)
