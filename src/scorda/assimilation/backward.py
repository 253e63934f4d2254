r"""Backward simulation: paths through the particles of a filter, from the last step to the first.

A state at step k + 1 may come from each weighted particle of step k,

.. math:: P(i) \propto w_k^i \, p(x_{k+1} \mid x_k^i),

so that paths do not coalesce as ancestries do. Where the model error is additive this density is
highest at the advanced particle. So a particle drawn by its weight is accepted with the density
over its maximum, which is the same law without the sum over all particles. A state that has
accepted none of as many proposals as cost that sum is served by the sum.

Sources: Godsill, Doucet & West (2004), Monte Carlo smoothing for nonlinear time series, J. Am.
Stat. Assoc. 99, 156-168; Douc, Garivier, Moulines & Olsson (2011), Sequential Monte Carlo
smoothing for general state space hidden Markov models, Ann. Appl. Probab. 21, 2109-2145 (the
rejection). Deviation: the number of proposals is limited.
"""

from __future__ import annotations

from typing import Any

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Int, Tensor

__all__ = ["came_from", "check_backward"]

# Numbers of states that are compared at once.
PART = 2**20
# Terms of the sum over particles that cost as much as a proposal, which reads memory at random.
DEARER = 8


def check_backward(system: Any, x: Float[Tensor, "particles *state"]) -> None:
    """Check with some states that backward simulation can use the steps of a system.

    Raises:
        ValueError: If not.
    """
    fixed = getattr(system, "unchanging", None)
    try:
        if not hasattr(system, "log_error"):
            raise TypeError(f"{type(system).__name__} has none.")
        if fixed is not None and fixed.any():
            raise TypeError("Constant parameters have none.")
        if getattr(system, "per_member", False):
            raise TypeError("A model of single members may draw random numbers.")
        system.log_error(x[:1], x[:1])
    except TypeError as error:
        raise ValueError(
            "ParticleSmoother(backward=True) needs a system with additive model error of every "
            f"variable: leave `backward` out. {error}"
        ) from None


def came_from(
    system: Any,
    x: Float[Tensor, "particles *state"],
    weights: Float[Tensor, "particles"] | None,
    after: Float[Tensor, "ensemble *state"],
    generator: torch.Generator,
) -> Int[Tensor, "ensemble"]:
    """Draw for each state the particle of the step before that it comes from.

    Exact up to rounding, for any number of proposals. The draw for a state does not depend on the
    states after it.

    Arguments:
        system: A system with additive model error, at the step of the particles.
        x: Particles.
        weights: Their weights, of sum 1; None: they are equal.
        after: States one step later.
        generator: Source of randomness, of which one key is taken.
    """
    if weights is not None:
        # A system may be unable to advance a particle that was far off.
        alive = weights.nonzero()[:, 0]
        x, weights = x[alive], weights[alive].double()
    ahead, highest = system.advance(x), system.log_error(after, after)
    total = None if weights is None else weights.cumsum(0)
    double = torch.zeros((), dtype=torch.float64, device=x.device)
    found = torch.empty(len(after), dtype=torch.long, device=x.device)
    waiting, tried = torch.arange(len(after), device=x.device), 0
    key = rng.key(generator)
    while len(waiting) and DEARER * tried < len(x):
        tries, source, left = 16 + tried, rng.at(key, tried), []
        for rows in waiting.split(max(PART // (tries * x[0].numel()), 1)):
            u, v = rng.uniform(len(rows), (2, tries), source, like=double).unbind(1)
            which = (u * len(x)).long() if total is None else _below(total, u * total[-1])
            density = system.log_error(ahead[which], after[rows, None]) - highest[rows, None]
            accepted = v.log() < density
            first, some = accepted.long().argmax(1, keepdim=True), accepted.any(1)
            found[rows[some]] = which.gather(1, first)[some, 0]
            left.append(rows[~some])
        waiting, tried = torch.cat(left), tried + tries
    source = rng.at(key, tried)
    for rows in waiting.split(max(PART // x.numel(), 1)):
        log_w = system.log_error(ahead, after[rows, None]).double()
        log_w = log_w if weights is None else log_w + weights.log()
        # NaN of particles that the system cannot advance, which proposals never accept.
        sums = log_w.nan_to_num(-torch.inf, neginf=-torch.inf).softmax(1).cumsum(1)
        u = rng.uniform(len(rows), (1,), source, like=double)
        found[rows] = _below(sums, u * sums[:, -1:])[:, 0]
    return found if weights is None else alive[found]


def _below(
    total: Float[Tensor, "... particles"], u: Float[Tensor, "... draws"]
) -> Int[Tensor, "... draws"]:
    """Return the particles whose share of cumulated weights holds each number."""
    # To the right, so that rounding can neither overrun the end nor pick a zero weight.
    return torch.searchsorted(total, u, right=True).clamp_max(total.shape[-1] - 1)
