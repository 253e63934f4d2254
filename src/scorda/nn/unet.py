r"""The U-Net is the network for fields on two periodic axes; it sees windows of a trajectory.

A window of 2k + 1 states is one image whose channels are the variables of its states; on a longer
trajectory the network is applied to every window, and the outputs are composed: each state is that
of the window around it, or a weighted mean over all windows that hold it, which knows k more
states on either side (`shares`, fitted after the training). Around the network stands the exact
denoiser of a homogeneous Gaussian law (`homogeneous`): the spectrum and the linear memory of the
flow are not learned but estimated, and the network starts from there. That law may be the one of
the whole trajectory (`memory`): what was learned in windows is added to it. Where it is composed
of windows as well, scales that remember longer than a window lose variance in long trajectories:
a mode that never changes keeps that of a window, 2k + 1 states, in place of that of all states.

Memory is linear in the length, with or without a gradient: 7 MB per state and member at 64 x 64
(width 48), 0.9 GB for 127 states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scorda.core.shapes import Float, Tensor
from scorda.nn.homogeneous import HomogeneousLaw, covariances
from scorda.nn.modulated import ModulatedBlock, channels_last, zeroed
from scorda.nn.ring import RingConv
from scorda.nn.temporal import NoiseEmbedding

__all__ = ["UNet"]

# Size of the embedding of the noise level.
FEATURES = 128
# Power of the noise level with which the network's part falls below the levels of training.
FADING = 4
# Grid points of the windows evaluated at once. More are taken in parts, of which a gradient keeps
# the inputs alone and computes the rest again.
POINTS = 2**18


class UNet(nn.Module):
    """Residual convolutions on a pyramid of grids, modulated by the noise level.

    It sees two linear estimates of every state of the window, smooth and white (see
    `HomogeneousLaw.gains`), and fields that stay the same, such as the forcing's. Shifts along a
    periodic axis by a multiple of ``patch * 2**(levels - 1)`` points shift the output, unless a
    context varies along it.

    Source: Rozet & Louppe (2023), appendix D. Deviations: the Gaussian law; a finest grid of
    patches; modulation by scale and shift between two convolutions; no normalisation, residual
    branches and the output start from zero instead; upsampling by learned patches.

    Arguments:
        channels: Variables of a state.
        grid: Points along y and x, multiples of ``patch * 2**(levels - 1)``.
        k: Half-width of the window.
        width: Hidden channels on the finest grid; twice as many on each coarser one.
        levels: Grids, each half as fine as the one before.
        blocks: Residual blocks of two convolutions per level, on the way down and on the way up.
        patch: Points along each axis of a patch that becomes one point of the finest grid.
        context: Number of constant fields.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
        given: Number of fields of each window that are given beside it, without noise.
        shares: Noise levels for which there are shares of the windows, evenly spaced in the
            logarithm; none of 0. They are those of the centres until they are set.
        memory: States whose covariances the law of trajectories knows, an odd number; longer ones
            are composed of windows of so many. 0: the law is that of the windows of the network.

    Raises:
        ValueError: If the grid does not fit the strides, or the memory is even.
    """

    context: Tensor
    shares: Tensor
    lags: Tensor

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        k: int = 2,
        width: int = 48,
        levels: int = 2,
        blocks: int = 2,
        patch: int = 2,
        context: int = 0,
        min_noise: float = 2e-2,
        max_noise: float = 50.0,
        given: int = 0,
        shares: int = 0,
        memory: int = 0,
    ) -> None:
        super().__init__()
        rows, columns = grid
        stride = patch * 2 ** (levels - 1)
        if rows % stride or columns % stride:
            raise ValueError(
                f"Got a grid of {rows} x {columns} points: both must be multiples of {stride}, "
                "patch * 2**(levels - 1)."
            )
        if memory and not memory % 2:
            raise ValueError(f"Got memory = {memory}: it is an odd number of states, or 0.")
        self.half_width, self.patch = k, patch
        self.law = HomogeneousLaw(2 * k + 1, channels, (rows, columns))
        self.register_buffer("context", torch.zeros(context, rows, columns))
        # A file of a network without them does not hold any.
        centres = torch.eye(2 * k + 1)[k].repeat(shares, 1)
        self.register_buffer("shares", centres, persistent=shares > 0)
        white = torch.zeros(memory, len(self.law.spectrum), channels, channels)
        white[:1] = torch.eye(channels)
        self.register_buffer("lags", white, persistent=memory > 0)
        # The law of the last length of trajectories, once it is made; no part of the network.
        self._whole: list[HomogeneousLaw] = []
        self.embed = NoiseEmbedding(FEATURES, min_noise, max_noise)
        size = (2 * k + 1) * channels
        self.first = RingConv((2 * size + given + context) * patch**2, width)
        widths = [width * 2**level for level in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, inner in enumerate(widths):
            self.down.append(nn.ModuleList(_block(inner) for _ in range(blocks)))
            if level + 1 < levels:
                self.up.append(nn.ModuleList(_block(inner) for _ in range(blocks)))
                self.shrink.append(nn.Conv2d(inner, widths[level + 1], 2, 2))
                self.grow.append(nn.ConvTranspose2d(widths[level + 1], inner, 2, 2))
        self.last = zeroed(nn.Conv2d(width, size * patch**2, 1))
        channels_last(self)

    def prepare(
        self,
        trajectories: Float[Tensor, "series time channels y x"],
        context: Float[Tensor, "context y x"] | None = None,
    ) -> None:
        """Set the law to that of standardised trajectories, and the constant fields.

        Raises:
            ValueError: If either does not fit the network.
        """
        self.law.estimate(trajectories)
        if len(self.lags):
            self.lags.copy_(covariances(trajectories, len(self.lags)))
            self._whole = []
        given = torch.zeros(0) if context is None else context
        if given.shape[:1] != self.context.shape[:1]:
            raise ValueError(
                f"Got {len(given)} constant fields for a network made for {len(self.context)}."
            )
        if context is not None:
            self.context.copy_(context)

    def forward(
        self,
        x: Float[Tensor, "ensemble time ..."],
        noise: Float[Tensor, "ensemble"],
        given: Float[Tensor, "ensemble windows given y x"] | None = None,
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate at noisy states in units of the data, their noise levels, and given fields.

        States of one variable may come without the axis of variables.

        Raises:
            ValueError: If the trajectory is shorter than one window.
        """
        if x.ndim == 4:
            return self(x.unsqueeze(2), noise, given).squeeze(2)
        law, states = self.law, 2 * self.half_width + 1
        if x.shape[1] < states:
            raise ValueError(
                f"Got a trajectory of {x.shape[1]} states for windows of {states}: "
                "assimilate at least that many states, or use a prior with a smaller window."
            )
        linear, learned, *seen = law.gains(noise)
        # Below the levels of training what was learned fades out, and the law is left.
        learned = learned * (noise / self.embed.min_noise).clamp(max=1).pow(FADING)[:, None]
        coefficients = law.slide(x)
        beside = () if given is None else (given,)
        windows = torch.cat([*(law.windows(coefficients * gain) for gain in seen), *beside], 2)
        embedding = self.embed(noise)[:, None].expand(-1, windows.shape[1], -1)
        out = torch.cat(list(self._parts(windows.flatten(0, 1), embedding.flatten(0, 1))))
        out = out.unflatten(0, windows.shape[:2])
        found, whole = law.coefficients(out) * learned, self._law_of(x.shape[1])
        if whole is law:
            return law.compose(coefficients * linear + found, self._shares(noise))
        return whole.filter(x, whole.gains(noise)[0]) + law.compose(found, self._shares(noise))

    def _law_of(self, states: int) -> HomogeneousLaw:
        """Return the law of trajectories, or of the windows that they are composed of."""
        states = min(states, len(self.lags))
        if states <= self.law.states:
            return self.law
        made = self._whole
        if not made or made[0].states != states or made[0].basis.device != self.lags.device:
            law = HomogeneousLaw(states, self.law.channels, self.law.grid).to(self.lags)
            law.remember(self.lags)
            self._whole = made = [law]
        return made[0]

    def share_levels(self) -> Float[Tensor, "levels"]:
        """Return the noise levels of the shares."""
        ends = torch.tensor([self.embed.min_noise, self.embed.max_noise]).log()
        return torch.linspace(ends[0], ends[1], len(self.shares)).exp()

    def _shares(self, noise: Float[Tensor, "ensemble"]) -> Float[Tensor, "ensemble states"] | None:
        """Return the shares at noise levels, between those that are known by their logarithms."""
        last = len(self.shares) - 1
        if last < 1:
            return None
        low, high = self.embed.min_noise, self.embed.max_noise
        place = (last * (noise / low).log() / math.log(high / low)).clamp(0, last)
        before = place.floor().clamp(max=last - 1).long()
        shares = self.shares.to(noise)
        return shares[before].lerp(shares[before + 1], (place - before)[:, None])

    def covariance(
        self,
        v: Float[Tensor, "ensemble time ..."],
        noise: Float[Tensor, "ensemble"],
    ) -> Float[Tensor, "ensemble time ..."]:
        """Product with the covariance of the law given noisy states.

        Symmetric for one window of the law; of a longer trajectory as nearly as the composition
        of windows allows.
        """
        if v.ndim == 4:
            return self.covariance(v.unsqueeze(2), noise).squeeze(2)
        law = self._law_of(v.shape[1])
        return law.filter(v, law.remaining(noise))

    def _parts(self, windows: Tensor, embedding: Tensor) -> Iterator[Tensor]:
        size = max(1, POINTS // windows[0, 0].numel())
        again = torch.is_grad_enabled() and len(windows) > size
        for part, level in zip(windows.split(size), embedding.split(size), strict=True):
            if again:
                yield checkpoint(self._evaluate, part, level, use_reentrant=False)
            else:
                yield self._evaluate(part, level)

    def _evaluate(
        self, windows: Float[Tensor, "windows inputs y x"], embedding: Tensor
    ) -> Float[Tensor, "windows size y x"]:
        context = self.context.to(windows).expand(len(windows), *self.context.shape)
        z = F.pixel_unshuffle(torch.cat((windows, context), 1), self.patch)
        z = self.first(z.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, blocks in enumerate(self.down):
            z = _through(blocks, z, embedding)
            if level < len(self.shrink):
                skips.append(z)
                z = self.shrink[level](z)
        for grow, blocks in zip(reversed(self.grow), reversed(self.up), strict=True):
            z = _through(blocks, skips.pop() + grow(z), embedding)
        return F.pixel_shuffle(self.last(F.silu(z)), self.patch).to(windows)


def _block(width: int) -> ModulatedBlock:
    return ModulatedBlock(
        FEATURES, width, lambda: (RingConv(width, width), RingConv(width, width))
    )


def _through(blocks: Any, z: Tensor, embedding: Tensor) -> Tensor:
    for block in blocks:
        z = block(z, embedding)
    return z
