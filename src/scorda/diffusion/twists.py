r"""Twists: positive functions of a noisy sample that stand for :math:`p(y \mid u)`.

`Twisted` weights its samples by them. It is exact for every twist that is the likelihood itself
where the noise is gone; a twist close to :math:`p(y \mid u)` needs fewer samples. A twist that is
too narrow is a worse one than a twist that is too wide.

.. math:: \log \psi(u) = \log N(y;\, h(\hat x),\, V), \qquad \hat x = D(u)

===================== ================================================ ======================
`StandardLikelihood`  :math:`V = R + \gamma \nu^2/(1 + \nu^2) J J^T`     wide
`InflatedLikelihood`  :math:`V = R + \gamma \nu^2 J J^T`                 narrow for small gamma
`MMPS`                :math:`V = R + J \nu^2 \partial_u D J^T`           a product per value
===================== ================================================ ======================

In the first two :math:`J J^T` is replaced by its row sums, which it is where it is diagonal, as
for observed entries and means of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser, align
from scorda.diffusion.guidance import (
    MMPS,
    Guidance,
    GuidedDenoiser,
    InflatedLikelihood,
    bounded_shift,
    linearise,
)
from scorda.observations.model import ObservationModel

__all__ = ["StandardLikelihood", "Twist", "products_of", "twist"]

# Observed values of which MMPS takes the whole covariance: each is a product with the network.
MOST = 64


@dataclass(frozen=True)
class StandardLikelihood(Guidance):
    r"""The likelihood that a standard normal prior has around x-hat: the twist of `Twisted`.

    .. math:: p(y \mid u) \approx N\left(y;\, h(\hat x),\,
        R + \gamma \frac{\nu^2}{1 + \nu^2} J J^T\right)

    Exact for :math:`N(0, I)`, gamma = 1 and a linear operator; for standardised states of any
    law it is about right where the noise is large, and too wide where it is small. As a guidance
    alone it leaves the observations too much room: it is made to be corrected by weights.

    Source: methods of Wu et al. (2023), arXiv:2306.17775, with the covariance of Rozet & Louppe
    (2023), equation 15, for Gamma of a standard normal prior.

    Arguments:
        gamma: Factor of the variance; a smaller one is a narrower twist.
        bound: Largest displacement of a component, in units of the noise level. None disables it.
    """

    gamma: float = 1.0
    bound: float | None = 1.0

    def __post_init__(self) -> None:
        if self.gamma <= 0 or (self.bound is not None and self.bound <= 0):
            raise ValueError(
                f"Got gamma = {self.gamma}, bound = {self.bound}: gamma must be positive and the "
                "bound positive or None."
            )

    def displacement(
        self,
        denoiser: Denoiser,
        u: Float[Tensor, "ensemble ..."],
        noise: Float[Tensor, "..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
    ) -> tuple[Tensor, Tensor]:
        found = twist(GuidedDenoiser(denoiser, self, y, model), u, noise)
        return found.mean, found.shift


@dataclass(frozen=True)
class Twist:
    """A twist at noisy samples.

    Arguments:
        mean: Denoised samples D(u), ``(ensemble, *shape)``.
        shift: Noise level squared times the gradient of the log of the twist, as `Guidance` has
            it: where the derivative of V is neglected and the displacement bounded.
        log: Logarithm of the twist, ``(ensemble,)``, in double precision.
    """

    mean: Float[Tensor, "ensemble ..."]
    shift: Float[Tensor, "ensemble ..."]
    log: Float[Tensor, "ensemble"]


def twist(
    guided: GuidedDenoiser, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
) -> Twist:
    """Return the twist of a guidance at samples of one noise level.

    Raises:
        TypeError: If the guidance is no twist, or the errors of the observations not Gaussian.
        ValueError: If there are too many observed values for MMPS.
    """
    guidance, y, model = guided.guidance, guided.y, guided.model
    if model.law is not None:
        raise TypeError(
            f"Twisted takes Gaussian errors, and some are {type(model.law).__name__}: use another "
            "sampler for these observations."
        )
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        mean = guided.denoiser.denoise(u, noise)
        predicted = model.predict(mean, y)
    share = noise.square() / (1 + noise.square())
    if isinstance(guidance, StandardLikelihood):
        weighed, log = _diagonal(model, y, mean, predicted, guidance.gamma * share)
    elif isinstance(guidance, InflatedLikelihood):
        weighed, log = _diagonal(model, y, mean, predicted, guidance.gamma * noise.square())
    elif isinstance(guidance, MMPS) and guidance.covariance == "denoiser":
        weighed, log = _whole(model, y, u, mean, predicted, noise)
    else:
        raise TypeError(
            f"Got {guidance} with Twisted, which needs the density of a twist: use "
            "StandardLikelihood, InflatedLikelihood or MMPS of the denoiser."
        )
    (gradient,) = torch.autograd.grad(predicted, u, weighed)
    shift = noise.square() * gradient
    if guidance.bound is not None:
        shift = bounded_shift(shift, guidance.bound * noise)
    return Twist(mean.detach(), shift, log)


def products_of(denoiser: Denoiser) -> int:
    """Return evaluations of a denoiser, and further products with its Jacobian, for a twist."""
    whole = isinstance(denoiser, GuidedDenoiser) and isinstance(denoiser.guidance, MMPS)
    return 1 + len(denoiser.y) if whole else 1  # type: ignore[attr-defined]


def _diagonal(
    model: ObservationModel, y: Tensor, mean: Tensor, predicted: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighed residuals and log density where row sums stand for J J^T."""
    jacobian, adjoint = linearise(model.operator, mean.detach())
    overlap = jacobian(adjoint(torch.ones_like(predicted))).clamp(min=0)
    residual = (y.to(predicted) - predicted.detach()).double()
    extra = (align(gain.flatten(), overlap) * overlap).double()
    if model.cov is None:
        var = model.error_std(tuple(y.shape), residual).square() + extra
        weighed = residual / var
        log_det = var.log().sum(1)
    else:
        root = torch.linalg.cholesky(model.cov.to(residual) + torch.diag_embed(extra))
        weighed = torch.cholesky_solve(residual[..., None], root)[..., 0]
        log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    return weighed.to(predicted), _log_normal((weighed * residual).sum(1), log_det, len(y))


