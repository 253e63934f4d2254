"""Named benchmark set-ups: system, observations, lengths, the methods tried, and their sources.

Each function of `PROBLEMS` returns a `Setup`; the scores expected of its entries stand in
``expected.toml`` under the same names and labels.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import torch

from scorda import rng
from scorda.bench.entry import Entry
from scorda.bench.prior import Generation, lorenz63_prior
from scorda.bench.smoothing import Smoothing, lorenz63_sda
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.ensf import EnSF
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.metrics import rmse
from scorda.observe import ObservationModel, Pointwise, Select
from scorda.problem import Problem, twin_experiment
from scorda.shapes import Float, Tensor
from scorda.systems import Lorenz63, Lorenz96, System

# Cycles of spin-up and of scores in a shortened set-up.
QUICK_CYCLES = 20

__all__ = ["PROBLEMS", "Entry", "Setup", "expected_scores", "filter_rmse"]


@dataclass(frozen=True)
class Setup:
    r"""A twin experiment with a name.

    Truth and members start as draws of :math:`N(m, \mathrm{start\_std}^2 I)`, where m is a state
    of the attractor. That is how the published scores start; small ensembles without
    localization may never find the truth from independent states of the attractor.

    Arguments:
        system: Truth and forecast model.
        model: Observation model.
        every: Steps between observations.
        cycles: Observed steps that are scored.
        spinup: Observed steps before them, left out of the scores.
        start_std: Standard deviation of truth and members at step 0 about a common state.
        start_mean: Instead of that, mean of all components of the members at step 0, whatever
            the truth, a state of the attractor.
        entries: What is run.
        source: Where the set-up is from.
        seeds: Number of twin experiments.
        statistic: What is taken over them, "mean" or "median".
    """

    system: System
    model: ObservationModel
    every: int
    cycles: int
    spinup: int
    start_std: float
    entries: tuple[Entry, ...]
    source: str
    seeds: int = 3
    statistic: str = "mean"
    start_mean: float | None = None

    def prepare(self, seed: int) -> tuple[Tensor, Problem]:
        """Truth and problem of one seed, the same for all methods."""
        return self.twin(seed)

    def score(self, entry: Entry, twin: tuple[Tensor, Problem], seed: int) -> dict[str, float]:
        """Scores of one run."""
        return {"rmse": filter_rmse(self, entry, *twin, seed)}

    def shortened(self) -> Setup:
        """The set-up with few cycles: a test that it runs, whose scores mean nothing."""
        return replace(self, cycles=QUICK_CYCLES, spinup=QUICK_CYCLES, seeds=1)

    def twin(self, seed: int) -> tuple[Float[Tensor, "time *state"], Problem]:
        """Truth and problem of one seed, the same for all methods."""
        steps = self.every * (self.spinup + self.cycles)
        return twin_experiment(self.system, self.model, steps, self.every, rng.seeded(seed))

    def initial(
        self, truth: Float[Tensor, "time *state"], members: int, seed: int
    ) -> Float[Tensor, "ensemble *state"]:
        """Members at step 0; of the truth they know what they know of each other, or nothing."""
        # Row 0 is the truth's own deviation from the common mean m.
        noise = rng.normal(members + 1, self.system.space.shape, rng.at((seed, 1), 0), like=truth)
        if self.start_mean is not None:
            return self.start_mean + self.start_std * noise[1:]
        return truth[0] + self.start_std * (noise[1:] - noise[0])


def filter_rmse(
    setup: Setup, entry: Entry, truth: Float[Tensor, "time *state"], problem: Problem, seed: int
) -> float:
    """Time mean of the RMSE of the analysis mean over the scored cycles of a filter.

    Only those analyses are looked at, so the memory does not grow with the run.

    Arguments:
        setup: The set-up.
        entry: The filter.
        truth: Truth of the twin experiment.
        problem: Problem of the twin experiment.
        seed: Seed of the ensemble.
    """
    first = setup.every * setup.spinup
    problem = replace(problem, initial=setup.initial(truth, entry.members, seed))
    errors = []
    for cycle in entry.method.run(problem, entry.members, rng.at((seed, 2), 0)):
        if cycle.info and cycle.step > first:
            weights = None if cycle.weights is None else cycle.weights[:, None]
            errors.append(rmse(cycle.ensemble[:, None], truth[cycle.step][None], weights))
    return float(torch.stack(errors).mean())


def expected_scores(problem: str) -> dict[str, dict[str, Any]]:
    """Expected scores of a problem: ``rmse``, ``tolerance`` and ``source`` per label."""
    text = files("scorda.bench").joinpath("expected.toml").read_text()
    return tomllib.loads(text).get(problem, {})


def lorenz96_sakov() -> Setup:
    """Lorenz-96 with 40 sites, all observed each step of 0.05 with unit error.

    Source: Sakov & Oke (2008), Tellus A 60, 361-371. 1000 cycles after 20 time units.
    """
    return Setup(
        system=Lorenz96(dim=40, forcing=8.0, dt=0.05),
        model=ObservationModel(Select(range(40)), std=1.0),
        every=1,
        cycles=1000,
        spinup=400,
        start_std=0.001**0.5,
        entries=(
            Entry("EnKF, N=40, inflation 1.06", EnKF(inflation=1.06), 40),
            Entry("ETKF, N=28, inflation 1.02, rotation", ETKF(1.02, rotation=True), 28),
            Entry("LETKF, N=7, inflation 1.04, radius 4", LETKF(1.04, radius=4.0), 7),
        ),
        source="Sakov & Oke (2008), Tellus A 60, 361-371",
    )


def lorenz63_sakov() -> Setup:
    """Lorenz-63 without model error, all observed every 0.25 time units with variance 2.

    Source: Sakov, Oliver & Bertino (2012), Mon. Wea. Rev. 140, 1988-2004. 1000 cycles after 16
    time units.
    """
    particles = ParticleFilter(resample=0.2, jitter=0.35)
    return Setup(
        system=Lorenz63(dt=0.01, noise_std=0.0),
        model=ObservationModel(Select(range(3)), std=2.0**0.5),
        every=25,
        cycles=1000,
        spinup=64,
        start_std=0.001**0.5,
        entries=(
            Entry("ETKF, N=10, inflation 1.02, rotation", ETKF(1.02, rotation=True), 10),
            Entry("EnKF, N=100, inflation 1.01", EnKF(inflation=1.01), 100),
            Entry("ParticleFilter, N=800, resample 0.2, jitter 0.35", particles, 800),
        ),
        source="Sakov, Oliver & Bertino (2012), Mon. Wea. Rev. 140, 1988-2004",
    )


def lorenz96_arctan() -> Setup:
    """Lorenz-96 with 100 sites, the arctangent of all observed every 0.1 with error 0.05.

    The set-up of EnSF without shocks: members start as N(0, I), whatever the truth. The last 100
    of 150 analyses count: which the authors average over is not known. Their best scores are
    0.193 for EnSF and 0.138 for an LETKF; the one here was tuned on other seeds.
    """
    return Setup(
        system=Lorenz96(dim=100, forcing=8.0, dt=0.01),
        model=ObservationModel(Pointwise(torch.atan), std=0.05),
        every=10,
        cycles=100,
        spinup=50,
        start_std=1.0,
        start_mean=0.0,
        entries=(
            Entry("EnSF, N=20, ends (0.5, 0.025)", EnSF(eps_alpha=0.5, eps_beta=0.025), 20),
            Entry("LETKF, N=20, inflation 1.1, radius 2.5", LETKF(1.1, radius=2.5), 20),
        ),
        source="Bao, Zhang & Zhang (2024), CMAME 432, 117447, and their public code",
    )


PROBLEMS: dict[str, Callable[..., Setup | Smoothing | Generation]] = {
    "lorenz63-sda": lorenz63_sda,
    "lorenz63-prior": lorenz63_prior,
    "lorenz96-sakov": lorenz96_sakov,
    "lorenz63-sakov": lorenz63_sakov,
    "lorenz96-arctan": lorenz96_arctan,
}
