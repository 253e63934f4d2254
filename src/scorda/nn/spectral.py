r"""The network for gridded fields adds a convolution to the denoiser of a Gaussian law.

Spatial modes :math:`e_j` (orthonormal) carry independent series in time, each with its own
variance and its own memory; the directions outside of them share one,

.. math:: \mathrm{Cov}(x_a, x_b) = \sum_j \lambda_j \rho_j(b - a)\, e_j e_j^T
    + \lambda_0 \rho_0(b - a) \Big( I - \sum_j e_j e_j^T \Big), \qquad
    \rho_j(l) = \sum_q w_{jq} e^{-|l| / \tau_q}.

The correlation is that of a mixture of first-order autoregressions, positive definite for any
number of states. With :math:`\mu_{jk}` the eigenvalues of its matrix over a window, the denoiser
of this law is exact mode by mode, and in the form of `denoisers.precondition` it is the gain

.. math:: F = \frac{\nu (\lambda_j \mu_{jk} - 1)}
    {(\lambda_j \mu_{jk} + \nu^2) \sqrt{1 + \nu^2}}.

A few hundred fields say little beyond this law; a small convolution on the leading modes learns
the rest (how modes pass into each other, and departures from a Gaussian); it starts from zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.nn.modulated import zeroed
from scorda.nn.temporal import TemporalConv

__all__ = ["TIMES", "AtTimes", "ModeNetwork", "check_modes", "gain"]

# Memories tau of the mixture, in steps: from noise to what outlasts a window.
TIMES = (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0)


class ModeNetwork(nn.Module):
    """Exact denoiser of independent spatial modes, plus a learned correction of the leading ones.

    The buffers `basis`, `spectrum` and `memory` hold the law (`learn` estimates it) and are kept
    in the file of a prior with the weights.

    Arguments:
        size: Components of one state.
        modes: Number of spatial modes.
        corrected: Leading modes that the convolution sees and corrects.
        width: Hidden channels of the convolution.
        blocks: Its residual blocks: one output depends on 4 * blocks + 1 states on either side,
            beside the whole window through the Gaussian law.
        min_noise: Smallest noise level of training.
        max_noise: Largest noise level of training.
        times: Memories tau, in steps.
        clock: Harmonics of the year that the correction sees beside each state, if any.
    """

    basis: Tensor
    spectrum: Tensor
    memory: Tensor

    def __init__(
        self,
        size: int,
        modes: int,
        corrected: int = 20,
        width: int = 64,
        blocks: int = 2,
        min_noise: float = 2e-2,
        max_noise: float = 300.0,
        times: tuple[float, ...] = TIMES,
        clock: int = 0,
    ) -> None:
        super().__init__()
        check_modes(corrected, modes, size)
        self.corrected, self.times = corrected, tuple(times)
        self.register_buffer("basis", torch.eye(size, modes))
        # The last entries are those of the directions outside of the modes.
        self.register_buffer("spectrum", torch.ones(modes + 1))
        self.register_buffer("memory", torch.full((modes + 1, len(times)), 1 / len(times)))
        self.correction = TemporalConv(corrected, width, blocks, min_noise, max_noise)
        zeroed(self.correction.last)
        self.clock = nn.Linear(2 * clock, width, bias=False) if clock else None
        if self.clock is not None:
            nn.init.zeros_(self.clock.weight)
        self._windows: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    @property
    def half_width(self) -> int:
        """Return the number of states on either side that the correction depends on."""
        return self.correction.half_width

    def correlation(self, states: int) -> Float[Tensor, "modes states states"]:
        """Return the correlation in time of each mode and, last, of the other directions."""
        index = torch.arange(states, dtype=torch.float64, device=self.memory.device)
        lag = (index[:, None] - index).abs()
        decay = torch.stack([torch.exp(-lag / tau) for tau in self.times])
        return torch.einsum("mq,qab->mab", self.memory.double(), decay)

    def forward(
        self,
        x: Float[Tensor, "ensemble time ..."],
        noise: Float[Tensor, "ensemble"],
        waves: Float[Tensor, "*ensemble time waves"] | None = None,
    ) -> Float[Tensor, "ensemble time ..."]:
        """Evaluate the network at noisy states, in units of the data, and their noise levels.

        Arguments:
            x: Noisy states.
            noise: Noise level of each member.
            waves: Cosines and sines of the year at each state in turn, for a network with a clock.
        """
        more = None if self.clock is None or waves is None else self.clock(waves.to(x))
        flat, nu = x.flatten(2), noise[:, None, None]
        vectors, values = self._window(x.shape[1], flat)
        basis = self.basis.to(flat)
        coefficients = flat @ basis
        # In the eigenbasis of each mode's correlation every gain is a number.
        inner = torch.einsum("btm,mtk->bkm", coefficients, vectors[:-1])
        inner = torch.einsum("bkm,mtk->btm", inner * gain(values[:-1].T, nu), vectors[:-1])
        apply = vectors[-1] * gain(values[-1], nu) @ vectors[-1].T
        inner = inner - apply @ coefficients
        lead = coefficients[..., : self.corrected]
        spectrum = self.spectrum[: self.corrected].to(flat)
        # To unit variance at this noise level, and back to the size of what is to be learned.
        scale = ((1 + nu.square()) / (spectrum + nu.square())).sqrt()
        learned = self.correction(lead * scale, noise, more) * spectrum.sqrt() * scale
        inner = torch.cat(
            (inner[..., : self.corrected] + learned, inner[..., self.corrected :]), -1
        )
        return (apply @ flat + inner @ basis.T).view_as(x)

    def _window(self, states: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return each mode's eigenvectors and variances over a window; the last ones are kept."""
        law = tuple((id(b), b._version) for b in (self.spectrum, self.memory))
        key = (states, like.dtype, like.device, law)
        if key not in self._windows:
            values, vectors = torch.linalg.eigh(self.correlation(states))
            values = values.clamp(min=0) * self.spectrum.double()[:, None]
            self._windows = {key: (vectors.to(like), values.to(like))}
        return self._windows[key]


class AtTimes(nn.Module):
    """A network with a clock, for windows of given times.

    Arguments:
        network: The network.
        waves: As `ModeNetwork.forward` takes them, one for all windows or one for each.
    """

    waves: Tensor

    def __init__(self, network: ModeNetwork, waves: Float[Tensor, "*ensemble time waves"]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("waves", waves)

    @property
    def half_width(self) -> int:
        """Return that of the network."""
        return self.network.half_width

    def forward(
        self, x: Float[Tensor, "ensemble time ..."], noise: Float[Tensor, "ensemble"]
    ) -> Float[Tensor, "ensemble time ..."]:
        return self.network(x, noise, self.waves)


def check_modes(corrected: int, modes: int, size: int) -> None:
    """Check the number of modes, and of those that are corrected.

    Raises:
        ValueError: If there are more than the components of a state, or none.
    """
    if not 0 < corrected <= modes <= size:
        raise ValueError(
            f"Got corrected = {corrected}, modes = {modes}, size = {size}: need "
            "0 < corrected <= modes <= size."
        )


def gain(variance: Tensor, nu: Tensor) -> Tensor:
    """Return the gain F of directions of some variance at a noise level."""
    squared = nu.square()
    return nu * (variance - 1) / ((variance + squared) * (1 + squared).sqrt())