def _whole(
    model: ObservationModel, y: Tensor, u: Tensor, mean: Tensor, predicted: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighed residuals and log density with the covariance of the denoiser, one product each."""
    if len(y) > MOST:
        raise ValueError(
            f"Got {len(y)} observed values for Twisted with MMPS, which takes as many products "
            f"with the network at each level: use StandardLikelihood above {MOST}."
        )
    jacobian, _ = linearise(model.operator, mean.detach())
    rows = []
    for unit in torch.eye(len(y)).to(predicted):
        pulled = torch.autograd.grad(predicted, u, unit.expand_as(predicted), retain_graph=True)[0]
        rows.append(jacobian(noise.square() * pulled))
    spread = torch.stack(rows, 1).double()
    residual = (y.to(predicted) - predicted.detach()).double()
    root = torch.linalg.cholesky(model.error_cov(tuple(y.shape), residual))
    # In units of the errors. A network's Jacobian is neither symmetric nor positive: the nearest
    # matrix that is both makes a density as well.
    white = torch.linalg.solve_triangular(root, spread, upper=False)
    white = torch.linalg.solve_triangular(root, white.mT, upper=False)
    values, vectors = torch.linalg.eigh((white + white.mT) / 2)
    var = 1 + values.clamp(min=0)
    scaled = torch.linalg.solve_triangular(root, residual.mT, upper=False).mT
    turned = (vectors.mT @ scaled[..., None])[..., 0]
    back = (vectors @ (turned / var)[..., None])[..., 0]
    weighed = torch.linalg.solve_triangular(root.mT, back.mT, upper=True).mT
    log_det = var.log().sum(1) + 2 * root.diagonal().log().sum()
    return weighed.to(predicted), _log_normal((turned.square() / var).sum(1), log_det, len(y))


def _log_normal(square: Tensor, log_det: Tensor, size: int) -> Float[Tensor, "ensemble"]:
    return -0.5 * (square + log_det + size * math.log(2 * math.pi))
