r"""Many independent minimisations at once: limited-memory BFGS on a batch of points.

The optimisers of torch and scipy make one vector of all that they are given and search along one
line: members would share their step, and the result of one would depend on the others. Here each
row has its own curvature pairs, its own step and its own end, while every evaluation of the cost
serves all rows that are still moving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from scorda.core.shapes import Bool, Float, Int, Tensor

__all__ = ["Minimum", "lbfgs"]

Cost = Callable[[Tensor, Tensor], Tensor]

# Wolfe's constants: Nocedal & Wright (2006), section 3.1.
DECREASE, CURVATURE = 1e-4, 0.9
TRIALS = 40
# Pairs of steps and changes of the gradient that are kept.
MEMORY = 10
# Iterations without a decrease beyond rounding after which a row is left alone.
STALLED = 10


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a batch of minimisations ended.

    Arguments:
        points: ``(rows, size)``.
        costs: Cost at the points.
        gradients: Largest entry of the gradient's absolute value at the points.
        iterations: Iterations of each row.
        converged: Rows whose gradient is below the tolerance, or whose cost can fall no further
            than rounding.
        evaluations: Calls of the cost and its gradient, all rows together.
    """

    points: Float[Tensor, "rows size"]
    costs: Float[Tensor, "rows"]
    gradients: Float[Tensor, "rows"]
    iterations: Int[Tensor, "rows"]
    converged: Bool[Tensor, "rows"]
    evaluations: int


def lbfgs(
    cost: Cost, start: Float[Tensor, "rows size"], iterations: int, tolerance: float
) -> Minimum:
    r"""Minimise a cost from each row of `start` with limited-memory BFGS.

    .. math:: x \leftarrow x - a H g, \quad s = x' - x, \quad z = g' - g

    with H the two-loop recursion over the last 10 pairs (s, z), started from
    :math:`s \cdot z / z \cdot z`, and a step a that fulfils the weak Wolfe conditions. Those keep
    :math:`s \cdot z > 0`, so H stays positive definite also where the cost is not convex.

    Sources: Nocedal & Wright (2006), Numerical Optimization, algorithm 7.4; line search:
    Lewis & Overton (2013), Math. Program. 141, algorithm 2.6 (doubling, then bisection), with the
    approximate condition of decrease of Hager & Zhang (2005), SIAM J. Optim. 16, equation 4.1.

    Arguments:
        cost: ``cost(x, rows)`` of points ``(n, size)``, which belong to the rows with the numbers
            `rows`, differentiable; each entry may depend on its own point only.
        start: First points.
        iterations: Largest number of iterations of a row.
        tolerance: A row ends where no entry of its gradient is larger.

    Raises:
        FloatingPointError: If the cost or its gradient at a first point is not finite.
    """
    result = _first(cost, start)
    evaluations, pairs = 1, _Pairs()
    counts, stalls = (torch.zeros_like(result.rows) for _ in range(2))
    converged = _largest(result.gradients) <= tolerance
    state = result.take(~converged)
    for _ in range(iterations):
        if not len(state.rows):
            break
        direction = -pairs.product(state.gradients)
        moved, found, used = _search(cost, state, direction)
        evaluations += used
        rounding = 4 * torch.finfo(state.costs.dtype).eps * state.costs.abs()
        flat = state.costs - moved.costs <= rounding
        counts[state.rows] += 1
        stalls[state.rows] = torch.where(flat, stalls[state.rows] + 1, 0)
        pairs.append(moved.points - state.points, moved.gradients - state.gradients)
        result.put(moved)
        # Where not even the quadratic model promises a decrease there is none to be found.
        slope = (state.gradients * direction).sum(1)
        ended = (_largest(moved.gradients) <= tolerance) | (stalls[moved.rows] >= STALLED)
        ended |= ~found & (slope >= -rounding)
        converged[moved.rows] = ended
        kept = found & ~ended
        state = moved.take(kept)
        pairs.take(kept)
    largest = _largest(result.gradients)
    return Minimum(result.points, result.costs, largest, counts, converged, evaluations)


