"""Paths of a particle smoother: from how many particles they come, and which histories they have.

A history is the sequence of lobes that the first variable goes round: its signs where its size
peaks.
"""

from __future__ import annotations

import math
from collections import Counter

import torch

from scorda.core.shapes import Float, Tensor

__all__ = ["effective", "furthest", "histories", "known_shares", "shares", "turns"]

# Share from which on a history is compared alone.
LEAST = 0.02
# Least standard error of a share that others are compared with: that of a reference is rounded to
# zero where it has one history.
CERTAIN = 0.01


def effective(states: Float[Tensor, "ensemble *state"]) -> float:
    r"""Return the effective number of particles from which paths come at a step.

    It is :math:`1 / \sum_i W_i^2` for the probability :math:`W_i` that a path comes from particle
    i: the sum is the probability that two paths come from the same. Infinite where no two do.
    """
    count = states.unique(dim=0, return_counts=True)[1]
    same = int((count * (count - 1)).sum())
    return len(states) * (len(states) - 1) / same if same else math.inf


def turns(states: Float[Tensor, "ensemble time state"]) -> list[int]:
    """Return the steps where the mean of |x| over members peaks, so that the lobe is certain."""
    size = states[..., 0].abs().mean(0)
    rises = torch.cat((size.new_ones(1), size[1:] - size[:-1])) > 0
    falls = torch.cat((size[1:] - size[:-1], -size.new_ones(1))) < 0
    peaks: list[int] = (rises & falls & (size > size.mean())).nonzero()[:, 0].tolist()
    return peaks


def histories(states: Float[Tensor, "ensemble time state"], steps: list[int]) -> list[str]:
    """Return the signs of the first variable of each member at these steps, such as "+-+"."""
    signs = (states[:, steps, 0] > 0).tolist()
    return ["".join("+" if sign else "-" for sign in member) for member in signs]


def shares(states: Float[Tensor, "ensemble time state"], steps: list[int]) -> dict[str, float]:
    """Return the share of the members that have each history, the most frequent one first."""
    found = Counter(histories(states, steps))
    return {name: count / len(states) for name, count in found.most_common()}


def known_shares(
    paths: Float[Tensor, "ensemble time state"], steps: list[int]
) -> dict[str, tuple[float, float]]:
    r"""Return the share of each frequent history and its standard error, the largest share first.

    Of n paths of a smoother it is :math:`\sqrt{q (1 - q) (1 / n + 1 / n_e)}` with the effective
    particles :math:`n_e` of the step where these are fewest: a rule, for one such step.
    """
    least = min(effective(paths[:, k]) for k in range(paths.shape[1]))
    each = 1 / len(paths) + 1 / least
    found = shares(paths, steps).items()
    return {name: (q, math.sqrt(q * (1 - q) * each)) for name, q in found if q >= LEAST}


def furthest(
    members: Float[Tensor, "ensemble time state"],
    known: dict[str, tuple[float, float]],
    steps: list[int],
) -> float:
    """Return the largest difference of the share of a history from a known one.

    It is in standard errors of both, where members count as independent.
    """
    found = shares(members, steps)
    return max(
        abs(found.get(name, 0) - q)
        / max(math.hypot((q * (1 - q) / len(members)) ** 0.5, e), CERTAIN)
        for name, (q, e) in known.items()
    )
