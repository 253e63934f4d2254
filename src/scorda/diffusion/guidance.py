r"""Guidance: how an observation bends a denoiser.

A guided denoiser is a denoiser of the posterior, so every guidance works with every sampler:

.. math:: D_{post}(u) = D(u) + \nu^2 \nabla_u \log p(y \mid u), \qquad
    u = x_0 + \nu \varepsilon.

The likelihood of another law than the Gaussian is replaced by the Gaussian of the same gradient
and curvature at x-hat (`Law.linearised`), where a robust law judges the residual beside the
variance that x-hat has there: exact for the gradient at the end, where the noise is gone.

The methods differ in their model of :math:`p(y \mid u)`. With :math:`\hat x = D(u)` and the
Jacobian J of the operator at x-hat:

=================== ==================================================== =====================
`DPS`               rescaled norm of the residual                          heuristic
`InflatedLikelihood` :math:`N(y; h(\hat x), R + \gamma \nu^2 J J^T)`         approximate
`MMPS`              :math:`N(y; h(\hat x), R + J V J^T)`, V = Cov(x_0|u)     exact if Gaussian
=================== ==================================================== =====================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from scorda.core.forward_mode import directional
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser, align
from scorda.diffusion.krylov import conjugate_gradients, gmres
from scorda.observations.model import ObservationModel

__all__ = ["DPS", "MMPS", "Guidance", "GuidedDenoiser", "InflatedLikelihood", "SwitchedGuidance"]


class Guidance(ABC):
    """A model of the likelihood of noisy samples."""

    @abstractmethod
    def displacement(
        self,
        denoiser: Denoiser,
        u: Float[Tensor, "ensemble ..."],
        noise: Float[Tensor, "..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
    ) -> tuple[Tensor, Tensor]:
        """Return ``(D(u), D_post(u) - D(u))``.

        Arguments:
            denoiser: Denoiser D of the prior.
            u: Noisy samples, ``(ensemble, *shape)``, in the sampler's coordinates.
            noise: Noise level of all samples, of a shape that broadcasts to that of u.
            y: Observation, flat.
            model: Its model; the operator maps x_0 in the sampler's coordinates to
                ``(ensemble, obs)``.
        """

    @property
    def products(self) -> int:
        """Products with the denoiser's Jacobian per evaluation, beyond the first."""
        return 0

    def bind(
        self, denoiser: Denoiser, y: Float[Tensor, "obs"], model: ObservationModel
    ) -> GuidedDenoiser:
        """The denoiser of the posterior given an observation [final]."""
        if not model.operator.differentiable:
            raise TypeError(
                f"{type(self).__name__} needs the gradient of the observation operator, which is "
                "a black box: use a torch function, or a method for black boxes (EnKF, ETKF, "
                "LETKF, EnKS, ParticleFilter)."
            )
        return GuidedDenoiser(denoiser, self, y, model)


@dataclass(frozen=True)
class GuidedDenoiser:
    """A denoiser of the posterior: a prior's denoiser, a guidance and an observation."""

    denoiser: Denoiser
    guidance: Guidance
    y: Float[Tensor, "obs"]
    model: ObservationModel

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        mean, shift = self.guidance.displacement(self.denoiser, u, noise, self.y, self.model)
        posterior, limit = mean + shift, getattr(self.denoiser, "limit", None)
        # A posterior mean lies where the data are, as the prior's does.
        return posterior if limit is None else posterior.clamp(-limit, limit)


