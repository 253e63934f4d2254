r"""A Gaussian mixture on an ensemble, conditioned on an observation, in the space of the ensemble.

With N members, let :math:`a_i = x_i - \bar x` be the anomalies of the forecast, P their sample
covariance, and Y, d the anomalies of the predicted observations and the innovation, white
(multiplied by :math:`R^{-1/2}`). The state and its prediction (x, h(x)) together have the prior

.. math:: p(x) = \frac1N \sum_i N(x; c_i, B), \quad
    B = \left[\frac{P^{-1} + H^T R^{-1} H}{\beta} - H^T R^{-1} H\right]^{-1}, \quad
    c_i = \bar x + \left(\tfrac{N}{N - 1}\right)^{1/2} (I - B P^{-1})^{1/2} a_i .

Its mean and covariance are those of the ensemble for every :math:`\beta`. The kernels are such
that conditioned on y they have :math:`\beta` times the covariance of the Kalman filter's analysis:

.. math:: p(x \mid y) = \sum_i w_i \, N(x; m_i, \beta (P^{-1} + H^T R^{-1} H)^{-1}), \quad
    w_i \propto N(y; H c_i, H B H^T + R), \quad m_i = c_i + K (y - H c_i) .

:math:`\beta = 1`: all centres are the mean, and this is the Kalman analysis. :math:`\beta \to 0`:
the kernels shrink to points, and this is the particle filter on the members (moved away from
their mean by :math:`(N / (N - 1))^{1/2}`, which keeps the covariance). Kernels of a fixed fraction
of P would be far wider than the posterior where the observation is precise.

H enters through Y alone. For a linear h all of this is exact; for any other, the mixture is that
of the pairs (x, h(x)): the centres are exact for :math:`\beta \to 0`, and h within a kernel is
replaced by its regression over all members, as in the EnKF.

With :math:`Y = U s V^T`, the projections :math:`Z = Y V` and :math:`v = V^T d`,
:math:`\lambda = s^2 / (N - 1)`, and

.. math:: \rho = \frac{1 + \lambda}{1 + (1 - \beta) \lambda}, \quad
    \kappa = \frac{\beta}{1 + (1 - \beta) \lambda}, \quad
    \gamma^2 = (1 - \beta) \frac{N}{N - 1}

(:math:`\kappa` are the eigenvalues of :math:`B P^{-1}` and :math:`\rho` those of
:math:`H B H^T + I`) one finds

.. math:: \log w_i = \gamma \sum_r \frac{Z_{ir} v_r}{\sqrt{\rho_r}}
    - \frac{\gamma^2}{2} \sum_r Z_{ir}^2 + \mathrm{const}, \quad
    m_i = \bar x + \gamma a_i + \sum_r q_{ir} (Z^T A)_r,

.. math:: q_{ir} = \frac{\kappa_r}{N - 1} \left[\frac{v_r}{\rho_r}
    - \frac{\gamma Z_{ir}}{\sqrt{\rho_r} (1 + \sqrt{\rho_r})}\right] .

Nothing is divided by a singular value.

**The weight of the Gaussian.** With the weight :math:`\epsilon` the prior is the Gaussian
:math:`N(\bar x, P)` itself, so that mean and covariance stay as they are. Its posterior is the
Kalman analysis, with the weight

.. math:: w_0 = \frac{\epsilon \, p_1(y)}{\epsilon \, p_1(y) + (1 - \epsilon) \, p_\beta(y)},
    \quad p_\beta(y) = \text{evidence of the kernels with } \beta .

Where no kernel reaches the observation the Gaussian has the weight, and the analysis is that of a
Kalman filter in place of copies of the nearest member. The weights are computed as those of
`priors.Mixture`, whose kernels have another shape: in white modes both are
:math:`\log w_i = q^T k_i - \tfrac12 |k_i|^2 + \mathrm{const}`, here with
:math:`q = v / \sqrt \rho` and :math:`k_i = \gamma Z_i`.

Derived here; mixtures between the two filters: Frei & Künsch (2013), Biometrika 100, 781-800,
whose B is likewise what a part of the information leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from scorda.assimilation.kalman_algebra import centred_basis
from scorda.core.shapes import Float, Tensor
from scorda.priors.mixture import evidence_terms, mixture_weights, shrinkage

__all__ = ["MixturePosterior", "Projection", "adaptive_factor"]

BISECTIONS = 12


@dataclass(frozen=True, eq=False)
class Projection:
    r"""An ensemble in the modes of its white observation.

    Arguments:
        anomalies: Z, the projected anomalies; columns are orthogonal.
        innovation: v, the projected innovation.
        values: :math:`\lambda`, prior over error variance of each mode.
    """

    anomalies: Float[Tensor, "*batch ensemble rank"]
    innovation: Float[Tensor, "*batch rank"]
    values: Float[Tensor, "*batch rank"]

    @cached_property
    def squares(self) -> Float[Tensor, "*batch ensemble"]:
        """Squared norm of each member's anomaly."""
        return self.anomalies.square().sum(-1)

    @classmethod
    def of(
        cls,
        anomalies: Float[Tensor, "*batch ensemble obs"],
        innovation: Float[Tensor, "*batch obs"],
    ) -> Projection:
        """Make it from white anomalies Y and the white innovation d, by one eigenproblem."""
        members, observations = anomalies.shape[-2:]
        d = innovation.unsqueeze(-1)
        if observations < members:
            values, V = torch.linalg.eigh(anomalies.mT @ anomalies)
            z, v = anomalies @ V, V.mT @ d
        else:
            # Without the mean, a mode of no value that rounding would mix with those of little.
            basis = centred_basis(members, anomalies)
            centred = basis.mT @ anomalies
            values, U = torch.linalg.eigh(centred @ centred.mT)
            U = basis @ U
            least = members * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
            values = torch.where(values > least, values, 0.0)
            root = values.sqrt().unsqueeze(-2)
            seen = root > 0
            z = U * root
            v = torch.where(seen.mT, (U.mT @ (anomalies @ d)) / root.mT, 0.0)
        return cls(z, v.squeeze(-1), values.clamp_min(0) / (members - 1))


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    r"""The conditioned mixture for given :math:`\beta`, one or a batch in front of the ensembles.

    Arguments:
        prior: The ensemble.
        factor: :math:`\beta` in (0, 1], shape broadcastable to ``(*batch,)``.
        gaussian_weight: :math:`\epsilon` in [0, 1).
    """

    prior: Projection
    factor: Float[Tensor, "*batch"]
    gaussian_weight: float = 0.0

    @property
    def shrinkage(self) -> Float[Tensor, "*batch 1"]:
        r""":math:`\gamma`."""
        return shrinkage(self.factor, self.prior.anomalies.shape[-2]).unsqueeze(-1)

    @property
    def kernel_var(self) -> Float[Tensor, "*batch rank"]:
        r""":math:`\rho`."""
        return (1 + self.prior.values) / (1 + (1 - self.factor.unsqueeze(-1)) * self.prior.values)

    @cached_property
    def logits(self) -> Float[Tensor, "*batch ensemble"]:
        """Log density of y under each kernel, less that under the Gaussian."""
        v, rho, var = self.prior.innovation, self.kernel_var, 1 + self.prior.values
        queries, whole = ((v / part.sqrt()).unsqueeze(-2) for part in (rho, var))
        log_ratio = 0.5 * (var.log() - rho.log()).unsqueeze(-2)
        terms = evidence_terms(queries, whole, log_ratio).sum(-1)
        # As `kernel_logits` with the keys gamma Z, whose squares do not change with the factor.
        along = (self.prior.anomalies @ queries.mT).squeeze(-1)
        gamma = self.shrinkage
        return gamma * along - 0.5 * gamma.square() * self.prior.squares + terms

    @cached_property
    def weights(self) -> tuple[Float[Tensor, "*batch ensemble"], Float[Tensor, "*batch"]]:
        r"""Weights of the kernels, and :math:`w_0` of the Gaussian; all of them sum to 1."""
        kernels, gaussian = mixture_weights(self.logits.unsqueeze(-2), self.gaussian_weight)
        return kernels.squeeze(-2), gaussian.squeeze(-1)

    def inverse_ess(self) -> Float[Tensor, "*batch"]:
        """Sum of the squared weights; that of the Gaussian is one of all members alike."""
        kernels, gaussian = self.weights
        shared = gaussian.unsqueeze(-1) / self.prior.anomalies.shape[-2]
        return (kernels + shared).square().sum(-1)

    def gaussian_shift(self) -> Float[Tensor, "*batch rank"]:
        r"""Shift of the Gaussian's mean: its posterior has :math:`\bar x + q_0 Z^T A`."""
        return self.reduction() * self.prior.innovation

    def shifts(self) -> Float[Tensor, "*batch ensemble rank"]:
        r"""Shifts q of the centres: :math:`m_i = \bar x + \gamma a_i + q_i Z^T A`."""
        members = self.prior.anomalies.shape[-2]
        rho, beta = self.kernel_var.unsqueeze(-2), self.factor[..., None, None]
        kappa = beta / (1 + (1 - beta) * self.prior.values.unsqueeze(-2))
        gamma = self.shrinkage.unsqueeze(-1)
        moved = self.prior.innovation.unsqueeze(-2) / rho
        moved = moved - gamma * self.prior.anomalies / (rho.sqrt() * (1 + rho.sqrt()))
        return kappa / (members - 1) * moved

    def reduction(self) -> Float[Tensor, "*batch rank"]:
        r"""Diagonal of D in the kernels' covariance :math:`\beta A^T (I - Z D Z^T) A / (N-1)`."""
        members = self.prior.anomalies.shape[-2]
        return 1 / ((members - 1) * (1 + self.prior.values))


def adaptive_factor(
    prior: Projection, gaussian_weight: float, floor: float
) -> Float[Tensor, "*batch"]:
    r"""Solve :math:`\beta \, \mathrm{ESS}(\beta) = \mathrm{floor}` for each ensemble.

    By 12 bisections of its logarithm between floor / N, whose product is at most that, and 1,
    where all members count. The value is at most :math:`(N / \mathrm{floor})^{1 / 4096}` times
    the solution.

    Arguments:
        prior: The ensembles.
        gaussian_weight: :math:`\epsilon` in [0, 1).
        floor: In (0, N].
    """
    high = torch.zeros_like(prior.innovation[..., 0])
    low = high + math.log(floor / prior.anomalies.shape[-2])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        factor = middle.exp()
        enough = floor * MixturePosterior(prior, factor, gaussian_weight).inverse_ess() <= factor
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.exp()
