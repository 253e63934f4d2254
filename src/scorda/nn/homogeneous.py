r"""The Gaussian law of windows of a homogeneous periodic field, and preconditioning with it.

Where no place is special, Fourier modes of different wave number are uncorrelated. What is left
of the covariance of a window is one small matrix per wave number, between its states and
variables, :math:`C_q = E_q \Lambda_q E_q^T`: it knows the spectrum, how fast each scale forgets,
and every linear constraint (of a divergence-free flow the directions without variance). It is
real where the law is also that of the field seen upside down, x to -x; else its real part stands
for it. In the basis E_q of every wave number the exact denoiser of this law, in the form of
`denoisers.precondition`, is a gain F, and the std of its error, in the same form, S:

.. math:: F = \frac{\nu (\lambda - 1)}{(\lambda + \nu^2) \sqrt{1 + \nu^2}}, \qquad
    S = \sqrt{\frac{\lambda (1 + \nu^2)}{\lambda + \nu^2}}.

A network N that adds :math:`E S E^T N` has a target of unit variance in every direction at every
noise level: the preconditioning of Karras et al. (2022) with a covariance in place of a variance.
"""

from __future__ import annotations

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor

__all__ = ["HomogeneousLaw", "covariances"]

# Series whose spectra are held at once while a covariance is estimated.
BLOCK = 64
# Numbers that are transformed along time at once.
NUMBERS = 2**22

Gains = Float[Tensor, "modes size 1 ensemble 1"]


