r"""The modes of an observation: orthonormal directions in which it is independent numbers.

Of an observation :math:`y = H x + N(0, R)` a state sees :math:`H^T R^{-1} y` and
:math:`H^T R^{-1} H = V \operatorname{diag}(\lambda) V^T` alone. In the coordinates
:math:`x' = V^T x` each observed mode (:math:`\lambda_i > 0`) is seen by itself,

.. math:: z'_i = x'_i + N(0, 1 / \lambda_i), \qquad
    z'_i = (V^T H^T R^{-1} y)_i / \lambda_i ,

whatever the norm and the rank of H and the correlations in R; of the others nothing is seen. The
result does not change under :math:`(H, R, y) \to (L H, L R L^T, L y)` with invertible L.

V is never stored as a matrix. Observations that share no entry of the state and whose errors are
independent make separate blocks: the rows and columns of a mask are blocks of one entry, where V
is 1, those of a block average have the size of the block. Within a block of e entries and m
observations, with :math:`R = L L^T`, :math:`(L^{-1} H)^T = Q T` gives e-dimensional Householder
reflections Q, and :math:`T = U S W^T` what is left: V = Q (U on the first min(e, m) directions,
1 on the others) and :math:`\lambda = S^2`. An entry that is not observed is its own mode.

A periodic blur needs no blocks: :math:`H^T H` is a convolution with an even kernel, which the
Hartley transform :math:`V = (\mathrm{Re} F - \mathrm{Im} F) / n^{1/2}`, real, symmetric and its
own inverse, turns into the squared moduli of the kernel's Fourier transform.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from scorda.core.shapes import Float, Int, Tensor

__all__ = ["BlockModes", "FourierModes", "Modes", "ScaledModes"]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Blocks of equal numbers of entries and observations.

    Arguments:
        entries: Entries of the flattened state, and of x', in each block.
        observed: Entries of the flattened observation in each block.
        information: Maps those to :math:`V^T H^T R^{-1} y` of the first modes of the block.
        precision: lambda of these modes.
        rotation: U; None where a block has one entry and V is 1.
        reflections: Q as of `torch.geqrf`: vectors and factors.
    """

    entries: Int[Tensor, "blocks entries"]
    observed: Int[Tensor, "blocks observed"]
    information: Float[Tensor, "blocks rank observed"]
    precision: Float[Tensor, "blocks rank"]
    rotation: Float[Tensor, "blocks rank rank"] | None = None
    reflections: tuple[Tensor, Tensor] | None = None

    def turn(self, x: Float[Tensor, "ensemble state"], forward: bool) -> None:
        """Replace x by V^T x (forward) or V x, in place."""
        if self.rotation is None or self.reflections is None:
            return
        entries = self.entries.to(x.device)
        vectors, factors = (part.to(x) for part in self.reflections)
        part = x[:, entries].permute(1, 2, 0).contiguous()
        rank, U = self.rotation.shape[-1], self.rotation.to(x)
        if forward:
            part = torch.ormqr(vectors, factors, part, transpose=True)
            part[:, :rank] = U.mT @ part[:, :rank]
        else:
            part[:, :rank] = U @ part[:, :rank]
            part = torch.ormqr(vectors, factors, part)
        x[:, entries] = part.permute(2, 0, 1)


