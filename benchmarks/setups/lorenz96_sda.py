"""SDA on windows of Lorenz-96 is compared with smoothers that run the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from scorda.bench.entry import Entry, grid
from scorda.bench.scenario import Given, defect
from scorda.bench.sweep import Sweep
from scorda.bench.tuning import Tuning
from scorda.core import rng
from scorda.methods.enks import EnKS
from scorda.methods.ienks import IEnKS
from scorda.methods.sda import SDA
from scorda.methods.variational import FourDVar
from scorda.metrics.accuracy import crps, rmse, spread_skill
from scorda.metrics.trajectory import residual_std
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.priors.trajectory import load
from scorda.systems.lorenz import Lorenz96

__all__ = ["lorenz96_sda"]

SOURCE = "ours; the system of the shipped prior, which has no model error"
# Every second site each second step, and every fourth site each fourth step.
DENSITIES = (2, 4)
MEMBERS, LARGE = 40, 400
STEPS = 40
# Steps by which the window of 4D-Var grows.
GROWTH = 4


@dataclass(frozen=True)
class Windows:
    """Whole windows of Lorenz-96 are scored, from step 0 on, whose law is the climate.

    Arguments:
        entries: Methods.
        density: Number of sites from one observed site to the next, and of steps.
        steps: Steps of a window.
        seeds: Number of truths.
        tuning: How options of entries with a grid are chosen, in windows as long.
        source: Where the set-up is from.
        shown: Scores that the command prints.
    """

    entries: tuple[Entry, ...]
    density: int
    steps: int = STEPS
    seeds: int = 5
    tuning: Tuning = field(default_factory=Tuning)
    source: str = SOURCE
    shown: tuple[str, ...] = ("rmse", "crps", "spread_skill", "residual", "defect")

    statistic: ClassVar[str] = "mean"

    def prepare(self, seed: int) -> Given:
        """Return truth and observations of one seed; they are the same for all methods."""
        system, every = Lorenz96(), self.density
        model = ObservationModel(Select(range(0, system.dim, every)), std=1.0)
        twin = rng.at((seed, 3), 0)
        truth, problem = twin_experiment(system, model, self.steps, every, twin, start=0)
        return Given(problem, truth)

    def score(self, entry: Entry, given: Given, seed: int) -> dict[str, float]:
        """Return the scores of one run over all states of the window (see `bench.scenario`)."""
        truth, problem = given.truth, given.problem
        assert truth is not None
        method, generator = entry.method, rng.at((seed, 2), 0)
        x = method.assimilate(problem, entry.members, generator).states
        return {
            "rmse": float(rmse(x, truth)),
            "crps": float(crps(x, truth)),
            "spread_skill": float(spread_skill(x, truth)),
            "residual": float(residual_std(x, problem.instruments[0])),
            "defect": defect(x, Lorenz96()),
        }

    def shortened(self) -> Windows:
        """Return the windows with few members, to test that they run."""
        entries = tuple(replace(e, members=4, grid=()) for e in self.entries[:2])
        return replace(self, entries=entries, seeds=1)

    def trial(self) -> Windows:
        """Return the windows themselves."""
        return self


def lorenz96_sda(prior: str = "lorenz96") -> Sweep:
    """Windows of two time units of Lorenz-96, 40 sites, from the climate; error 1.

    Every second (or fourth) site is observed each second (or fourth) step. SDA has its defaults.
    4D-Var, a sample of its strong constraint, has at most 100 iterations after its window has
    grown by four steps at a time. The benchmark chooses the options of the ensemble smoothers.

    Arguments:
        prior: Name of a shipped prior or file of another one.
    """
    sda = SDA(load(prior))
    points = {f"every={n}": Windows(_entries(sda, n), n) for n in DENSITIES}
    return Sweep(points, SOURCE)


def _entries(sda: SDA, density: int) -> tuple[Entry, ...]:
    """Return the methods, the ensemble ones also with more members, which they can afford."""
    variational = FourDVar(iterations=100, growth=GROWTH // density)
    entries = [Entry("SDA", sda, MEMBERS), Entry("4D-Var", variational, MEMBERS)]
    few = grid(inflation=(1.05, 1.2), lag_radius=(10.0, 40.0))
    many = grid(inflation=(1.0, 1.05), lag_radius=(40.0, None))
    windows = ({"lag": 2}, *grid(mda=(True,), lag=(3, 5, 10)))
    for members, inflation, smoothers in ((MEMBERS, 1.05, few), (LARGE, 1.0, many)):
        iterated = IEnKS(inflation)
        entries.append(Entry(f"EnKS, {members} members", EnKS(), members, smoothers))
        entries.append(Entry(f"IEnKS, {members} members", iterated, members, windows))
    return tuple(entries)
