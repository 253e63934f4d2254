r"""The measurement-aware process: data become a measurement of themselves, not plain noise.

In the modes of an observation (see `modes`) every coordinate is its own channel,

.. math:: x_t \mid x_0 \sim N(A x_0, \Sigma), \quad A = a + (1 - a) c, \quad
    \Sigma = \frac{s^2}{1 + q r}, \quad r = \frac{a^2}{1 - a^2},

with the amplitude a falling from 1 at t = 0 to 0 at t = 1, a gain c and a standard deviation s
for each mode. At t = 1 the law of x is that of the measurement :math:`c x_0 + N(0, s^2)`. With
q = 1 this is the process of MASF, :math:`\Sigma = s^2 (1 - a^2)`; q > 1 runs the clock of a mode
faster. Divided by A the process reads :math:`x_0 + \nu \varepsilon` with a noise level
:math:`\nu = \Sigma^{1/2} / A` for each entry, as a `Denoiser` with levels per entry takes it.

**When it is a diffusion.** With F = A'/A and :math:`G G^T = \Sigma' - 2 F \Sigma` the noise has to
grow, :math:`G G^T = A^2 (\nu^2)' \ge 0`. At q = 1 that is :math:`a c + 1 - c \ge 0`: for all a in
[0, 1] if and only if :math:`0 \le c \le 1`. A gain c > 1 needs a negative diffusion wherever
:math:`a < 1 - 1/c`, and with c < 0 the amplitude A passes through 0 at :math:`a = -c / (1 - c)`.
Such a process is refused.

**In the spectral form**, which the `bridge` walks, the gains are 1 for an observed mode, with
:math:`s^2 = 1 / \lambda`, and 0 for the others, with :math:`s^2 = P` of the order of the prior
variance: valid for every linear operator, of any norm, and any R. The precision of what x_t tells
of x_0, :math:`\kappa = A^2 / \Sigma`, is then

.. math:: \kappa = \lambda + (\lambda + 1 / P) \, r \quad (\lambda > 0), \qquad
    \kappa = r / P \quad (\lambda = 0),

with :math:`q = 1 + 1 / (\lambda P)`. So every mode, however precisely it is observed, resolves at
the same r of about 1: the posterior variance of a mode alone is :math:`1 / (\lambda + 1 / P)`.

Sources: the process, its schedule and the condition for a diagonal H: MASF (arXiv 2604.02889),
as its public code has it; the spectral form and the clock q are our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.process import ForwardProcess

__all__ = ["MeasurementAware"]


@dataclass(frozen=True, eq=False)
class MeasurementAware(ForwardProcess):
    r"""Forward process towards a measurement, diagonal in the modes.

    Amplitude :math:`a(t) = \cos(\tfrac{\pi}{2} \tfrac{t + o}{1 + o}) /
    \cos(\tfrac{\pi}{2} \tfrac{o}{1 + o})` with the offset o. All coefficients have the shape
    ``(1, *shape)`` for a scalar t and ``(ensemble, *shape)`` for one t per member.

    Arguments:
        gain: c of each mode, in [0, 1], shape ``(*shape)``.
        std: s of each mode, positive.
        speed: q of each mode, at least 1.
        offset: o; MASF's code has 0.008.

    Raises:
        ValueError: If a gain is outside [0, 1], with the remedy; if `std` or `speed` is.
    """

    gain: Float[Tensor, "..."]
    std: Float[Tensor, "..."]
    speed: Float[Tensor, "..."] | float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        self._check_gain()
        if not (self.std > 0).all() or not torch.isfinite(self.std).all():
            raise ValueError(
                f"Got a std of {float(self.std.min()):g} for a mode of the process: it must be "
                "positive and finite."
            )
        if not (torch.as_tensor(self.speed) >= 1).all() or self.offset < 0:
            raise ValueError(
                f"Got speed = {self.speed}, offset = {self.offset}: need speed >= 1 and "
                "offset >= 0."
            )

    def _check_gain(self) -> None:
        # Of a matrix that is an orthogonal projection but for rounding.
        slack = 1e3 * torch.finfo(self.gain.dtype).eps
        largest, smallest = float(self.gain.max()), float(self.gain.min())
        if largest > 1 + slack:
            reason = f"GG^T would be negative wherever a(t) < {1 - 1 / largest:.3g}"
            worst = largest
        elif smallest < -slack:
            reason = f"A(t) would vanish at a(t) = {-smallest / (1 - smallest):.3g}"
            worst = smallest
        else:
            return
        raise ValueError(
            f"Got the eigenvalue {worst:.6g} of H: {reason}, which is no diffusion; the process "
            "needs eigenvalues in [0, 1]. Use MASF, whose modes are valid for every linear "
            "operator, or multiply H, y and the error by one number that brings the eigenvalues "
            "there."
        )

    def amplitude(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The amplitude a(t), shape of t."""
        return torch.cos(self._angle(t)) / math.cos(self._start)

    def snr(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The signal-to-noise ratio r(t) = a^2 / (1 - a^2), shape of t."""
        return torch.cos(self._angle(t)).square() / self._rest(t)

    def time(self, snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Diffusion time at which the signal-to-noise ratio is r, shape of r."""
        squared = math.cos(self._start) ** 2 / (1 + snr)
        sine = (math.sin(self._start) ** 2 + squared).sqrt()
        angle = torch.atan2(sine, (snr * squared).sqrt())
        return (angle - self._start) * 2 / math.pi * (1 + self.offset)

    def scale(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A, shape ``(1 or ensemble, *shape)``."""
        a = self._spread(self.amplitude(t))
        return a + (1 - a) * self.gain.to(a)

    def var(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # s^2 (1 - a^2) / (1 - a^2 + q a^2), which has no 0 / 0 at either end.
        signal = self._spread(torch.cos(self._angle(t)).square())
        rest = self._spread(self._rest(t))
        speed = torch.as_tensor(self.speed).to(rest)
        return self.std.to(rest).square() * rest / (rest + speed * signal)

    def precision(self, snr: Float[Tensor, ""]) -> Float[Tensor, "..."]:
        r"""Precision :math:`\kappa = A^2 / \Sigma` of x_t / A about x_0 where the ratio is r.

        Exact also at r = 0, the end of the process, where it is that of the measurement.
        """
        a = (snr / (1 + snr)).sqrt()
        scale = a + (1 - a) * self.gain.to(snr)
        return (scale / self.std.to(snr)).square() * (1 + torch.as_tensor(self.speed) * snr)

    def drift(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """F = A' / A; where the gain is 0 it is infinite at t = 1."""
        return self._spread(self._slope(t)) * (1 - self.gain) / self.scale(t)

    def diffusion(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""G G^T, differentiated by hand; at q = 1 equation 2.2 of the module's source.

        .. math:: -a' \left[ \frac{2 a q s^2}{(1 + (q - 1) a^2)^2} +
            2 \Sigma \frac{1 - c}{A} \right]
        """
        a, slope = self._spread(self.amplitude(t)), self._spread(self._slope(t))
        grown = 2 * a * self.speed * (self.std / (1 + (self.speed - 1) * a**2)).square()
        return -slope * (grown + 2 * self.var(t) * (1 - self.gain) / self.scale(t))

    @property
    def _start(self) -> float:
        return 0.5 * math.pi * self.offset / (1 + self.offset)

    def _angle(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * (t + self.offset) / (1 + self.offset)

    def _rest(self, t: Tensor) -> Tensor:
        """cos^2(start) - cos^2(angle), which is (1 - a^2) cos^2(start), without cancellation."""
        angle = self._angle(t)
        return torch.sin(angle - self._start) * torch.sin(angle + self._start)

    def _slope(self, t: Tensor) -> Tensor:
        rate = 0.5 * math.pi / (1 + self.offset)
        return -rate * torch.sin(self._angle(t)) / math.cos(self._start)

    def _spread(self, per_member: Tensor) -> Tensor:
        """Append the axes of the state to a value per member, or to one for all."""
        return per_member.reshape(-1, *(1,) * self.gain.ndim)
