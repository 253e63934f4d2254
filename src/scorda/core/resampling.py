"""Resampling: members drawn in proportion to their weights."""

from __future__ import annotations

from typing import Literal

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Int, Tensor

__all__ = ["Scheme", "resample"]

Scheme = Literal["systematic", "multinomial"]


def resample(
    weights: Float[Tensor, "ensemble"],
    draws: int,
    scheme: Scheme = "systematic",
    generator: torch.Generator | None = None,
) -> Int[Tensor, "draws"]:
    r"""Draw indices of members in proportion to their weights.

    The indices are :math:`F^{-1}(u_j)` for the cumulated weights F. Multinomial: independent
    uniform :math:`u_j`. Systematic: :math:`u_j = (j + u) / n` with one u, so that member i is
    drawn :math:`n w_i` times, rounded up or down.

    Arguments:
        weights: Weights, not negative, of sum 1.
        draws: n, the number of indices.
        scheme: "systematic" or "multinomial".
        generator: Source of randomness.
    """
    total = weights.double().cumsum(0)
    if scheme == "systematic":
        start = rng.uniform(1, (), generator, like=total)
        u = (torch.arange(draws, dtype=total.dtype, device=total.device) + start) / draws
    else:
        u = rng.uniform(draws, (), generator, like=total)
    # Scaled and to the right: rounding can neither overrun the end nor pick a zero weight.
    return torch.searchsorted(total, u * total[-1], right=True).clamp_max(len(weights) - 1)
