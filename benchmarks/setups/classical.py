"""Set-ups with published scores: of Sakov, of Anderson, and Lorenz-96 of EnSF."""

from __future__ import annotations

from dataclasses import replace

import torch

from scorda.assimilation.climatology import Climatology
from scorda.bench.entry import Entry
from scorda.bench.filtering import Setup, Start
from scorda.bench.tuning import Length
from scorda.core.tapers import GaspariCohn
from scorda.methods.denkf import DEnKF
from scorda.methods.enff import EnFF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enkf_n import EnKFN
from scorda.methods.ensf import EnSF
from scorda.methods.ensrf import EnSRF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.ienks import IEnKS
from scorda.methods.interpolation import OptimalInterpolation
from scorda.methods.letkf import LETKF
from scorda.methods.particle import ParticleFilter
from scorda.methods.rank_histogram import RankHistogramFilter
from scorda.methods.variational import ThreeDVar
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Pointwise, Select
from scorda.priors.gaussian import Gaussian
from scorda.systems.lorenz import Lorenz63, Lorenz96

__all__ = [
    "lorenz63_anderson",
    "lorenz63_sakov",
    "lorenz96_arctan",
    "lorenz96_long_gap",
    "lorenz96_sakov",
]


def lorenz96_sakov() -> Setup:
    """Lorenz-96 with 40 sites, all observed each step of 0.05 with unit error.

    Source: Sakov & Oke (2008), Tellus A 60, 361-371. 1000 cycles after 20 time units.
    """
    return Setup(
        system=Lorenz96(dim=40, forcing=8.0, dt=0.05),
        model=ObservationModel(Select(range(40)), std=1.0),
        every=1,
        length=Length(1000, spinup=400),
        start=Start(0.001**0.5),
        entries=(
            Entry("EnKF, N=40, inflation 1.06", EnKF(inflation=1.06), 40),
            Entry("DEnKF, N=40, inflation 1.01", DEnKF(inflation=1.01), 40),
            Entry("ETKF, N=28, inflation 1.02, rotation", ETKF(1.02, rotation=True), 28),
            Entry(
                "LETKF, N=7, inflation 1.04, radius 4",
                LETKF(1.04, localization=GaspariCohn(4.0)),
                7,
            ),
            Entry("EnSRF, N=28, inflation 1.02, rotation", EnSRF(1.02, rotation=True), 28),
            Entry(
                "EnSRF, N=7, inflation 1.07, radius 6, rotation",
                EnSRF(1.07, GaspariCohn(6.0), rotation=True),
                7,
            ),
            Entry("IEnKS, N=40, inflation 1.01, rotation", IEnKS(1.01, rotation=True), 40),
            Entry("EnKF-N, N=24, rotation", EnKFN(rotation=True), 24),
            Entry("EnKF-N, N=24, certainty 2, rotation", EnKFN(2.0, rotation=True), 24),
            Entry("ThreeDVar, N=20, covariance times 0.02", ThreeDVar(Climatology(0.02)), 20),
            Entry("OptimalInterpolation, N=20", OptimalInterpolation(), 20),
        ),
        source="Sakov & Oke (2008), Tellus A 60, 361-371",
    )


def lorenz96_long_gap() -> Setup:
    """Lorenz-96 as that of Sakov & Oke, but observed every 0.6 time units: far from linear.

    Source: Sakov, Oliver & Bertino (2012), Mon. Wea. Rev. 140, 1988-2004, table 3. 1000 cycles
    after 20 time units.
    """
    return replace(
        lorenz96_sakov(),
        every=12,
        length=Length(1000, spinup=34),
        entries=(Entry("IEnKS, N=25, inflation 1.2, rotation", IEnKS(1.2, rotation=True), 25),),
        source="Sakov, Oliver & Bertino (2012), Mon. Wea. Rev. 140, 1988-2004",
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
        length=Length(1000, spinup=64),
        start=Start(0.001**0.5),
        entries=(
            Entry("ETKF, N=10, inflation 1.02, rotation", ETKF(1.02, rotation=True), 10),
            Entry("EnKF-N, N=10, rotation", EnKFN(rotation=True), 10),
            Entry("EnKF-N, N=3", EnKFN(), 3),
            Entry("EnKF, N=100, inflation 1.01", EnKF(inflation=1.01), 100),
            Entry("ParticleFilter, N=800, resample 0.2, jitter 0.35", particles, 800),
            Entry("mixture, N=100", GaussianMixtureFilter(), 100),
            Entry("mixture, N=800", GaussianMixtureFilter(), 800),
            Entry("IEnKS, N=10, inflation 1.02, rotation", IEnKS(1.02, rotation=True), 10),
        ),
        source="Sakov, Oliver & Bertino (2012), Mon. Wea. Rev. 140, 1988-2004",
    )


def lorenz63_anderson() -> Setup:
    """Lorenz-63 without model error, all observed every 0.12 time units with variance 8.

    Source: Anderson (2010), Mon. Wea. Rev. 138, 4186-4198. 1000 cycles after 16 time units.
    """
    return Setup(
        system=Lorenz63(dt=0.01, noise_std=0.0),
        model=ObservationModel(Select(range(3)), std=8.0**0.5),
        every=12,
        length=Length(1000, spinup=134),
        start=Start(0.001**0.5),
        entries=(
            Entry("EnSRF, N=20, inflation 1.01, rotation", EnSRF(1.01, rotation=True), 20),
            Entry("EnKF-N, N=20, rotation", EnKFN(rotation=True), 20),
            Entry(
                "rank histogram filter, N=50, inflation 1.10",
                RankHistogramFilter(inflation=1.1),
                50,
            ),
            Entry("rank histogram filter, N=50, rotation", RankHistogramFilter(rotation=True), 50),
        ),
        source="Anderson (2010), Mon. Wea. Rev. 138, 4186-4198",
    )


def lorenz96_arctan() -> Setup:
    """Lorenz-96 with 100 sites, the arctangent of all observed every 0.1 with error 0.05.

    This is the set-up of EnSF without shocks: members start as N(0, I), whatever the truth is. The
    last 100 of 150 analyses count; the authors do not say which they average over. The options of
    the LETKF and of EnFF were tuned on other seeds.
    """
    mixture = GaussianMixtureFilter(inflation=1.1, localization=GaspariCohn(2.5))
    return Setup(
        system=Lorenz96(dim=100, forcing=8.0, dt=0.01),
        model=ObservationModel(Pointwise(torch.atan), std=0.05),
        every=10,
        length=Length(100, spinup=50),
        start=Start(1.0, mean=0.0),
        entries=(
            Entry(
                "EnSF, N=20, ends (0.5, 0.025)",
                EnSF(eps_alpha=0.5, eps_beta=0.025, scale="none"),
                20,
            ),
            Entry(
                "EnFF, N=20, strength 0.03, kernel 0.1",
                EnFF(strength=0.03, kernel=0.1, scale="none"),
                20,
            ),
            Entry(
                "EnFF, N=20, exact guidance, inflation 1.1, radius 2.5",
                EnFF("ot", "exact", prior=Gaussian(GaspariCohn(2.5)), inflation=1.1),
                20,
            ),
            Entry(
                "LETKF, N=20, inflation 1.1, radius 2.5",
                LETKF(1.1, localization=GaspariCohn(2.5)),
                20,
            ),
            Entry("mixture, N=20, inflation 1.1, radius 2.5", mixture, 20),
        ),
        source="Bao, Zhang & Zhang (2024), CMAME 432, 117447, and their public code",
    )
