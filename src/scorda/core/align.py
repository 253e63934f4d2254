"""Broadcasting of one number per member with states of any shape."""

from __future__ import annotations

from scorda.core.shapes import Float, Tensor

__all__ = ["align"]


def align(per_member: Float[Tensor, "..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Append axes to a scalar or a value per member, so that it broadcasts with x."""
    return per_member.reshape(per_member.shape + (1,) * (x.ndim - per_member.ndim))
