r"""The two heads of a nonlinear observation, E[x_0 | c] and E[h(x_0) | c], of a prior of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.augmentation import AugmentedSpace
from scorda.priors.base import PriorRun
from scorda.priors.gaussian import FittedGaussian
from scorda.priors.kernel import Kernel

__all__ = ["Heads", "LearnsHeads", "Pairs", "heads_of"]


Heads = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


# Members, their simulated observations and the errors' std, as `heads_of` takes them.
Pairs = tuple[Tensor, Tensor, Tensor]


@runtime_checkable
class LearnsHeads(Protocol):
    """The run of a prior that makes its own heads."""

    def heads(
        self,
        pairs: Pairs,
        space: StateSpace | AugmentedSpace | None = None,
        simulate: Callable[[Tensor], Pairs] | None = None,
    ) -> Heads:
        """Return the heads; arguments as those of `heads_of`."""
        ...


def heads_of(
    prior: PriorRun,
    x: Float[Tensor, "ensemble entries"],
    h: Float[Tensor, "ensemble entries"],
    space: StateSpace | AugmentedSpace | None = None,
    std: Float[Tensor, "entries"] | None = None,
    simulate: Callable[[Tensor], Pairs] | None = None,
) -> Heads:
    r"""Return the map from :math:`c = a x_0 + (1 - a) h(x_0) + N(0, v)`, a and v to m_1 and m_2.

    c is ``(ensemble, entries)``, a one number or ``(ensemble, 1)``, and v broadcasts to c.

    Arguments:
        prior: A `Gaussian` or a `Kernel`, fitted to the pairs, or the run of a prior that
            `LearnsHeads`.
        x: Members.
        h: Their simulated observations.
        space: Space of the pairs, for localization.
        std: Standard deviation of the errors of the observations (default: 1), for training.
        simulate: Makes pairs, with their std, of other states: to train on before the run.

    Raises:
        ValueError: If it is another prior.
    """
    if isinstance(prior, Kernel):
        return _kernel_heads(x, h, prior.std**2)
    if isinstance(prior, LearnsHeads):
        return prior.heads((x, h, torch.ones_like(x[0]) if std is None else std), space, simulate)
    joint = torch.cat((x, h), 1)
    varies = joint.std(0) > 0
    fitted = prior.fit(joint[:, varies], None, space if varies.all() else None)
    if not isinstance(fitted, FittedGaussian):
        raise ValueError(
            "NonlinearMASF takes Gaussian, Kernel or an OnlineNetwork; got "
            f"{type(prior).__name__}: use MASF, which takes any prior."
        )
    mean, root = joint[0].clone(), joint.new_zeros(joint.shape[1], len(fitted.spectrum))
    mean[varies] = fitted.mean
    root[varies] = fitted.basis * fitted.spectrum.sqrt()
    return _gaussian_heads(mean, root)


def _kernel_heads(x: Tensor, h: Tensor, width: float) -> Heads:
    """Heads of the kernel density on the pairs, with kernels of that variance."""

    def heads(c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        b = 1 - a
        centres = a * x + b * h
        var = v + width * (a**2 + b**2)
        # |c - centre|^2 less what all members share.
        logits = (c / var) @ centres.mT - 0.5 * (centres.square() / var).sum(1)
        w = logits.softmax(1)
        rest = width * (c - w @ centres) / var
        return w @ x + a * rest, w @ h + b * rest

    return heads


def _gaussian_heads(mean: Tensor, root: Tensor) -> Heads:
    """Heads of the Gaussian of the pairs with that mean and root of the covariance."""
    entries = len(mean) // 2
    (xm, hm), (xr, hr) = mean.split(entries), root.split(entries)

    def heads(c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        # One matrix for each amplitude: for all samples, or for each.
        b, each = 1 - a, a.reshape(-1, 1, 1)
        root = each * xr + (1 - each) * hr
        rest = (c - a * xm - b * hm).unflatten(0, (len(root), -1))
        var = v.expand(len(root), entries)
        if root.shape[-1] < entries:
            # Woodbury: a matrix of the rank of the ensemble instead of one of the entries.
            weighed = root / var.unsqueeze(-1)
            inner = root.mT @ weighed + torch.eye(root.shape[-1]).to(root)
            weights = torch.linalg.solve(inner, (rest @ weighed).mT).mT
        else:
            cov = root @ root.mT + torch.diag_embed(var)
            weights = torch.linalg.solve(cov, rest.mT).mT @ root
        weights = weights.flatten(0, 1)
        return xm + weights @ xr.mT, hm + weights @ hr.mT

    return heads
