r"""The gain of an ensemble whose covariances are tapered, with memory linear in the state.

With anomalies A of the members, those Y of their predicted observations, and tapers
:math:`\rho` by distance, residuals D move the members by

.. math:: D \, S^{-1} (\rho \circ Y^T A), \quad S = \rho \circ Y^T Y + (N - 1) R .

A taper is zero beyond its reach. Where pairs of observations and grid points are many, only those
within reach are held, S is sparse, and its system is solved by conjugate gradients with the
diagonal as preconditioner, for all members at once: a bound of :math:`10^{-10}` on the relative
residual leaves nothing of single precision. Else both tapers are matrices.

What has no position, such as a parameter, moves with all observations: its covariances with them
have one factor, :math:`(1^T T^{-1} 1)^{-1/2}` with the tapers T between observations, the largest
with which all tapered covariances are those of one law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from scorda.assimilation.local import Geometry
from scorda.core.errors import DivergenceError
from scorda.core.latest import LatestOf
from scorda.core.near import Near
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.problem import Problem

__all__ = ["Tapered", "conjugate_gradients", "shared_factor"]

# Pairs of an observation and a grid point up to which tapers are matrices (32 MiB).
DENSE = 2**23
# Pairs of observations whose covariances are computed at once.
PAIRS = 2**18
# Relative residual at which conjugate gradients end, and their steps at most.
TOLERANCE, STEPS = 1e-10, 10_000


@dataclass(frozen=True)
class _Kept:
    """Tapers between observations and, where they are matrices, of these with grid points."""

    where: Float[Tensor, "obs axes"]
    between: Float[Tensor, "obs obs"] | csr_array
    cross: Float[Tensor, "obs points"] | None
    factor: float = 1.0


class Tapered:
    """Tapers between observations and grid points of a space, kept until the observations move.

    Arguments:
        space: Space of the states.
        taper: Taper of the covariances by distance.
    """

    def __init__(self, space: StateSpace, taper: GaspariCohn) -> None:
        self.space, self.taper = space, taper
        self.geometry = Geometry(space, (taper,), 1)
        self._nowhere = ~space.places(space.positions()).isfinite().all(1)
        self._latest: _Kept | None = None

    @staticmethod
    def of(problem: Problem, taper: GaspariCohn) -> Tapered:
        """Return the tapers in a problem's space, one for all runs of the problem in turn."""
        return _latest(problem, taper, lambda: Tapered(problem.space, taper))

    def increment(
        self,
        A: Float[Tensor, "ensemble ..."],
        Y: Float[Tensor, "ensemble obs"],
        residuals: Float[Tensor, "ensemble obs"],
        R: Float[Tensor, "obs obs"] | None,
        where: Float[Tensor, "obs axes"],
    ) -> Float[Tensor, "ensemble ..."]:
        """Return what residuals add to the members.

        Arguments:
            A: Anomalies of the members.
            Y: Anomalies of the predicted observations, in standard deviations of the errors.
            residuals: D, likewise.
            R: Covariance of the errors, likewise; None: they are independent.
            where: Positions of the observations.

        Raises:
            DivergenceError: If the tapered matrix of many observations is not positive definite.
        """
        kept = self._at(self.space.places(where))
        fields = A.reshape(len(A), -1, self.geometry.points)
        if kept.cross is None:
            solved = _solved_sparse(kept.between, Y, residuals, R)
            moved = self._spread(fields, Y, solved, kept.where)
        else:
            S = kept.between.to(Y) * (Y.mT @ Y)
            S = S + (len(Y) - 1) * (torch.eye(len(S)).to(S) if R is None else R)
            # On a periodic domain shorter than the reach the taper may be indefinite.
            solved, near = torch.linalg.solve(S, residuals.mT).to(A), kept.cross.to(A)
            columns = [solved.mT @ ((Y.to(A).mT @ x) * near) for x in fields.unbind(1)]
            moved = torch.stack(columns, 1)
        if self._nowhere.any():
            moved[..., self._nowhere.to(A.device)] *= kept.factor
        return moved.reshape(A.shape)

    def _at(self, where: Tensor) -> _Kept:
        latest = self._latest
        if latest is None or not torch.equal(latest.where, where):
            self._latest = latest = self._tapers(where)
        return latest

    def _tapers(self, where: Tensor) -> _Kept:
        space, taper = self.space, self.taper
        pairs = len(where) * max(self.geometry.points, len(where))
        if pairs <= DENSE or not np.isfinite(taper.reach):
            positions = space.places(space.positions())
            cross = taper(space.distance(where, positions))
            between = taper(space.distance(where, where))
            return _Kept(where, between, cross, self._factor(between))
        tree = Near(where.numpy(force=True), space)
        i, j = tree.pairs(tree, taper.reach)
        rho = taper(space.separation(where[i], where[j])).double().numpy(force=True)
        near = rho > 0
        size = len(where), len(where)
        between = csr_array((rho[near], (i[near], j[near])), shape=size)
        return _Kept(where, between, None, self._factor(between))

    def _factor(self, between: Tensor | csr_array) -> float:
        return shared_factor(between) if self._nowhere.any() else 1.0

    def _spread(self, fields: Tensor, Y: Tensor, solved: Tensor, where: Tensor) -> Tensor:
        """Return the increments of fields ``(ensemble, variables, points)``, point by point."""
        states = fields.permute(2, 0, 1)
        moved = torch.zeros_like(states, memory_format=torch.contiguous_format)
        Y, solved = (part.to(fields).contiguous() for part in (Y.mT, solved))
        for local in self.geometry.local(where, len(fields)):
            local = local.to(fields)
            cross = Y[local.observations] @ local.columns(states)
            cross = cross * local.root_weights[0].square().unsqueeze(-1)
            local.write(solved[local.observations].mT @ cross, moved)
        return moved.permute(1, 2, 0)


