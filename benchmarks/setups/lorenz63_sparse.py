"""SDA on Lorenz-63 where it divides the histories of lobes wrongly, plain and corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.guidance import MMPS
from scorda.diffusion.samplers import Ancestral
from scorda.diffusion.twisted import Twisted
from scorda.methods.particle import ParticleSmoother
from scorda.methods.sda import SDA
from scorda.metrics.distance import wasserstein
from scorda.metrics.paths import effective, furthest, known_shares, shares, turns
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


@dataclass(frozen=True)
class Case:
    """A twin experiment, and draws of its posterior from two filters that share nothing.

    Arguments:
        problem: The problem.
        reference: Paths of the larger filter.
        second: Paths of the other one.
        effective: Effective particles of the reference at each step (`effective`).
        steps: Steps at which a history has its signs.
    """

    problem: Problem
    reference: Float[Tensor, "ensemble time *state"]
    second: Float[Tensor, "ensemble time *state"]
    effective: list[float]
    steps: list[int]


@dataclass(frozen=True)
class Sparse:
    """Trajectories are scored relative to a particle filter with backward simulation.

    Arguments:
        entries: Methods; a label begins with the name of a case.
        particles: Particles of the reference.
        paths: Paths drawn from it. A second filter has a quarter of the particles.
        compared: Paths of each filter to which W1 is taken.
        seeds: Number of runs of each method on the same cases.
        source: Where the set-up is from.
    """

    entries: tuple[Entry, ...]
    particles: int = 2**20
    paths: int = 1024
    compared: int = 512
    seeds: int = 1
    statistic: str = "mean"
    source: str = "system of Rozet & Louppe (2023), section 4.1; own patterns of observations"

    def prepare(self, seed: int) -> dict[str, Case]:
        """Return the cases that an entry uses, the same for every seed."""
        names = {entry.label.split(",")[0] for entry in self.entries}
        return {
            name: _case(name, self.particles, self.paths, self.compared) for name in sorted(names)
        }

    def score(self, entry: Entry, cases: dict[str, Case], seed: int) -> dict[str, float]:
        r"""Return the scores of one run.

        w1: W1 to the paths of the reference (raw units, flattened), over the floor: that of as
        many paths of the second draw, in the mean over its parts, because the halves of a
        posterior have other weights in each of them. histories: largest difference of the share
        of a history from the reference's, over the standard error of both, where members count as
        independent. side: the same of the share of x > 0, the largest over time. apart: histories
        of the second filter. Then the share of each history, that of the reference, and its
        error. ancestors: different states at step 0 among the paths of the reference. effective,
        least_effective: its effective particles there, and at the step of the fewest. evaluations,
        model_steps: per member. sampling_seconds: of the method alone. lowest_ess, roots, renewed:
        mean over groups, where reported.
        """
        case = cases[entry.label.split(",")[0]]
        analysis: Analysis = entry.method.assimilate(
            case.problem, entry.members, rng.at((seed, 1), 0)
        )
        x, reference, info = analysis.states, case.reference[: self.compared], analysis.info
        parts = case.second.split(entry.members)
        floor = sum(wasserstein(reference, part) for part in parts) / len(parts)
        found, known = shares(x, case.steps), known_shares(case.reference, case.steps)
        scores = {
            "w1": float(wasserstein(reference, x) / floor),
            "floor": float(floor),
            "histories": furthest(x, known, case.steps),
            "side": _side(x, case),
            "apart": furthest(case.second, known, case.steps),
            "ancestors": float(len(case.reference[:, 0].unique(dim=0))),
            "effective": case.effective[0],
            "least_effective": min(case.effective),
            "evaluations": float(info["evaluations"]),
            "model_steps": float(info.get("model_steps", 0)),
            "sampling_seconds": float(info["seconds"]),
        }
        for name, (share, error) in known.items():
            scores[name] = found.get(name, 0.0)
            scores |= {f"{name}, reference": share, f"{name}, its error": error}
        for name in ("lowest_ess", "roots", "renewed"):
            if name in info:
                scores[name] = float(info[name].mean())
        return scores

    def shortened(self) -> Sparse:
        """Return the benchmark with few particles and members, to test that it runs."""
        entries = tuple(replace(entry, members=16) for entry in self.entries[:1])
        return replace(self, entries=entries, particles=2**10, paths=64, compared=64, seeds=1)


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
def _case(name: str, particles: int, paths: int, others: int) -> Case:
    """Draw a case and its references, which takes minutes."""
    variable, every, start, number = CASES[name]
    model = ObservationModel(Select([variable]), std=ERROR * STD[variable])
    twin = rng.at((number, 3), 0)
    _, problem = twin_experiment(Lorenz63(), model, STEPS, every, twin, start=start)
    reference = _paths(problem, particles, paths, rng.at((number, 101), 0), 101)
    second = _paths(problem, particles // 4, others, rng.at((number, 202), 0), 202)
    known = [effective(reference[:, k]) for k in range(STEPS + 1)]
    return Case(problem, reference, second, known, turns(reference))


def _paths(
    problem: Problem, particles: int, paths: int, generator: rng.Seed, start: int
) -> Float[Tensor, "ensemble time *state"]:
    # Systematic resampling of as many particles leaves their first states as they are.
    smoother = ParticleSmoother(particles, "systematic", backward=True)
    problem = replace(problem, initial=_attractor(particles, start))
    return smoother.assimilate(problem, paths, generator).states


def _side(x: Float[Tensor, "ensemble time *state"], case: Case) -> float:
    p, q = ((part[..., 0] > 0).double().mean(0) for part in (x, case.reference))
    each = 1 / len(x) + 1 / len(case.reference) + 1 / min(case.effective)
    return float(((p - q).abs() / (q * (1 - q) * each).sqrt().clamp(min=0.01)).max())


@cache
def _attractor(members: int, seed: int) -> Float[Tensor, "ensemble state"]:
    """Draw states of the attractor, from which the filters of all cases start."""
    return Lorenz63().prior(members, rng.seeded(seed))
