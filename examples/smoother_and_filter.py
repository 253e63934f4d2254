"""Compare a smoother with a learned prior to filters with the model, given the same observations.

29 states of Kolmogorov flow are observed as in SDA's assimilation (Rozet & Louppe 2023,
arXiv:2306.10574): every fourth one averaged to 8 x 8, error 0.1. SDA knows the flow by its prior
alone, and each of its states has seen all observations. EnKF, LETKF and MASF have the solver, and
a state has seen those up to its time: all of them at the last step.

Radius and inflation of the filters are chosen by the CRPS of all states on a truth of its own;
settings of SDA are the prior's. MASF's network is trained on forecasts of an LETKF that runs on
observations of yet another truth. A row for each method, truth and step goes to
benchmarks/results/kolmogorov-smoother-filter.csv; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import torch

import scorda as sc
from scorda.bench.scenario import Given, Scenario
from scorda.bench.setups.kolmogorov_scenarios import kolmogorov_assimilation
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.metrics.accuracy import crps, rmse, spread_skill
from scorda.observations.problem import twin_experiment
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.prior import NetworkTraining

RESULTS = Path(__file__).parents[1] / "benchmarks/results/kolmogorov-smoother-filter.csv"
HEADER = ("points", "method", "seed", "step", "rmse", "crps", "spread_skill", "seconds", "settings")
CHOOSE, LEARN = 10, 900
MEMBERS, SMOOTHED = 40, 8
SAMPLER = sc.diffusion.BridgeODE(noise_levels=9, order=2)
Ensemble = Float[Tensor, "ensemble time ..."]


def filtered(method: Any, problem: sc.Problem, seed: int) -> Ensemble:
    """Return a filter's members at all steps: analyses, and forecasts where nothing is seen."""
    run = method.run(problem, MEMBERS, rng.at((seed, 2), 0))
    return torch.stack([cycle.ensemble for cycle in run], 1)


def smoothed(method: Any, problem: sc.Problem, seed: int, members: int) -> Ensemble:
    """Return a smoother's trajectories."""
    states: Ensemble = method.assimilate(problem, members, rng.at((seed, 2), 0)).states
    return states


def network(scenario: Scenario, steps: int) -> AmortisedNetwork:
    """Train a network over local Gaussians on forecasts of an LETKF between two observations."""
    model = sc.ObservationModel(scenario.operator, std=scenario.std)
    gap = scenario.observed[1]
    assert isinstance(gap, int)
    _, problem = twin_experiment(scenario.system, model, 125 * gap, gap, rng.seeded(LEARN))
    letkf = sc.LETKF(1.1, localization=sc.GaspariCohn(0.4))
    run = letkf.run(problem, MEMBERS, rng.at((LEARN, 2), 0))
    forecasts = [cycle.forecast for cycle in run if cycle.forecast is not None][5:]
    training = NetworkTraining(
        steps, 64, batch=32, rate=2e-3, weighting="state", validation_interval=max(1, steps // 4)
    )
    return AmortisedNetwork.train(
        torch.stack(forecasts), scenario.system.space, model, axis=("y", "x"), base=local(0.4, scenario), training=training
    )  # fmt: skip


def local(radius: float, scenario: Scenario) -> sc.priors.LocalGaussian:
    """Return local Gaussians in 16 x 16 blocks."""
    block = scenario.system.space.shape[-1] // 16
    return sc.priors.LocalGaussian(sc.GaspariCohn(radius), block)


def methods(scenario: Scenario) -> dict[str, Callable[[float, float], Any]]:
    """Return the methods of a radius and an inflation."""
    return {
        "EnKF": lambda r, i: sc.EnKF(i, localization=sc.GaspariCohn(2 * r)),
        "LETKF": lambda r, i: sc.LETKF(i, localization=sc.GaspariCohn(r)),
        "MASF": lambda r, i: sc.MASF(local(r, scenario), sampler=SAMPLER, inflation=i),
    }


def rows(
    label: str, states: Ensemble, given: Given, seed: int, seconds: float, settings: str
) -> Iterator[tuple[Any, ...]]:
    """Return the scores of each step, and of all."""
    truth = given.truth
    assert truth is not None
    every = {"all": slice(None)} | {str(k): slice(k, k + 1) for k in range(states.shape[1])}
    for step, at in every.items():
        x, true = states[:, at], truth[at]
        scores = (float(score(x, true)) for score in (rmse, crps, spread_skill))
        yield truth.shape[-1], label, seed, step, *scores, seconds, settings


def main() -> None:
    """Choose, run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="kolmogorov")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training-steps", type=int, default=800)
    parser.add_argument("--only", nargs="+", default=["EnKF", "LETKF", "MASF", "amortised", "SDA"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenario = kolmogorov_assimilation(given.prior)
    points = scenario.system.space.shape[-1]
    there = list(csv.reader(RESULTS.open())) if RESULTS.exists() else []
    done = {tuple(row[:3]) for row in there}
    cases = {seed: scenario.prepare(seed) for seed in (CHOOSE, *given.seeds)}

    def score(label: str, run: Callable[[Given, int], Ensemble], settings: str) -> None:
        for seed in given.seeds:
            if (str(points), label, str(seed)) in done:
                continue
            started = process_time()
            states = run(cases[seed], seed)
            found = list(
                rows(label, states, cases[seed], seed, process_time() - started, settings)
            )
            with RESULTS.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(HEADER)
                writer.writerows(found)
            print(label, seed, *(f"{value:.3f}" for value in found[0][4:7]), settings, flush=True)

    for label, make in methods(scenario).items():
        if label not in given.only or all((str(points), label, str(s)) in done for s in given.seeds):
            continue
        tried = {
            (r, i): float(crps(filtered(make(r, i), cases[CHOOSE].problem, CHOOSE), cases[CHOOSE].truth))
            for r, i in product((0.3, 0.45), (1.0, 1.1))
        }
        best = min(tried, key=lambda k: tried[k])
        print(label, tried, flush=True)
        score(label, lambda c, s: filtered(make(*best), c.problem, s), f"radius {best[0]}, inflation {best[1]}")
    if "amortised" in given.only:
        net = network(scenario, given.training_steps)
        method = sc.MASF(net, sampler=SAMPLER, inflation=1.1)
        score("MASF amortised", lambda c, s: filtered(method, c.problem, s), "inflation 1.1")
    if "SDA" in given.only:
        sda = sc.SDA(sc.load(given.prior))
        score("SDA", lambda c, s: smoothed(sda, c.problem, s, SMOOTHED), "default")


if __name__ == "__main__":
    main()
