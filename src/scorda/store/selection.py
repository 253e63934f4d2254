"""What is written of a run that keeps a part of its ensemble (`scorda.store.keep.Keep`).

All of it is made of a block of steps with all members: statistics, the first members, the sums of
scores, and of the last step the whole ensemble. So the units of a filter write their steps, and
carry their last ensemble to the next unit. Units of members carry all their states instead, of
which the end of the run makes the store, block by block of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from scorda.assimilation.cycle import Cycle
from scorda.assimilation.dropped import present, stretches
from scorda.core.calendars import Start
from scorda.core.files import read_tensors
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.core.times import time_axis
from scorda.observations.analysis import Analysis
from scorda.observations.circular import predicted
from scorda.observations.observations import Observations
from scorda.store import layout
from scorda.store.computing import Part
from scorda.store.groups import observation_table
from scorda.store.keep import LAST, MEMBER, TIME, Kept, array_name
from scorda.store.members import InMemory, Members
from scorda.store.outputs import Output, create_weights
from scorda.store.statistics import attributes, statistics
from scorda.store.sums import SUMMED, as_members, state_sums, truth_sums
from scorda.store.withheld import QUANTITIES, kinds_of, row_sums

__all__ = ["Selection"]

ENSEMBLE, WEIGHTS, CARRIED = "ensemble", "weights", "carried."


@dataclass(frozen=True)
class Selection(Output):
    """A part of an ensemble, and statistics of all of it.

    Arguments:
        kept: What is kept.
        space: Space of the states.
        members: Number of members of the run.
        plan: Blocks of steps.
        start: Datetime of step 0, where the times are to be datetimes.
        truth: True states, ``(time, *state)``, or None.
        withheld: Observations that were kept back, of single steps.
        drops: Whether the run may drop members; else one that is NaN makes what is kept NaN.
    """

    kept: Kept
    space: StateSpace
    members: int
    plan: layout.Plan
    start: Start | None
    truth: Tensor | None
    withheld: tuple[Observations, ...]
    drops: bool

    def make(self, root: zarr.Group, dtype: np.dtype, weighted: bool) -> None:
        space, kept, plan = self.space, self.kept, self._kept_plan
        times, attrs = time_axis(space, kept.states, self.start)
        if kept.members:
            leading = {"ensemble": kept.members, "time": len(kept.steps)}
            layout.create_states(root, space, kept.variables, leading, dtype, plan)
        for name in kept.variables:
            piece = space.piece_of(name)
            full, dims = (len(kept.steps), *piece.grid), ("time", *piece.axes)
            for statistic in kept.statistics:
                about = attributes(space, name, statistic)
                made = array_name(name, statistic)
                layout.create_array(root, made, full, dtype, plan, dims, about)
        some = "time", times[list(kept.steps)], attrs
        layout.write_coordinates(root, space, ("ensemble", kept.members), some)
        last, leading = root.create_group(LAST), {MEMBER: self.members}
        layout.create_states(last, space, space.variables, leading, dtype, self._last_plan, TIME)
        end = TIME, np.asarray(times[-1]), attrs | {"standard_name": "time"}
        layout.write_coordinates(last, space, (MEMBER, self.members), end)
        self._make_scores(root, times, attrs)
        if weighted:
            self._make_weights(root)

    def write(
        self, root: zarr.Group, first: int, states: Tensor, weights: Tensor | None
    ) -> list[str]:
        states = states.detach().cpu()
        weights = None if weights is None else weights.detach().cpu()
        end, names = first + states.shape[1], []
        if weights is not None:
            if "weight" not in root[LAST]:  # type: ignore[operator]
                self._make_weights(root)
            names += [f"{LAST}/weight/zarr.json"]
            names += ["weight/zarr.json"] if "weight" in root else []
        inside, cut = self.kept.within(first, end)
        if cut.start < cut.stop:
            some = None if weights is None else weights[:, inside]
            names += self._write_kept(root, cut, states[:, inside], some)
        if self._has_scores:
            names += self._write_scores(root, first, states, weights)
        if end == self.kept.states:
            last = None if weights is None else weights[:, -1]
            names += self._write_last(root, states[:, -1], last)
        return names

    def write_weights(self, root: zarr.Group, weights: np.ndarray, first: int) -> list[str]:
        last = first + weights.shape[1]
        names, (inside, cut) = [], self.kept.within(first, last)
        if "weight" in root and cut.start < cut.stop:
            stored, some = layout.array(root, "weight"), weights[: self.kept.members, inside]
            names += layout.write_region(stored, (slice(None), cut), some)
        if last == self.kept.states:
            names += layout.write_region(layout.array(root, f"{LAST}/weight"), (), weights[:, -1])
        return names

    def carried(self, part: Part, end: bool) -> dict[str, Tensor] | None:
        states, weights = part.joined()
        assert states is not None
        if part.axis == 0:
            # By blocks of steps, of which the end of the run reads one at a time.
            blocks = map(self.plan.bounds, range(self.plan.units))
            return {f"block.{i}": states[:, a:b] for i, (a, b) in enumerate(blocks)}
        if end:
            return None
        found = {ENSEMBLE: states[:, -1]}
        found |= {} if weights is None else {WEIGHTS: weights[:, -1]}
        return found | {f"{CARRIED}{name}": t for name, t in (part.carried or {}).items()}

    def before(self, root: zarr.Group, step: int, marker: dict[str, Any], carried: Path) -> Cycle:
        found = read_tensors(carried)[0]
        ensemble, weights = found.pop(ENSEMBLE), found.pop(WEIGHTS, None)
        more = {name.removeprefix(CARRIED): tensor for name, tensor in found.items()}
        return Cycle(step, ensemble, weights, carried=more or None)

    @cached_property
    def _kept_plan(self) -> layout.Plan:
        """Blocks of kept steps, none of which lies in two blocks of steps."""
        size, every = len(self.kept.steps), self.kept.steps.step
        if self.plan.units > 1:
            size = min(size, self.plan.size // every) if self.plan.size % every == 0 else 1
        return layout.Plan("time", size, len(self.kept.steps))

    @property
    def _last_plan(self) -> layout.Plan:
        return layout.Plan(MEMBER, self.members, self.members)

    @property
    def _has_scores(self) -> bool:
        return self.truth is not None or bool(self.withheld)

    @cached_property
    def _table(self) -> dict[str, np.ndarray]:
        return observation_table(self.withheld, self.space)

    @cached_property
    def _true(self) -> Members | None:
        if self.truth is None:
            return None
        return InMemory(Analysis(self.truth.detach().cpu()[None], self.space))

    def _make_weights(self, root: zarr.Group) -> None:
        """Make the arrays of weights, of which a run that was killed here has one already."""
        kept, last = self.kept, root[LAST]
        assert isinstance(last, zarr.Group)
        if kept.members and "weight" not in root:
            leading = {"ensemble": kept.members, "time": len(kept.steps)}
            create_weights(root, leading, self.members, self._kept_plan)
        create_weights(last, {MEMBER: self.members}, self.members, self._last_plan)

    def _make_scores(self, root: zarr.Group, times: np.ndarray, attrs: dict[str, str]) -> None:
        """Make the group of sums by step, from which scores follow."""
        if not self._has_scores:
            return
        group, number = root.create_group("scores"), np.dtype("float64")
        plan, about = replace(self.plan, axis="step"), {"coordinates": TIME}
        layout.write_array(group, "step", np.arange(len(times)), ["step"], {})
        layout.write_array(group, TIME, times, ["step"], attrs | {"standard_name": "time"})
        labels: dict[str, list[str]] = {}
        if self.truth is not None:
            labels |= {"variable": list(self.space.variables), "quantity": list(SUMMED)}
            about |= {"long_name": "sums over the points where there is a truth"}
            shape, dims = (*map(len, labels.values()), len(times)), (*labels, "step")
            layout.create_array(group, "states", shape, number, plan, dims, about)
        if self.withheld:
            kinds = kinds_of(self._table)[0]
            names = [f"{name}, instrument {i + 1}" for i, name in kinds]
            more = {"observed_quantity": list(QUANTITIES), "kind": names}
            about |= {"long_name": "sums over the values that were kept back"}
            shape, dims = (*map(len, more.values()), len(times)), (*more, "step")
            layout.create_array(group, "observations", shape, number, plan, dims, about)
            labels |= more
        for name, values in labels.items():
            text = np.array(values, dtype=np.dtypes.StringDType())
            layout.write_array(group, name, text, [name], {})

    def _write_kept(
        self, root: zarr.Group, cut: slice, states: Tensor, weights: Tensor | None
    ) -> list[str]:
        """Write members and statistics of kept steps, whose places among these are `cut`."""
        names, region = [], (slice(None), cut)
        number = self.kept.members
        if number:
            values = self.space.masked(states[:number]).numpy()
            for name in self.kept.variables:
                stored = layout.array(root, name)
                names += layout.write_region(stored, region, self.space.field(values, name))
        if number and weights is not None:
            stored = layout.array(root, "weight")
            names += layout.write_region(stored, region, weights[:number].numpy())
        pieces = list(self._present(states, weights))
        for name in self.kept.variables if self.kept.statistics else ():
            parts = [statistics(some, name, self.kept.statistics) for _, some in pieces]
            for statistic in self.kept.statistics:
                made = torch.cat([part[statistic] for part in parts]).to(states.dtype)
                stored = layout.array(root, array_name(name, statistic))
                names += layout.write_region(stored, (cut,), made.numpy())
        return names

    def _write_last(self, root: zarr.Group, states: Tensor, weights: Tensor | None) -> list[str]:
        values, names = self.space.masked(states).numpy(), []
        for name in self.space.variables:
            stored = layout.array(root, f"{LAST}/{name}")
            names += layout.write_region(stored, (), self.space.field(values, name))
        if weights is not None:
            stored = layout.array(root, f"{LAST}/weight")
            names += layout.write_region(stored, (), weights.numpy())
        return names

    def _write_scores(
        self, root: zarr.Group, first: int, states: Tensor, weights: Tensor | None
    ) -> list[str]:
        """Write the sums of the steps from `first` on."""
        names, steps = [], states.shape[1]
        pieces = list(self._present(states, weights))
        if self._true is not None:
            found = []
            for cut, some in pieces:
                low, high = first + cut.start, first + cut.stop
                true = as_members(self._true.states(slice(low, high))[0], self.space)
                sums, more = state_sums(some, true), truth_sums(true)
                rows = [torch.stack([*sums[n].values(), *more[n]]) for n in self.space.variables]
                found.append(torch.stack(rows))
            stored = layout.array(root, "scores/states")
            region = (slice(None), slice(None), slice(first, first + steps))
            names += layout.write_region(stored, region, torch.cat(found, 2).numpy())
        if self.withheld:
            found = [self._held(first + cut.start, some) for cut, some in pieces]
            stored = layout.array(root, "scores/observations")
            region = (slice(None), slice(None), slice(first, first + steps))
            names += layout.write_region(stored, region, torch.cat(found, 2).numpy())
        return names

    def _held(self, first: int, members: InMemory) -> Tensor:
        """Return the sums over values kept back, ``(quantities, kinds, steps)``."""
        (number, steps), table = members.shape, self._table
        kinds, kind = kinds_of(table)
        here = (table["step"] >= first) & (table["step"] < first + steps)
        states, weights = self.space.filled(members.analysis.states), members.analysis.weights
        made = [
            predicted(
                model.operator,
                states[:, at],
                self.space,
                y,
                None if weights is None else weights[:, at],
            )
            for instrument in self.withheld
            for k, step in enumerate(instrument.steps)
            if isinstance(step, int) and 0 <= (at := step - first) < steps
            if instrument.observed(k)
            for y, model in [instrument.at(k)]
        ]
        if not made:
            return torch.zeros(len(QUANTITIES), len(kinds), steps, dtype=torch.float64)
        rows = {n: torch.from_numpy(table[n][here]).double() for n in ("value", "std")}
        step = torch.from_numpy(table["step"][here]) - first
        w = torch.full((number, 1), 1 / number, dtype=torch.float64).expand(number, len(step))
        if weights is not None:
            w = (weights / weights.sum(0))[:, step]
        place = kind[torch.from_numpy(here)] * steps + step
        found = torch.cat([part.flatten(1) for part in made], 1)
        return row_sums(rows, found, w, place, len(kinds) * steps).view(-1, len(kinds), steps)

    def _present(self, states: Tensor, weights: Tensor | None) -> Iterator[tuple[slice, InMemory]]:
        """Yield blocks of steps at which the same members are left, with these alone."""
        left = torch.ones(states.shape[:2], dtype=torch.bool)
        if self.drops:
            left = torch.stack([present(self.space, x) for x in states.unbind(1)], 1)
        for cut, some in stretches(left):
            x = states[:, cut] if some.all() else states[some][:, cut]
            of = None if weights is None else weights[some][:, cut]
            yield cut, InMemory(Analysis(x, self.space, of))
