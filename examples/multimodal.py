"""Sample a posterior of several modes: only the third variable of Lorenz-63 is observed.

The equations do not change if x and y change their signs, so observations of z cannot tell a
trajectory from its mirror image. The posterior has two halves of exactly equal weight, and each of
them has one or several histories of lobes (signs of x). An ensemble method that follows one mean
cannot hold both halves; samples of trajectories can. The set-up is that of Rozet & Louppe (2023),
section 4.1: 49 states 0.025 apart, z observed at every fourth with an error of 0.1 standard
deviations.

Two comparisons tell whether the sampler has found the posterior. The weights of the halves are
known. The weights of the histories within them are estimated by a particle smoother with backward
simulation; their standard error is that of its paths and of its effective particles. A history
that the posterior excludes has a low log-density under the system and the observations, which is
printed too. Members are those of SDA alone, and after sweeps of conditional SMC.

    python examples/multimodal.py --out multimodal.png
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import scorda as sc
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.metrics.paths import effective, furthest, histories, known_shares, turns
from scorda.report.base import BLUE, MUTED, OBSERVED, TRUTH, style, subplots

STEPS, EVERY, STD = 48, 4, 0.1 * 8.6
LEVEL = 0.9
ORANGE = "#E69F00"


def twin(seed: int) -> tuple[Tensor, sc.Problem]:
    """Return a truth and its observations of z."""
    model = sc.ObservationModel(sc.Select([2]), std=STD)
    system = sc.systems.Lorenz63()
    return sc.twin_experiment(system, model, STEPS, EVERY, rng.seeded(seed), start=0)


def reference(problem: sc.Problem, particles: int, paths: int, seed: int) -> sc.Analysis:
    """Return paths of a particle smoother that starts on the attractor.

    One half of its particles mirrors the other, because a finite sample is not symmetric.
    """
    start = problem.system.prior(particles // 2, rng.seeded(seed))
    problem = replace(problem, initial=torch.cat((start, mirrored(start))))
    smoother = sc.ParticleSmoother(particles, "systematic", backward=True)
    return smoother.assimilate(problem, paths, rng.seeded(seed + 1))


def mirrored(states: Tensor) -> Tensor:
    """Return the states with the signs of x and y changed."""
    return states * states.new_tensor([-1.0, -1.0, 1.0])


def weighed(
    problem: sc.Problem, states: Tensor, steps: list[int]
) -> list[tuple[str, float, float]]:
    """Return each history with its share of the members and its median log p(x, y | x_0)."""
    density = sc.metrics.log_prior(states, problem.system)
    density = density + problem.instruments[0].log_likelihood(states)
    found = histories(states, steps)
    members = {name: torch.tensor([other == name for other in found]) for name in set(found)}
    return [
        (name, count / len(found), float(density[members[name]].median()))
        for name, count in sorted(Counter(found).items())
    ]


class Modes(NamedTuple):
    """Share of the members in each half of the posterior; the halves are mirror images.

    Arguments:
        positive: Share of the members with x > 0 at the step where |x| is largest.
        error: Standard error of that share for independent members of two equal halves.
    """

    positive: float
    error: float

    @classmethod
    def of(cls, states: Tensor) -> Modes:
        return cls(float(half(states).double().mean()), 0.5 / len(states) ** 0.5)


def half(states: Tensor) -> Tensor:
    """Return whether x > 0 at the step where the mean of |x| peaks, which tells the half."""
    step = int(states[..., 0].abs().mean(0).argmax())
    return states[:, step, 0] > 0


class Check(NamedTuple):
    """A posterior predictive check.

    Arguments:
        inside: Number of observations inside the central interval of h(x) + noise.
        observations: Their number.
        low: Smallest number that independent observations would give with probability 0.95.
        high: Largest one.
    """

    inside: int
    observations: int
    low: int
    high: int

    @property
    def passed(self) -> bool:
        return self.low <= self.inside <= self.high


def predictive(problem: sc.Problem, states: Tensor, seed: int) -> Check:
    """Count the observations inside the central 90 % of the predictions of the posterior.

    The posterior has seen them, so their share is 90 % or a little more: the lower end of the
    band is what counts.
    """
    from scipy.stats import binom

    observations = problem.instruments[0]
    predicted = observations.predict(states)
    predicted = predicted + STD * rng.normal(len(states), predicted.shape[1:], rng.seeded(seed))
    share = sc.metrics.coverage(predicted, observations.values, level=LEVEL)
    count = observations.values.numel()
    low, high = (int(binom.ppf(p, count, LEVEL)) for p in (0.025, 0.975))
    return Check(round(float(share) * count), count, low, high)


def figure(problem: sc.Problem, truth: Tensor, states: Tensor, path: Path) -> None:
    """Draw members, coloured by their half, with truth and observations over time."""
    time = problem.space.dt * torch.arange(STEPS + 1)
    observations = problem.instruments[0]
    with style():
        fig, panels = subplots(2, 1, 6.4, 5.0)
        for panel, component in zip(panels[:, 0], (0, 2), strict=True):
            for member, positive in zip(states[:64], half(states).tolist(), strict=False):
                colour = BLUE if positive else ORANGE
                panel.plot(time, member[:, component], color=colour, alpha=0.25, linewidth=0.7)
            panel.plot(time, truth[:, component], color=TRUTH, linewidth=1.4, label="truth")
            panel.set_ylabel(problem.space.variables[component])
            panel.margins(x=0.01)
        panels[0, 0].axhline(0, color=MUTED, linewidth=0.6)
        panels[0, 0].plot([], [], color=BLUE, label="members, one half")
        panels[0, 0].plot([], [], color=ORANGE, label="members, its mirror image")
        panels[1, 0].errorbar(
            time[list(observations.steps)], observations.values[:, 0], 2 * STD, fmt="o",
            color=OBSERVED, markersize=3, linewidth=0.9, label="observations, 2 std",
        )  # fmt: skip
        panels[1, 0].set_xlabel("time")
        for panel in panels[:, 0]:
            # Outside: the members of a symmetric posterior leave no corner free.
            panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=160)


def row(label: str, states: Tensor) -> str:
    modes = Modes.of(states)
    return f"{label:28} {modes.positive:.3f} (0.5 +- {modes.error:.3f})"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of truth, observations and members")
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--levels", type=int, help="noise levels (default: the prior's sampler)")
    parser.add_argument("--corrections", type=int, help="Langevin corrections at each")
    parser.add_argument(
        "--sweeps", type=int, nargs=2, default=(4, 256), metavar=("SWEEPS", "PARTICLES"),
        help="of conditional SMC; 0 0: SDA alone",
    )  # fmt: skip
    parser.add_argument("--particles", type=int, default=2**16, help="0: without the reference")
    parser.add_argument("--out", type=Path, help="figure to write")
    return parser.parse_args(arguments)


def main(
    arguments: list[str] | None = None, prior: sc.priors.Prior | None = None
) -> tuple[Modes, Check]:
    given = parsed(arguments)
    prior = prior or sc.load("lorenz63")
    truth, problem = twin(given.seed)
    chosen = {"noise_levels": given.levels, "corrections": given.corrections}
    sampler = replace(prior.sampler, **{k: v for k, v in chosen.items() if v is not None})
    method = sc.SDA(prior, sampler=sampler)
    states = method.assimilate(problem, given.members, rng.seeded(given.seed + 1000)).states

    draws = {"SDA": states}
    if given.sweeps[0]:
        sweeps = sc.ConditionalSMC(*given.sweeps)
        draws["SDA with sweeps"] = sweeps.improved(states, problem, given.seed + 4000)
    known = states
    if given.particles:
        known = reference(problem, given.particles, 1024, given.seed + 2000).states
        draws["particle smoother"] = known
        least = min(effective(known[:, k]) for k in range(STEPS + 1))
        print(f"particle smoother: {least:.0f} effective particles at the step of the fewest")
    steps = turns(known)
    print(f"{'':28} share of members with x > 0 where |x| is largest")
    for label, members in draws.items():
        print(row(label, members))
    print(f"\n{'lobes at steps ' + ', '.join(map(str, steps)):28} share of members, log-density")
    for label, members in draws.items():
        for history, share, density in weighed(problem, members, steps):
            print(f"{label + ' ' + history:28} {share:.3f}  {density:.0f}")
    if given.particles:
        exact = known_shares(known, steps)
        for label in list(draws)[:-1]:
            print(f"{label}: up to {furthest(draws[label], exact, steps):.1f} standard errors off")
    check = predictive(problem, states, given.seed + 3000)
    print(
        f"\n{check.inside} of {check.observations} observations inside the central 90 % of the "
        f"posterior's prediction (band: {check.low} to {check.high})"
    )
    if given.out is not None:
        figure(problem, truth, states, given.out)
        print(f"figure: {given.out}")
    return Modes.of(states), check


if __name__ == "__main__":
    main()
