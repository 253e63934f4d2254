r"""Distillation: a network is trained through the few steps that a sampler will take with it.

The denoising loss makes each evaluation right, and a walk of few steps is wrong even so: in each
step it takes the denoised state for constant. Here the walk itself is scored. Members
:math:`u^{(1)}, \dots, u^{(m)}` walk down from noise to a level :math:`\nu`, given observations of
a trajectory :math:`x_0`, and the loss is their energy score at that trajectory with such noise,

.. math:: \frac{1}{m} \sum_i \lVert u^{(i)} - s \rVert
    - \frac{1}{2 m (m - 1)} \sum_{ij} \lVert u^{(i)} - u^{(j)} \rVert, \qquad
    s = x_0 + \nu \varepsilon.

Its mean over trajectories and observations is least where the members have the law of s given the
observations: the posterior, with the noise of the level (Gneiting & Raftery 2007, section 4.2). So
nothing is learned from another sampler, and its errors are not learned either. The norm is taken
over windows of several lengths, because that of a whole trajectory hides small errors of few
states in many. Our own use of the score for a sampler that stays a walk down noise levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Conditioned, NetworkDenoiser
from scorda.diffusion.samplers import ROUNDING, Sampler
from scorda.diffusion.training import denoising_loss

__all__ = ["WalkLoss", "observed_precision", "window_energy"]

# Below this share of the precision of the noise, that of an observation is lost in rounding.
SMALLEST = 1e-6
# Of a key, which has no sign.
BITS = 2**63 - 1


@dataclass(frozen=True)
class WalkLoss:
    """Energy score of the walk of a sampler, and a share of the denoising loss: a loss for `fit`.

    The segments have the observations that the levels of the training stand for, and the walk
    merges them (``Conditioned``), at all levels. The denoising loss keeps the network a denoiser
    at the levels below, where nothing walks.

    Arguments:
        sampler: Sampler on the "log" grid, without corrections.
        members: Members of each walk, at least 2.
        end: The walk ends at the first level of the sampler that is at most this. Lower levels
            make the score more sensitive and cost steps.
        windows: Lengths of windows whose norms are scored, beside that of the whole segment.
        share: Weight of the denoising loss.
        limit: As in `NetworkDenoiser`.

    Raises:
        ValueError: If a setting is out of its range, or the sampler makes corrections or does not
            come down to `end`.
    """

    sampler: Sampler
    members: int = 4
    end: float = 0.15
    windows: Sequence[int] = (25, 7)
    share: float = 0.3
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.members < 2 or self.share < 0 or any(length < 1 for length in self.windows):
            raise ValueError(
                f"Got members = {self.members}, share = {self.share}, windows = {self.windows}: "
                "need at least 2 members, a share that is not negative and positive lengths."
            )
        sampler = self.sampler
        if sampler.corrections or sampler.grid != "log":
            raise ValueError(
                f'Got {sampler}: a walk to be learned has no corrections, and the "log" grid.'
            )
        if not sampler.min_noise <= self.end < sampler.max_noise:
            raise ValueError(
                f"Got end = {self.end} for noise levels from {sampler.max_noise} to "
                f"{sampler.min_noise}: it lies between them."
            )

    @property
    def levels(self) -> list[float]:
        """Noise levels of the walk, the last one included."""
        levels = self.sampler.levels.tolist()
        last = next(i for i, nu in enumerate(levels) if nu <= self.end * (1 + ROUNDING))
        return levels[: last + 1]

    def __call__(
        self,
        network: nn.Module,
        x0: Float[Tensor, "ensemble time ..."],
        noise: Float[Tensor, "ensemble time ..."],
        eps: Float[Tensor, "ensemble time ..."],
    ) -> Float[Tensor, "ensemble"]:
        """Return the loss of each segment.

        Arguments:
            network: As for ``denoisers.precondition``, with a level per entry.
            x0: Standardised segments.
            noise: Noise level of each of their entries.
            eps: Standard normal noise. It also seeds that of the walk, segment by segment.
        """
        levels = self.levels
        # Of the walk's start and steps for each member; of the observations; of the draw s.
        drawn = torch.stack(
            [
                torch.randn(
                    (self.members * len(levels) + 2, *row.shape),
                    generator=rng.at(_key(row), 0),
                    dtype=row.dtype,
                )
                for row in eps.cpu()
            ]
        ).to(eps)
        walked, of_values, of_draw = drawn.split((self.members * len(levels), 1, 1), 1)
        precision = observed_precision(noise)
        # An observation of no precision has no value, and any number will do.
        error = precision.clamp(min=torch.finfo(x0.dtype).tiny).rsqrt()
        y = torch.where(precision > 0, x0 + error * of_values[:, 0], 0)
        u = self._walk(network, y, precision, walked.unflatten(1, (len(levels), self.members)))
        found = window_energy(u, x0 + levels[-1] * of_draw[:, 0], self.windows)
        if not self.share:
            return found
        return found + self.share * denoising_loss(network, x0, noise, eps)

    def _walk(
        self, network: nn.Module, y: Tensor, precision: Tensor, noise: Tensor
    ) -> Float[Tensor, "ensemble members time ..."]:
        """States at the last level; gradients go through all steps."""
        levels, prior = self.levels, NetworkDenoiser(network, self.limit)
        given = (part.repeat_interleave(self.members, 0) for part in (y, precision))
        denoiser = Conditioned(prior, *given)
        noise = noise.transpose(0, 1).flatten(1, 2)
        u, previous = noise[0] * math.hypot(1, levels[0]), None
        for i, nu in enumerate(levels[:-1]):
            mean = denoiser.denoise(u, torch.full((), nu).to(u))
            around = (levels[max(i - 1, 0)], nu, levels[i + 1])
            u = self.sampler.move(u, mean, previous, around, partial(noise.__getitem__, i + 1))
            previous = mean
        return u.unflatten(0, (-1, self.members))


def observed_precision(
    noise: Float[Tensor, "ensemble time ..."],
) -> Float[Tensor, "ensemble time ..."]:
    r"""Precision :math:`\nu_i^{-2} - \nu^{-2}` of observations that levels per entry stand for.

    The level without an observation is the largest of a segment. Where every entry is observed,
    the precisions are therefore those beyond the least one.

    Arguments:
        noise: Levels of the entries of segments.
    """
    own = noise.double().square().reciprocal()
    least = own.flatten(1).amin(1).view(-1, *(1,) * (own.ndim - 1))
    precision = own - least
    return torch.where(precision > SMALLEST * least, precision, 0).to(noise)


def window_energy(
    u: Float[Tensor, "ensemble members time ..."],
    truth: Float[Tensor, "ensemble time ..."],
    windows: Sequence[int],
) -> Float[Tensor, "ensemble"]:
    """Fair energy score of each group of members, as a sum over lengths of windows.

    Of each length it is the mean over windows that overlap by half, in units of the root of the
    number of entries of a window, so that lengths count alike. The whole is one window too, and
    longer ones are left out.

    Arguments:
        u: Members.
        truth: What they are scored at.
        windows: Lengths of windows.
    """
    states, members = truth.shape[1], u.shape[1]
    total = u.new_zeros(len(u))
    for length in dict.fromkeys((states, *(n for n in windows if n < states))):
        every, size = max(1, length // 2), math.sqrt(length * truth[0, 0].numel())
        x = u.flatten(3).unfold(2, length, every).flatten(3)
        y = truth.flatten(2).unfold(1, length, every).flatten(2)
        near = (x - y[:, None]).norm(dim=-1).mean((1, 2))
        # Pair by pair: the root of 0 has no gradient.
        pairs = torch.triu_indices(members, members, 1)
        far = (x[:, pairs[0]] - x[:, pairs[1]]).norm(dim=-1).mean((1, 2))
        total = total + (near - far / 2) / size
    return total


def _key(row: Tensor) -> rng.Key:
    """A key of the noise of a segment, of the bits of two entries: no sum, no other segment."""
    first, last = row.flatten()[[0, -1]].double().view(torch.int64).tolist()
    return first & BITS, last & BITS
