"""Shape types of tensors, used in every signature.

Names of axes: ``ensemble`` (members), ``time`` (physical steps), ``*state`` (one state, any
shape), ``cycle`` (observed steps), ``*obs`` (one observation). Members always come first. The
types cost nothing at run time; the tests check them with beartype.
"""

from __future__ import annotations

from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

__all__ = ["Bool", "Complex", "Float", "Int", "Tensor"]
