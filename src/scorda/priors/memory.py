"""The memory of modes: their autocorrelation as a mixture of exponentials."""

from __future__ import annotations

import numpy as np
import torch

from scorda.core.scratch import blocks
from scorda.core.shapes import Bool, Float, Tensor
from scorda.nn.spectral import TIMES

__all__ = ["memory_of"]

# Lags of the autocorrelation that the memory is fitted to, and weights of the first ones.
LAGS = 24
LAG_WEIGHTS = (30.0, 20.0, 10.0, 5.0)


def memory_of(
    coefficients: Float[Tensor, "series time modes"], seen: Bool[Tensor, "series time"]
) -> Float[Tensor, "laws memories"]:
    """Fit the weights of each mode's mixture of memories to its autocorrelation.

    Pairs of fields count of which both were seen. The last row is that of the directions outside
    of the modes. They are the smallest scales, so theirs is the mean of the last modes.
    """
    from scipy.optimize import nnls

    w, times = seen.numpy(), coefficients.shape[1]
    pairs = {l: w[:, : times - l] & w[:, l:] for l in range(min(LAGS, times // 4))}
    lags = np.array([l for l, both in pairs.items() if both.any()])
    lagged = np.stack([_lagged(coefficients, pairs[l], int(l)) for l in lags])
    correlation = lagged / np.maximum(lagged[0], 1e-30)
    decay = np.exp(-lags[:, None] / np.array(TIMES))
    # Lag 0 is 1 by definition, and the first lags decide what an hour of data says of the next.
    weight = np.array([*LAG_WEIGHTS, *[1.0] * LAGS])[lags]
    fitted = [nnls(decay * weight[:, None], column * weight)[0] for column in correlation.T]
    memory = torch.from_numpy(np.stack(fitted))
    empty = memory.sum(1, keepdim=True) <= 0
    memory = torch.where(empty, torch.ones_like(memory), memory)
    memory = memory / memory.sum(1, keepdim=True)
    return torch.cat((memory, memory[-max(1, len(memory) // 10) :].mean(0)[None]))


def _lagged(
    coefficients: Float[Tensor, "series time modes"], both: np.ndarray, lag: int
) -> np.ndarray:
    """Return the mean of the products of coefficients so many fields apart, where both are."""
    total = np.zeros(coefficients.shape[2])
    for rows, block in blocks(coefficients[:, : coefficients.shape[1] - lag]):
        later = coefficients[:, rows.start + lag : rows.stop + lag]
        total += (block.numpy() * later.numpy())[both[:, rows]].sum(0)
    return total / both.sum()
