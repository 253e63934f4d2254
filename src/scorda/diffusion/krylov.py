"""Linear equations of which only products with the matrix are known, one for each member."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scorda.core.shapes import Tensor

__all__ = ["conjugate_gradients", "gmres"]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum(-1, keepdim=True)


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Conjugate gradients per member, preconditioned by a positive diagonal `scale`.

    A member stops when it has converged or meets a direction of negative curvature, which a
    positive definite matrix never has.
    """
    x, r = torch.zeros_like(b), b
    p = r / scale
    rr = _dot(r, p)
    limit = tolerance**2 * rr
    active = rr > limit
    for _ in range(iterations):
        if not active.any():
            break
        product = matrix(p)
        curvature = _dot(p, product)
        active = active & (curvature > 0)
        step = torch.where(active, rr / curvature, 0).to(b)
        x, r = x + step * p, r - step * product
        z = r / scale
        rr_next = _dot(r, z)
        p = z + (rr_next / rr.clamp(min=1e-300)).to(b) * p
        rr = rr_next
        active = active & (rr > limit)
    return x


def gmres(
    matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Generalised minimal residuals per member (Saad & Schultz 1986), without restart."""
    norm = b.double().norm(dim=-1, keepdim=True).clamp(min=1e-300)
    basis = [(b / norm).to(b)]
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(iterations):
        v = matrix(basis[-1])
        column: list[Tensor] = []
        for u in basis:
            h = _dot(u, v)
            v = v - (h * u).to(b)
            column.append(h)
        size = v.double().norm(dim=-1, keepdim=True)
        columns.append((*column, size))
        basis.append((v / size.clamp(min=1e-30)).to(b))
    rows, n = len(basis), len(columns)
    hessenberg = b.new_zeros(b.shape[0], rows, n, dtype=torch.float64)
    for j, entries in enumerate(columns):
        hessenberg[:, : len(entries), j] = torch.cat(entries, -1)
    rhs = torch.zeros_like(hessenberg[..., :1])
    rhs[:, 0] = norm
    # The minimal-norm solution: a Krylov space that is exhausted early leaves zero columns.
    weights = torch.linalg.pinv(hessenberg, rtol=tolerance) @ rhs
    return torch.einsum("nbm,bn->bm", torch.stack(basis[:-1]), weights[..., 0].to(b))
