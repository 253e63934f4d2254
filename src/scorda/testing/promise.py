"""Promises that several contracts share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scorda.assimilation.base import Assimilator
from scorda.core import rng
from scorda.core.shapes import Float, Tensor

__all__ = ["alike", "draw", "is_slow", "keeps", "leaves_untouched", "promise"]

# Evaluations in an analysis above which a method is slow.
MANY = 50


def promise(kept: bool | Tensor, subject: object, broken: str) -> None:
    """Raise an `AssertionError` that names the class and what it breaks, if it does."""
    if not bool(kept):
        raise AssertionError(f"{type(subject).__name__} {broken}.")


def is_slow(method: Assimilator) -> bool:
    """Whether the class of a method declares a `cost` for which its contracts are kept small."""
    cost = method.cost
    if cost.denoiser is None or cost.operator is None:
        return True
    return max(cost.operator, cost.denoiser) > MANY


def draw(
    members: int, shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0
) -> Float[Tensor, "members ..."]:
    """Standard normal numbers of a seed, in the given precision and on the given device."""
    like = torch.zeros(0, dtype=dtype, device=device)
    return rng.normal(members, shape, rng.seeded(seed), like=like)


def keeps(
    subject: object, what: str, given: Tensor, got: object, shape: tuple[int, ...] | None = None
) -> None:
    """Promise: the result is a finite tensor of the same precision and device, of that shape."""
    promise(isinstance(got, Tensor), subject, f"returns a {type(got).__name__} from {what}")
    assert isinstance(got, Tensor)
    shape = tuple(given.shape) if shape is None else shape
    promise(
        tuple(got.shape) == shape,
        subject,
        f"returns the shape {tuple(got.shape)} from {what}, where {shape} is promised",
    )
    promise(got.dtype == given.dtype, subject, f"turns {given.dtype} into {got.dtype} in {what}")
    promise(
        got.device == given.device, subject, f"moves from {given.device} to {got.device} in {what}"
    )
    promise(torch.isfinite(got).all(), subject, f"returns values that are not finite from {what}")


def leaves_untouched(
    subject: object, what: str, call: Callable[..., object], *inputs: Tensor
) -> None:
    """Promise: a call does not change its inputs."""
    copies = [x.clone() for x in inputs]
    call(*inputs)
    same = all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))
    promise(same, subject, f"changes its input in {what}")


def alike(a: Tensor, b: Tensor, rounding: float = 1e3) -> bool:
    """Whether two results differ by rounding only, relative to the largest number in them."""
    if a.shape != b.shape:
        return False
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    scale = max(float(b.detach().abs().max()) if b.numel() else 0.0, 1.0)
    return bool(((a - b).abs() <= rounding * eps * scale).all())
