r"""Emulators: a learned law of the next state given this one, in the place of a model.

A denoiser of pairs :math:`(x_k, x_{k+1})` that takes a noise level for each entry gives the
denoiser of :math:`p(x_{k+1} \mid x_k)`: the level of the first state is (nearly) zero,

.. math:: D(u, \nu; x_k) = E[x_{k+1} \mid x_k, \; x_{k+1} + \nu \varepsilon = u].

Such pairs are the start of the trajectories of any prior with levels per entry; the law of a
linear-Gaussian system, whose conditional law is known, is the oracle of the tests; and `train`
with ``transition=True`` learns the second half of pairs from noise-free first halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from scorda.core import rng
from scorda.core.calendars import Start
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import phases_of
from scorda.diffusion.denoisers import Denoiser, GaussianDenoiser, NetworkDenoiser
from scorda.diffusion.guidance import Guidance
from scorda.diffusion.samplers import Multistep, Sampler
from scorda.diffusion.transitions import KNOWN
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.read_off import guided_windows, window_of
from scorda.priors.trajectory import Prior, TrainedTrajectory, load
from scorda.systems.base import System

__all__ = ["Emulator", "NextDenoiser", "load_emulator"]

SAMPLER = Multistep(noise_levels=16, corrections=0, min_noise=2e-3, max_noise=20.0)


@dataclass(frozen=True, eq=False)
class NextDenoiser:
    """Denoiser of the next standardised state, of pairs whose first states are known.

    Arguments:
        pairs: Denoiser of pairs ``(ensemble, 2, *state)``, with a noise level per entry.
        known: First states, standardised, ``(ensemble, *state)``.
    """

    pairs: Denoiser
    known: Float[Tensor, "ensemble ..."]

    @property
    def limit(self) -> float | None:
        """Largest size of a component, where the denoiser of pairs has one."""
        return getattr(self.pairs, "limit", None)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        levels = torch.stack((torch.full_like(u, KNOWN), noise.to(u).expand(u.shape)), 1)
        return self.pairs.denoise(torch.stack((self.known.to(u), u), 1), levels)[:, 1]


@dataclass(frozen=True, eq=False)
class _Rows:
    """The states of one member together, so that their noise belongs to the member."""

    denoiser: Denoiser
    shape: tuple[int, ...]

    def denoise(self, u: Tensor, noise: Tensor) -> Tensor:
        flat = u.reshape(-1, *self.shape)
        return self.denoiser.denoise(flat, noise.reshape((1,) * flat.ndim)).view_as(u)


@dataclass(frozen=True, eq=False)
class Emulator(System):
    """A system whose steps are drawn from a prior: forecasts and filters without the model.

    A step draws the next state of each member from the law that the prior has of it, given the
    last one. The noise of member i is a function of the generator and i. Exact up to the steps of
    the sampler for the prior of a linear-Gaussian system; with a network as good as its training,
    and Markov: of the past it knows one state.

    The states of step 0 (`prior`) are those that a trained transition has kept of its record,
    drawn with replacement; of any other prior they are the first of windows that it draws. Where
    the record has a daily cycle they are moved to the time of day of step 0.

    A trained prior of whole trajectories is conditioned on the last state as SDA conditions it
    (`read_off`), which costs as much as SDA of one window.

    Arguments:
        law: A trained transition (``train(..., transition=True)``, ``scorda train
            --transition``), a prior of whole trajectories, or a `GaussianTrajectory` of one step.
        sampler: How a step is drawn. Default: in 17 evaluations for a trained transition and a
            `GaussianTrajectory`; for windows, and a transition of fields or of a ring, as the
            prior says.
        start: Datetime of step 0, which a law with a daily cycle needs.
        guidance: How the last state enters windows. Default: as the prior says, else as in SDA.

    Raises:
        ValueError: If the prior has a daily cycle and no `start` is given, or the start lies
            between two steps.
    """

    law: Prior
    sampler: Sampler | None = None
    start: Start | None = None
    guidance: Guidance | None = None
    now: int = field(default=0, repr=False, kw_only=True)
    space: StateSpace = field(init=False, repr=False)
    name: str = field(default="emulator", init=False, repr=False)
    stochastic = True

    def __post_init__(self) -> None:
        if self.law.annual is not None or self.law.clock:
            raise ValueError(
                "This prior has a yearly cycle, which an emulator does not have: train one with "
                "transition=True, or `scorda train --transition`."
            )
        if self.law.diurnal_mean is not None and self.start is None:
            raise ValueError(
                "This emulator has a daily cycle: say when step 0 is, with Emulator(prior, "
                "start=...), or --system.start in the shell."
            )
        object.__setattr__(self, "space", self.law.space)
        self._cycle(0)

    def at(self, step: int, members: Sequence[int] | None = None) -> Emulator:
        return self if self.law.diurnal_mean is None else replace(self, now=step)

    def check_start(self, start: Start, first: int = 0) -> None:
        """Check that a run begins at the time of day of a step.

        Raises:
            ValueError: If not.
        """
        if self.law.diurnal_mean is None or isinstance(start, float):
            # A model time is of no day.
            return
        assert self.start is not None
        phase = phases_of(self.start, first + 1, self.space)[first]
        if phases_of(start, 1, self.space)[0] != phase:
            raise ValueError(
                f"Got the start {start} for an emulator with a daily cycle, of which step {first} "
                f"is {first} steps after {self.start}: give both the same start (--start and "
                "--system.start in the shell)."
            )

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        start, space = self.law.start, self.space
        if start is None:
            states = window_of(self.law)
            law = self.law if self.start is None else self.law.starting(self.start, states)
            return space.filled(law.sample(members, states - 1, generator)[:, 0])
        drawn = start[(rng.uniform(members, (), generator, like=start) * len(start)).long()]
        if self.law.diurnal_mean is None:
            return drawn
        # They are kept as of the first time of day.
        moved = self._cycle(0) - self.law.diurnal_mean[0]
        return space.filled(space.bounded(space.unbounded(drawn) + moved.to(drawn)))

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        """Draw the next states; row i of the noise depends on the generator and i only."""
        shape = self.space.shape
        rows = x if x.ndim > len(shape) else x[None]
        flat = rows.reshape(-1, *shape)
        if self._of_windows:
            return self._read_off(flat, rows.shape[: rows.ndim - len(shape)], generator).view_as(x)
        denoiser = _Rows(self.next(flat), shape)
        sampler, process, inner = self._sampler, self.law.process, tuple(rows.shape[1:])
        noise = rng.normal(len(rows), inner, generator, like=x)
        with torch.no_grad():
            # From about the mean, which a deterministic sampler would otherwise never forget.
            level = process.noise_level(sampler.times(process)[0]).to(x)
            mean = denoiser.denoise(level * noise, level)
            start = (mean + level * noise) / (1 + level.square()).sqrt()
            z = sampler.sample(denoiser, process, inner, len(rows), generator, like=x, start=start)
        return self.in_units(z).view_as(x)

    def next(self, x: Float[Tensor, "ensemble *state"]) -> Denoiser:
        """Return the denoiser of the standardised next states of members.

        Raises:
            ValueError: If the prior is one of whole trajectories.
        """
        if self._of_windows:
            raise ValueError(
                "The steps of this emulator are read off windows of several states, so that the "
                "next state has no denoiser of its own: train a transition, or use `step`."
            )
        z = self._standardised(x)
        if isinstance(self.law, GaussianTrajectory):
            return _conditional(self.law, z)
        if isinstance(self.law, TrainedTrajectory):
            return NextDenoiser(NetworkDenoiser(self.law.network, self.law.limit), z)
        return NextDenoiser(self.law.denoiser(2), z)

    def _standardised(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the standardised anomalies of states."""
        x = self.law.space.unbounded(x)
        return self.law.standardisation.forward(x - self._cycle(self.now).to(x))

    def _read_off(
        self, x: Float[Tensor, "states ..."], leading: tuple[int, ...], generator: rng.Seed
    ) -> Float[Tensor, "states ..."]:
        """Draw the next states from windows of the prior; of each member with its own noise."""
        z = self._standardised(x)
        states = window_of(self.law), *self.space.shape
        denoiser = _Rows(guided_windows(self.law, z, self.guidance), states)
        sampler, members, inner = self._sampler, leading[0], (*leading[1:], *states)
        process = self.law.process
        with torch.no_grad():
            found = sampler.sample(denoiser, process, inner, members, generator, like=z)
        return self.in_units(found.reshape(-1, *states)[:, 1])

    def in_units(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return standardised next states to their units, 0 outside of the mask."""
        x = self.law.standardisation.inverse(z) + self._cycle(self.now + 1).to(z)
        return self.space.filled(self.law.space.bounded(x))

    @property
    def _sampler(self) -> Sampler:
        if self.sampler is not None:
            return self.sampler
        of_fields = self.law.start is not None and isinstance(self.law.sampler, Multistep)
        return self.law.sampler if of_fields or self._of_windows else SAMPLER

    @property
    def _of_windows(self) -> bool:
        """Whether a step is the second state of a window that is conditioned on its first."""
        trajectories = isinstance(self.law, TrainedTrajectory) and self.law.start is None
        return trajectories or not self.law.per_entry

    def _cycle(self, step: int) -> Float[Tensor, "..."]:
        """Return the mean of the time of day of a step, 0 where there is no daily cycle."""
        if self.law.diurnal_mean is None:
            return torch.zeros(())
        assert self.start is not None
        first = int(phases_of(self.start, 1, self.space)[0])
        return self.law.diurnal_mean[(first + step) % len(self.law.diurnal_mean)]


def load_emulator(file: str | Path, start: Start | None = None) -> Emulator:
    """Return the emulator of a file that `scorda train --transition` wrote, or of a prior.

    Arguments:
        file: The file, or the name of a shipped prior.
        start: Datetime of step 0, which one with a daily cycle needs.

    Raises:
        ValueError: If the file is damaged, or its prior cannot be conditioned on a state.
    """
    return Emulator(load(file), start=start)


def _conditional(law: GaussianTrajectory, z: Float[Tensor, "ensemble ..."]) -> GaussianDenoiser:
    r"""Return the exact law of the next state: mean :math:`m_1 + C_{10} C_{00}^+ (z - m_0)`."""
    if len(law.mean) != 2:
        raise ValueError(
            f"Got the law of {len(law.mean)} states: an Emulator takes that of two, "
            "GaussianTrajectory.of(system, steps=1)."
        )
    size, cov = law.space.size, law.cov
    gain = cov[size:, :size] @ torch.linalg.pinv(cov[:size, :size], hermitian=True)
    rest = cov[size:, size:] - gain @ cov[:size, size:]
    moved = (z - law.mean[0].to(z)).flatten(1) @ gain.mT.to(z)
    mean = law.mean[1].to(z) + moved.view_as(z)
    return GaussianDenoiser.from_cov(mean, 0.5 * (rest + rest.mT))
