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

import json
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from scorda.assimilation.base import Assimilator, check_needs
from scorda.assimilation.dropped import dropped
from scorda.assimilation.filter import Cycle, Filter
from scorda.assimilation.memory import check_memory
from scorda.core.errors import RunError
from scorda.core.files import read_tensors
from scorda.core.ownership import named_as_given
from scorda.core.shapes import Float, Tensor
from scorda.core.times import Start, iso, parse_start, time_axis
from scorda.observations.analysis import left
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.store import groups, layout, reports
from scorda.store.checkpoints import MINUTE, Checkpoint
from scorda.store.circumstances import circumstances
from scorda.store.computing import Computation, MemberSampler, Progress
from scorda.store.damage import info_path
from scorda.store.identity import identity
from scorda.store.posterior import Posterior
from scorda.store.records import settings_of
from scorda.store.resume import Work
from scorda.store.seals import write_json
from scorda.store.workers import Task, do_shard, do_units
from scorda.systems.base import System
from scorda.systems.mapped import Mapped, unmapped

__all__ = ["MemberSampler", "forecasts_members", "run"]


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
    progress: Progress | None = None,
    save_every: float = MINUTE,
    executor: Executor | None = None,
    shard: tuple[int, int] | None = None,
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
        progress: Called with the steps or members done so far and their total.
        save_every: Seconds of work between two checkpoints inside a unit.
        executor: Engine for the work, any `concurrent.futures.Executor`: for units at the same
            time, of a smoother whose members are independent; for the forecasts of each member,
            of any other method, whose units follow from each other. The bytes do not depend on it.
        shard: Number of this process, from 0, and of all that do units of this store at the same
            time, with the same arguments. Whoever is the last completes it; `resume` is implied.

    Raises:
        ValueError: If `path` is taken, or another run writes there, or the run to resume differs
            in anything that decides its numbers; or a method has no independent units to share.
        WorkersLost: If the engine has lost workers; `resume` goes on.
        DivergenceError: If a filter diverges; the steps before are stored and can be read.
        DegenerateEnsemble: Likewise, if its ensemble has no spread.
    """
    calendar = problem.space.calendar
    _check(method, problem, members, truth, block)
    # A wrong one is told before anything is computed.
    time_axis(problem.space, problem.steps + 1, start)
    alone = replace(problem, system=unmapped(problem.system))
    record = {
        "configuration": dict(configuration or {}),
        "method": {"name": type(method).__name__, **settings_of(method)},
        "members": members,
        "seed": seed,
        "block": block,
        "start": None if start is None else iso(parse_start(start, calendar), calendar),
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
    }
    plan = _plan(method, problem, members, block)
    layer = _Layer(method, alone, members, seed, start, plan, truth, record)
    work = Work(Path(path), record, layer.make, isinstance(method, Filter))
    problem = _over_workers(method, problem, executor, work)
    computation = Computation(method, problem, members, seed, plan.total, progress)
    if shard is not None:
        _check_shard(method, shard, overwrite)
        task = _Run(layer, work, replace(computation, progress=None), save_every)
        told = _Counted(plan, progress)
        with named_as_given(path):
            do_shard(task, plan.units, shard, lambda: task.finish(withheld), trust_code, told)
        return Posterior(Path(path))
    with named_as_given(path), work.writing(resume, overwrite, trust_code) as unfinished:
        if unfinished:
            _Run(layer, work, computation, save_every).compute(withheld, executor)
    return Posterior(Path(path))


@dataclass(frozen=True)
class _Layer:
    """The store of a run without its ensemble."""

    method: Assimilator
    problem: Problem
    members: int
    seed: int
    start: Start | None
    plan: layout.Plan
    truth: Tensor | None
    record: Mapping[str, Any]

    def make(self, path: Path, dtype: str, weighted: bool) -> None:
        """Make the store at a path, which is a function of the record alone."""
        problem, system = self.problem, self.problem.system
        attributes = {
            "method": type(self.method).__name__,
            "conditioned_on": "all data" if self.method.smoother else "past data only",
            "settings": json.dumps(settings_of(self.method)),
            "members": self.members,
            "seed": self.seed,
            "system": str(getattr(system, "name", type(system).__name__)),
            "configuration": json.dumps(self.record["configuration"]),
        }
        shape = (self.members, problem.steps + 1)
        kind = np.dtype(dtype)
        layout.create(path, problem.space, shape, kind, self.plan, attributes, self.start)
        root = zarr.open_group(path, mode="r+")
        table = groups.observation_table(problem.instruments, problem.space)
        groups.write_table(root, "observations", table)
        if self.truth is not None:
            groups.write_truth(root, self.truth, problem.space, self.start)
        if weighted:
            layout.create_weights(root, self.members, self.plan)


@dataclass(frozen=True)
class _Run(Task):
    layer: _Layer
    work: Work
    computation: Computation
    save_every: float

    def compute(self, withheld: tuple[Observations, ...], executor: Executor | None) -> None:
        """Do every unit that is not done yet, and complete the store."""
        plan, progress = self.layer.plan, self.computation.progress
        left = [unit for unit in range(plan.units) if not self.work.done(unit)]
        if executor is None or not isinstance(self.layer.method, MemberSampler):
            for unit in left:
                self.do(unit)
                if progress is not None:
                    progress(plan.bounds(unit)[1], plan.total)
        else:
            told = _Counted(plan, progress)
            for unit in set(range(plan.units)) - set(left):
                told(unit)
            task = replace(self, computation=replace(self.computation, progress=None))
            for unit in do_units(task, left, executor):
                told(unit)
        self.finish(withheld)

    def finish(self, withheld: tuple[Observations, ...]) -> None:
        """Complete the store, once all units are done."""
        plan, work = self.layer.plan, self.work
        names = self._equal_weights()
        if withheld:
            root = zarr.open_group(work.path, mode="r+")
            names += groups.write_withheld(root, self.layer.problem.space, withheld)
        single = plan.units == 1 and not isinstance(self.layer.method, Filter)
        work.finish(plan.units, names, single)

    def do(self, unit: int) -> None:
        """Compute a unit, store it, and leave its marker."""
        begin, work = time.perf_counter(), self.work
        first, last = self.layer.plan.bounds(unit)
        saved = Checkpoint(work.checkpoint(unit), self.save_every, self._prepare)
        part = self.computation.unit(first, last, lambda: self._stored(unit - 1), saved)
        states, weights = part.joined()
        names = []
        if states is not None:
            self._prepare(states)
            names = self._write(first, states, weights)
        report = {"seconds": time.perf_counter() - begin, **part.report}
        system = self.computation.problem.system
        if states is not None and getattr(system, "drops", False):
            report |= reports.naming(dropped(states, first), system.dropped)
        if part.stopped is not None:
            self._record_stop(unit, report, first + part.made, part.stopped)
            raise part.stopped
        work.finish_unit(unit, names, report, part.carried)

    def _prepare(self, states: Tensor) -> None:
        """Make the store once there are states, whose type of number it has."""
        if not self.work.created:
            self.work.create(str(states.dtype).removeprefix("torch."))

    def _equal_weights(self) -> list[str]:
        """Write the weights of units in which all members count alike, if others have weights."""
        root, plan = zarr.open_group(self.work.path, mode="r+"), self.layer.plan
        names: list[str] = []
        if "weight" in root:
            lost: dict[int, int] = {}
            for unit in range(plan.units):
                report = self.work.report(unit)
                lost = reports.dropped(report) | lost
                if not report["weighted"]:
                    first, last = plan.bounds(unit)
                    there = left(self.layer.members, range(first, last), lost).double()
                    equal = (there / there.sum(0)).numpy()
                    names += layout.write_weights(root, equal, first, last)
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
        info = circumstances(parts) | {"stopped": stopped, "report": columns}
        info |= reports.joined_names(parts)
        write_json(info_path(self.work.path), info)
        error.add_note(f"Steps 0 to {made - 1} are in {self.work.path}.")

    def _stored(self, unit: int) -> Cycle | None:
        """Read the last step of a finished block, from which the next one starts."""
        if unit < 0:
            return None
        step = self.layer.plan.bounds(unit)[1] - 1
        root, problem = zarr.open_group(self.work.path, mode="r"), self.layer.problem
        ensemble = groups.read_states(root, problem.space, step)
        if problem.initial is not None:
            ensemble = ensemble.to(problem.initial.device)
        marker = self.work.report(unit)
        weights, carried = None, None
        if marker["weighted"]:
            weights = torch.from_numpy(np.asarray(layout.array(root, "weight")[:, step]))
        if marker["carried"]:
            carried = read_tensors(self.work.carried(unit))[0]
        return Cycle(step, ensemble, weights, carried=carried)

    def _write(self, first: int, states: Tensor, weights: Tensor | None) -> list[str]:
        """Write the states of a unit, and return the names of their files."""
        plan, space = self.layer.plan, self.layer.problem.space
        root = zarr.open_group(self.work.path, mode="r+")
        values = space.masked(states).detach().cpu().numpy()
        # A run that was stopped in a block of steps has fewer than the block.
        along = 1 if plan.axis == "time" else 0
        cut = slice(first, first + values.shape[along])
        region = (slice(None), cut) if along else (cut,)
        names = []
        for name in space.variables:
            stored = layout.array(root, name)
            stored[region] = space.field(values, name)
            names += layout.chunks_of(stored, region)
        if weights is not None:
            if "weight" not in root:
                layout.create_weights(root, self.layer.members, plan)
            made = weights.detach().cpu().numpy()
            names += ["weight/zarr.json", *layout.write_weights(root, made, first, cut.stop)]
        return names


@dataclass
class _Counted:
    """Tells `progress` how much is done by units that are finished in any order."""

    plan: layout.Plan
    progress: Progress | None
    done: int = 0

    def __call__(self, unit: int) -> None:
        first, last = self.plan.bounds(unit)
        self.done += last - first
        if self.progress is not None:
            self.progress(self.done, self.plan.total)


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


def _check_shard(method: Assimilator, shard: tuple[int, int], overwrite: bool) -> None:
    index, count = shard
    if not 0 <= index <= count or count < 1:
        raise ValueError(f"Got the shard {index}/{count}: count from 0/n to n-1/n, or 1/n to n/n.")
    if not isinstance(method, MemberSampler):
        raise ValueError(
            f"The units of {method.name} follow from each other, so that processes cannot share "
            "them: give the forecasts workers with an executor instead of a shard."
        )
    if overwrite:
        raise ValueError(
            "Got overwrite with a shard, of which each would remove the others' work."
        )


def _check(
    method: Assimilator, problem: Problem, members: int, truth: Tensor | None, block: int | None
) -> None:
    if block is not None and block < 1:
        raise ValueError(f"Got units of work of {block} steps or members: give at least 1.")
    check_needs(method, problem)
    check_memory(method, problem, members)
    if truth is not None and tuple(truth.shape) != (problem.steps + 1, *problem.space.shape):
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)} for {problem.steps} steps of states of "
            f"shape {problem.space.shape}: it needs one state more than steps."
        )


def _plan(method: Assimilator, problem: Problem, members: int, block: int | None) -> layout.Plan:
    if isinstance(method, Filter):
        return layout.plan_steps(problem.space, members, problem.steps, block)
    if isinstance(method, MemberSampler):
        return layout.plan_members(members, block)
    return layout.plan_steps(problem.space, members, problem.steps, problem.steps + 1)
