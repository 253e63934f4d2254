r"""Two-dimensional incompressible flow on a periodic square, pseudo-spectral in vorticity.

The velocity :math:`(u, v)` on :math:`[0, 2 \pi)^2` obeys

.. math:: \partial_t (u, v) + (u, v) \cdot \nabla (u, v) = -\nabla p + \nu \nabla^2 (u, v)
    - \mu (u, v) + (A \sin(m y), 0), \quad \nabla \cdot (u, v) = 0 .

Its curl is the equation of the vorticity :math:`\omega = \partial_x v - \partial_y u`, in which
advection takes two products only (Basdevant 1983, J. Comput. Phys. 50, with the signs of the curl
written out):

.. math:: \partial_t \omega = (\partial_{yy} - \partial_{xx})(u v)
    + \partial_{xy} (u^2 - v^2) + \nu \nabla^2 \omega - \mu \omega - A m \cos(m y) .

The mean velocity is not in the vorticity. Advection conserves it and the force has no mean, so
that it decays as :math:`e^{-\mu t}`; the entry at wave number 0, where a vorticity has nothing,
carries it as :math:`\bar u + i \bar v`.

Spectra are coefficients of :math:`e^{i (k_x x + k_y y)}`, shape ``(..., k + 1, resolution)``: rows
are :math:`k_x = 0, \dots, k`, columns :math:`k_y` in the order of the FFT. Only the wave numbers
up to the largest k with 3 k < resolution are kept (the 2/3 rule): products of two such fields are
free of aliasing in all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from scorda.core.shapes import Complex, Float, Tensor
from scorda.systems.base import along

__all__ = ["PeriodicFlow"]

# Largest Courant number of a substep, (|u| + |v|) k h. RK4 is stable up to 2.83, and
# this bound is not reached: no flow is uniform and fastest along both axes.
COURANT = 2.6
# A substep is halved at most this often; faster states diverge, and whoever stepped them is told.
HALVINGS = 6
# Grid points of one chunk of members on a CPU: its fields stay in the cache.
CHUNK = 2**17


class _Factors(NamedTuple):
    """Symbols of the operators for each wave number, and factors of one substep."""

    velocity: Tensor
    product: Tensor
    difference: Tensor
    force: Tensor
    half: Tensor


@dataclass(frozen=True)
class PeriodicFlow:
    r"""Solver of the equation above for spectra; members are independent of each other.

    Arguments:
        resolution: Grid points per axis.
        viscosity: :math:`\nu`.
        drag: :math:`\mu`.
        force: A.
        wavenumber: m, at most what the resolution keeps.
        speed: Largest :math:`|u| + |v|` that the usual number of substeps is made for.

    Viscosity, drag and force may be tensors ``(members,)``, with a value for each member.
    """

    resolution: int
    viscosity: float | Float[Tensor, "members"]
    drag: float | Float[Tensor, "members"]
    force: float | Float[Tensor, "members"]
    wavenumber: int
    speed: float

    @property
    def largest(self) -> int:
        """Largest wave number kept along each axis."""
        return (self.resolution - 1) // 3

    def substeps(self, time: float) -> int:
        """Return the number of substeps that flows of the usual speeds take."""
        return max(1, math.ceil(time * self.speed * self.largest / COURANT))

    def spectrum(self, velocity: Float[Tensor, "... 2 n n"]) -> Complex[Tensor, "... k columns"]:
        """Return the spectrum of the divergence-free part of velocities on n x n points."""
        n = velocity.shape[-1]
        kept = min((n - 1) // 2, self.largest)
        u, v = torch.fft.rfft2(velocity.mT, dim=(-1, -2), norm="forward").unbind(-3)
        kx, ky = _wavenumbers(n, n // 2, u)
        vorticity = 1j * (kx * v - ky * u)
        vorticity[..., 0, 0] = torch.complex(u[..., 0, 0].real, v[..., 0, 0].real)
        return _resized(vorticity, kept, self.largest + 1, self.resolution)

    def velocity(
        self, spectrum: Complex[Tensor, "... k columns"], size: int
    ) -> Float[Tensor, "... 2 size size"]:
        """Return velocities at the points 2 pi j / size, of the wave numbers below size / 2."""
        both = torch.stack(self._velocity(spectrum).unbind(0), -3)
        kept = min((size - 1) // 2, self.largest)
        return self._points(_resized(both, kept, kept + 1, size), size).mT

    def integrate(
        self, spectrum: Complex[Tensor, "members k columns"], time: float
    ) -> Complex[Tensor, "members k columns"]:
        """Advance by `time`, with as many substeps as the speed of each member needs."""
        if spectrum.device.type == "cpu":
            chunk = max(1, CHUNK // self.resolution**2)
            parts = [slice(first, first + chunk) for first in range(0, len(spectrum), chunk)]
            return torch.cat([self._of(p)._integrate(spectrum[p], time) for p in parts])
        return self._integrate(spectrum, time)

    def wavenumbers(
        self, spectrum: Complex[Tensor, "... k columns"]
    ) -> Float[Tensor, "k columns"]:
        """Return the length of the wave vector of each entry of a spectrum."""
        kx, ky = _wavenumbers(self.resolution, self.largest, spectrum)
        return torch.hypot(*torch.broadcast_tensors(kx, ky))

    def _integrate(self, w: Tensor, time: float) -> Tensor:
        usual = self.substeps(time)
        with torch.no_grad():
            speed = self._grid(w).abs().sum(0).amax((-2, -1))
        ratio = time * speed * self.largest / (COURANT * usual)
        halvings = ratio.log2().ceil().nan_to_num(0.0, HALVINGS, 0.0).clamp(0, HALVINGS)
        counts = sorted(set(halvings.tolist()))
        if len(counts) == 1:
            return self._substeps(w, time, usual * 2 ** int(counts[0]))
        result = torch.empty_like(w)
        for count in counts:
            rows = halvings == count
            result[rows] = self._of(rows)._substeps(w[rows], time, usual * 2 ** int(count))
        return result

    def _of(self, rows: slice | Tensor) -> PeriodicFlow:
        """Return the solver of some of the members."""
        own: dict[str, Any] = {name: value[rows] for name, value in _own(self).items()}
        return replace(self, **own)

    def _substeps(self, w: Tensor, time: float, steps: int) -> Tensor:
        r"""RK4 of :math:`e^{-L t} \omega`, L being viscosity and drag, which are thus exact."""
        h = time / steps
        factors = _factors(self, h, w.dtype, w.device)
        half = factors.half
        for _ in range(steps):
            k1 = half * self._tendency(w, factors)
            w = half * w
            k2 = self._tendency(torch.add(w, k1, alpha=h / 2), factors)
            k3 = self._tendency(torch.add(w, k2, alpha=h / 2), factors)
            k4 = self._tendency(half * torch.add(w, k3, alpha=h), factors)
            w = torch.add(w, k1, alpha=h / 6).add(k2 + k3, alpha=h / 3)
            w = torch.add(half * w, k4, alpha=h / 6)
        return w

    def _tendency(self, w: Tensor, factors: _Factors) -> Tensor:
        """Return the change by advection and force."""
        u, v = self._grid(w)
        product = self._coefficients(u * v)
        difference = self._coefficients(torch.addcmul(u * u, v, v, value=-1))
        forced = torch.addcmul(factors.force, factors.product, product)
        return torch.addcmul(forced, factors.difference, difference)

    def _velocity(self, w: Tensor) -> Tensor:
        """Coefficients of u and v, shape ``(2, ..., k + 1, columns)``."""
        symbol = _factors(self, 0.0, w.dtype, w.device).velocity
        return symbol.view(2, *(1,) * (w.ndim - 2), *w.shape[-2:]) * w

    def _grid(self, w: Tensor) -> Tensor:
        """Velocities on the solver's grid, shape ``(2, ..., x, y)``."""
        return self._points(self._velocity(w), self.resolution)

    def _points(self, x: Tensor, size: int) -> Tensor:
        """Return the fields ``(..., x, y)`` of coefficients."""
        columns = torch.fft.ifft(x, dim=-1, norm="forward")
        return torch.fft.irfft(columns, n=size, dim=-2, norm="forward")

    def _coefficients(self, x: Tensor) -> Tensor:
        """Return coefficients of fields in the rows kept; the symbols cut the columns."""
        rows = torch.fft.rfft(x, dim=-2, norm="forward")[..., : self.largest + 1, :]
        return torch.fft.fft(rows, dim=-1, norm="forward")


