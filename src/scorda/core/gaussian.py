r"""Gaussian algebra: square roots, densities and conditioning.

A Gaussian is a pair of a mean, ``(n,)``, and a covariance, ``(n, n)``, of the flattened state.
Covariances may be singular unless a function says otherwise.
"""

from __future__ import annotations

import math

import torch

from scorda.core.shapes import Float, Tensor

__all__ = [
    "check_cov",
    "component_std",
    "gaussian_condition",
    "gaussian_log_density",
    "psd_root",
    "sampling_root",
    "standard_deviations",
    "symmetric_map",
]


def standard_deviations(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Return the standard deviation of each component, and 1 where it has none.

    Divided by them a covariance is a correlation, whose eigenvalues are those of any units.
    """
    var = cov.diagonal(dim1=-2, dim2=-1)
    return torch.where(var > 0, var, 1.0).sqrt()


def component_std(ensemble: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "..."]:
    """Return the standard deviation of each component; 0 where members agree within rounding."""
    low, high = ensemble.amin(0), ensemble.amax(0)
    rounding = torch.finfo(ensemble.dtype).eps * torch.maximum(low.abs(), high.abs())
    return torch.where(high - low > rounding, ensemble.std(0), 0.0)


def check_cov(cov: Float[Tensor, "n n"], name: str) -> None:
    """Check that a matrix is symmetric, in units of the standard deviation of each component.

    Raises:
        ValueError: If it is not.
    """
    unit = standard_deviations(cov)
    scaled = cov / unit[:, None] / unit
    if not torch.allclose(scaled, scaled.mT):
        raise ValueError(f"Got a `{name}` that is not symmetric: it is a covariance.")


def sampling_root(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    r"""Return R with :math:`R^T R = C`, so that :math:`\varepsilon R` is a draw of N(0, C).

    .. math:: R = (D^{-1} C D^{-1})^{1/2} D

    with the standard deviations D of the components and the symmetric root: unlike that of C, it
    draws the same numbers in any units. C may be singular.

    Raises:
        ValueError: If an eigenvalue is negative beyond rounding.
    """
    unit = standard_deviations(cov)
    return psd_root(cov / unit.unsqueeze(-1) / unit.unsqueeze(-2)) * unit.unsqueeze(-2)


def psd_root(cov: Float[Tensor, "*batch n n"], terms: float = 0.0) -> Float[Tensor, "*batch n n"]:
    r"""Return the symmetric square root :math:`C^{1/2}` of positive semidefinite matrices.

    They may be singular: an eigenvalue that is zero within rounding is zero.

    Arguments:
        cov: C.
        terms: Size of what C is a difference of, where that is larger than C.

    Raises:
        ValueError: If an eigenvalue is negative beyond rounding.
    """
    values, vectors = torch.linalg.eigh(cov)
    # Rounding of a zero eigenvalue is of the order of the largest times n eps.
    largest = values.abs().amax(-1, keepdim=True).clamp_min(terms)
    rounding = cov.shape[-1] * torch.finfo(cov.dtype).eps * largest
    if (values < -10 * rounding).any():
        raise ValueError(
            f"Got a matrix with the eigenvalue {float(values.min()):.3g} as a covariance: "
            "it must be positive semidefinite."
        )
    values = torch.where(values > rounding, values, 0.0)
    return (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT


def gaussian_log_density(
    x: Float[Tensor, "*batch n"], mean: Float[Tensor, "n"], cov: Float[Tensor, "n n"]
) -> Float[Tensor, "*batch"]:
    r"""Return the log density of :math:`N(m, C)` at each x; C must be positive definite.

    Raises:
        torch.linalg.LinAlgError: If C is singular.
    """
    root = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(
        root, (x - mean).reshape(-1, x.shape[-1]).mT, upper=False
    )
    log_norm = root.diagonal().log().sum() + 0.5 * x.shape[-1] * math.log(2 * math.pi)
    return -0.5 * white.square().sum(0).reshape(x.shape[:-1]) - log_norm


def gaussian_condition(
    mean: Float[Tensor, "n"],
    cov: Float[Tensor, "n n"],
    matrix: Float[Tensor, "obs n"],
    y: Float[Tensor, "obs"],
    noise_cov: Float[Tensor, "obs obs"],
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"], Float[Tensor, ""]]:
    r"""Condition :math:`x \sim N(m, P)` on :math:`y = H x + N(0, R)`.

    .. math:: S = H P H^T + R, \quad K = P H^T S^{-1}, \quad m^+ = m + K (y - H m), \quad
        P^+ = (I - K H) P (I - K H)^T + K R K^T

    The last is Joseph's form: positive semidefinite whatever the rounding of K. Exact.

    Arguments:
        mean: m.
        cov: P, may be singular.
        matrix: H.
        y: Observation.
        noise_cov: R, positive definite.

    Returns:
        :math:`m^+`, :math:`P^+` and the log evidence :math:`\log N(y; H m, S)`.
    """
    gain_cov = matrix @ cov
    S = gain_cov @ matrix.mT + noise_cov
    K = torch.cholesky_solve(gain_cov, torch.linalg.cholesky(S)).mT
    rest = torch.eye(len(mean), dtype=cov.dtype, device=cov.device) - K @ matrix
    posterior = rest @ cov @ rest.mT + K @ noise_cov @ K.mT
    evidence = gaussian_log_density(y, matrix @ mean, S)
    return mean + K @ (y - matrix @ mean), posterior, evidence


def symmetric_map(
    source: Float[Tensor, "n n"], target: Float[Tensor, "n n"]
) -> Float[Tensor, "n n"]:
    r"""Return the symmetric M, :math:`M C M = T`, that moves :math:`N(0, C)` onto :math:`N(0, T)`.

    .. math:: M = C^{-1/2} (C^{1/2} T C^{1/2})^{1/2} C^{-1/2}

    is the optimal transport between the two. Where C is singular its inverse is that on its
    range, and T is matched there alone. The root in the middle is made of the singular values of
    :math:`C^{1/2} T^{1/2}`, which have twice the digits of the eigenvalues of its square.

    Source: Olkin & Pukelsheim (1982), Linear Algebra Appl. 48, 257-263.
    """
    values, vectors = torch.linalg.eigh(source)
    kept = values > len(source) * torch.finfo(source.dtype).eps * values[-1]
    root = vectors[:, kept] * values[kept].sqrt()
    inverse = vectors[:, kept] / values[kept].sqrt()
    left, middle, _ = torch.linalg.svd(root.mT @ psd_root(target), full_matrices=False)
    left = inverse @ left
    return (left * middle) @ left.mT
