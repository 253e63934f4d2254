"""One unit of work of a method, computed from its start or from where a kill has left it.

A filter is continued after any step, a smoother whose members are independent after any batch of
them. Any other method is one computation that cannot be cut: a kill costs all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.diagnostics import Statistics
from scorda.assimilation.dropped import equal_weights
from scorda.assimilation.filter import Filter
from scorda.assimilation.innovations import Innovations
from scorda.core import rng
from scorda.core.errors import RunError
from scorda.core.progress import Progress
from scorda.core.shapes import Tensor
from scorda.diffusion.batches import at_once
from scorda.observations.analysis import Analysis
from scorda.observations.problem import Problem
from scorda.store.checkpoints import Checkpoint
from scorda.store.ending import Ending
from scorda.store.reports import columns_of, scalars

__all__ = ["Computation", "MemberSampler", "Part"]

# Members of the first batch, which is doubled until it takes long enough.
BATCH = 16


@runtime_checkable
class MemberSampler(Protocol):
    """A smoother whose members are independent: member i is a function of (seed, i) alone.

    Its bits do not depend on the members that are drawn with it. Where members are independent in
    groups alone (`Assimilator.together`), it draws whole groups, and what a report holds as a
    series has its entries by group.
    """

    def assimilate_members(
        self, problem: Problem, first: int, last: int, generator: torch.Generator | None = None
    ) -> Analysis:
        """Draw members ``first`` to ``last - 1`` of the ensemble that belongs to the generator."""


@dataclass
class Part:
    """The states that a unit of work made, and the error that stopped it, if one did.

    Arguments:
        axis: Axis along which `states` are pieces: 0 for members, 1 for steps.
        states: Pieces of ``(ensemble, time, *state)``.
        weights: Pieces of ``(ensemble, time)``, of the last steps; none where all are equal.
        entries: Reports, one per cycle or one for all.
        carried: What a filter hands to the next unit.
        stopped: Error that stopped a filter.
        statistics: Those that complete the reports of a filter.
    """

    axis: int
    states: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    carried: dict[str, Tensor] | None = None
    stopped: RunError | None = None
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def made(self) -> int:
        """Steps or members so far."""
        return sum(piece.shape[self.axis] for piece in self.states)

    @property
    def report(self) -> dict[str, Any]:
        """Report of the unit, as its marker holds it."""
        return columns_of(self.settled()) | {"weighted": bool(self.weights)}

    def settled(self) -> list[dict[str, Any]]:
        """Return the reports complete, as JSON holds them."""
        self.statistics.settle()
        self.entries = [scalars(entry) for entry in self.entries]
        return self.entries

    def joined(self) -> tuple[Tensor | None, Tensor | None]:
        """Return states and weights as one tensor each, and keep them so."""
        if not self.states:
            return None, None
        self.states = [torch.cat(self.states, self.axis)]
        if not self.weights:
            return self.states[0], None
        # Members count alike until the first analysis that weighs them.
        weights = torch.cat(self.weights, 1)
        before = self.states[0].shape[1] - weights.shape[1]
        equal = equal_weights(self.states[0][:, :before], weights.dtype).to(weights.device)
        self.weights = [torch.cat([equal, weights], 1)]
        return self.states[0], self.weights[0]

    def save(self, saved: Checkpoint) -> None:
        """Save what there is."""
        states, weights = self.joined()
        assert states is not None
        tensors = {"states": states} | ({} if weights is None else {"weights": weights})
        tensors |= {f"carried.{name}": tensor for name, tensor in (self.carried or {}).items()}
        saved.save(tensors, {"entries": self.settled(), "carries": self.carried is not None})

    def load(self, saved: Checkpoint, device: torch.device | None) -> None:
        """Go on from what was saved, if there is something."""
        if (found := saved.load()) is None:
            return
        tensors, report = found
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.states, self.entries = [tensors["states"]], report["entries"]
        if "weights" in tensors:
            self.weights = [tensors["weights"]]
        if report["carries"]:
            carried = {n.removeprefix("carried."): t for n, t in tensors.items()}
            self.carried = {n: t for n, t in carried.items() if f"carried.{n}" in tensors}


@dataclass(frozen=True)
class Computation:
    """The computation of units of a run.

    Arguments:
        method: The method.
        problem: The problem.
        members: Number of members.
        seed: Seed of the run.
        total: Steps or members in all, for `progress`.
        progress: Called with the steps or members done so far and their total.
        after: End of the run that a filter goes on from.
        desroziers: Whether a filter reports the sums of `Innovations`.
    """

    method: Assimilator
    problem: Problem
    members: int
    seed: int
    total: int
    progress: Progress | None = None
    after: Ending | None = None
    desroziers: bool = False

    @property
    def start(self) -> Cycle | None:
        """What the first unit of a filter starts from; None: from draws, or initial members."""
        return None if self.after is None else self.after.cycle

    @property
    def device(self) -> torch.device | None:
        """Device of the states, as far as it is given."""
        if self.after is not None:
            return self.after.ensemble.device
        return None if self.problem.initial is None else self.problem.initial.device

    def __post_init__(self) -> None:
        if self.desroziers and not isinstance(self.method, Filter):
            raise ValueError(
                f"Got desroziers for {self.method.name}, which is no filter: leave it out."
            )

    def unit(
        self, first: int, last: int, start: Callable[[], Cycle | None], saved: Checkpoint
    ) -> Part:
        """Compute steps or members ``first`` to ``last - 1``.

        Arguments:
            first: First step or member.
            last: The one after the last.
            start: Returns the step before the first, for a filter; it is asked for where nothing
                was saved.
            saved: Where the work so far is kept.
        """
        if isinstance(self.method, Filter):
            return self._steps(self.method, first, last, start, saved)
        if isinstance(self.method, MemberSampler):
            return self._members(self.method, first, last, saved)
        analysis = self.method.assimilate(self.problem, self.members, rng.seeded(self.seed))
        weights = [] if analysis.weights is None else [analysis.weights]
        return Part(1, [analysis.states], weights, [scalars(analysis.info)])

    def _steps(
        self,
        method: Filter,
        first: int,
        last: int,
        start: Callable[[], Cycle | None],
        saved: Checkpoint,
    ) -> Part:
        """Run a filter up to the step before `last`, or to the one before it stops."""
        part = Part(1)
        part.load(saved, self.device)
        first_step = 0 if self.after is None else self.after.step
        before = _last_of(part, first) if part.states else start()
        weights = None if before is None else before.weights
        sums = Innovations(method, self.problem, weights) if self.desroziers else None
        try:
            generator = rng.seeded(self.seed)
            for cycle in method.run(self.problem, self.members, generator, before, first_step):
                part.states.append(cycle.ensemble[:, None])
                if cycle.weights is not None:
                    part.weights.append(cycle.weights[:, None])
                part.carried = cycle.carried
                if sums is not None:
                    cycle.report.update(sums.of(cycle))
                if cycle.forecast is not None:
                    part.entries.append(cycle.report)
                    part.statistics = cycle.statistics
                if cycle.step + 1 < last and saved.due:
                    part.save(saved)
                self._tell(cycle.step + 1)
                if cycle.step + 1 == last:
                    break
        except RunError as error:
            part.stopped = error
        return part

    def _members(self, method: MemberSampler, first: int, last: int, saved: Checkpoint) -> Part:
        """Draw members in batches of some seconds each: their bits do not depend on the batch."""
        part = Part(0)
        part.load(saved, self.device)
        batch = min(BATCH, at_once((self.problem.steps + 1, *self.problem.space.shape)))
        batch = -(-batch // self.method.together) * self.method.together
        while (low := first + part.made) < last:
            begin, high = time.monotonic(), min(low + batch, last)
            made = method.assimilate_members(self.problem, low, high, rng.seeded(self.seed))
            part.states.append(made.states)
            now = scalars(made.info)
            for key, value in (part.entries[0] if part.entries else {}).items():
                if key == "seconds" or isinstance(value, list):
                    now[key] = value + now[key]
            part.entries = [now]
            if high < last and saved.due:
                part.save(saved)
            self._tell(high)
            if time.monotonic() - begin < saved.every / 4:
                batch *= 2
        return part

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.total)


def _last_of(part: Part, first: int) -> Cycle:
    """Return the last step of a part that begins with the step `first`, to go on from."""
    states, weights = part.joined()
    assert states is not None
    last = None if weights is None else weights[:, -1].contiguous()
    step = first + part.made - 1
    return Cycle(step, states[:, -1].contiguous(), last, carried=part.carried)