class HomogeneousLaw(nn.Module):
    """Eigenvectors and variances of the modes of a window; white until `estimate` has been called.

    Modes are those of `torch.fft.rfft2` with orthonormal scaling, flattened.

    Arguments:
        states: States of a window.
        channels: Variables of a state.
        grid: Points along y and x.
    """

    basis: Tensor
    spectrum: Tensor

    def __init__(self, states: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.states, self.channels, self.grid = states, channels, grid
        modes, size = grid[0] * (grid[1] // 2 + 1), states * channels
        self.register_buffer("basis", torch.eye(size).expand(modes, size, size).clone())
        self.register_buffer("spectrum", torch.ones(modes, size))

    def estimate(self, trajectories: Float[Tensor, "series time channels y x"]) -> None:
        """Set the law to that of the windows of standardised trajectories.

        Raises:
            ValueError: If the trajectories are shorter than a window, or of another grid.
        """
        length, shape = trajectories.shape[1], (self.channels, *self.grid)
        if length < self.states or trajectories.shape[2:] != shape:
            raise ValueError(
                f"Got trajectories of {length} states of shape {tuple(trajectories.shape[2:])}: "
                f"the law is of windows of {self.states} states of shape {shape}."
            )
        total = torch.zeros(self.basis.shape, dtype=torch.float64)
        windows = length - self.states + 1
        for part in trajectories.split(BLOCK):
            spectra = modes_of(part)
            # Windows that do not overlap say nearly as much as all.
            for first in range(0, windows, self.states):
                window = spectra[:, first : first + self.states].flatten(1, 2).flatten(2, 3)
                rows = window.permute(2, 1, 0, 3).flatten(2)
                total += (rows @ rows.mT).double().cpu()
        total /= len(trajectories) * len(range(0, windows, self.states))
        spectrum, basis = torch.linalg.eigh(total)
        self.basis.copy_(basis)
        self.spectrum.copy_(spectrum.clamp(min=0))

    def remember(self, lags: Float[Tensor, "lags modes channels channels"]) -> None:
        """Set the law to that of a stationary field, whose covariances at lags are known.

        Negative variances, which an estimate may have, become 0.
        """
        size = self.states * self.channels
        covariance = torch.empty(
            len(self.spectrum), self.states, self.channels, self.states, self.channels
        ).double()
        for lag, blocks in enumerate(lags[: self.states].double().cpu()):
            for i in range(self.states - lag):
                covariance[:, i, :, i + lag] = blocks
                covariance[:, i + lag, :, i] = blocks.mT
        spectrum, basis = torch.linalg.eigh(covariance.view(-1, size, size))
        self.basis.copy_(basis)
        self.spectrum.copy_(spectrum.clamp(min=0))

    def coefficients(
        self, windows: Float[Tensor, "ensemble windows size y x"]
    ) -> Float[Tensor, "modes size windows ensemble 2"]:
        """Return coefficients of windows in the law's eigenvectors; `size`: (state, channel)."""
        spectra = modes_of(windows).permute(3, 4, 2, 1, 0, 5).flatten(0, 1)
        return _apply(self.basis.to(windows).mT, spectra)

    def slide(
        self, x: Float[Tensor, "ensemble time channels y x"]
    ) -> Float[Tensor, "modes size windows ensemble 2"]:
        """Return those of all windows of a trajectory; each state is transformed once."""
        spectra = modes_of(x).permute(3, 4, 1, 2, 0, 5).flatten(0, 1)
        windows = spectra.unfold(1, self.states, 1).permute(0, 5, 2, 1, 3, 4).flatten(1, 2)
        return _apply(self.basis.to(x).mT, windows)

    def windows(
        self, coefficients: Float[Tensor, "modes size windows ensemble 2"]
    ) -> Float[Tensor, "ensemble windows size y x"]:
        """Return the windows with given coefficients."""
        spectra = _apply(self.basis.to(coefficients), coefficients)
        return self._fields(spectra).permute(2, 1, 0, 3, 4)

    def compose(
        self,
        coefficients: Float[Tensor, "modes size windows ensemble 2"],
        shares: Float[Tensor, "ensemble states"] | None = None,
    ) -> Float[Tensor, "ensemble time channels y x"]:
        """Return the trajectory of windows with given coefficients: centres and ends.

        Of an even number of states there is a single window, the whole trajectory.
        With shares a state is the sum of its values in all windows that hold it, times their
        shares: share e is that of the window whose state e it is, or of the first or the last
        window where there is none.
        """
        c, half = self.channels, self.states // 2
        if self.states % 2 == 0:
            joined = _apply(self.basis.to(coefficients), coefficients).squeeze(2)
        elif shares is None:
            last = coefficients.shape[2] - 1
            rows = self.basis.to(coefficients).split((half * c, c, half * c), 1)
            parts = [
                _apply(part, coefficients[:, :, first : stop + 1])
                for part, first, stop in zip(rows, (0, 0, last), (0, last, last), strict=True)
            ]
            states = [part.unflatten(1, (-1, c)).transpose(2, 3).flatten(1, 2) for part in parts]
            joined = torch.cat(states, 1).flatten(1, 2)
        else:
            joined = self._shared(coefficients, shares.to(coefficients)).flatten(1, 2)
        fields = self._fields(joined.unsqueeze(2))
        return fields.unflatten(0, (-1, c)).squeeze(2).permute(2, 0, 1, 3, 4)

    def filter(
        self,
        x: Float[Tensor, "ensemble time channels y x"],
        gains: Float[Tensor, "modes size 1 ensemble 1"],
    ) -> Float[Tensor, "ensemble time channels y x"]:
        """Return ``compose(slide(x) * gains)``.

        Between the ends each state takes the rows of its window's centre alone: that is a filter
        in time, the same at every state, and a product of Fourier transforms.
        """
        states, half, length = self.states, self.states // 2, x.shape[1]
        if length == states:
            return self.compose(self.slide(x) * gains)
        basis, (members, _, c) = self.basis.to(x), x.shape[:3]
        spectra = modes_of(x).permute(3, 4, 1, 2, 0, 5).flatten(0, 1)
        ends = torch.stack((spectra[:, :states], spectra[:, -states:]), 3).flatten(1, 2)
        first, last = _apply(basis, _apply(basis.mT, ends) * gains).unbind(2)
        first, last = first[:, : half * c], last[:, -half * c :]
        rows = basis[:, None, half * c : (half + 1) * c] * gains[:, :, 0, :, 0].mT[:, :, None]
        kernel = (rows.flatten(1, 2) @ basis.mT).view(len(basis), -1, c, states, c)
        # A circle of the trajectory's length is long enough: what meets across its ends is the
        # part that has no whole window.
        around = torch.fft.fft(kernel.flip(3).transpose(3, 4), length)
        in_time = torch.fft.fft(torch.view_as_complex(spectra).permute(0, 3, 2, 1))
        found = torch.fft.ifft((around * in_time[:, :, None]).sum(3))[..., states - 1 :]
        middle = torch.view_as_real(found).permute(0, 3, 2, 1, 4)
        parts = [first.unflatten(1, (-1, c)), middle, last.unflatten(1, (-1, c))]
        joined = torch.cat(parts, 1).flatten(1, 2)
        return self._fields(joined.unsqueeze(2)).view(-1, c, members, *self.grid).movedim(2, 0)

    def _shared(
        self,
        coefficients: Float[Tensor, "modes size windows ensemble 2"],
        shares: Float[Tensor, "ensemble states"],
    ) -> Float[Tensor, "modes time channels ensemble 2"]:
        spectra = _apply(self.basis.to(coefficients), coefficients)
        spectra = spectra.unflatten(1, (-1, self.channels)).movedim(3, 1)
        joined = spectra.new_zeros(())
        for e in range(self.states):
            # Window j has state j + e of the trajectory as its state e; the states at the ends,
            # which no window has there, are those of the first and the last one.
            parts = (spectra[:, 0, :e], spectra[:, :, e], spectra[:, -1, e + 1 :])
            joined = joined + shares[:, e, None] * torch.cat(parts, 1)
        return joined

    def gains(self, noise: Float[Tensor, "ensemble"]) -> tuple[Gains, Gains, Gains, Gains]:
        r"""Return F, S and the gains of the inputs: the denoised mean, and a white field.

        .. math:: \lambda / (\lambda + \nu^2), \quad \lambda^{1/2} / (\lambda + \nu^2),

        both over their root-mean-square: in the first large scales lead, in the second all
        scales that stand out of the noise are alike.
        """
        variance, squared = self.spectrum.to(noise)[:, :, None, None, None], noise.square()
        squared = squared[:, None]
        total = variance + squared
        linear = squared.sqrt() * (variance - 1) / (total * (1 + squared).sqrt())
        learned = (variance * (1 + squared) / total).sqrt()
        mean, white = variance / total, variance.sqrt() / total
        mean, white = (
            g / (g.square() * total).mean((0, 1), keepdim=True).sqrt() for g in (mean, white)
        )
        return linear, learned, mean, white

    def remaining(self, noise: Float[Tensor, "ensemble"]) -> Gains:
        r"""Variance of each direction given noise, :math:`\lambda \nu^2 / (\lambda + \nu^2)`."""
        variance, squared = self.spectrum.to(noise)[:, :, None, None, None], noise.square()
        return variance * squared[:, None] / (variance + squared[:, None])

    def _fields(
        self, spectra: Float[Tensor, "modes rows windows ensemble 2"]
    ) -> Float[Tensor, "rows windows ensemble y x"]:
        grid = spectra.unflatten(0, (self.grid[0], -1)).permute(2, 3, 4, 0, 1, 5)
        return fields_of(grid, self.grid[1])


def covariances(
    trajectories: Float[Tensor, "series time channels y x"], lags: int
) -> Float[Tensor, "lags modes channels channels"]:
    r"""Return :math:`E\, x_t x_{t + l}^T` of every wave number, for lags l below a number."""
    length, total = trajectories.shape[1], torch.zeros(())
    for part in trajectories.split(BLOCK):
        spectra, found = torch.view_as_complex(modes_of(part)).flatten(-2), []
        for modes in spectra.split(max(1, NUMBERS // spectra[..., 0].numel()), -1):
            # Padded, so that the end of a series does not meet its beginning.
            in_time = torch.fft.fft(modes, 2 * length, dim=1)
            power = torch.einsum("swcm,swdm->wmcd", in_time.conj(), in_time)
            found.append(torch.fft.ifft(power, dim=0)[:lags].real.double().cpu())
        total = total + torch.cat(found, 1)
    pairs = len(trajectories) * (length - torch.arange(lags))
    return total / pairs[:, None, None, None]


def _apply(matrices: Tensor, spectra: Tensor) -> Tensor:
    """One matrix per mode, over windows, members, real and imaginary parts."""
    return (matrices @ spectra.flatten(2)).unflatten(2, spectra.shape[2:])


def modes_of(fields: Float[Tensor, "... y x"]) -> Float[Tensor, "... y modes 2"]:
    """Orthonormal Fourier modes of real fields, real and imaginary parts last."""
    return torch.view_as_real(torch.fft.rfft2(fields, norm="ortho"))


def fields_of(modes: Float[Tensor, "... y modes 2"], columns: int) -> Float[Tensor, "... y x"]:
    """Real fields of Fourier modes; `columns` is the number of points along x."""
    shape = (modes.shape[-3], columns)
    return torch.fft.irfft2(torch.view_as_complex(modes.contiguous()), s=shape, norm="ortho")