@dataclass(eq=False)
class _State:
    """Points of some rows, with their costs and gradients."""

    rows: Tensor
    points: Tensor
    costs: Tensor
    gradients: Tensor

    @classmethod
    def at(cls, cost: Cost, points: Tensor, rows: Tensor) -> _State:
        with torch.enable_grad():
            x = points.detach().clone().requires_grad_()
            costs = cost(x, rows)
            gradients = torch.autograd.grad(costs.sum(), x)[0]
        return cls(rows, points.detach().clone(), costs.detach(), gradients)

    def take(self, kept: Tensor) -> _State:
        return _State(self.rows[kept], self.points[kept], self.costs[kept], self.gradients[kept])

    def put(self, other: _State) -> None:
        """Write the rows of another state into this one, which holds all rows in order."""
        self.points[other.rows] = other.points
        self.costs[other.rows] = other.costs
        self.gradients[other.rows] = other.gradients


def _first(cost: Cost, start: Tensor) -> _State:
    """The state of all rows at the first points, which must be finite."""
    state = _State.at(cost, start, torch.arange(len(start), device=start.device))
    finite = state.costs.isfinite() & state.gradients.isfinite().all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"The cost or its gradient is not finite at the start of member {bad}: give a "
            "shorter window, or another start."
        )
    return state


class _Pairs:
    """The last pairs (s, z) of every row, and the product of H with a vector."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def append(self, s: Tensor, z: Tensor) -> None:
        curvature = (s * z).sum(1)
        # A pair without curvature (a step lost in rounding) gets no weight.
        usable = curvature > torch.finfo(s.dtype).eps * z.square().sum(1)
        rho = torch.where(usable, 1 / curvature, 0.0)
        self.pairs = [*self.pairs, (s, z, rho)][-MEMORY:]

    def take(self, kept: Tensor) -> None:
        self.pairs = [(s[kept], z[kept], rho[kept]) for s, z, rho in self.pairs]

    def product(self, gradients: Tensor) -> Tensor:
        """Return H g, algorithm 7.4; before the first pair g, no longer than 1."""
        if not self.pairs:
            return gradients / gradients.norm(dim=1, keepdim=True).clamp_min(1)
        q, weights = gradients, []
        for s, z, rho in reversed(self.pairs):
            weights.append(rho * (s * q).sum(1))
            q = q - weights[-1][:, None] * z
        _, z, rho = self.pairs[-1]
        scale = 1 / (rho * z.square().sum(1))
        q = torch.where(rho > 0, scale, 1.0)[:, None] * q
        for (s, z, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            q = q + (weight - rho * (z * q).sum(1))[:, None] * s
        return q


def _search(cost: Cost, state: _State, direction: Tensor) -> tuple[_State, Tensor, int]:
    """Points along the directions, whether each fulfils Wolfe's conditions, and evaluations.

    Where no step does, as when the cost is flat within rounding, the row stays where it is.
    """
    slope = (state.gradients * direction).sum(1)
    # Where the cost is flat up to rounding its gradient, which is sharper, decides.
    slack = torch.finfo(slope.dtype).eps ** (2 / 3) * state.costs.abs()
    low, high = torch.zeros_like(slope), torch.full_like(slope, float("inf"))
    step, used = torch.ones_like(slope), 0
    found = _State(*(getattr(state, name).clone() for name in vars(state)))
    pending = slope < 0
    for used in range(1, TRIALS + 1):
        index = pending.nonzero()[:, 0]
        if not len(index):
            return found, ~pending & (slope < 0), used - 1
        a = step[index]
        trial = _State.at(
            cost, state.points[index] + a[:, None] * direction[index], state.rows[index]
        )
        before, there = slope[index], (trial.gradients * direction[index]).sum(1)
        near = trial.costs <= state.costs[index] + DECREASE * a * before
        level = trial.costs <= state.costs[index] + slack[index]
        near |= level & (there <= (2 * DECREASE - 1) * before)
        # A cost or gradient that is not finite counts as too far.
        near &= trial.gradients.isfinite().all(1)
        steep = there < CURVATURE * before
        high[index] = torch.where(near, high[index], a)
        low[index] = torch.where(near & steep, a, low[index])
        done = near & ~steep
        place, good = index[done], trial.take(done)
        found.points[place], found.costs[place] = good.points, good.costs
        found.gradients[place] = good.gradients
        pending[place] = False
        step = torch.where(high.isinf(), 2 * step, (low + high) / 2)
    return found, ~pending & (slope < 0), used


def _largest(gradients: Tensor) -> Tensor:
    return gradients.abs().amax(1)
