r"""Forecast ensembles as training data: each member beside the Gaussian of others.

A network that corrects a Gaussian would learn to trust it too much from the members that the
Gaussian was made of. So each member meets the Gaussian of other members of the same forecast: of
the other folds of one ensemble, or, where there are many ensembles, of the rest of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.denoisers import GaussianDenoiser, align
from scorda.diffusion.levels import Levels
from scorda.diffusion.training import denoising_loss
from scorda.priors.gaussian import FittedGaussian
from scorda.priors.local import FittedLocal
from scorda.priors.network.denoiser import (
    Axes,
    Climate,
    Corrected,
    LocalDenoiser,
    in_units,
    laid_out,
)

__all__ = ["Pool", "bridge_levels", "checked", "folds", "observing_networks"]

# Each member is trained on with the Gaussian of the other folds.
FOLDS = 4
# Largest deviation in a standard deviation of the others: these may be all alike, as where a
# sensor saturates.
FAR = 10.0
# Members of a forecast: one is denoised, with the covariance of two.
LEAST = 3
# Of the weight of an entry at little noise, where a loss of the state's error is.
LEAST_SHARE = 1e-3
# Variance of an entry in that weight, over the mean: few entries shall not be all of the loss.
MOST = 10.0


@dataclass(frozen=True, eq=False)
class Pool:
    """Members to denoise, each with its own Gaussian, in the layout of the network.

    Arguments:
        members: ``(items, points, group * channels + 1)``: states in the units of their Gaussian,
            one item's beside each other, and in the last channel which Gaussian that is.
        group: Members of an item, which share a noise level.
        roots: Square roots of the covariances, ``(gaussians, size, rank)``; None for a network
            without, or with local ones.
        local: Local Gaussians, or None.
        axes: Axes of the state that the network convolves along.
        context: Mean and spread of the ensembles, as `Climate.context` gives them,
            ``(gaussians, points, channels, 2)``.
        precision: Precision of one observing network in these units, ``(gaussians, points,
            channels)``, or None for many.
        grid: Points along each axis that the network convolves along, or all in one.
        scale: Standard deviations over their mean, of variances up to ten times theirs,
            ``(gaussians, points, channels)``, for a loss of the state's error; None for one in
            units of the noise.
    """

    members: Float[Tensor, "items points channels_and_which"]
    group: int
    roots: Float[Tensor, "gaussians size rank"] | None
    local: tuple[FittedLocal, ...] | None
    context: Float[Tensor, "gaussians points channels two"] | None
    precision: Float[Tensor, "gaussians points channels"] | None
    grid: tuple[int, ...]
    axes: Axes
    scale: Float[Tensor, "gaussians points channels"] | None

    @classmethod
    def of(
        cls,
        parts: Sequence[tuple[FittedGaussian | FittedLocal, Tensor]],
        axes: Axes,
        gaussian: bool = True,
        climate: Climate | None = None,
        precision: Float[Tensor, "..."] | None = None,
        weighting: Literal["noise", "state"] = "noise",
    ) -> Pool:
        """Make a pool of Gaussians and members to denoise with them, both in the modes.

        Arguments:
            parts: The pairs: a Gaussian, and members ``(ensemble, *shape)``; with local Gaussians
                items are of as many members as the smallest pair has, and what does not fill one
                is left out.
            axes: Axes of the state that the network convolves along.
            gaussian: Whether the network corrects the Gaussian, or variances alone.
            climate: Makes the context, or None for none.
            precision: Precision of the modes of one observing network, or None for many.
            weighting: As in `NetworkTraining`.
        """
        members, roots, local, contexts, precisions, scales = [], [], [], [], [], []
        # A local Gaussian takes as long for one member as for many at the same noise level.
        shared = isinstance(parts[0][0], FittedLocal)
        group = min(len(states) for _, states in parts) if shared else 1
        for number, (fitted, states) in enumerate(parts):
            z = laid_out((states - fitted.mean) / fitted.var.sqrt(), axes).float().clamp(-FAR, FAR)
            z = z[: len(z) // group * group].unflatten(0, (-1, group))
            items = z.movedim(1, 2).flatten(2)
            members.append(F.pad(items, (0, 1), value=float(number)))
            if isinstance(fitted, FittedLocal):
                local.append(fitted.single())
            elif gaussian:
                bound = in_units(fitted, axes)
                roots.append(bound.basis * bound.spectrum.sqrt())
            if climate is not None:
                contexts.append(climate.context(fitted, axes))
            if precision is not None:
                precisions.append(laid_out((precision.to(fitted.var) * fitted.var)[None], axes)[0])
            if weighting == "state":
                bounded = (fitted.var / fitted.var.mean()).clamp_max(MOST).sqrt()
                scales.append(laid_out((bounded / bounded.mean())[None], axes)[0])
        rank = max((root.shape[1] for root in roots), default=0)
        return cls(
            torch.cat(members),
            group,
            torch.stack([F.pad(r, (0, rank - r.shape[1])) for r in roots]) if roots else None,
            tuple(local) or None,
            torch.stack(contexts) if contexts else None,
            torch.stack(precisions).float() if precisions else None,
            tuple(parts[0][1].shape[1 + axis] for axis in axes) or tuple(members[0].shape[1:2]),
            axes,
            torch.stack(scales).float() if scales else None,
        )

    def levels(self, share: float) -> Levels:
        """Return levels for `loss`: of one observing network, or each time of another."""

        def levels(noise: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
            if self.group > 1:
                # They come in order, and every other one is for the bridge: with few items some
                # levels would never be.
                noise = noise[torch.randperm(len(noise), generator=generator)]
            if self.precision is not None:
                return noise
            # The last channel is no entry of the state.
            size = len(noise), shape[0], (shape[1] - 1) // self.group
            return bridge_levels(observing_networks(size, share, generator, self.grid), noise)

        return levels

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, "ensemble points channels"],
        noise: Float[Tensor, "ensemble ..."],
        eps: Float[Tensor, "ensemble points channels"],
    ) -> Float[Tensor, "ensemble"]:
        r"""Return `denoising_loss`, the mean over the members of an item, each with its Gaussian.

        With the `scale` s, each entry times :math:`s \max(\nu^2 / (1 + \nu^2), 10^{-3})`, which
        leaves s times the squared error of z, but where there is little noise.
        """
        corrected = cast(Corrected, network)
        which = x0[:, 0, -1].long()
        x0, eps = (self._apart(part[..., :-1]) for part in (x0, eps))
        if self.local is not None:
            own = [self.local[i] for i in which.tolist()]
            corrected.gaussian = LocalDenoiser(own, self.axes, shared=True)
        if self.roots is not None:
            roots = self.roots[which]
            ones, mean = roots.new_ones(roots.shape[-1]), torch.zeros_like(x0[0]).double()
            corrected.gaussian = GaussianDenoiser(mean, roots, ones)
        if self.context is not None:
            corrected.context = self.context[which].repeat_interleave(self.group, 0)
        if self.precision is not None:
            noise = bridge_levels(self.precision[which], noise)
        noise, weight = noise.repeat_interleave(self.group, 0), None
        if self.scale is not None:
            nu = align(noise, x0)
            share = (nu.square() / (1 + nu.square())).clamp_min(LEAST_SHARE)
            weight = self.scale[which].repeat_interleave(self.group, 0) * share
        loss = denoising_loss(corrected, x0, noise, eps, weight)
        return loss.unflatten(0, (-1, self.group)).mean(1)

    def _apart(self, items: Float[Tensor, "items points beside"]) -> Tensor:
        """Return the members of items, one after the other."""
        return items.unflatten(2, (self.group, -1)).movedim(2, 1).flatten(0, 1)


def checked(ensembles: Any, space: StateSpace | None) -> Float[Tensor, "cycles ensemble ..."]:
    """Check and return forecasts of many cycles.

    Raises:
        ValueError: If they are not, are not of the space, or have too few members.
    """
    if not isinstance(ensembles, Tensor) or ensembles.ndim < 3:
        got = tuple(getattr(ensembles, "shape", ())) or type(ensembles).__name__
        raise ValueError(f"Got forecasts {got}: give a tensor (cycles, ensemble, *state).")
    if not len(ensembles) or ensembles.shape[1] < LEAST:
        raise ValueError(
            f"Got forecasts of {len(ensembles)} cycles and {ensembles.shape[1]} members: give a "
            f"cycle and {LEAST} members at least."
        )
    (space or StateSpace(tuple(ensembles.shape[2:]))).check(ensembles, "forecasts")
    return ensembles


def folds(members: int, held: int) -> list[tuple[Int[Tensor, "a"], Int[Tensor, "b"]]]:
    """Return pairs: members to make a Gaussian of, and members to denoise; the last are held back.

    Of fewer than four that are not held back, each is denoised with the Gaussian of all of them.
    """
    rest, back = torch.arange(members).split((members - held, held))
    parts = min(FOLDS, len(rest) // 2)
    if parts < 2:
        return [(rest, rest), (rest, back)]
    own = [rest[i::parts] for i in range(parts)]
    others = [torch.cat(own[:i] + own[i + 1 :]) for i in range(parts)]
    return [*zip(others, own, strict=True), (rest, back)]


def observing_networks(
    size: tuple[int, int, int],
    share: float,
    generator: torch.Generator,
    grid: tuple[int, ...] = (),
) -> Float[Tensor, "ensemble points channels"]:
    """Draw precisions of observing networks for a share of samples; those of the others are 0.

    Entries are observed at random with any density, on a stride of up to 8 points, or along one
    arc, in a third of the samples each; a channel is left out now and then. On a grid of several
    axes the stride is that of all of them, and an arc along each bounds a box. The errors have
    standard deviations from a tenth to ten times that of the ensemble, alike in a sample.
    """
    samples, points, channels = size
    grid = grid or (points,)

    def uniform(*axes: int) -> Tensor:
        return torch.rand(samples, *axes, generator=generator)

    place = torch.cartesian_prod(*(torch.arange(n) for n in grid)).view(points, len(grid), 1)
    kind = uniform(1, 1)
    at_random = uniform(points, channels) < uniform(1, 1)
    stride = 1 + (8 * uniform(1, 1)).floor()
    ones = torch.ones(samples, points, 1, dtype=torch.bool)
    strided, arc = ones, ones
    for axis in range(len(grid)):
        strided = strided & ((place[:, axis] + (stride * uniform(1, 1)).floor()) % stride == 0)
    for axis, n in enumerate(grid):
        arc = arc & ((place[:, axis] + (n * uniform(1, 1)).floor()) % n < n * uniform(1, 1))
    seen = torch.where(kind < 1 / 3, at_random, torch.where(kind < 2 / 3, strided, arc))
    seen = seen & (uniform(1, channels) < (1.0 if channels == 1 else 0.8))
    seen = seen & (uniform(1, 1) < share)
    return seen * 10 ** (4 * uniform(1, 1) - 2)


def bridge_levels(
    precision: Float[Tensor, "ensemble points channels"], noise: Float[Tensor, "ensemble"]
) -> Float[Tensor, "ensemble points channels"]:
    """Return levels of the bridge, and every other time of its encoding, at r = 1 / noise^2."""
    r = noise.double().square().reciprocal().reshape(-1, 1, 1)
    seen = precision.to(r) * (torch.arange(len(noise)) % 2).to(r.device).reshape(r.shape)
    return (seen + (1 + seen) * r).rsqrt()
