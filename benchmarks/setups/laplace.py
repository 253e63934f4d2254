"""Lorenz-96 with Laplace errors, of which the methods are told, or are not."""

from __future__ import annotations

from dataclasses import replace

from scorda.bench.entry import Entry
from scorda.bench.filtering import Setup, Start
from scorda.bench.tuning import Length
from scorda.core.tapers import GaspariCohn
from scorda.methods.letkf import LETKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.robust_laws import Laplace
from scorda.systems.lorenz import Lorenz96

__all__ = ["lorenz96_laplace", "lorenz96_laplace_as_gaussian"]


def lorenz96_laplace() -> Setup:
    """Lorenz-96 with 80 sites, every second observed each 0.1 with Laplace errors of variance 1.

    Source: Tödter & Ahrens (2015), Mon. Wea. Rev. 143, 1347-1367, as in DAPPER, which runs longer.
    1000 cycles after 20 time units.
    """
    return Setup(
        system=Lorenz96(dim=80, forcing=8.0, dt=0.05),
        model=ObservationModel(Select(range(0, 80, 2)), std=1.0, law=Laplace()),
        every=2,
        length=Length(1000, spinup=200),
        start=Start(0.001**0.5),
        entries=tuple(
            Entry(
                f"LETKF, N={members}, inflation 1.04, radius 5",
                LETKF(1.04, localization=GaspariCohn(5.0)),
                members,
            )
            for members in (20, 40)
        ),
        source="Tödter & Ahrens (2015), Mon. Wea. Rev. 143, 1347-1367",
    )


def lorenz96_laplace_as_gaussian() -> Setup:
    """The same, where the methods are told Gaussian errors of that variance."""
    told = ObservationModel(Select(range(0, 80, 2)), std=1.0)
    return replace(lorenz96_laplace(), told=told)
