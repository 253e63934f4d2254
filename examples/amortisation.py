"""One network for many observing networks, beside one that is trained for the one at hand.

Lorenz-96 with 40 sites, of which half, drawn at random, are observed every 8 steps (0.4 time
units) with unit error. The prior of MASF's bridge is a network over the localized Gaussian of the
ensemble. Four ways to get its weights:

* many, frozen: trained over a run with other sites and other errors in each cycle, on the noise
  levels of many observing networks, then used as it is;
* this, frozen: trained over a run with these sites and this error, on their noise levels alone;
* many, tuned and this, tuned: fine-tuned in each cycle of the run that is scored, besides.

Run this file to print CRPS and seconds of processor time per cycle, each with the standard error
of paired differences over the twin experiments. The Gaussian alone stands beside them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import NamedTuple

import torch

import scorda as sc
from scorda import rng
from scorda.assimilate import Cycle
from scorda.assimilate.filter import collect

EVERY = 8
SYSTEM = sc.systems.Lorenz96(dim=40)


class Size(NamedTuple):
    """How large the experiment is."""

    members: int
    training: int  # Cycles that the frozen networks are trained in.
    cycles: int  # Cycles of the run that is scored.
    spinup: int  # The first of them, which are not scored.
    seeds: int


def twin(cycles: int, seed: int, many: bool) -> tuple[torch.Tensor, sc.Problem]:
    """Truth, and observations of half of the sites; of many observing networks in turn."""
    model = sc.ObservationModel(sc.Select(range(40)), std=1.0)
    steps = cycles * EVERY
    truth, problem = sc.twin_experiment(SYSTEM, model, steps, EVERY, rng.seeded(seed))
    (all_sites,) = problem.instruments
    values, at = all_sites.values.clone(), rng.seeded(1000 + seed)
    if not many:
        values[:, torch.randperm(40, generator=rng.seeded(7))[20:]] = torch.nan
        return truth, replace(problem, observations=replace(all_sites, values=values))
    share = torch.rand(len(values), 1, generator=at)
    std = 10 ** (torch.rand(len(values), 1, generator=at) - 0.5)
    noise = torch.randn(values.shape, generator=at) * (std.square() - 1).clamp_min(0).sqrt()
    values = torch.where(torch.rand(values.shape, generator=at) < share, values + noise, torch.nan)
    instrument = replace(
        all_sites, values=values, std=std.clamp_min(1.0).expand_as(values).clone()
    )
    return truth, replace(problem, observations=instrument)


def method(prior: sc.EnsemblePrior) -> sc.MASF:
    return sc.MASF(prior, inflation=1.05)


def start(truth: torch.Tensor, members: int, seed: int) -> torch.Tensor:
    noise = rng.normal(members + 1, (40,), rng.seeded(2000 + seed))
    return truth[0] + noise[1:] - noise[0]


def trained(prior: sc.NetworkPrior, many: bool, size: Size) -> dict[str, torch.Tensor]:
    """Weights after a run of their own, with another truth."""
    truth, problem = twin(size.training, 500, many)
    problem = replace(problem, initial=start(truth, size.members, 500))
    for cycle in method(prior).run(problem, size.members, rng.seeded(3)):
        carried = cycle.carried
    assert carried is not None
    return carried


def score(
    prior: sc.EnsemblePrior, carried: dict[str, torch.Tensor] | None, size: Size, seed: int
) -> tuple[float, float, float]:
    """CRPS of the analyses, processor seconds per cycle, share of cycles with the network."""
    truth, problem = twin(size.cycles, seed, False)
    first = Cycle(0, start(truth, size.members, seed), carried=carried)
    scores, infos = [], []
    clock = time.process_time()
    for cycle in method(prior).run(problem, size.members, rng.seeded(seed), first):
        if cycle.info:
            infos.append(cycle.info)
            scores.append(sc.metrics.crps(cycle.ensemble[:, None], truth[cycle.step][None]))
    seconds = (time.process_time() - clock) / size.cycles
    info = collect(infos)
    used = (info["loss"] < info["gaussian_loss"]).double().mean() if "loss" in info else 0.0
    return float(torch.stack(scores[size.spinup :]).mean()), seconds, float(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in Size(100, 60, 60, 20, 4)._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default)
    size = Size(**vars(parser.parse_args()))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    taper = sc.GaspariCohn(8.0)
    many = sc.NetworkPrior("site", taper, width=32, steps=200, fine_tune=50)
    this = replace(many, levels="these")
    weights = {"many": trained(many, True, size), "this": trained(this, False, size)}
    entries = {
        "many, frozen": (replace(many, fine_tune=0), weights["many"]),
        "this, frozen": (replace(this, fine_tune=0), weights["this"]),
        "many, tuned": (many, weights["many"]),
        "this, tuned": (this, weights["this"]),
        "Gaussian alone": (sc.EnsembleGaussian(taper), None),
    }
    found = {
        label: torch.tensor([score(*entry, size, seed) for seed in range(size.seeds)])
        for label, entry in entries.items()
    }
    base = found["this, tuned"][:, 0]
    print(size)
    print(
        f"{'weights':16}{'CRPS':>8}{'against this, tuned':>24}{'s/cycle':>10}{'network used':>14}"
    )
    for label, rows in found.items():
        crps, seconds, used = rows.mean(0)
        ratio = rows[:, 0] / base - 1
        error = ratio.std() / size.seeds**0.5
        against = f"{100 * ratio.mean():+.1f} +- {100 * error:.1f} %"
        print(f"{label:16}{crps:8.3f}{against:>24}{seconds:10.2f}{used:14.0%}")


if __name__ == "__main__":
    main()
