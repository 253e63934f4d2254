r"""Serial analyses: scalar observations one after another, each regressed onto the rest.

The errors of white observations are independent, so that conditioning on one after another is
conditioning on all of them at once. A scalar analysis moves the N predicted values z of one
observation by :math:`\Delta z`, and a least-squares line through the members hands this on to the
state and to the predicted values of the observations that follow,

.. math:: x_i \leftarrow x_i + \rho \, \frac{\mathrm{cov}(x, z)}{\mathrm{var}(z)} \, \Delta z_i ,

with a taper :math:`\rho` by distance. This is a product of rank one, :math:`X \leftarrow
(I + \Delta z \, u^T) X` with :math:`u = z' / |z'|^2`. So all pairs :math:`\Delta z, u` are found
among the observations alone, and then one product moves the state, however large it is. Only the
scalar analysis makes a method, and any will do.

Source: Anderson (2003), Mon. Wea. Rev. 131, 634-642.
https://doi.org/10.1175/1520-0493(2003)131<0634:ALLSFF>2.0.CO;2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from scorda.assimilation.kalman_algebra import Transform
from scorda.assimilation.local import Geometry
from scorda.assimilation.memory import pairs_near
from scorda.core.latest import LatestOf
from scorda.core.near import Near
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["Scalar", "SerialLocal", "serial_analysis", "serial_memory", "serial_transform"]

# What a scalar analysis adds to the predicted values ``(ensemble,)`` of an observation, which is
# told by its number.
Scalar = Callable[[Tensor, int], Tensor]


def serial_transform(predicted: Float[Tensor, "ensemble obs"], scalar: Scalar) -> Transform:
    r"""Return the serial analysis without localization, as a map of the anomalies.

    .. math:: \prod_j (I + \Delta z_j u_j^T) = I + D \, (I - S)^{-1} U^T ,

    where D and U have the columns :math:`\Delta z_j` and :math:`u_j`, and S is the strictly lower
    triangle of :math:`U^T D`. More observations than members are taken in blocks, whose product is
    held as a matrix over the members.

    Arguments:
        predicted: Predicted values of white observations, in any position: only `scalar` asks.
        scalar: The scalar analysis.
    """
    members, observations = predicted.shape
    if observations <= members:
        return _block(predicted, scalar, 0)
    identity = torch.eye(members).to(predicted)
    product = identity
    for first in range(0, observations, members):
        now = product @ predicted[:, first : first + members]
        product = product + _block(now, scalar, first).increment(product)
    return Transform(product - identity, None)


def _block(predicted: Tensor, scalar: Scalar, first: int) -> Transform:
    z = predicted.mT.clone(memory_format=torch.contiguous_format)
    moves, slopes = torch.empty_like(z), torch.empty_like(z)
    for j in range(len(z)):
        move, slope = moves[j], slopes[j] = scalar(z[j], first + j), _slope(z[j])
        later = z[j + 1 :]
        later.addr_(later @ slope, move)
    before = torch.tril(slopes @ moves.mT, -1)
    core = torch.linalg.solve_triangular(
        -before, torch.eye(len(z)).to(z), upper=False, unitriangular=True
    )
    return Transform(moves.mT, slopes, core)


def _slope(z: Tensor) -> Tensor:
    """Return u, whose product with anomalies is the regression on z; 0 where z does not vary."""
    around = z - z.mean()
    return around / around.square().sum().clamp_min(torch.finfo(z.dtype).tiny)


@dataclass(frozen=True)
class _Between:
    """Tapers of each observation with later ones, row after row."""

    where: Float[Tensor, "obs axes"]
    starts: list[int]
    later: Int[Tensor, "pairs"]
    weights: Float[Tensor, "pairs"]


class SerialLocal:
    """Serial analyses with a taper in a space; what is near is kept until observations move.

    Arguments:
        space: Space of the states.
        taper: Taper of the regressions by distance, of finite reach.
    """

    def __init__(self, space: StateSpace, taper: GaspariCohn) -> None:
        self.space, self.taper = space, taper
        self.geometry = Geometry(space, (taper,), 1)
        self._latest: _Between | None = None

    @staticmethod
    def of(problem: Problem | None, taper: GaspariCohn | None) -> SerialLocal | None:
        """Return that of a problem's space, one for all runs of the problem in turn.

        None where there is no taper, or one of infinite reach, which tapers nothing.

        Raises:
            ValueError: If a taper has no problem, and so no space.
        """
        if taper is None or taper.reach == float("inf"):
            return None
        if problem is None:
            raise ValueError("Localization needs a space: call `begin(problem)` first.")
        return _latest(problem, taper, lambda: SerialLocal(problem.space, taper))

    def analysis(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        predicted: Float[Tensor, "ensemble obs"],
        scalar: Scalar,
        where: Float[Tensor, "obs axes"],
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the analysis; states beyond reach of all observations keep their bits.

        Arguments:
            forecast: Members.
            predicted: Predicted values of the observations, as for `serial_transform`.
            scalar: The scalar analysis.
            where: Positions of the observations.
        """
        moves, slopes = self._observed(predicted, scalar, where)
        members = len(forecast)
        states = forecast.reshape(members, -1, self.geometry.points).permute(2, 0, 1)
        analysis = states.clone(memory_format=torch.contiguous_format)
        for local in self.geometry.local(where, members):
            local = local.to(moves)
            x = local.columns(states).to(moves)
            # The observations near a point are listed in their order; padding has weight 0.
            for near, root in zip(local.observations.mT, local.root_weights[0].mT, strict=True):
                slope = (root.square()[:, None] * slopes[near]).unsqueeze(1)
                x = torch.baddbmm(x, moves[near].unsqueeze(2), slope @ x)
            local.write(x, analysis)
        return analysis.permute(1, 2, 0).reshape(forecast.shape)

    def _observed(
        self, predicted: Tensor, scalar: Scalar, where: Tensor
    ) -> tuple[Float[Tensor, "obs ensemble"], Float[Tensor, "obs ensemble"]]:
        """Return the moves and the slopes of all observations, found among them alone."""
        between = self._between(self.space.places(where))
        weights, others = between.weights.to(predicted), between.later.to(predicted.device)
        z = predicted.mT.clone(memory_format=torch.contiguous_format)
        moves, slopes = torch.empty_like(z), torch.empty_like(z)
        for j in range(len(z)):
            move, slope = moves[j], slopes[j] = scalar(z[j], j), _slope(z[j])
            part = slice(between.starts[j], between.starts[j + 1])
            later = z[others[part]]
            z[others[part]] = later.addr(weights[part] * (later @ slope), move)
        return moves, slopes

    def _between(self, where: Tensor) -> _Between:
        latest = self._latest
        if latest is None or not torch.equal(latest.where, where):
            tree = Near(where.numpy(force=True), self.space)
            pairs = np.stack(tree.pairs(tree, self.taper.reach))
            pairs = pairs[:, pairs[0] < pairs[1]]
            pairs = pairs[:, np.lexsort(pairs[::-1])]
            starts = np.searchsorted(pairs[0], np.arange(len(where) + 1)).tolist()
            one, later = torch.from_numpy(pairs).long()
            weights = self.taper(self.space.separation(where[one], where[later]))
            self._latest = latest = _Between(where, starts, later, weights)
        return latest


def serial_analysis(
    forecast: Float[Tensor, "ensemble ..."],
    predicted: Float[Tensor, "ensemble obs"],
    scalar: Scalar,
    model: ObservationModel,
    local: SerialLocal | None,
) -> Float[Tensor, "ensemble ..."]:
    """Return the serial analysis, with a taper or without."""
    if local is None:
        return serial_transform(predicted, scalar)(forecast)
    return local.analysis(forecast, predicted, scalar, model.operator.coordinates(local.space))


# A run in units of a store begins anew in each of them.
_latest: LatestOf[SerialLocal] = LatestOf()


def serial_memory(problem: Problem, taper: GaspariCohn | None) -> int:
    """Return about how many bytes the lists of what is near take."""
    if taper is None:
        return 0
    coordinates = [i.model.operator.coordinates(problem.space) for i in problem.instruments]
    observations = sum(map(len, coordinates))
    # Observations near grid points, and pairs of observations with their search.
    return 8 * pairs_near(problem, taper) + 64 * pairs_near(problem, taper, observations)
