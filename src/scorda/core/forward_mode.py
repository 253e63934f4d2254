"""Products with Jacobians by forward differentiation, from any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

import torch

from scorda.core.shapes import Tensor

__all__ = ["directional"]

# Torch counts the levels of forward differentiation for all threads together.
_LEVELS = RLock()


def directional(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    r"""Return the derivative along v, :math:`J(x) v`, in the shape of the values.

    Arguments:
        function: Function of a tensor; its Jacobian is J.
        x: Where.
        v: Direction, of the shape of x.
    """
    with _LEVELS:
        along: Tensor = torch.func.jvp(function, (x,), (v,))[1]
    return along