def _own(flow: PeriodicFlow) -> dict[str, Tensor]:
    """Return the settings of which each member has a value of its own."""
    return {name: value for name, value in vars(flow).items() if isinstance(value, Tensor)}


def _factors(flow: PeriodicFlow, h: float, dtype: torch.dtype, device: torch.device) -> _Factors:
    """Return the factors, those of each member where members differ."""
    if not _own(flow):
        return _common_factors(flow, h, dtype, device)
    alike = _common_factors(replace(flow, viscosity=0.0, drag=0.0, force=1.0), 0.0, dtype, device)
    kx, ky = _wavenumbers(flow.resolution, flow.largest, alike.half)
    viscosity, drag, force = (along(v, 2) for v in (flow.viscosity, flow.drag, flow.force))
    decay = -(viscosity * (kx.square() + ky.square()) + drag) * h / 2
    return alike._replace(force=alike.force * force, half=alike.half * decay.exp())


@lru_cache(maxsize=32)
def _common_factors(
    flow: PeriodicFlow, h: float, dtype: torch.dtype, device: torch.device
) -> _Factors:
    """Return the factors; they are computed once per substep length, precision and device."""
    # Kept for later calls, which may want gradients.
    with torch.inference_mode(False):
        return _make_factors(flow, h, dtype, device)


