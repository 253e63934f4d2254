"""Compare a smoother with a learned prior to filters with the model, given the same observations.

Of 29 states of Kolmogorov flow every fourth one is seen at 8 x 8 points, error 0.1. SDA knows
the flow by its prior alone, and each of its states has seen all observations. EnKF, LETKF and MASF
have the solver, and a state has seen those up to its time: all of them at the last step.

Radius and inflation of the filters are chosen by the CRPS of all states on a truth of its own;
SDA has sixteen evaluations, MASF local Gaussians. Scores of some steps, means over the truths, go
to benchmarks/results/kolmogorov-smoother-filter.csv.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

import scorda as sc
from scorda.bench.scenario import Scenario
from scorda.bench.setups.kolmogorov_scenarios import QUICK
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.metrics.accuracy import crps, rmse, spread_skill
from scorda.observations.masks import Mask
from scorda.systems.kolmogorov import KolmogorovFlow

RESULTS = Path(__file__).parents[1] / "benchmarks/results/kolmogorov-smoother-filter.csv"
SCORES = {"rmse": rmse, "crps": crps, "spread_skill": spread_skill}
HEADER = ("method", "steps", *SCORES, "crps_error", "settings")
CHOOSE = 10
MEMBERS, SMOOTHED = 40, 8
SEEN, GAP, STEPS = 8, 4, 28
SHOWN = {"all": slice(None)} | {f"step {k}": slice(k, k + 1) for k in (0, 14, STEPS)}
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


def scores(states: Ensemble, truth: Float[Tensor, "time ..."]) -> Float[Tensor, "step score"]:
    """Return the scores of some steps."""
    return torch.stack(
        [
            torch.stack([score(states[:, at], truth[at]) for score in SCORES.values()])
            for at in SHOWN.values()
        ]
    )


def main() -> None:
    """Choose, run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="kolmogorov")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    prior = sc.load(given.prior)
    scenario = set_up(prior)
    methods: dict[str, tuple[Any, str]] = {"SDA": (sc.SDA(prior, sampler=QUICK), "")}
    for label, make in filters(scenario).items():
        radius, inflation = chosen(make, scenario)
        methods[label] = make(radius, inflation), f"radius {radius}, inflation {inflation}"
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for label, (method, settings) in methods.items():
            found = []
            for seed in given.seeds:
                case = scenario.prepare(seed)
                assert case.truth is not None
                found.append(scores(drawn(method, case.problem, seed), case.truth))
            mean = torch.stack(found).mean(0)
            error = torch.stack(found)[..., 1].std(0) / len(found) ** 0.5
            for step, row, off in zip(SHOWN, mean.tolist(), error.tolist(), strict=True):
                cells = (f"{value:.3f}" for value in (*row, off))
                writer.writerow((label, step, *cells, settings))
            print(label, *(f"{value:.3f}" for value in mean[0].tolist()), settings, flush=True)


if __name__ == "__main__":
    main()
