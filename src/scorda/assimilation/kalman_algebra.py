r"""Kalman algebra in the space of the ensemble, shared by the ensemble Kalman methods.

With N members, let A be the anomalies of the forecast, :math:`a_i = x_i - \bar x`, Y those of its
predicted observations and d the innovation :math:`y - \bar{h(x)}`, both multiplied by
:math:`R^{-1/2}` ("white"). Every analysis below is a linear combination of members,

.. math:: x_i^a = \bar x + \sum_j W_{ij} \, a_j ,

so the state enters through its anomalies alone, however large it is, and past states are smoothed
with the same weights.

Y and d, their small square matrices and what these do to the state are computed in double
precision, whatever that of the state: squares of a precise observation beside those of an
ordinary one are beyond the digits of single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = [
    "Transform",
    "centred_basis",
    "in_double",
    "inflate",
    "kalman_transform",
    "mean_preserving_rotation",
    "perturbed_transform",
    "rotated",
    "symmetric_transform",
    "white_innovation",
]


# Columns of an ensemble that are in double precision at once.
COLUMNS = 2**16


def in_double(
    change: Callable[[Tensor], Tensor], ensemble: Float[Tensor, "ensemble ..."]
) -> Float[Tensor, "rows ..."]:
    """Return members changed in double precision, some columns at a time, in their own.

    The change may return more or fewer rows, of as many columns.
    """
    flat = ensemble.flatten(1)
    if flat.shape[1] <= COLUMNS:
        return change(flat.double()).to(flat).reshape(-1, *ensemble.shape[1:])
    moved = [change(part.double()).to(part) for part in flat.split(COLUMNS, 1)]
    return torch.cat(moved, 1).reshape(-1, *ensemble.shape[1:])


def inflate(
    ensemble: Float[Tensor, "ensemble ..."], factor: float
) -> Float[Tensor, "ensemble ..."]:
    r"""Multiply anomalies about the mean, :math:`\bar x + \lambda (x_i - \bar x)`."""
    if factor == 1:
        return ensemble
    mean = ensemble.mean(0, keepdim=True)
    return (ensemble - mean).mul_(factor).add_(mean)


def centred_basis(members: int, like: Tensor) -> Float[Tensor, "ensemble rest"]:
    """Return an orthonormal basis of what is orthogonal to equal weights of all members.

    These are the last columns of the Householder reflection of equal weights onto the first axis.
    """
    v = like.new_full((members,), members**-0.5)
    v[0] += 1
    return (torch.eye(members).to(like) - 2 * torch.outer(v, v) / v.square().sum())[:, 1:]


def mean_preserving_rotation(
    members: int, like: Tensor, generator: torch.Generator | None = None
) -> Float[Tensor, "ensemble ensemble"]:
    r"""Draw an orthogonal matrix Q with :math:`Q 1 = 1`, uniform among those.

    .. math:: Q = 1 1^T / N + B O B^T

    with O uniform (Haar) in N - 1 dimensions, and B an orthonormal basis of what is
    orthogonal to 1.
    """
    basis = centred_basis(members, like)
    noise = rng.normal(members - 1, (members - 1,), generator, like=like)
    q, r = torch.linalg.qr(noise)
    # The signs make the distribution uniform: QR alone depends on its convention.
    q = q * r.diagonal().sign()
    return 1 / members + basis @ q @ basis.mT


def rotated(
    ensemble: Float[Tensor, "ensemble ..."], generator: torch.Generator | None = None
) -> Float[Tensor, "ensemble ..."]:
    """Multiply anomalies about the mean by a `mean_preserving_rotation`."""
    like = ensemble.new_empty(0, dtype=torch.float64)
    turn = mean_preserving_rotation(len(ensemble), like, generator)
    return in_double(lambda x: turn @ x, ensemble)


def white_innovation(
    forecast: Float[Tensor, "ensemble ..."], y: Float[Tensor, "obs"], model: ObservationModel
) -> tuple[Float[Tensor, "ensemble obs"], Float[Tensor, "obs"]]:
    """Return the white anomalies Y of the predicted observations and the white innovation d.

    Both are in double precision.
    """
    both = torch.cat((model.predict(forecast, y), y[None])).double()
    white = model.whiten(both.sub_(both[:-1].mean(0)))
    return white[:-1], white[-1]


@dataclass(frozen=True)
class Transform:
    r"""The linear map of anomalies in an analysis, as the product of thin factors.

    .. math:: X \mapsto X + L C M A

    With few observations the factors are much smaller than their product, ``(ensemble,
    ensemble)``, which a large ensemble could not even store.

    Arguments:
        left: L.
        right: M, or None for the identity.
        core: C, or None for the identity.
    """

    left: Float[Tensor, "*batch rows rank"]
    right: Float[Tensor, "*batch rank ensemble"] | None
    core: Float[Tensor, "*batch rank rank"] | None = None

    def increment(
        self, anomalies: Float[Tensor, "*batch ensemble columns"]
    ) -> Float[Tensor, "*batch rows columns"]:
        """Return L C M A."""
        moved = anomalies if self.right is None else self.right @ anomalies
        if self.core is None:
            return self.left @ moved
        # The core goes to the factor that has fewer numbers.
        if anomalies.shape[-1] > self.left.shape[-2]:
            return (self.left @ self.core) @ moved
        return self.left @ (self.core @ moved)

    def __call__(self, ensemble: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Return the members of the analysis, from those of this or of an earlier step."""
        return in_double(lambda x: x + self.increment(x - x.mean(0)), ensemble)


