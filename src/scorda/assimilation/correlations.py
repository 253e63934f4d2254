r"""Localization by sample correlations, which needs no positions.

A sample correlation r of two variables without any has a standard deviation of about
:math:`1 / \sqrt{N - 1}` with N members. So a small r tells little, whatever the distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import hyp2f1

from scorda.assimilation.localization import Localization, Places, Scene
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn

__all__ = ["CorrelationTaper", "CorrelationThreshold", "SamplingError", "sampling_factors"]

# Distance 1 - |r| up to which nothing is tapered, and the factor of the error at twice that.
FREE, LARGEST = 0.35, 8.0
# Correlations at which the sampling-error factors are tabulated, and true ones that are averaged.
TABLE, TRUE = 401, 2001


@dataclass(frozen=True)
class CorrelationThreshold(Localization):
    r"""Use an observation for a component where their sample correlation is significant.

    .. math:: \rho = 1 \ \mathrm{where} \ |r| > \min(c / \sqrt N, 1), \ \mathrm{else} \ 0

    Each component is updated with its own observations alone. With c = 3 and no correlation a pair
    is kept by chance in 0.1 to 0.2 % of all cases; with :math:`N \le c^2` nothing is ever updated.

    Source: Vossepoel, Evensen & van Leeuwen (2025), Mon. Wea. Rev., equation 6, as in ERT.
    https://doi.org/10.1175/MWR-D-24-0269.1

    Arguments:
        deviations: c, in standard deviations of r, positive.
    """

    deviations: float = 3.0

    errors = True

    def __post_init__(self) -> None:
        if not self.deviations > 0:
            raise ValueError(f"Got deviations = {self.deviations}: give a positive number.")

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        r = (scene.directions.mT @ directions).abs()
        # A correlation of 1 may be rounded up.
        least = min(self.deviations / math.sqrt(scene.members), 1.0)
        return (r.clamp_max(1) > least).to(r)


@dataclass(frozen=True)
class CorrelationTaper(Localization):
    r"""Enlarge the error of an observation where its sample correlation is small.

    .. math:: \rho = E^{-2}, \quad E(r) = 8^{(1 - |r| - 0.35)^2 / 0.35^2}

    multiplies the standard deviation of the error; it is 1 for :math:`|r| \ge 0.65` and 8 for
    :math:`|r| \le 0.3`. It does not depend on the number of members.

    Source: Vossepoel, Evensen & van Leeuwen (2025), Mon. Wea. Rev., equation 9, as in ERT.
    https://doi.org/10.1175/MWR-D-24-0269.1
    """

    errors = True

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        return error_factor((scene.directions.mT @ directions).abs()) ** -2


def error_factor(r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return E of the size of a correlation."""
    beyond = ((1 - r - FREE) / FREE).clamp(0, 1)
    return LARGEST ** beyond.square()


@dataclass(frozen=True)
class SamplingError(Localization):
    r"""Multiply a regression by what its sample correlation is expected to be worth.

    .. math:: \rho(r) = E[\varrho \mid r] / r, \quad \varrho \sim U(-1, 1)

    for the sample correlation r of N draws of a Gaussian pair with correlation :math:`\varrho`.
    It damps little beyond :math:`N \approx 40`: combine it with a taper by distance where there
    are positions. The matrix of such factors need not be positive semidefinite.

    Source: Anderson (2012), Mon. Wea. Rev. 140, 2359-2371.
    https://doi.org/10.1175/MWR-D-11-00013.1 There the factors are those of a Monte-Carlo table of
    bins; here they are integrals over the exact law of r, which is computed once per N.

    Arguments:
        taper: Taper by distance that is multiplied with it, or None.
    """

    taper: GaspariCohn | None = None

    @property
    def positions(self) -> bool:  # type: ignore[override]
        return self.taper is not None

    def weights(self, scene: Scene, places: Places, directions: Tensor) -> Float[Tensor, "obs n"]:
        r = (scene.directions.mT @ directions).abs().clamp_max(1)
        at = r * (TABLE - 1)
        low = at.long().clamp_max(TABLE - 2)
        table = sampling_factors(scene.members).to(r)
        rho = torch.lerp(table[low], table[low + 1], at - low)
        if self.taper is None:
            return rho
        a, b = scene.observed.positions, places.positions
        assert a is not None and b is not None
        return rho * self.taper(scene.space.distance(a, b)).to(rho)


@lru_cache(maxsize=8)
def sampling_factors(members: int) -> Float[Tensor, "correlations"]:
    r"""Return :math:`E[\varrho \mid r] / r` at equidistant r in [0, 1].

    The law of r (Hotelling 1953) as a function of :math:`\varrho` is, with N members,

    .. math:: (1 - \varrho^2)^{(N - 1) / 2} (1 - \varrho r)^{3/2 - N}
        {}_2F_1(\tfrac12, \tfrac12; N - \tfrac12; (1 + \varrho r) / 2) .
    """
    if members < 4:
        raise ValueError(
            f"Got {members} members: SamplingError needs at least 4, for a correlation to tell "
            "anything."
        )
    # Midpoints: at the ends the law of r = 1 is not finite.
    true = (np.arange(TRUE) + 0.5) / TRUE * 2 - 1
    r = np.linspace(0, 1, TABLE)[:, None]
    # Both ends are limits: the first is even in r, and r = 1 leaves nothing to doubt.
    r[0], r[-1] = 1e-4, 1 - 1e-6
    log = 0.5 * (members - 1) * np.log1p(-(true**2)) + (1.5 - members) * np.log1p(-true * r)
    law = np.exp(log - log.max(1, keepdims=True))
    law *= hyp2f1(0.5, 0.5, members - 0.5, (1 + true * r) / 2)
    factors = torch.from_numpy((law @ true) / law.sum(1) / r[:, 0]).clamp(0, 1)
    factors[-1] = 1
    return factors
