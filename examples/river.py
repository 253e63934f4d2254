"""Estimate the parameters of a river from its discharge: a bucket model of water in the ground.

All data are simulated: 200 days of rain, and the discharge of a river of known parameters, seen
with an error of 10 %. Storage and parameters are positive, and stay so: they are estimated by
their logarithms. The figure shows the histograms of the parameters over time.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import scorda as sc
from scorda.core.rng import seeded
from scorda.core.transforms import Log
from scorda.report import parameters
from scorda.systems import LogNormal, Uniform

DAYS, ERROR = 200, 0.1
# Share of the water that leaves in a day, and millimetres of it that evaporate in a day.
LAWS = {"recession": LogNormal(0.05, 0.5), "evaporation": Uniform(0.0, 4.0)}
TRUE = {"recession": 0.08, "evaporation": 1.5}


def rain(days):
    """Millimetres of rain of each day: showers on one day in three."""
    generator = np.random.default_rng(1)
    return generator.gamma(0.8, 10.0, days) * (generator.random(days) < 1 / 3)


RAIN = rain(DAYS)


def step(x, parameters, *, member, step, seed):
    """The water of tomorrow, in millimetres, after rain, evaporation and discharge of today."""
    dry = parameters["evaporation"] * x / (20.0 + x)
    return np.maximum(x + RAIN[step] - dry - parameters["recession"] * x, 0.1)


def initial(members, seed):
    """Water at the first day."""
    return 60.0 * np.exp(0.5 * np.random.default_rng(seed).normal(size=(members, 1)))


def log_discharge(x):
    """The logarithm of what leaves: recession times water."""
    return (x[:, 0] * x[:, 1]).log()[:, None]


def experiment(seed=0):
    """Return the truth, the problem, and the system of the filter."""
    water = {"variables": ("water",), "units": {"water": "mm", "time": "days"}}
    space = sc.StateSpace((1,), 1.0, transforms={"water": Log()}, **water)
    # Errors of rain and model: 3 % of the water in a day.
    model = sc.systems.FunctionSystem(step, initial, space, noise_std=0.03, per_member=True)
    system = sc.WithParameters(model, LAWS)
    start = torch.tensor([[60.0, TRUE["recession"], TRUE["evaporation"]]])
    truth = system.trajectory(start, DAYS, seeded(seed))[0]
    seen = sc.ObservationModel(sc.observations.Function(log_discharge), std=ERROR)
    days = list(range(1, DAYS + 1))
    observations = sc.Observations(seen, days, seen.sample(truth[days], seeded(seed + 1)))
    return truth, sc.Problem(system, observations, DAYS)


def main(out=None, members=60):
    """Assimilate the discharge, print the parameters, and draw them."""
    truth, problem = experiment()
    analysis = sc.ETKF(inflation=1.01).assimilate(problem, members, seeded(2))
    print(f"{'':12}{'truth':>8}{'prior':>16}{'day 50':>16}{f'day {DAYS}':>16}")
    for i, name in enumerate(LAWS, start=1):
        values = analysis.states[..., i]
        spans = [values[:, day].quantile(torch.tensor([0.05, 0.95])) for day in (0, 50, DAYS)]
        text = "".join(f"{f'{low:.3f} - {high:.3f}':>16}" for low, high in spans)
        print(f"{name:12}{TRUE[name]:8.3f}{text}")
    error = sc.metrics.rmse(analysis.states[..., 0], truth[..., 0])
    smallest = float(analysis.states[..., 0].min())
    print(f"water: RMSE {error:.2f} mm; that of all members is above {smallest:.1f} mm")
    if out is not None:
        parameters(analysis, truth).savefig(out, dpi=150)


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, help="file of the figure, such as river.png")
    main(flags.parse_args().out)
