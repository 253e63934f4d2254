r"""Whitening of noisy samples of a Gaussian, of which the denoisers of ensembles are made.

For samples u = x + noise of x ~ N(m, B), with noise of variances Q per component, and
:math:`W = Q^{-1/2}` (0 where nothing is known), let :math:`F^T F = (B + Q)^{-1}`. Then

.. math:: E[x \mid u] = m + B F^T F (u - m), \quad
    \log p(u) = \log |F| - \tfrac12 |F (u - m)|^2 + \mathrm{const} .

F is found without a difference of large numbers: as :math:`G^{-1} W` with the Cholesky factor G
of :math:`1 + W B W`, or where B has the root L of a lower rank as :math:`(1 + S^2)^{-1/2} U^T W`
with the singular values :math:`W L = U S V^T`. The latter leaves out what no x in the span of L
reaches, and its cost is linear in the size of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from scorda.core.shapes import Tensor

__all__ = ["ByCholesky", "ByValues", "Latest", "Whitening"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ByCholesky:
    """The factor F for a full matrix B.

    Arguments:
        B: Covariance, ``(size, size)``.
        W: Inverse standard deviations of the noise, ``(size,)``.
        G: Cholesky factor of 1 + W B W.
    """

    B: Tensor
    W: Tensor
    G: Tensor

    @classmethod
    def of(cls, B: Tensor, W: Tensor) -> ByCholesky:
        """Return the factor of a covariance and inverse standard deviations."""
        G = W[:, None] * B * W
        G.diagonal().add_(1)
        return cls(B, W, torch.linalg.cholesky(G))

    @property
    def log_det(self) -> Tensor:
        """Log of the determinant of F / W, term by term."""
        return -self.G.diagonal().log()

    def white(self, x: Tensor) -> Tensor:
        """Return F x, for rows x."""
        return torch.linalg.solve_triangular(self.G, (x * self.W).mT, upper=False).mT

    def gain(self, y: Tensor) -> Tensor:
        """Return B F^T y, for rows y."""
        solved = torch.linalg.solve_triangular(self.G.mT, y.mT, upper=True).mT
        return (solved * self.W) @ self.B


@dataclass(frozen=True, eq=False)
class ByValues:
    r"""The factor F for :math:`B = \beta L L^T` of low rank.

    Arguments:
        beta: :math:`\beta`.
        WU: W U, ``(size, rank)``.
        S: Singular values of W L, ``(rank,)``.
        L: Root, ``(size, rank)``.
        V: Right singular vectors, in columns.
    """

    beta: float
    WU: Tensor
    S: Tensor
    L: Tensor
    V: Tensor

    @property
    def log_det(self) -> Tensor:
        """Log of the determinant of F / W, term by term."""
        return -0.5 * (self.beta * self.S.square()).log1p()

    def white(self, x: Tensor) -> Tensor:
        """Return F x, for rows x."""
        return (x @ self.WU) * self.log_det.exp()

    def gain(self, y: Tensor) -> Tensor:
        """Return B F^T y, for rows y."""
        scale = self.beta * self.S * self.log_det.exp()
        return ((y * scale) @ self.V.mT) @ self.L.mT


Whitening = ByCholesky | ByValues


class Latest(Generic[T]):
    """The latest value of a function of a tensor, kept while the tensor is the same.

    Solvers ask for the same noise level again and again: each stage of a Runge-Kutta step, and the
    end of one step and the start of the next.
    """

    def __init__(self) -> None:
        self._key: Tensor | None = None
        self._value: T

    def __call__(self, key: Tensor, make: Callable[[Tensor], T]) -> T:
        """Return the value of `make` at the key."""
        known = self._key
        if known is None or known.dtype != key.dtype or not torch.equal(known, key):
            self._value, self._key = make(key), key.clone()
        return self._value
