"""Lorenz-96 with 10 and 20 sites has nonlinear observations; the number of members varies."""

from __future__ import annotations

from dataclasses import replace

from scorda.bench.entry import Entry, grid
from scorda.bench.filtering import Setup, Start
from scorda.bench.sweep import Sweep
from scorda.bench.tuning import Length, Tuning
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enkf import EnKF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Pointwise
from scorda.systems.lorenz import Lorenz96

from .lorenz_gaps import ensf

__all__ = ["lorenz96_10", "lorenz96_20"]

MEMBERS = (50, 100, 250, 500, 1000)
# Up to these local analyses are among the options of the mixture filter.
LOCAL = 100
BANDWIDTHS = (0.1, 0.2, 0.3, 0.4, 0.55, 0.7)
SOURCE = (
    "after Binder & Oberai (2026), arXiv:2603.21291, section 4.3; operator, gap and error ours"
)


def lorenz96_10() -> Sweep:
    """Ten sites, each observed as x^2 / 10 with unit error every 0.4 time units.

    The sign of a site is not seen, so an analysis may have several modes. Operator, gap and error
    of the paper are not known to us. There are 120 analyses, of which the first 20 are not scored.
    """
    return _sweep(dim=10, every=8)


def lorenz96_20() -> Sweep:
    """Twenty sites, each observed as x^2 / 10 with unit error every 0.2 time units."""
    return _sweep(dim=20, every=4)


def squared(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the square, divided by 10."""
    return x.square() / 10


def _sweep(dim: int, every: int) -> Sweep:
    setup = Setup(
        system=Lorenz96(dim=dim, forcing=8.0, dt=0.05),
        model=ObservationModel(Pointwise(squared), std=1.0),
        every=every,
        length=Length(100, spinup=20),
        start=Start(1.0),
        entries=(),
        source=SOURCE,
        seeds=5,
        tuning=Tuning(length=Length(40, spinup=10)),
    )
    points = {f"N={n}": replace(setup, entries=_entries(n)) for n in MEMBERS}
    return Sweep(points, SOURCE)


def _entries(members: int) -> tuple[Entry, ...]:
    tapers = (None, GaspariCohn(2.0))
    inflations = (1.0, 1.05, 1.15)
    closed = grid(relative_bandwidth=BANDWIDTHS)
    # Adaptive where no factor is given. A local analysis takes a root of a matrix of the
    # members at each site.
    local = {"inflation": 1.1, "localization": GaspariCohn(4.0)}
    near = {**local, "weight_localization": GaspariCohn(2.0)}
    mixtures = (
        {"inflation": 1.0},
        {"inflation": 1.05},
        {"inflation": 1.1},
        {"kernel_factor": 0.6, "inflation": 1.05},
        local if members <= LOCAL else {"inflation": 1.02},
        near if members <= LOCAL else {"inflation": 1.15},
    )
    radii = [GaspariCohn(2.0), GaspariCohn(4.0)]
    letkf = grid(inflation=inflations, localization=radii)
    return (
        Entry("EnKF", EnKF(), members, grid(inflation=inflations, localization=tapers)),
        Entry("LETKF", LETKF(localization=GaspariCohn(2.0)), members, letkf),
        Entry("particle filter", ParticleFilter(0.5), members, grid(jitter=BANDWIDTHS)),
        Entry("closed form", ClosedFormFilter(), members, closed),
        Entry("closed form, coupled", ClosedFormFilter(draw="coupled"), members, closed),
        Entry("mixture", GaussianMixtureFilter(), members, mixtures),
        ensf(members),
    )