class Modes(ABC):
    r"""Eigenvectors V and eigenvalues :math:`\lambda` of :math:`H^T R^{-1} H`.

    x' has the shape of x. `precision` is lambda, shape ``(*state)``, 0 where a mode is not
    observed; `trivial` says whether V is the identity.
    """

    precision: Float[Tensor, "..."]

    @property
    @abstractmethod
    def trivial(self) -> bool:
        """Say whether V is the identity, so that x' = x."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return :math:`x' = V^T x`."""

    @abstractmethod
    def inverse(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return :math:`x = V x'`."""

    @abstractmethod
    def information(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Return :math:`V^T H^T R^{-1} y`, shape ``(*state)``, of a complete observation.

        It is :math:`\lambda_i z'_i`: 0 where nothing is seen, and finite however little is.
        """

    def observe(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return z', the observation in the modes; NaN where nothing is seen [final]."""
        return self.information(y) / self.precision.to(y)


@dataclass(frozen=True, eq=False)
class BlockModes(Modes):
    r"""The modes of any linear operator, block by block.

    Mode i stands where entry i of the state stood (among those of its block). Where nothing was
    observed x' is x, and for a mask, a stride or a selection with independent errors everywhere.

    Arguments:
        precision: lambda, shape ``(*state)``.
        blocks: Where V is not the identity, or something is observed.
    """

    precision: Float[Tensor, "..."]
    blocks: tuple[_Blocks, ...]

    @classmethod
    def of(cls, rows: csr_array, error: Tensor, shape: tuple[int, ...]) -> BlockModes:
        """Find the modes of H, with errors of std ``(obs,)`` or covariance ``(obs, obs)``.

        Computed in double precision on the CPU, whatever precision they are used in later.
        """
        error = error.detach().to("cpu", torch.float64)
        precision = torch.zeros(math.prod(shape), dtype=torch.float64)
        blocks = []
        for part in _partition(rows, error):
            block = _decompose(*part, error)
            rank = block.precision.shape[1]
            precision[block.entries[:, :rank]] = block.precision
            blocks.append(block)
        return cls(precision.reshape(shape), tuple(blocks))

    @property
    def trivial(self) -> bool:
        return all(block.rotation is None for block in self.blocks)

    def forward(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self._turn(x, True)

    def inverse(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self._turn(x, False)

    def information(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = y.flatten().to("cpu", torch.float64)
        seen = torch.zeros(self.precision.numel(), dtype=torch.float64)
        for block in self.blocks:
            rank = block.precision.shape[1]
            values = block.information @ flat[block.observed][..., None]
            seen[block.entries[:, :rank]] = values[..., 0]
        return seen.reshape(self.precision.shape).to(y)

    def _turn(self, x: Tensor, forward: bool) -> Tensor:
        if self.trivial:
            return x
        turned = x.flatten(1).clone()
        for block in self.blocks:
            block.turn(turned, forward)
        return turned.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class FourierModes(Modes):
    """The modes of a periodic convolution whose errors are independent and alike.

    Arguments:
        transfer: Fourier transform of the kernel, complex, on the grid.
        std: Standard deviation of the error.
        shape: Shape of one state, whose last axes are the grid.
        unit: Factor of each variable, with which the convolution is multiplied.
    """

    transfer: Tensor
    std: float
    shape: tuple[int, ...]
    unit: Float[Tensor, "..."] | float = 1.0

    trivial = False

    @property
    def precision(self) -> Float[Tensor, "..."]:  # type: ignore[override]
        """Return squared moduli over the variance of the error; 0 within rounding."""
        square = self.transfer.abs().square()
        rounding = (square.numel() * torch.finfo(square.dtype).eps) ** 2 * square.max()
        square = square * (square > rounding) / self.std**2
        return (square * torch.as_tensor(self.unit).to(square) ** 2).expand(self.shape)

    def forward(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        axes = tuple(range(-self.transfer.ndim, 0))
        transformed = torch.fft.fftn(x, dim=axes, norm="ortho")
        return transformed.real - transformed.imag

    def inverse(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.forward(x)

    def information(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axes = tuple(range(-self.transfer.ndim, 0))
        spectrum = torch.fft.fftn(y.reshape(self.shape).double(), dim=axes, norm="ortho")
        spectrum = spectrum * self.transfer.to(spectrum).conj() / self.std**2
        seen = (spectrum.real - spectrum.imag) * (self.precision > 0).to(y.device)
        return (seen * torch.as_tensor(self.unit).to(seen)).to(y)


@dataclass(frozen=True, eq=False)
class ScaledModes(Modes):
    r"""The modes of an observation of states in other units, :math:`x' = V^T (x / s)`.

    V and :math:`\lambda` are those of :math:`S H^T R^{-1} H S`, so that modes that mix variables
    are the same in any units of these.

    Arguments:
        modes: Modes of the operator :math:`H S`.
        unit: s, shape ``(*state)``, positive.
    """

    modes: Modes
    unit: Float[Tensor, "..."]

    trivial = False

    @property
    def precision(self) -> Float[Tensor, "..."]:  # type: ignore[override]
        """Return lambda of the scaled states."""
        return self.modes.precision

    def forward(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.modes.forward(x / self.unit.to(x))

    def inverse(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.modes.inverse(x) * self.unit.to(x)

    def information(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.modes.information(y)


def _partition(rows: csr_array, error: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return blocks as (entries, observations, dense H), those of equal sizes in a batch."""
    from scipy.sparse import block_array
    from scipy.sparse.csgraph import connected_components

    rows = rows.copy()
    rows.eliminate_zeros()
    observations, size = rows.shape
    linked = csr_array(error.numpy()) if error.ndim == 2 else csr_array((observations,) * 2)
    graph = block_array([[linked, rows], [None, csr_array((size, size))]])
    _, labels = connected_components(graph, directed=False)
    of_row, of_column = labels[:observations], labels[observations:]
    count = labels.max(initial=0) + 1
    heights = np.bincount(of_row, minlength=count)
    widths = np.bincount(of_column, minlength=count)
    # Rank of each row and column within its block.
    sorted_rows, row_rank = _ranked(of_row, heights)
    sorted_columns, column_rank = _ranked(of_column, widths)
    coo = rows.tocoo()
    of_value = of_row[coo.row]
    parts = []
    both = (heights > 0) & (widths > 0)
    for height, width in np.unique(np.stack([heights, widths], 1)[both], axis=0):
        chosen = np.flatnonzero(both & (heights == height) & (widths == width))
        number = np.full(count, -1)
        number[chosen] = np.arange(len(chosen))
        entries = sorted_columns[number[of_column[sorted_columns]] >= 0].reshape(-1, width)
        observed = sorted_rows[number[of_row[sorted_rows]] >= 0].reshape(-1, height)
        dense = np.zeros((len(chosen), height, width))
        inside = number[of_value] >= 0
        where = number[of_value[inside]]
        dense[where, row_rank[coo.row[inside]], column_rank[coo.col[inside]]] = coo.data[inside]
        parts.append((entries, observed, dense))
    return [tuple(torch.from_numpy(a) for a in part) for part in parts]  # type: ignore[misc]


def _ranked(labels: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices sorted by label, and the rank of each index within its label."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    return order, rank


def _decompose(entries: Tensor, observed: Tensor, H: Tensor, error: Tensor) -> _Blocks:
    if error.ndim == 2:
        root = torch.linalg.cholesky(error[observed[:, :, None], observed[:, None, :]])
    else:
        root = torch.diag_embed(error[observed])
    if entries.shape[1] == 1:
        white = torch.linalg.solve_triangular(root, H, upper=False)
        information = torch.linalg.solve_triangular(root.mT, white, upper=True).mT
        return _Blocks(entries, observed, information, white.square().sum((1, 2))[:, None])
    white = torch.linalg.solve_triangular(root, H, upper=False)
    vectors, factors = torch.geqrf(white.mT.contiguous())
    rank = factors.shape[1]
    U, S, W = torch.linalg.svd(vectors[:, :rank].triu(), full_matrices=False)
    # Beyond rounding, which would make observed modes of enormous variance out of nothing.
    eps = max(H.shape[1:]) * torch.finfo(S.dtype).eps
    S = S * (S > eps * S[:, :1])
    information = torch.linalg.solve_triangular(root.mT, (S[..., None] * W).mT, upper=True).mT
    return _Blocks(entries, observed, information, S.square(), U, (vectors, factors))
