r"""Networks of a step of fields: denoisers of the next state around a linear law.

All are networks of pairs ``(ensemble, 2, *state)`` with levels per entry, of which the first
state is known and has no noise. Around the mean :math:`m = A x_k` of the next state they denoise
the residual :math:`u - m`, in the form of `denoisers.precondition`:

.. math:: F(u, \nu; x_k) = \frac{\nu}{\sqrt{1 + \nu^2}} m + F_r(u - m, \nu; x_k).

The first half of what they return is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from scorda.core.shapes import Float, Tensor
from scorda.nn.modulated import ModulatedBlock, channels_last, zeroed
from scorda.nn.ring_temporal import FAR, FEATURES, Around, ring_of
from scorda.nn.spectral import check_modes, gain
from scorda.nn.temporal import NoiseEmbedding, TemporalConv
from scorda.nn.unet import UNet

__all__ = ["StepModes", "StepRing", "StepUNet"]


class StepModes(nn.Module):
    """Exact denoiser of a linear-Gaussian step of modes, plus a learned correction.

    With coefficients :math:`c = E^T x`, the step is :math:`A c` in the modes E and a factor
    :math:`a_0` in all other directions; the covariance of its error is diagonal in the directions
    E V, the columns of V being orthonormal, and white in all others. The correction sees the
    leading coefficients of the known state and of the noisy residual. It starts from zero.

    Arguments:
        size: Components of one state.
        modes: Number of modes.
        corrected: Leading modes that the correction sees, and directions that it corrects.
        width: Hidden channels of the correction.
        blocks: Its residual blocks.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
    """

    basis: Tensor
    variance: Tensor
    advance: Tensor
    turn: Tensor
    spectrum: Tensor
    rest: Tensor
    per_entry = True
    half_width = 1

    def __init__(
        self,
        size: int,
        modes: int,
        corrected: int = 20,
        width: int = 64,
        blocks: int = 2,
        min_noise: float = 2e-2,
        max_noise: float = 300.0,
    ) -> None:
        super().__init__()
        check_modes(corrected, modes, size)
        self.corrected = corrected
        self.register_buffer("basis", torch.eye(size, modes))
        # Of the coefficients of states, by which the correction scales what it sees.
        self.register_buffer("variance", torch.ones(modes))
        self.register_buffer("advance", torch.zeros(modes, modes))
        self.register_buffer("turn", torch.eye(modes))
        # Variances of the error; the last is that of the directions outside of the modes.
        self.register_buffer("spectrum", torch.ones(modes + 1))
        self.register_buffer("rest", torch.zeros(()))
        self.correction = TemporalConv(corrected, width, blocks, min_noise, max_noise)
        zeroed(self.correction.last)

    def forward(
        self, x: Float[Tensor, "ensemble 2 ..."], noise: Float[Tensor, "ensemble 2 ..."]
    ) -> Float[Tensor, "ensemble 2 ..."]:
        """Evaluate at known and noisy states, in units of the data, and their noise levels."""
        (known, u), nu = x.flatten(2).unbind(1), noise.flatten(2)[:, 1, :1]
        basis, rest = self.basis.to(u), self.rest.to(u)
        coefficients = known @ basis
        moved = coefficients @ self.advance.to(u).T - rest * coefficients
        mean = rest * known + moved @ basis.T
        directions = basis @ self.turn.to(u)
        spectrum, residual = self.spectrum.to(u), u - mean
        found, gains = residual @ directions, gain(spectrum, nu)
        inner = (gains[:, :-1] - gains[:, -1:]) * found
        lead = slice(self.corrected)
        # To unit variance at this noise level, and back to the size of what is to be learned.
        unit = (1 + nu.square()).sqrt()
        scale = unit / (spectrum[lead] + nu.square()).sqrt()
        before = coefficients[:, lead] * unit / self.variance[lead].to(u).sqrt()
        learned = self.correction(torch.stack((before, found[:, lead] * scale), 1), nu[:, 0])[:, 1]
        learned = learned * spectrum[lead].sqrt() * scale
        inner = torch.cat((inner[:, lead] + learned, inner[:, self.corrected :]), 1)
        made = mean * nu / unit + gains[:, -1:] * residual + inner @ directions.T
        return torch.stack((torch.zeros_like(made), made), 1).view_as(x)


class StepUNet(nn.Module):
    """A `UNet` of the difference between two fields on periodic axes, which sees the first one.

    Here A is 1, and the law of the difference is homogeneous.

    Arguments:
        channels: Variables of a state.
        grid: Points along y and x.
        width: Hidden channels on the finest grid.
        levels: Grids.
        blocks: Residual blocks per level and direction.
        context: Number of constant fields.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
    """

    per_entry = True
    half_width = 1

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        width: int = 48,
        levels: int = 2,
        blocks: int = 2,
        context: int = 0,
        min_noise: float = 2e-2,
        max_noise: float = 50.0,
    ) -> None:
        super().__init__()
        self.unet = UNet(
            channels, grid, 0, width, levels, blocks, context=context, min_noise=min_noise,
            max_noise=max_noise, given=channels,
        )  # fmt: skip

    def prepare(
        self,
        trajectories: Float[Tensor, "series time channels y x"],
        context: Float[Tensor, "context y x"] | None = None,
    ) -> None:
        """Set the law to that of the differences in trajectories, and the constant fields."""
        self.unet.prepare(trajectories[:, 1:] - trajectories[:, :-1], context)

    def forward(
        self,
        x: Float[Tensor, "ensemble 2 ..."],
        noise: Float[Tensor, "ensemble 2 ..."],
    ) -> Float[Tensor, "ensemble 2 ..."]:
        """Evaluate at known and noisy states, in units of the data, and their noise levels.

        States of one variable may come without the axis of variables.
        """
        if x.ndim == 4:
            return self(x.unsqueeze(2), noise.unsqueeze(2)).squeeze(2)
        known, u = x.unbind(1)
        nu = noise[:, 1, 0, 0, 0]
        share = (nu / (1 + nu.square()).sqrt())[:, None, None, None]
        made = share * known + self.unet((u - known)[:, None], nu, known[:, None])[:, 0]
        return torch.stack((torch.zeros_like(made), made), 1)


class StepRing(nn.Module):
    r"""Convolutions along a ring that correct a Gaussian law of the difference of two states.

    Here A is 1. With :math:`r = u - x_k` and the standard deviation s of the differences of a
    variable, the denoiser is

    .. math:: D = x_k + \frac{s^2}{s^2 + \nu^2} r + \frac{s \nu}{\sqrt{s^2 + \nu^2}} N,

    where N sees :math:`x_k`, :math:`r / \sqrt{s^2 + \nu^2}`, the noise level and constant fields.
    It starts from zero, so that D is first that of differences without correlation. Turning the
    ring turns the output, unless a constant field varies along it. One output depends on 2 points
    of the ring on either side, and 4 more for each block.

    Arguments:
        channels: Variables of a state.
        grid: Number of points of the ring.
        width: Hidden channels.
        blocks: Residual blocks of two convolutions of 5 points.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
        differences: s of each variable, in units of the data.
        context: Number of constant fields.

    Raises:
        ValueError: If the grid is no ring of at least 3 points, or there is not one s for each
            variable.
    """

    std: Tensor
    context: Tensor
    per_entry = True
    half_width = 1

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        width: int = 64,
        blocks: int = 5,
        min_noise: float = 5e-3,
        max_noise: float = 10.0,
        differences: Sequence[float] = (1.0,),
        context: int = 0,
    ) -> None:
        super().__init__()
        points = ring_of(grid)
        if len(differences) != channels or not all(0 <= s < math.inf for s in differences):
            raise ValueError(
                f"Got {len(differences)} standard deviations of differences for {channels} "
                "variables: give one of each, finite and not negative."
            )
        std = torch.tensor([float(s) for s in differences])[:, None]
        self.register_buffer("std", std, persistent=False)
        # A file of a network without such fields does not hold any.
        self.register_buffer("context", torch.zeros(context, points), persistent=context > 0)
        self.embed = NoiseEmbedding(FEATURES, min_noise, max_noise)
        self.first = Around(2 * channels + context, width, FAR, 0)
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                FEATURES,
                width,
                lambda: (Around(width, width, FAR, 0), Around(width, width, FAR, 0)),
            )
            for _ in range(blocks)
        )
        self.last = zeroed(nn.Conv2d(width, channels, 1))
        channels_last(self)

    def forward(
        self, x: Float[Tensor, "ensemble 2 ..."], noise: Float[Tensor, "ensemble 2 ..."]
    ) -> Float[Tensor, "ensemble 2 ..."]:
        """Evaluate at known and noisy states, in units of the data, and their noise levels.

        States of one variable may come without the axis of variables.
        """
        known, u = x.reshape(len(x), 2, len(self.std), -1).unbind(1)
        level = noise.flatten(2)[:, 1, 0]
        nu, s, r = level[:, None, None], self.std.to(x), u - known
        # Of the difference with its noise, and of data with theirs.
        whole, unit = (s.square() + nu.square()).sqrt(), (1 + nu.square()).sqrt()
        learned = self._correction(known, r / whole, level) * s * unit / whole
        made = known * nu / unit + gain(s.square(), nu) * r + learned
        return torch.stack((torch.zeros_like(made), made), 1).view_as(x)

    def _correction(
        self,
        known: Float[Tensor, "ensemble channels x"],
        residual: Float[Tensor, "ensemble channels x"],
        level: Float[Tensor, "ensemble"],
    ) -> Float[Tensor, "ensemble channels x"]:
        context = self.context.to(known).expand(len(known), *self.context.shape)
        z = torch.cat((known, residual, context), 1).unsqueeze(2)
        z = self.first(z.contiguous(memory_format=torch.channels_last))
        embedding = self.embed(level)
        for block in self.blocks:
            z = block(z, embedding)
        return self.last(F.silu(z)).squeeze(2)
