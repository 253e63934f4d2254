"""What figures show of a store that keeps a part of its ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from scorda.assimilation.dropped import stretches
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.metrics.calibration import quantiles
from scorda.observations.analysis import left
from scorda.reading.opening import readable
from scorda.report.base import Source, members_of, moments
from scorda.store.damage import telling
from scorda.store.keep import Kept, array_name
from scorda.store.members import Members
from scorda.store.posterior import Posterior

if TYPE_CHECKING:
    import xarray

__all__ = ["Band", "Partial", "drawn_of", "partial_of", "states_of"]

# Standard deviations on both sides of the mean of a Gaussian that hold 90 %.
GAUSSIAN = 1.645
# Levels of the ends and the middle of a band.
LEVELS = (0.05, 0.5, 0.95)


class Band(NamedTuple):
    """The middle and the ends of a band of one component, ``(steps,)`` each, and their names."""

    low: Tensor
    middle: Tensor
    high: Tensor
    words: str
    middle_words: str


@dataclass(frozen=True)
class Partial:
    """The members and statistics that a store keeps, on the axis of the steps that it keeps."""

    posterior: Posterior
    kept: Kept

    @property
    def space(self) -> StateSpace:
        """Space of the states."""
        return self.posterior.space

    @property
    def steps(self) -> range:
        """The steps that are kept."""
        return self.kept.steps[: self.kept.before(self.posterior.states)]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of members and of steps that are kept."""
        return self.kept.members, len(self.steps)

    @property
    def complete(self) -> bool:
        """Whether all members are kept."""
        return self.kept.members == int(self._dataset.attrs["members"])

    def has_moments(self, name: str) -> bool:
        """Return whether there are mean and standard deviation of a variable."""
        return name in self.kept.variables and (self._has("mean", "std") or self.complete)

    @property
    def has_quantiles(self) -> bool:
        """Whether there are the quantiles at the ends of a band."""
        return self._has("q05", "q95") or self.complete

    @property
    def has_band(self) -> bool:
        """Whether there is a band to draw."""
        return self.has_quantiles or self._has("mean", "std")

    def moments(self, name: str, cut: slice) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation at some of the kept steps, ``(steps, *grid)``."""
        if not self._has("mean", "std"):
            made = [moments(x, w) for x, w in self._left(name, cut)]
            return torch.cat([mean for mean, _ in made]), torch.cat([std for _, std in made])
        mean, std = (self._read(array_name(name, s), cut) for s in ("mean", "std"))
        return mean, std

    def members(self, name: str, cut: slice, shown: int) -> Float[Tensor, "ensemble steps ..."]:
        """Return the first members, as far as they are kept; there may be none."""
        grid = self.space.piece_of(name).grid
        if not self.kept.members:
            return torch.empty(0, len(range(*cut.indices(self.shape[1]))), *grid).double()
        return self._read(name, cut, min(shown, self.kept.members))

    def lines(self, name: str, entry: int, cut: slice) -> Float[Tensor, "ensemble steps"]:
        """Return an entry of the flattened field of a variable, of each member that is kept."""
        states = self.members(name, cut, self.kept.members)
        size = math.prod(self.space.piece_of(name).grid)
        return states.reshape(*states.shape[:2], size)[:, :, entry]

    def band(self, name: str, entry: int, cut: slice) -> Band:
        """Return the band of an entry of the flattened field of a variable."""

        def of(statistic: str) -> Tensor:
            values = self._read(array_name(name, statistic), cut)
            return values.reshape(len(values), -1)[:, entry]

        if self.complete:
            found = [
                torch.stack(quantiles(x.reshape(*x.shape[:2], -1)[..., [entry]], LEVELS, w))
                for x, w in self._left(name, cut)
            ]
            low, middle, high = torch.cat(found, 1)[..., 0]
            return Band(low, middle, high, "90 %", "median")
        if self._has("q05", "q95"):
            low, high = of("q05"), of("q95")
            circle = self.space.circular.get(name)
            if circle is not None:
                high = circle.near(high, low + circle.period / 2)
            for statistic, words in (("q50", "median"), ("mean", "mean")):
                if self._has(statistic):
                    middle = of(statistic)
                    if circle is not None:
                        middle = circle.near(middle, (low + high) / 2)
                    return Band(low, middle, high, "90 %", words)
            return Band(low, (low + high) / 2, high, "90 %", "middle of the band")
        mean, std = of("mean"), GAUSSIAN * of("std")
        return Band(mean - std, mean, mean + std, f"mean ± {GAUSSIAN:g} std", "mean")

    def first_left(self, name: str, place: int, number: int) -> dict[int, Tensor]:
        """Return the first members that are left at a kept step, by number, as far as kept."""
        there = self._there(slice(place, place + 1))[:, 0].nonzero()[:number, 0].tolist()
        found = self.members(name, slice(place, place + 1), 1 + max(there, default=-1))
        return {member: found[member, 0] for member in there}

    def _there(self, cut: slice) -> Bool[Tensor, "ensemble steps"]:
        """Return which of the kept members are left at some of the kept steps."""
        return left(self.kept.members, self.steps[cut], self.posterior.dropped)

    def _left(self, name: str, cut: slice) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the members that are left, and their weights, at one stretch of steps by another.

        All members are kept.
        """
        states = self.members(name, cut, self.kept.members)
        weights = self._read("weight", cut) if "weight" in self._dataset else None
        for steps, there in stretches(self._there(cut)):
            w = None if weights is None else weights[there, steps]
            # A run that was stopped has not written equal weights.
            w = None if w is None else w / w.sum(0)
            x, circle = states[there][:, steps], self.space.circular.get(name)
            yield x if circle is None else circle.unrolled(x, w), w

    @cached_property
    def _dataset(self) -> xarray.Dataset:
        return self.posterior.to_xarray()

    def _has(self, *statistics: str) -> bool:
        return set(statistics) <= set(self.kept.statistics)

    def _read(self, name: str, cut: slice, members: int | None = None) -> Tensor:
        field = self._dataset[name].isel(time=cut)
        field = field.isel(ensemble=slice(members)) if "ensemble" in field.dims else field
        with telling(self.posterior.path), readable(self.posterior.path, "a posterior"):
            return torch.from_numpy(field.values).double()


def partial_of(source: Source) -> Partial | None:
    """Return what a store keeps, if that is not the whole ensemble."""
    if not isinstance(source, Posterior) or source.kept is None or source.holds_all:
        return None
    return Partial(source, source.kept)


def drawn_of(source: Source) -> Members | Partial:
    """Return the members that a figure is drawn of, or what is kept of them."""
    return partial_of(source) or members_of(source)


def states_of(source: Source) -> int:
    """Return the number of states."""
    return source.states if isinstance(source, Posterior) else source.states.shape[1]