def _make_factors(
    flow: PeriodicFlow, h: float, dtype: torch.dtype, device: torch.device
) -> _Factors:
    """Compute the factors in double precision, whatever the precision of the result."""
    n, kept = flow.resolution, flow.largest
    kx, ky = _wavenumbers(n, kept, torch.zeros((), dtype=torch.complex128))
    inside = ky.abs() <= kept
    square = kx.square() + ky.square()
    inverse = inside / square.clamp(min=1)
    velocity = torch.stack((1j * ky * inverse, -1j * kx * inverse))
    # The mean velocity: the transform to real values takes the real part of this entry.
    velocity[:, 0, 0] = torch.tensor([1, -1j])
    force = torch.zeros(kept + 1, n, dtype=torch.float64)
    force[0, [flow.wavenumber, -flow.wavenumber]] = -flow.force * flow.wavenumber / 2
    factors = _Factors(
        velocity=velocity,
        product=inside * (kx.square() - ky.square()),
        difference=inside * (-kx * ky),
        force=force,
        half=inside * torch.exp(-(flow.viscosity * square + flow.drag) * h / 2),
    )
    return _Factors(*(f.to(device, dtype) for f in factors))


def _wavenumbers(n: int, kept: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return a column of k_x up to `kept`, and a row of k_y in the order of the FFT."""
    dtype, device = like.real.dtype, like.device
    rows = torch.arange(kept + 1, dtype=dtype, device=device)
    return rows[:, None], torch.fft.fftfreq(n, 1 / n, dtype=dtype, device=device)


def _resized(x: Tensor, kept: int, rows: int, columns: int) -> Tensor:
    """Pad the coefficients up to `kept` along both axes with zeros to so many rows and columns."""
    x = x[..., : kept + 1, :]
    gap = x.new_zeros(*x.shape[:-1], columns - 2 * kept - 1)
    x = torch.cat((x[..., : kept + 1], gap, x[..., x.shape[-1] - kept :]), -1)
    return torch.nn.functional.pad(x, (0, 0, 0, rows - kept - 1))
