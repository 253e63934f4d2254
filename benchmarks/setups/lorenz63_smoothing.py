"""SDA on Lorenz-63 is compared with a particle smoother in path space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.guidance import InflatedLikelihood
from scorda.diffusion.samplers import Ancestral, Multistep, Sampler
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.methods.particle import ParticleSmoother
from scorda.methods.sda import SDA
from scorda.metrics.distance import wasserstein
from scorda.metrics.trajectory import log_prior
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.trajectory import load
from scorda.systems.lorenz import Lorenz63

__all__ = ["lorenz63_sda"]

# Steps between observations, and their error in units of the standard deviation of a.
OBSERVED = {"low": (8, 0.05), "high": (1, 0.25)}
STD_OF_A = 8.0


@dataclass(frozen=True)
class Case:
    """A twin experiment has two independent draws of its posterior."""

    problem: Problem
    reference: Float[Tensor, "ensemble time *state"]
    second: Float[Tensor, "ensemble time *state"]


@dataclass(frozen=True)
class Smoothing:
    """Trajectories are scored relative to a bootstrap particle filter in path space.

    Arguments:
        entries: Methods; a label begins with the name of the observations, low or high.
        steps: Steps of the trajectories.
        particles: Particles of the reference.
        paths: Paths drawn from it, twice.
        seeds: Number of test cases.
        source: Where the set-up is from.
    """

    entries: tuple[Entry, ...]
    steps: int = 64
    particles: int = 2**16
    paths: int = 1024
    seeds: int = 8
    statistic: str = "median"
    source: str = "Rozet & Louppe (2023), arXiv:2306.10574, section 4.1"

    def prepare(self, seed: int) -> dict[str, Case]:
        """Return the test cases of a seed, one per kind of observations that an entry uses."""
        names = {entry.label.split(",")[0] for entry in self.entries}
        return {name: self._case(name, seed) for name in sorted(names)}

    def _case(self, name: str, seed: int) -> Case:
        every, std = OBSERVED[name]
        model = ObservationModel(Select([0]), std=std * STD_OF_A)
        system = Lorenz63()
        twin, first, second = rng.spawn(rng.at((seed, 2), 0), 3)
        _, problem = twin_experiment(system, model, self.steps, every, twin, start=0)
        particles = replace(problem, initial=_attractor(self.particles))
        smoother = ParticleSmoother(self.particles)
        draws = [smoother.assimilate(particles, self.paths, g).states for g in (first, second)]
        return Case(problem, *draws)

    def score(self, entry: Entry, cases: dict[str, Case], seed: int) -> dict[str, float]:
        r"""Return the scores of one run.

        w1: W1 to 1024 reference paths (raw units, flattened), over that of as many paths of
        the second draw. spread: root-mean-square standard deviation over the reference's.
        log_prior, log_likelihood: medians, minus the reference's; lowest_...: the same of the
        members that are lowest. outlier: largest distance of a component from the reference's
        mean, over the reference's own. evaluations: of the network, per member.
        sampling_seconds: of the method alone.
        """
        case = cases[entry.label.split(",")[0]]
        analysis: Analysis = entry.method.assimilate(
            case.problem, entry.members, rng.at((seed, 1), 0)
        )
        x, reference = analysis.states, case.reference
        floor = wasserstein(reference, case.second[: entry.members])
        system, observations = case.problem.system, case.problem.instruments[0]
        densities = {
            "log_prior": (log_prior(x, system), log_prior(reference, system)),
            "log_likelihood": (
                observations.log_likelihood(x),
                observations.log_likelihood(reference),
            ),
        }
        median = {name: float(a.median() - b.median()) for name, (a, b) in densities.items()}
        lowest = {f"lowest_{name}": float(a.min() - b.min()) for name, (a, b) in densities.items()}
        mean = reference.mean(0)
        return {
            "w1": float(wasserstein(reference, x) / floor),
            "spread": float(x.var(0).mean().sqrt() / reference.var(0).mean().sqrt()),
            **median,
            **lowest,
            "outlier": float((x - mean).abs().max() / (reference - mean).abs().max()),
            "evaluations": float(analysis.info["evaluations"]),
            "sampling_seconds": float(analysis.info["seconds"]),
        }

    def shortened(self) -> Smoothing:
        """Return the benchmark with few particles and members, to test that it runs."""
        entries = tuple(replace(entry, members=16) for entry in self.entries[:2])
        return replace(self, entries=entries, particles=2**10, paths=64, seeds=1)


def lorenz63_sda(prior: str = "lorenz63") -> Smoothing:
    """SDA with a trained prior, from few evaluations to many, on both kinds of observations.

    "low": every eighth of 65 states, error 0.05; "high": every state, error 0.25; of the first
    component in units of its standard deviation. The reference has 2^16 particles and 1024 paths.
    "guided" is the form of the paper, where nothing is merged.

    Arguments:
        prior: Name of a shipped prior or file of another one.
    """
    trained = load(prior)
    base = trained.sampler
    ancestral = [(8, 1), (11, 2), (16, 3), (32, 3)]
    samplers: dict[str, Sampler] = {
        f"ancestral {n}, corrections {c}": _ancestral(base, n, c) for n, c in ancestral
    }
    for n in (32, 64):
        samplers[f"multistep {n}"] = Multistep(
            n, 0, min_noise=base.min_noise, max_noise=base.max_noise
        )
    methods = {label: SDA(trained, sampler=sampler) for label, sampler in samplers.items()}
    guided = SDA(trained, InflatedLikelihood(), _ancestral(base, 16, 3))
    methods["guided ancestral 16, corrections 3"] = guided
    half = SDA(trained, sampler=_ancestral(base, 16, 3), precision="bfloat16")
    methods["ancestral 16, corrections 3, bfloat16"] = half
    polished = SDA(trained, sampler=_ancestral(base, 16, 3), polish=ConditionalSMC())
    methods["ancestral 16, corrections 3, polished"] = polished
    # Below the prior's lowest level: no correction roughens the smooth mean that ends the walk.
    few = {
        n: SDA(trained, sampler=StochasticMultistep(n, 0, min_noise=6e-3, max_noise=15.0))
        for n in (8, 16, 24)
    }
    methods |= {f"stochastic multistep {n}": method for n, method in few.items()}
    smoothed = replace(few[16], polish=ConditionalSMC(4, 64))
    methods["stochastic multistep 16, polished by 4 sweeps of 64"] = smoothed
    entries = [
        Entry(f"{case}, {label}", method, 256)
        for label, method in methods.items()
        for case in OBSERVED
    ]
    entries.append(Entry("low, default, 1024 members", SDA(trained), 1024))
    return Smoothing(tuple(entries))


def _ancestral(base: Sampler, steps: int, corrections: int) -> Ancestral:
    return Ancestral(
        steps, corrections, base.tau, min_noise=base.min_noise, max_noise=base.max_noise
    )


@cache
def _attractor(members: int) -> Float[Tensor, "ensemble state"]:
    """Draw states of the attractor, from which all references start; it takes seconds."""
    return Lorenz63().prior(members, torch.Generator().manual_seed(2**31))