def kalman_transform(
    anomalies: Float[Tensor, "ensemble obs"], residuals: Float[Tensor, "rows obs"]
) -> Transform:
    r"""Return the Kalman increments of white residuals D, of the members or of other states.

    .. math:: D (Y^T Y + (N - 1) I)^{-1} Y^T A = D Y^T (Y Y^T + (N - 1) I)^{-1} A,

    of which the smaller system is solved: over observations or (Woodbury) over members.
    """
    members, observations = anomalies.shape
    few = observations <= members
    gram = anomalies.mT @ anomalies if few else anomalies @ anomalies.mT
    gram.diagonal().add_(members - 1)
    root = torch.linalg.cholesky(gram)
    if few:
        return Transform(torch.cholesky_solve(residuals.mT, root).mT, anomalies.mT)
    return Transform(torch.cholesky_solve(anomalies @ residuals.mT, root).mT, None)


def perturbed_transform(
    forecast: Float[Tensor, "ensemble ..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    generator: torch.Generator | None = None,
) -> tuple[Transform, tuple[Tensor, Tensor]]:
    r"""Return the stochastic analysis, and what `white_innovation` returns.

    .. math:: x_i^a = x_i + K (y + \varepsilon_i - h(x_i)), \quad \varepsilon_i \sim N(0, R)

    The perturbations are centred, so that the analysis mean does not depend on their draw.
    """
    anomalies, innovation = white_innovation(forecast, y, model)
    noise = rng.normal(len(anomalies), tuple(innovation.shape), generator, like=anomalies)
    residuals = (noise - noise.mean(0)).add_(innovation).sub_(anomalies)
    return kalman_transform(anomalies, residuals), (anomalies, innovation)


def symmetric_transform(
    anomalies: Float[Tensor, "*batch ensemble obs"], innovation: Float[Tensor, "*batch obs"]
) -> tuple[Float[Tensor, "*batch 1 ensemble"], Transform]:
    r"""Return the deterministic analysis: weights w of the mean, T of the anomalies.

    .. math:: w = d Y^T P_w, \quad T = \sqrt{N - 1} \, P_w^{1/2}, \quad
        P_w = (Y Y^T + (N - 1) I)^{-1}

    with the symmetric root, which keeps the mean and moves the members least. One symmetric
    eigenproblem, over members or over observations, whichever are fewer.
    """
    members, observations = anomalies.shape[-2:]
    rest = members - 1
    d = innovation.unsqueeze(-1)
    few = observations < members
    values, vectors = torch.linalg.eigh(
        anomalies.mT @ anomalies if few else anomalies @ anomalies.mT
    )
    values = values.clamp_min(0).unsqueeze(-2)
    total = values + rest
    # (sqrt(rest / total) - 1) / values, written so that it is regular where a value is zero.
    factor = -1 / (total.sqrt() * (total.sqrt() + rest**0.5))
    if few:
        mean = anomalies @ ((vectors / total) @ (vectors.mT @ d))
        return mean.mT, Transform(anomalies, anomalies.mT, (vectors * factor) @ vectors.mT)
    mean = (vectors / total) @ (vectors.mT @ (anomalies @ d))
    return mean.mT, Transform(vectors * (factor * values), vectors.mT)