# A run in units of a store begins anew in each of them.
_latest: LatestOf[Tapered] = LatestOf()


def shared_factor(between: Tensor | csr_array) -> float:
    r"""Return :math:`(1^T T^{-1} 1)^{-1/2}` of the tapers T between observations."""
    if isinstance(between, Tensor):
        inverse = torch.linalg.pinv(between.double(), rtol=1e-10, hermitian=True)
        total = float(inverse.sum())
    else:
        ones = np.ones((between.shape[0], 1))
        solved = conjugate_gradients(lambda x: between @ x, between.diagonal(), ones)
        total = float(solved.sum())
    return min(total**-0.5, 1.0)


def _solved_sparse(
    between: csr_array, Y: Tensor, residuals: Tensor, R: Tensor | None
) -> Float[Tensor, "obs ensemble"]:
    """Return the solution of S with the residuals on the right."""
    columns, values = Y.mT.contiguous(), np.empty_like(between.data)
    rows = torch.from_numpy(np.repeat(np.arange(len(columns)), np.diff(between.indptr)))
    others = torch.from_numpy(between.indices).long()
    for first in range(0, len(values), PAIRS):
        part = slice(first, first + PAIRS)
        products = columns.index_select(0, rows[part]) * columns.index_select(0, others[part])
        values[part] = between.data[part] * products.sum(1).numpy(force=True)
    S = csr_array((values, between.indices, between.indptr), shape=between.shape)
    error, rest = None if R is None else R.numpy(force=True), len(Y) - 1
    diagonal = S.diagonal() + rest * (1.0 if error is None else error.diagonal())

    def product(x: np.ndarray) -> np.ndarray:
        return S @ x + rest * (x if error is None else error @ x)

    right = residuals.mT.contiguous().numpy(force=True)
    return torch.from_numpy(conjugate_gradients(product, diagonal, right)).to(Y)


def conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray], diagonal: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Solve a positive definite system for several right-hand sides ``(size, columns)``.

    Arguments:
        product: The product of the matrix with columns.
        diagonal: Diagonal of the matrix, the preconditioner.
        right: Right-hand sides.

    Raises:
        DivergenceError: If the matrix is not positive definite, or the steps do not suffice.
    """
    x, r = np.zeros_like(right), right.copy()
    z = r / diagonal[:, None]
    p, now = z.copy(), (r * z).sum(0)
    least = TOLERANCE**2 * now
    for _ in range(STEPS):
        open_ = now > least
        if not open_.any():
            return x
        moved = product(p)
        curvature = (p * moved).sum(0)
        if (curvature[open_] <= 0).any():
            break
        length = np.where(open_, now / np.where(open_, curvature, 1.0), 0.0)
        x += length * p
        r -= length * moved
        z = r / diagonal[:, None]
        before, now = now, (r * z).sum(0)
        p = z + np.where(open_, now / np.where(open_, before, 1.0), 0.0) * p
    raise DivergenceError(
        "The tapered covariance of the observations is not positive definite, or too close to "
        "singular: give a smaller radius (its reach must be below half of a periodic domain), a "
        "larger error of observation, or use LETKF."
    )
