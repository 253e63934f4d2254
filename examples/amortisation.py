"""Compare one network for many observing networks with one for the network at hand.

Lorenz-96 has 20 sites here, 6 steps (0.3 time units) lie between observations, and there are 60
members. The prior of MASF's bridge is a network over the localized Gaussian of the ensemble. Three
kinds of weights are compared:

* amortised: they are trained once, on the forecasts of a run with other sites and another error in
  every cycle and on the noise levels of many observing networks, and used as they are everywhere;
* this network: they are trained for one observing network, on forecasts of a run with it and on
  the noise levels of its bridge alone. A third of the steps and forecasts is spent on each, so
  that all three observing networks together take as many;
* fine-tuned: those of "this network" are fine-tuned on the ensemble in each cycle.

None of the three observing networks of the test is among those of the training. What changes with
the flow is in the Gaussian of the ensemble, its mean and its spread, which the network sees.

This file prints the CRPS of the analyses and the seconds of processor time per cycle; +- is the
standard error of the paired differences over the twin experiments.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import NamedTuple

import torch

import scorda as sc
from scorda.core import rng

EVERY, SITES = 6, 20
SYSTEM = sc.systems.Lorenz96(dim=SITES)
TAPER = sc.GaspariCohn(5.0)
# Sites, and the std of the errors.
NETWORKS = {
    "half, at random": (torch.randperm(SITES, generator=rng.seeded(7))[: SITES // 2], 1.0),
    "half of the ring": (torch.arange(SITES // 2), 1.0),
    "every fourth": (torch.arange(0, SITES, 4), 0.3),
}


class Size(NamedTuple):
    """Sizes of the experiment."""

    members: int
    forecasts: int  # That a network is trained on for one observing network.
    steps: int  # Of that training.
    cycles: int  # Of a run that is scored.
    spinup: int  # The first of them, which are not.
    seeds: int
    tuned: int  # Seeds with fine-tuning.


FULL = Size(60, 300, 2000, 45, 10, 8, 3)
QUICK = Size(20, 24, 50, 6, 2, 2, 2)


def many(cycles: int, seed: int) -> tuple[torch.Tensor, sc.Problem]:
    """Return a truth, and observations of other sites with another error in each cycle."""
    model = sc.ObservationModel(sc.Select(range(SITES)), std=0.3)
    truth, problem = sc.twin_experiment(SYSTEM, model, cycles * EVERY, EVERY, rng.seeded(seed))
    (exact,) = problem.instruments
    at = rng.seeded(1000 + seed)
    share, level = (torch.rand(cycles, 1, generator=at) for _ in range(2))
    std = 0.3 * 10**level
    more = torch.randn(cycles, SITES, generator=at) * (std.square() - 0.3**2).sqrt()
    seen = torch.rand(cycles, SITES, generator=at) < share
    values = torch.where(seen, exact.values + more, torch.nan)
    noisy = replace(exact, values=values, std=std.expand(cycles, SITES).clone())
    return truth, replace(problem, observations=noisy)


def one(cycles: int, seed: int, network: str) -> tuple[torch.Tensor, sc.Problem]:
    """Return a truth, and observations of one observing network."""
    steps = cycles * EVERY
    return sc.twin_experiment(SYSTEM, model_of(network), steps, EVERY, rng.seeded(seed))


def model_of(network: str) -> sc.ObservationModel:
    sites, std = NETWORKS[network]
    return sc.ObservationModel(sc.Select(sites.tolist()), std=std)


def method(prior: sc.priors.EnsemblePrior) -> sc.MASF:
    return sc.MASF(prior, sampler=sc.diffusion.BridgeODE(noise_levels=9, order=2), inflation=1.05)


def started(
    twin: tuple[torch.Tensor, sc.Problem], members: int, seed: int
) -> tuple[torch.Tensor, sc.Problem]:
    """Return the same with an initial ensemble about a state near the truth."""
    truth, problem = twin
    noise = rng.normal(members + 1, (SITES,), rng.seeded(2000 + seed))
    return truth, replace(problem, initial=truth[0] + noise[1:] - noise[0])


def forecasts(twin: tuple[torch.Tensor, sc.Problem], size: Size) -> torch.Tensor:
    """Return the forecast ensembles of a run with the Gaussian alone."""
    _, problem = started(twin, size.members, 500)
    found, before = [], problem.initial
    run = method(sc.priors.Gaussian(TAPER)).run(problem, size.members, rng.seeded(3))
    for cycle in run:
        if cycle.step % EVERY == 0 and cycle.step > 0:
            found.append(SYSTEM.step(before))
        before = cycle.ensemble
    return torch.stack(found)


def score(
    prior: sc.priors.EnsemblePrior, network: str, size: Size, seeds: int
) -> tuple[torch.Tensor, float]:
    """Return the CRPS of the analyses of each seed, and processor seconds per cycle."""
    scores, seconds = [], 0.0
    for seed in range(seeds):
        truth, problem = started(one(size.cycles, seed, network), size.members, seed)
        clock = time.process_time()
        cycles = list(method(prior).run(problem, size.members, rng.seeded(seed)))
        seconds += (time.process_time() - clock) / size.cycles / seeds
        states = torch.stack([c.ensemble for c in cycles], 1)[
            :, EVERY * (size.spinup + 1) :: EVERY
        ]
        scores.append(sc.metrics.crps(states, truth[EVERY * (size.spinup + 1) :: EVERY]).mean())
    return torch.stack(scores), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller one, to see it run")
    size = QUICK if parser.parse_args().quick else FULL
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    print(size)
    base = sc.priors.Gaussian(TAPER)
    training = sc.priors.NetworkTraining(size.steps, width=32, rate=3e-3, validation_interval=100)
    longer = replace(training, training_steps=3 * size.steps)
    settings = {"axis": "site", "base": base}
    clock = time.process_time()
    pool = forecasts(many(3 * size.forecasts, 500), size)
    amortised = sc.priors.AmortisedNetwork.train(pool, SYSTEM.space, training=longer, **settings)
    print(f"amortised: {time.process_time() - clock:.0f} s, once\n")
    print("| observing network | weights | CRPS | amortised against it | s per cycle |")
    print("|---|---|---|---|---|")
    pairs: dict[str, list[torch.Tensor]] = {}
    reference, this = {}, {}

    def row(network: str, label: str, prior: sc.priors.EnsemblePrior, seeds: int) -> None:
        crps, seconds = score(prior, network, size, seeds)
        reference.setdefault(network, crps)
        ratios = reference[network][:seeds] / crps - 1
        pairs.setdefault(label, []).append(ratios)
        words = f"{crps.mean():.3f} | {percent(ratios)} | {seconds:.2f}"
        print(f"| {network} | {label} | {words} |", flush=True)

    for network in NETWORKS:
        row(network, "amortised", amortised, size.seeds)
        pool = forecasts(one(size.forecasts, 500, network), size)
        this[network] = sc.priors.AmortisedNetwork.train(
            pool, SYSTEM.space, model_of(network), training=training, **settings
        )
        row(network, "this network", this[network], size.seeds)
        row(network, "Gaussian alone", base, size.seeds)
    for network in NETWORKS:
        often = replace(training, validation_interval=25)
        tuned = sc.priors.OnlineNetwork("site", base, often, levels="fixed", start=this[network])
        row(network, "fine-tuned", tuned, size.tuned)
    for label, ratios in pairs.items():
        print(f"| all | {label} | | {percent(torch.cat(ratios))} | |")


def percent(ratios: torch.Tensor) -> str:
    """Write mean and standard error in percent."""
    return f"{100 * ratios.mean():+.1f} +- {100 * ratios.std() / len(ratios) ** 0.5:.1f} %"


if __name__ == "__main__":
    main()
