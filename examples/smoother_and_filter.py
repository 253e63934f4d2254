"""Compare a smoother with a learned prior to filters with the model, given the same observations.

Of 29 states of Kolmogorov flow every fourth one is seen at 8 x 8 points, error 0.1. SDA knows
the flow by its prior alone, and each of its states has seen all observations. EnKF, LETKF and MASF
have the solver, and a state has seen those up to its time: all of them at the last step.

Radius and inflation of the filters are chosen by the CRPS of all states on a truth of its own;
SDA has sixteen evaluations. MASF's network is trained on forecasts of an LETKF that runs on
observations of yet another truth. A row for each method, truth and step goes to
benchmarks/results/kolmogorov-smoother-filter.csv; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import torch

import scorda as sc
from scorda.bench.scenario import Scenario
from scorda.bench.setups.kolmogorov_scenarios import QUICK
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.metrics.accuracy import crps, rmse, spread_skill
from scorda.observations.masks import Mask
from scorda.observations.problem import twin_experiment
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.prior import NetworkTraining
from scorda.systems.kolmogorov import KolmogorovFlow

RESULTS = Path(__file__).parents[1] / "benchmarks/results/kolmogorov-smoother-filter.csv"
SCORES = {"rmse": rmse, "crps": crps, "spread_skill": spread_skill}
HEADER = ("points", "method", "seed", "step", *SCORES, "seconds", "settings")
CHOOSE, LEARN = 10, 900
MEMBERS, SMOOTHED = 40, 8
SEEN, GAP, STEPS = 8, 4, 28
BRIDGE = sc.diffusion.BridgeODE(noise_levels=9, order=2)
GRID = tuple(product((0.3, 0.45), (1.0, 1.1)))
Ensemble = Float[Tensor, "ensemble time ..."]


def set_up(prior: sc.priors.TrainedTrajectory) -> Scenario:
    """Return the system of a prior, seen at 8 x 8 points of every fourth state."""
    system = KolmogorovFlow(**prior.provenance["system"]["settings"])
    seen = Mask.grid(system.space, system.space.shape[-1] // SEEN)
    return Scenario(system, seen, 0.1, STEPS, tuple(range(0, STEPS + 1, GAP)), (), "")


def filters(scenario: Scenario) -> dict[str, Callable[[float, float], Any]]:
    """Return functions of radius and inflation that make the filters."""
    return {
        "EnKF": lambda r, i: sc.EnKF(i, localization=sc.GaspariCohn(2 * r)),
        "LETKF": lambda r, i: sc.LETKF(i, localization=sc.GaspariCohn(r)),
        "MASF": lambda r, i: sc.MASF(local(r, scenario), sampler=BRIDGE, inflation=i),
    }


def local(radius: float, scenario: Scenario) -> sc.priors.LocalGaussian:
    """Return local Gaussians in 16 x 16 blocks."""
    return sc.priors.LocalGaussian(sc.GaspariCohn(radius), scenario.system.space.shape[-1] // 16)


def network(scenario: Scenario, steps: int) -> AmortisedNetwork:
    """Train a network over local Gaussians on 120 forecasts of an LETKF."""
    model = sc.ObservationModel(scenario.operator, std=scenario.std)
    _, problem = twin_experiment(scenario.system, model, 125 * GAP, GAP, rng.seeded(LEARN))
    letkf = sc.LETKF(1.1, localization=sc.GaspariCohn(0.4))
    run = letkf.run(problem, MEMBERS, rng.at((LEARN, 2), 0))
    forecasts = [cycle.forecast for cycle in run if cycle.forecast is not None][5:]
    training = NetworkTraining(
        steps, 64, batch=32, rate=2e-3, weighting="state", validation_interval=max(1, steps // 4)
    )
    return AmortisedNetwork.train(
        torch.stack(forecasts),
        scenario.system.space,
        model,
        axis=("y", "x"),
        base=local(0.4, scenario),
        training=training,
    )


def drawn(method: Any, problem: sc.Problem, seed: int) -> Ensemble:
    """Return a smoother's trajectories, or the members of a filter at all steps.

    Where nothing is seen the members of a filter are its forecast.
    """
    draws = rng.at((seed, 2), 0)
    if isinstance(method, sc.SDA):
        smoothed: Ensemble = method.assimilate(problem, SMOOTHED, draws).states
        return smoothed
    return torch.stack([cycle.ensemble for cycle in method.run(problem, MEMBERS, draws)], 1)


def chosen(make: Callable[[float, float], Any], scenario: Scenario) -> tuple[float, float]:
    """Return the radius and inflation of least CRPS on a truth that is not scored."""
    case = scenario.prepare(CHOOSE)
    assert case.truth is not None
    found = [crps(drawn(make(*at), case.problem, CHOOSE), case.truth) for at in GRID]
    return GRID[int(torch.stack(found).argmin())]


def rows(states: Ensemble, truth: Float[Tensor, "time ..."]) -> Iterator[tuple[Any, ...]]:
    """Return the step and the scores of all states, and of each step."""
    every = {"all": slice(None)} | {str(k): slice(k, k + 1) for k in range(len(truth))}
    for step, at in every.items():
        yield step, *(float(score(states[:, at], truth[at])) for score in SCORES.values())


class Table:
    """The file of results; a method's run on a truth is done once.

    Arguments:
        scenario: The scenario.
        seeds: Seeds of the truths.
    """

    def __init__(self, scenario: Scenario, seeds: list[int]) -> None:
        self.scenario, self.points = scenario, scenario.system.space.shape[-1]
        there = list(csv.reader(RESULTS.open())) if RESULTS.exists() else [HEADER]
        self.done = {tuple(row[:3]) for row in there}
        self.seeds = seeds
        if not RESULTS.exists():
            self.write([HEADER])

    def write(self, found: list[tuple[Any, ...]]) -> None:
        """Append rows."""
        with RESULTS.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(found)

    def left(self, label: str) -> list[int]:
        """Return the seeds whose rows of a method are missing."""
        return [s for s in self.seeds if (str(self.points), label, str(s)) not in self.done]

    def add(self, label: str, method: Any, settings: str) -> None:
        """Run a method on the truths that are left, and write its rows."""
        for seed in self.left(label):
            case, started = self.scenario.prepare(seed), process_time()
            assert case.truth is not None
            states = drawn(method, case.problem, seed)
            seconds = round(process_time() - started, 1)
            found = list(rows(states, case.truth))
            self.write([(self.points, label, seed, *row, seconds, settings) for row in found])
            print(label, seed, *(f"{value:.3f}" for value in found[0][1:]), settings, flush=True)


def main() -> None:
    """Choose, run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="kolmogorov")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training-steps", type=int, default=800)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prior = sc.load(given.prior)
    scenario = set_up(prior)
    table = Table(scenario, given.seeds)
    table.add("SDA, 16 evaluations", sc.SDA(prior, sampler=QUICK), "")
    for label, make in filters(scenario).items():
        if table.left(label):
            radius, inflation = chosen(make, scenario)
            settings = f"radius {radius}, inflation {inflation}"
            table.add(label, make(radius, inflation), settings)
    if table.left("MASF amortised"):
        learned = network(scenario, given.training_steps)
        table.add("MASF amortised", sc.MASF(learned, sampler=BRIDGE, inflation=1.1), "")


if __name__ == "__main__":
    main()
