"""SDA on Lorenz-63 where it divides the histories of lobes wrongly, plain and corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.resampling import resample
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Ancestral
from scorda.diffusion.twisted import Twisted
from scorda.methods.sda import SDA
from scorda.metrics.distance import wasserstein
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.trajectory import load
from scorda.systems.lorenz import Lorenz63

__all__ = ["lorenz63_sparse"]

STEPS, MEMBERS = 64, 128
# Error of the observations in standard deviations of the variables.
ERROR, STD = 0.05, (8.0, 9.0, 8.6)
# Variable, steps between observations, the first of them, and the number of the twin experiment.
CASES = {
    "y every 12": (1, 12, 0, 2),
    "x every 40": (0, 40, 0, 1),
    "z every 10": (2, 10, 0, 0),
    "x from step 40": (0, 8, 40, 0),
}
# Paths that go back one step at once.
AT_ONCE = 16


@dataclass(frozen=True)
class Case:
    """A twin experiment, and two draws of its posterior from filters that share nothing."""

    problem: Problem
    reference: Float[Tensor, "ensemble time *state"]
    second: Float[Tensor, "ensemble time *state"]
    ancestors: int


@dataclass(frozen=True)
class Sparse:
    """Trajectories are scored relative to a particle filter with backward simulation.

    Arguments:
        entries: Methods; a label begins with the name of a case.
        particles: Particles of the reference.
        paths: Paths drawn from it, and as many from a second filter.
        seeds: Number of runs of each method on the same cases.
        source: Where the set-up is from.
    """

    entries: tuple[Entry, ...]
    particles: int = 2**17
    paths: int = 512
    seeds: int = 1
    statistic: str = "mean"
    source: str = "system of Rozet & Louppe (2023), section 4.1; own patterns of observations"

    def prepare(self, seed: int) -> dict[str, Case]:
        """Return the cases that an entry uses, the same for every seed."""
        names = {entry.label.split(",")[0] for entry in self.entries}
        return {name: _case(name, self.particles, self.paths) for name in sorted(names)}

    def score(self, entry: Entry, cases: dict[str, Case], seed: int) -> dict[str, float]:
        r"""Return the scores of one run.

        w1: W1 to the paths of the reference (raw units, flattened), over the floor: that of as
        many paths of the second draw, in the mean over its parts, because the halves of a
        posterior have other weights in each of them. side: largest difference over time of the
        share of members at x > 0, over its standard error. ancestors: different states at step 0
        among the paths of the reference. evaluations, model_steps: per member. sampling_seconds:
        of the method alone. lowest_ess, roots, renewed: mean over groups, where reported.
        """
        case = cases[entry.label.split(",")[0]]
        analysis: Analysis = entry.method.assimilate(
            case.problem, entry.members, rng.at((seed, 1), 0)
        )
        x, reference, info = analysis.states, case.reference, analysis.info
        parts = case.second.split(entry.members)
        floor = sum(wasserstein(reference, part) for part in parts) / len(parts)
        p, q = ((part[..., 0] > 0).double().mean(0) for part in (x, reference))
        error = (q * (1 - q) * (1 / len(x) + 1 / len(reference))).sqrt()
        scores = {
            "w1": float(wasserstein(reference, x) / floor),
            "floor": float(floor),
            "side": float(((p - q).abs() / error.clamp(min=0.01)).max()),
            "ancestors": float(case.ancestors),
            "evaluations": float(info["evaluations"]),
            "model_steps": float(info.get("model_steps", 0)),
            "sampling_seconds": float(info["seconds"]),
        }
        for name in ("lowest_ess", "roots", "renewed"):
            if name in info:
                scores[name] = float(info[name].mean())
        return scores

    def shortened(self) -> Sparse:
        """Return the benchmark with few particles and members, to test that it runs."""
        entries = tuple(replace(entry, members=16) for entry in self.entries[:1])
        return replace(self, entries=entries, particles=2**10, paths=64, seeds=1)


def lorenz63_sparse(prior: str = "lorenz63") -> Sparse:
    """SDA where single variables are observed rarely or late: plain, weighted, and polished.

    Arguments:
        prior: Name of a shipped prior or file of another one.
    """
    trained = load(prior)
    base = trained.sampler
    longer = Ancestral(62, 3, base.tau, min_noise=base.min_noise, max_noise=base.max_noise)
    methods = {
        "plain": SDA(trained),
        "polished, 4 sweeps of 64": SDA(trained, polish=ConditionalSMC(4, 64)),
        "polished": SDA(trained, polish=ConditionalSMC()),
        "four times the levels": SDA(trained, sampler=longer),
        "twisted": SDA(trained, sampler=Twisted(240)),
    }
    entries = [
        Entry(f"{case}, {label}", method, MEMBERS)
        for label, method in methods.items()
        for case in CASES
    ]
    for case, (_, every, start, _) in CASES.items():
        # As many evaluations: each level takes one, and a product per observed value.
        values = 1 + (STEPS - start) // every
        moments = SDA(trained, MMPS(1), Twisted(240 // (1 + values)))
        entries.append(Entry(f"{case}, twisted by MMPS", moments, MEMBERS))
    return Sparse(tuple(entries))


@cache
def _case(name: str, particles: int, paths: int) -> Case:
    """Draw a case and its references, which takes a minute."""
    variable, every, start, number = CASES[name]
    model = ObservationModel(Select([variable]), std=ERROR * STD[variable])
    twin = rng.at((number, 3), 0)
    _, problem = twin_experiment(Lorenz63(), model, STEPS, every, twin, start=start)
    reference = _paths(problem, particles, paths, rng.seeded(101 + number))
    second = _paths(problem, particles, paths, rng.seeded(202 + number))
    return Case(problem, reference, second, len(reference[:, 0].unique(dim=0)))


def _paths(
    problem: Problem, particles: int, paths: int, generator: rng.Seed
) -> Float[Tensor, "ensemble time *state"]:
    """Draw paths by a bootstrap filter and backward simulation (Godsill, Doucet & West 2004)."""
    system, observed = problem.system, problem.observed()
    choice, error, back = rng.spawn(generator, 3)
    x, weights, states, kept = _attractor(particles), None, [], []
    for k in range(problem.steps + 1):
        if k:
            if weights is not None:
                x = x[resample(weights, particles, generator=choice)]
            x = system.step(x, error)
        weights = None
        if k in observed:
            y, model = observed[k]
            weights = model.log_likelihood(y.to(x), x).softmax(0)
        states.append(x)
        kept.append(weights)
    last = torch.full((particles,), 1 / particles) if weights is None else weights
    path = [x[resample(last, paths, "multinomial", back)]]
    for k in reversed(range(problem.steps)):
        path.append(_before(system, states[k], kept[k], path[-1], back))
    return torch.stack(path[::-1], 1)


def _before(
    system: Lorenz63, x: Tensor, weights: Tensor | None, after: Tensor, generator: torch.Generator
) -> Float[Tensor, "ensemble state"]:
    """Draw for each state one of the particles that it may come from."""
    ahead = system.advance(x) / system.noise_std
    centre = ahead.mean(0)
    ahead = ahead - centre
    own = -0.5 * ahead.square().sum(1)
    own = own if weights is None else own + weights.log().to(own)
    chosen = []
    for part in (after / system.noise_std - centre).split(AT_ONCE):
        log_w = torch.addmm(own, part, ahead.mT)
        total = (log_w - log_w.amax(1, keepdim=True)).exp_().cumsum(1)
        u = rng.uniform(len(part), (1,), generator, like=total) * total[:, -1:]
        chosen.append(torch.searchsorted(total, u)[:, 0].clamp_max(len(x) - 1))
    return x[torch.cat(chosen)]


@cache
def _attractor(members: int) -> Float[Tensor, "ensemble state"]:
    """Draw states of the attractor, from which all references start; it takes seconds."""
    return Lorenz63().prior(members, torch.Generator().manual_seed(2**31))