@dataclass(frozen=True)
class InflatedLikelihood(Guidance):
    r"""The likelihood of SDA: the error of x-hat is taken to be gamma times the noise.

    .. math:: p(y \mid u) \approx N(y;\, h(\hat x),\, R + \gamma \nu^2 J J^T)

    The covariance is that of the paper's equation 15 with :math:`\Gamma = \gamma I`, through the
    operator's Jacobian (the paper replaces :math:`J \Gamma J^T` by a constant); its dependence
    on u is neglected in the gradient, as there. Approximate: with a Gaussian prior the posterior
    it implies is again Gaussian but too narrow (see tests); Langevin corrections mend most of it.

    Source: Rozet & Louppe (2023), equation 15 and algorithm 3. Deviation: `bound`.

    Arguments:
        gamma: Variance of x-hat in units of the squared noise level.
        bound: Largest displacement of a component, in units of the noise level: single members
            otherwise diverge where the sampler takes large steps. None disables it.
    """

    gamma: float = 1e-2
    bound: float | None = 1.0

    def __post_init__(self) -> None:
        if self.gamma < 0 or (self.bound is not None and self.bound <= 0):
            raise ValueError(
                f"Got gamma = {self.gamma}, bound = {self.bound}: gamma must be >= 0 and the "
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
        noise_var = noise.square().flatten()

        def weigh(mean: Tensor, predicted: Tensor) -> Tensor:
            # Depends on x-hat alone, so its products cost the operator's Jacobian, not the
            # network's. Scaled by the row sums of the matrix: where J J^T is diagonal, as for
            # selections, averages of blocks and pointwise functions, the first step is exact.
            jacobian, adjoint = linearise(model.operator, mean)
            gain = align(self.gamma * noise_var, predicted)
            overlap = jacobian(adjoint(torch.ones_like(predicted))).clamp(min=0)
            residual, error = _gaussian(model, y, predicted, gain * overlap)
            return conjugate_gradients(
                lambda q: error.times(q) + gain * jacobian(adjoint(q)),
                residual,
                iterations=16,
                tolerance=1e-4,
                scale=error.var + gain * overlap,
            )

        mean, shift = _pull_back(denoiser, u, noise, y, model, weigh)
        if self.bound is not None:
            shift = bounded_shift(shift, self.bound * noise)
        return mean, shift


@dataclass(frozen=True)
class MMPS(Guidance):
    r"""Moment-matching posterior sampling: the covariance of x-hat from the denoiser itself.

    .. math:: p(y \mid u) \approx N(y;\, h(\hat x),\, R + J V J^T), \quad
        V = \nu^2 \frac{\partial D}{\partial u} = \mathrm{Cov}(x_0 \mid u)

    Exact for a Gaussian prior, its exact denoiser and a linear operator, once the solver has
    converged (at most as many iterations as there are observations). A network's Jacobian is not
    symmetric: conjugate gradients then stop at the first direction of negative curvature, and
    GMRES, which needs no symmetry, is the safer choice.

    With the covariance of the law, V is that of the Gaussian law around which a network was
    trained (``UNet``): without a product with the network, so that many iterations cost little. It
    misses how the covariance differs from place to place and from flow to flow; exact where the
    network adds nothing to the law.

    Source: Rozet et al. (2024), arXiv:2405.13712, algorithm 2. Deviation: the law.

    Arguments:
        iterations: Iterations of the solver; each costs one product with the denoiser's Jacobian,
            or with the covariance of the law.
        solver: "cg" or "gmres".
        bound: As in `InflatedLikelihood`; None (default) keeps exactness.
        covariance: What gives V: the "denoiser", or its "law".
    """

    iterations: int = 3
    solver: str = "gmres"
    bound: float | None = None
    covariance: str = "denoiser"

    def __post_init__(self) -> None:
        if self.covariance not in ("denoiser", "law"):
            raise ValueError(
                f'Got covariance = {self.covariance!r}: it is that of the "denoiser" or its "law".'
            )
        if self.iterations < 1 or self.solver not in ("cg", "gmres"):
            raise ValueError(
                f"Got iterations = {self.iterations}, solver = {self.solver!r}: need at least one "
                'iteration of "cg" or "gmres".'
            )

    @property
    def products(self) -> int:
        return self.iterations if self.covariance == "denoiser" else 0

    def displacement(
        self,
        denoiser: Denoiser,
        u: Float[Tensor, "ensemble ..."],
        noise: Float[Tensor, "..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            mean = denoiser.denoise(u, noise)
        jacobian, adjoint = linearise(model.operator, mean.detach())

        def pull_back(v: Tensor) -> Tensor:
            return noise.square() * torch.autograd.grad(mean, u, v, retain_graph=True)[0]

        def times_variance(v: Tensor) -> Tensor:
            if self.covariance == "denoiser":
                return pull_back(v)
            product: Tensor = denoiser.covariance(v, noise)  # type: ignore[attr-defined]
            return product

        if self.covariance == "law" and not hasattr(denoiser, "covariance"):
            raise ValueError(
                f"Got {type(denoiser).__name__}, which has no Gaussian law whose covariance "
                'MMPS(covariance="law") could take: use covariance="denoiser".'
            )

        predicted = model.predict(mean.detach(), y)
        var: Tensor | float = 0.0
        if model.law is not None:
            # Of states of unit variance, as standardised ones are.
            share = noise.square() / (1 + noise.square())
            var = align(share.flatten(), predicted) * jacobian(adjoint(torch.ones_like(predicted)))
        residual, error = _gaussian(model, y, predicted, var)
        # In standard deviations of each error: the iterates are then the same in any units.
        unit = error.std

        def matrix(q: Tensor) -> Tensor:
            q = q / unit
            return (error.times(q) + jacobian(times_variance(adjoint(q)))) / unit

        solve = conjugate_gradients if self.solver == "cg" else gmres
        q = solve(
            matrix,
            residual / unit,
            iterations=self.iterations,
            tolerance=1e-10 if residual.dtype == torch.float64 else 1e-5,
        )
        shift = pull_back(adjoint(q / unit))
        if self.bound is not None:
            shift = bounded_shift(shift, self.bound * noise)
        return mean.detach(), shift


@dataclass(frozen=True)
class SwitchedGuidance(Guidance):
    """One guidance while the noise is large, another one below.

    Where the noise is large the covariance of x-hat decides which large scales an observation
    moves, and where it is small Langevin corrections mend what a guidance gets wrong, the more
    easily the more closely it holds to the observation:
    ``SwitchedGuidance(MMPS(8, covariance="law"), InflatedLikelihood(), 3.0)`` with corrections
    below. Our own.

    Arguments:
        above: Guidance at noise levels of at least `level`.
        below: Guidance at the others.
        level: Noise level of the switch, in units of the data.
    """

    above: Guidance
    below: Guidance
    level: float

    def __post_init__(self) -> None:
        if not self.level > 0:
            raise ValueError(f"Got level = {self.level}: a noise level is positive.")
        if self.above.products != self.below.products:
            raise ValueError(
                f"Got {self.above} and {self.below}: both must take as many products with the "
                "denoiser's Jacobian, for the evaluations to be known."
            )

    @property
    def products(self) -> int:
        return self.above.products

    def displacement(
        self,
        denoiser: Denoiser,
        u: Float[Tensor, "ensemble ..."],
        noise: Float[Tensor, "..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
    ) -> tuple[Tensor, Tensor]:
        high = bool(noise.max() >= self.level)
        chosen = self.above if high else self.below
        return chosen.displacement(denoiser, u, noise, y, model)


@dataclass(frozen=True)
class DPS(Guidance):
    r"""Diffusion posterior sampling: a gradient step on the norm of the residual.

    .. math:: \nabla \log p(y \mid u) \approx -\zeta \nabla_u \| y - h(\hat x) \|

    A heuristic: the observation error does not enter, so the posterior's spread means nothing, and
    values of different units count as the numbers that they are: give them one unit.
    Source: Chung et al. (2023), arXiv:2209.14687, algorithm 1, as a term of the score.

    Arguments:
        zeta: Step size.
    """

    zeta: float = 1.0

    def displacement(
        self,
        denoiser: Denoiser,
        u: Float[Tensor, "ensemble ..."],
        noise: Float[Tensor, "..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
    ) -> tuple[Tensor, Tensor]:
        def weigh(mean: Tensor, predicted: Tensor) -> Tensor:
            residual, _ = _gaussian(model, y, predicted, 0.0)
            norm = residual.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)
            return self.zeta * residual / norm

        return _pull_back(denoiser, u, noise, y, model, weigh)


def _pull_back(
    denoiser: Denoiser,
    u: Tensor,
    noise: Tensor,
    y: Tensor,
    model: ObservationModel,
    weigh: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    r"""Denoise, and pull back the weighed residual q of predictions: :math:`\nu^2 (dh(D))^T q`."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        mean = denoiser.denoise(u, noise)
        predicted = model.predict(mean, y)
    q = weigh(mean.detach(), predicted.detach())
    (gradient,) = torch.autograd.grad(predicted, u, q)
    return mean.detach(), noise.square() * gradient


def bounded_shift(shift: Tensor, limit: Tensor) -> Tensor:
    """Return a shift with components within a limit."""
    return torch.minimum(torch.maximum(shift, -limit), limit)


def linearise(
    operator: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Products with the operator's Jacobian at x and with its transpose."""
    pull = torch.func.vjp(operator, x)[1]
    return (lambda v: directional(operator, x, v)), (lambda q: pull(q)[0])


@dataclass(frozen=True)
class _Error:
    """Standard deviations of the errors of an observation, and their covariance."""

    std: Tensor
    cov: Tensor | None = None

    @property
    def var(self) -> Tensor:
        return self.std.square()

    def times(self, q: Tensor) -> Tensor:
        return q * self.var if self.cov is None else q @ self.cov


def _gaussian(
    model: ObservationModel, y: Tensor, predicted: Tensor, var: Tensor | float
) -> tuple[Tensor, _Error]:
    """Return residuals and errors: of another law, those of its Gaussian near the predictions.

    Arguments:
        model: The model.
        y: Observation.
        predicted: Predictions of it.
        var: Their variance, which a residual is judged beside.
    """
    shape = tuple(predicted.shape[1:])
    if model.law is not None:
        std = model.scale(shape, predicted)
        residual, error_var = model.law.linearised(y.to(predicted), predicted, std, var)
        return residual.to(predicted), _Error(error_var.sqrt().to(predicted))
    cov = None if model.cov is None else model.cov.to(predicted)
    return y.to(predicted) - predicted, _Error(model.error_std(shape, predicted), cov)
