"""Runs in units of work, each written in full or done again: a run survives any kill.

A filter is cut into blocks of steps; each is a function of the configuration and of the stored
last ensemble of the block before, with what the filter carries (the weights of a network). A
smoother whose members are independent is cut into blocks of members; any other method is one unit.
A marker per finished unit is written after its data, so that what is left to do after a kill is
the set of units without a marker. Within a unit the work so far is saved once a minute
(`scorda.store.checkpoints`), but for methods that are one computation.

A filter that diverges, or whose ensemble degenerates, leaves what it made before: the store opens
with the steps so far.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import zarr

from scorda.assimilation.base import Assimilator, check_needs
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.dropped import dropped
from scorda.assimilation.filter import Filter
from scorda.assimilation.memory import check_memory
from scorda.core.calendars import Start
from scorda.core.errors import RunError
from scorda.core.files import read_tensor
from scorda.core.ownership import named_as_given
from scorda.core.progress import Progress, heard, with_bar
from scorda.core.shapes import Float, Tensor
from scorda.core.times import time_axis
from scorda.observations.analysis import left
from scorda.observations.circular import check_circular
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.store import groups, layout, reports
from scorda.store.checkpoints import MINUTE, Checkpoint
from scorda.store.circumstances import circumstances
from scorda.store.computing import Computation, MemberSampler
from scorda.store.damage import info_path
from scorda.store.ending import Ending
from scorda.store.identity import identity
from scorda.store.keep import LAST, Keep, Kept
from scorda.store.layer import Layer
from scorda.store.outputs import Output, Whole
from scorda.store.posterior import Posterior
from scorda.store.records import settings_of, start_of
from scorda.store.resume import Work
from scorda.store.seals import write_json
from scorda.store.selection import Selection
from scorda.store.withheld import check_scored
from scorda.store.workers import Counted, Task, check_shard, do_shard, do_units
from scorda.systems.base import System
from scorda.systems.mapped import Mapped, unmapped

__all__ = ["MemberSampler", "forecasts_members", "run"]


@with_bar
def run(
    method: Assimilator,
    problem: Problem,
    members: int,
    path: str | Path,
    seed: int = 0,
    *,
    truth: Float[Tensor, "time ..."] | None = None,
    withheld: tuple[Observations, ...] = (),
    configuration: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_code: bool = False,
    start: Start | None = None,
    block: int | None = None,
    progress: Progress | bool | None = None,
    save_every: float = MINUTE,
    executor: Executor | None = None,
    shard: tuple[int, int] | None = None,
    keep: Keep | None = None,
    after: Ending | None = None,
    desroziers: bool = False,
) -> Posterior:
    """Assimilate and store the posterior, and return it once it is complete.

    The store has the same bytes for the same arguments and number of threads, whether the run was
    interrupted and resumed or not. Whoever kills a filter, or a smoother that draws its members
    in batches, loses a minute of work; of any other method, all of it.

    Arguments:
        method: The method.
        problem: The problem.
        members: Number of members.
        path: Store to write, named ``*.zarr``.
        seed: Seed of all randomness of the run.
        truth: True states, stored along for scores and figures.
        withheld: Observations that were kept back; what the members predict of them is stored.
        configuration: What to record with the store, of JSON types.
        resume: Continue a run that was interrupted; one that is complete is checked, and mended
            where it is damaged.
        overwrite: Replace what is at `path`, if Scorda wrote it.
        trust_code: Resume although classes or functions of your own are defined where there is no
            file (a notebook), or their file has changed.
        start: Datetime of step 0, where the times are to be datetimes.
        block: Steps (filter) or members (smoother) per unit of work.
        progress: Called with the steps or members done so far and their total; True: a bar.
        save_every: Seconds of work between two checkpoints inside a unit.
        executor: Engine for the work, any `concurrent.futures.Executor`: for units at the same
            time, of a smoother whose members are independent; for the forecasts of each member,
            of any other method, whose units follow from each other. The bytes do not depend on it.
        shard: Number of this process, from 0, and of all that do units of this store at the same
            time, with the same arguments. Whoever is the last completes it; `resume` is implied.
        keep: What to store of the ensemble, beside its last step (default: all of it).
        after: End of the stored run of this filter, of the same seed, to go on from: step 0 is
            that end, and the bytes are those of one run over both.
        desroziers: Whether a filter also reports what `scorda.assimilation.desroziers` needs.

    Raises:
        ValueError: If `path` is taken, or another run writes there, or the run to resume differs
            in anything that decides its numbers; or a method has no independent units to share; or
            there is not what is to be kept.
        WorkersLost: If the engine has lost workers; `resume` goes on.
        DivergenceError: If a filter diverges; the steps before are stored and can be read.
        DegenerateEnsemble: Likewise, if its ensemble has no spread.
    """
    calendar = problem.space.calendar
    first = 0 if after is None else after.step
    _check(method, problem, members, truth, block, first)
    if after is not None:
        after.check(method, problem, members, seed)
    for instrument in withheld:
        check_scored(instrument, keep is not None)
        check_circular(instrument, problem.space)
    kept = None if keep is None else _kept(keep, problem, members, withheld)
    # A wrong one is told before anything is computed.
    time_axis(problem.space, problem.steps + 1, start)
    alone = replace(problem, system=unmapped(problem.system))
    record = {
        "configuration": dict(configuration or {}),
        "method": {"name": type(method).__name__, **settings_of(method)},
        "members": members,
        "seed": seed,
        "block": block,
        "keep": None if kept is None else kept.as_json(),
        "start": start_of(start, calendar),
        **identity(
            method=method,
            system=alone.system,
            space=problem.space,
            observations=problem.instruments,
            initial=problem.initial,
            truth=truth,
            withheld=withheld or None,
        ),
        "steps": problem.steps,
    } | ({"desroziers": True} if desroziers else {})
    if after is not None:
        record["after"] = {"step": after.step, **identity(end=after.tensors)["sha256"]}
    plan = _plan(method, problem, members, block, kept)
    output: Output = Whole(problem.space, members, problem.steps + 1, plan, start)
    if kept is not None:
        steps = _step_plan(problem, members, None, kept) if plan.axis == "ensemble" else plan
        drops = getattr(problem.system, "drops", False)
        output = Selection(kept, problem.space, members, steps, start, truth, withheld, drops)
    layer = Layer(
        method, alone, members, seed, start, plan, truth, record, withheld, output, kept, first
    )
    work = Work(Path(path), record, layer.make, isinstance(method, Filter))
    problem = _over_workers(method, problem, executor, work)
    computation = Computation(
        method, problem, members, seed, plan.total, heard(progress), after, desroziers
    )
    if shard is not None:
        check_shard(method, shard, overwrite)
        task = _Run(layer, work, replace(computation, progress=None), save_every)
        told = Counted(plan, heard(progress))
        with named_as_given(path):
            do_shard(task, plan.units, shard, task.finish, trust_code, told)
        return Posterior(Path(path))
    with named_as_given(path), work.writing(resume, overwrite, trust_code) as unfinished:
        if unfinished:
            _Run(layer, work, computation, save_every).compute(executor)
    return Posterior(Path(path))


@dataclass(frozen=True)
class _Run(Task):
    layer: Layer
    work: Work
    computation: Computation
    save_every: float

    def compute(self, executor: Executor | None) -> None:
        """Do every unit that is not done yet, and complete the store."""
        plan, progress = self.layer.plan, self.computation.progress
        if executor is None or not isinstance(self.layer.method, MemberSampler):
            for unit in range(plan.units):
                # A unit that is done again may have those after it done again.
                if self.work.done(unit):
                    continue
                self.do(unit)
                if progress is not None:
                    progress(plan.bounds(unit)[1], plan.total)
        else:
            told = Counted(plan, progress)
            left = [unit for unit in range(plan.units) if not self.work.done(unit)]
            for unit in set(range(plan.units)) - set(left):
                told(unit)
            task = replace(self, computation=replace(self.computation, progress=None))
            for unit in do_units(task, left, executor):
                told(unit)
        self.finish()

    def finish(self) -> None:
        """Complete the store, once all units are done."""
        plan, work, layer = self.layer.plan, self.work, self.layer
        names = self._gather() if self._gathers else self._equal_weights()
        if layer.withheld and layer.kept is None:
            root = zarr.open_group(work.path, mode="r+")
            names += groups.write_withheld(root, layer.problem.space, layer.withheld)
        single = plan.units == 1 and not isinstance(self.layer.method, Filter)
        work.finish(plan.units, names, single)

    def do(self, unit: int) -> None:
        """Compute a unit, store it, and leave its marker."""
        begin, work = time.perf_counter(), self.work
        first, last = self.layer.plan.bounds(unit)
        saved = Checkpoint(work.checkpoint(unit), self.save_every, self._prepare)
        part = self.computation.unit(first, last, lambda: self._stored(unit - 1), saved)
        states, weights = part.joined()
        names: list[str] = []
        if states is not None:
            self._prepare(states)
            if not self._gathers:
                root = zarr.open_group(work.path, mode="r+")
                names = self.layer.output.write(root, first, states, weights)
        end = unit + 1 == self.layer.plan.units
        if end and part.carried and part.stopped is None:
            names += groups.write_carried(zarr.open_group(work.path, mode="r+"), part.carried)
        report = {"seconds": time.perf_counter() - begin, **part.report}
        system = self.computation.problem.system
        if states is not None and getattr(system, "drops", False):
            report |= reports.naming(dropped(states, first), system.dropped)
        if part.stopped is not None:
            self._record_stop(unit, report, first + part.made, part.stopped)
            raise part.stopped
        work.finish_unit(unit, names, report, self.layer.output.carried(part, end))

    @property
    def _gathers(self) -> bool:
        """Whether the end of the run makes the store, of what units of members have carried."""
        return self.layer.kept is not None and self.layer.plan.axis == "ensemble"

    def _gather(self) -> list[str]:
        """Write blocks of steps with all members, and return the names of their files."""
        names, root = [], zarr.open_group(self.work.path, mode="r+")
        output, units = self.layer.output, range(self.layer.plan.units)
        assert isinstance(output, Selection)
        for block in range(output.plan.units):
            parts = [read_tensor(self.work.carried(u), f"block.{block}") for u in units]
            first, _ = output.plan.bounds(block)
            names += output.write(root, first, torch.cat(parts), None)
        return names

    def _prepare(self, states: Tensor) -> None:
        """Make the store once there are states, whose type of number it has."""
        self.work.create(str(states.dtype).removeprefix("torch."))

    def _equal_weights(self) -> list[str]:
        """Write the weights of units in which all members count alike, if others have weights."""
        root, plan = zarr.open_group(self.work.path, mode="r+"), self.layer.plan
        names: list[str] = []
        if "weight" in root or f"{LAST}/weight" in root:
            lost: dict[int, int] = {}
            for unit in range(plan.units):
                report = self.work.report(unit)
                lost = reports.dropped(report) | lost
                if not report["weighted"]:
                    first, last = plan.bounds(unit)
                    there = left(self.layer.members, range(first, last), lost).double()
                    equal = (there / there.sum(0)).numpy()
                    names += self.layer.output.write_weights(root, equal, first)
        return names

    def _record_stop(self, unit: int, report: dict[str, Any], made: int, error: RunError) -> None:
        """Note beside the store how far the run came, and why no further."""
        if not made:
            return
        markers = [*map(self.work.report, range(unit)), report]
        columns, parts = reports.gathered(markers)
        stopped = {
            "error": type(error).__name__,
            "reason": str(error),
            "step": error.step,
            "cycle": error.cycle,
            "members": list(error.members),
            "states": made,
        }
        if self.layer.kept is not None:
            stopped["kept"] = self.layer.kept.before(made)
        info = circumstances(parts) | {"stopped": stopped, "report": columns}
        info |= reports.joined_names(parts)
        write_json(info_path(self.work.path), info)
        error.add_note(f"Steps 0 to {made - 1} are in {self.work.path}.")

    def _stored(self, unit: int) -> Cycle | None:
        """Read the last step of a finished block, from which the next one starts."""
        if unit < 0:
            return self.computation.start
        step = self.layer.plan.bounds(unit)[1] - 1
        work = self.work
        root = zarr.open_group(work.path, mode="r")
        cycle = self.layer.output.before(root, step, work.report(unit), work.carried(unit))
        return replace(cycle, ensemble=cycle.ensemble.to(self.computation.device))


def forecasts_members(method: Assimilator) -> bool:
    """Return whether a method makes steps of single members, which workers can do.

    Those that take the matrices of a system, or differentiate through it, advance it themselves.
    """
    apart = {"linear_system", "differentiable_system"}
    return not isinstance(method, MemberSampler) and not apart & set(method.needs)


def _over_workers(
    method: Assimilator, problem: Problem, executor: Executor | None, work: Work
) -> Problem:
    """Return the problem as its units need it: forecasts over workers, or none to be packed."""
    system = problem.system
    if isinstance(method, MemberSampler):
        return replace(problem, system=unmapped(system))
    if executor is not None and not isinstance(system, Mapped):
        if not isinstance(system, System) or not forecasts_members(method):
            raise ValueError(
                f"Got an executor for {method.name}, which has neither independent units nor "
                "forecasts of a System: leave it out."
            )
        system = Mapped(system, executor)
    if isinstance(system, Mapped):
        return replace(problem, system=system.through(work.folder / "exchange"))
    return problem


def _check(
    method: Assimilator,
    problem: Problem,
    members: int,
    truth: Tensor | None,
    block: int | None,
    first: int,
) -> None:
    if block is not None and block < 1:
        raise ValueError(f"Got units of work of {block} steps or members: give at least 1.")
    if members < 1:
        raise ValueError(f"Got members = {members}: give a whole number, at least 1.")
    check_needs(method, problem, first)
    check_memory(method, problem, members)
    if truth is not None and tuple(truth.shape) != (problem.steps + 1, *problem.space.shape):
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)} for {problem.steps} steps of states of "
            f"shape {problem.space.shape}: it needs one state more than steps."
        )


def _kept(keep: Keep, problem: Problem, members: int, withheld: tuple[Observations, ...]) -> Kept:
    if any(isinstance(step, tuple) for instrument in withheld for step in instrument.steps):
        raise ValueError(
            "Got observations of several steps that were kept back, which need all steps at once: "
            "leave them out, or keep all of the ensemble."
        )
    return keep.of(problem.space, members, problem.steps + 1)


def _plan(
    method: Assimilator, problem: Problem, members: int, block: int | None, kept: Kept | None
) -> layout.Plan:
    if isinstance(method, Filter):
        return _step_plan(problem, members, block, kept)
    if isinstance(method, MemberSampler):
        return layout.plan_members(members, block, method.together)
    return layout.plan_steps(problem.space, members, problem.steps, problem.steps + 1)


def _step_plan(
    problem: Problem, members: int, block: int | None, kept: Kept | None
) -> layout.Plan:
    """Return blocks of steps; those that nobody asked for hold whole numbers of kept steps."""
    plan = layout.plan_steps(problem.space, members, problem.steps, block)
    every = 1 if kept is None else kept.steps.step
    if block is not None or plan.size <= every:
        return plan
    return replace(plan, size=min(-(-plan.size // every) * every, plan.total))
