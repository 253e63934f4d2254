"""Runs in units of work, each written in full or done again: a run survives any kill.

A filter is cut into blocks of steps; each is a function of the configuration and of the stored
last ensemble of the block before, with what the filter carries (the weights of a network). A
smoother whose members are independent is cut into blocks of members; any other method is one unit.
A marker per finished unit is written after its data, so that what is left to do after a kill is
the set of units without a marker.

A filter that diverges, or whose ensemble degenerates, leaves what it made before: the store opens
with the steps so far.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import zarr

from scorda.assimilation.base import Assimilator, check_needs
from scorda.assimilation.filter import Cycle, Filter
from scorda.core import rng
from scorda.core.errors import RunError
from scorda.core.files import read_tensors, write_tensors
from scorda.core.shapes import Float, Tensor
from scorda.core.times import Start, iso, parse_start
from scorda.core.version import __version__
from scorda.observations.analysis import Analysis
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.store import groups, layout
from scorda.store.circumstances import circumstances
from scorda.store.posterior import Posterior, info_path
from scorda.store.resume import Work

__all__ = ["MemberSampler", "run", "settings_of"]

Progress = Callable[[int, int], None]


@runtime_checkable
class MemberSampler(Protocol):
    """A smoother whose members are independent: member i is a function of (seed, i) alone."""

    def assimilate_members(
        self, problem: Problem, first: int, last: int, generator: torch.Generator | None = None
    ) -> Analysis:
        """Draw members ``first`` to ``last - 1`` of the ensemble that belongs to the generator."""


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
    start: Start | None = None,
    block: int | None = None,
    progress: Progress | None = None,
) -> Posterior:
    """Assimilate and store the posterior, and return it once it is complete.

    The store has the same bytes for the same arguments and number of threads, whether the run was
    interrupted and resumed or not.

    Arguments:
        method: The method.
        problem: The problem.
        members: Number of members.
        path: Store to write, named ``*.zarr``.
        seed: Seed of all randomness of the run.
        truth: True states, stored along for scores and figures.
        withheld: Observations that were kept back; what the members predict of them is stored.
        configuration: What to record with the store, of JSON types.
        resume: Continue a run that was interrupted; one that is complete is left alone.
        overwrite: Replace what is at `path`.
        start: Datetime of step 0, where the times are to be datetimes.
        block: Steps (filter) or members (smoother) per unit of work.
        progress: Called with the steps or members done so far and their total.

    Raises:
        ValueError: If `path` is taken, or the run to resume had another configuration.
        DivergenceError: If a filter diverges; the steps before are stored and can be read.
        DegenerateEnsemble: Likewise, if its ensemble has no spread.
    """
    work, calendar = Work(Path(path)), problem.space.calendar
    _check(method, problem, truth, block)
    record = {
        "configuration": dict(configuration or {}),
        "method": {"name": type(method).__name__, **settings_of(method)},
        "members": members,
        "seed": seed,
        "block": block,
        "start": None if start is None else iso(parse_start(start, calendar), calendar),
    }
    if not work.prepare(record, resume, overwrite):
        plan = _plan(method, problem, members, block)
        made = _Run(method, problem, members, seed, start, plan, work)
        made.compute(record, truth, withheld, progress)
    return Posterior(work.path)


@dataclass
class _Part:
    """The states that a unit of work made, and the error that stopped it, if one did."""

    states: Tensor | None
    weights: Tensor | None
    report: dict[str, Any]
    carried: dict[str, Tensor] | None = None
    stopped: RunError | None = None


@dataclass(frozen=True)
class _Run:
    method: Assimilator
    problem: Problem
    members: int
    seed: int
    start: Start | None
    plan: layout.Plan
    work: Work

    def compute(
        self,
        record: dict[str, Any],
        truth: Tensor | None,
        withheld: tuple[Observations, ...],
        progress: Progress | None,
    ) -> None:
        """Do every unit that is not done yet, and complete the store."""
        for unit in range(self.plan.units):
            if self.work.done(unit):
                continue
            begin = time.perf_counter()
            part = self._unit(unit, progress)
            if part.states is not None:
                if not self.work.created:
                    with self.work.creating(record):
                        self._create(part.states, truth, record["configuration"])
                self._write(unit, part.states, part.weights)
            part.report |= {
                "seconds": time.perf_counter() - begin,
                "weighted": part.weights is not None,
            }
            if part.stopped is not None:
                self._record_stop(unit, part, part.stopped)
                raise part.stopped
            if part.carried is not None:
                write_tensors(self._carried(unit), part.carried, {"kind": "carried"})
            layout.write_json(self.work.marker(unit), part.report)
            if progress is not None:
                progress(self.plan.bounds(unit)[1], self.plan.total)
        if withheld:
            root = zarr.open_group(self.work.path, mode="r+")
            groups.write_withheld(root, self.problem.space, withheld)
        reports = self.work.reports(self.plan.units)
        cycles = [cycle for report in reports for cycle in report.get("cycles", [])]
        parts = cycles or [report.get("report", {}) for report in reports]
        whole = _columns(parts) if cycles or len(parts) > 1 else parts[0]
        self.work.finish(reports, report=whole)

    def _carried(self, unit: int) -> Path:
        """File of what a filter hands to the block after this one, beside its members."""
        return self.work.marker(unit).with_suffix(".safetensors")

    def _unit(self, unit: int, progress: Progress | None) -> _Part:
        first, last = self.plan.bounds(unit)
        generator = rng.seeded(self.seed)
        if isinstance(self.method, Filter):
            start = self._stored(unit - 1) if unit else None
            cycles = self.method.run(self.problem, self.members, generator, start)
            return self._block(cycles, last, progress)
        if isinstance(self.method, MemberSampler):
            analysis = self.method.assimilate_members(self.problem, first, last, generator)
        else:
            analysis = self.method.assimilate(self.problem, self.members, generator)
        return _Part(analysis.states, analysis.weights, {"report": _scalars(analysis.info)})

    def _block(self, cycles: Iterator[Cycle], last: int, progress: Progress | None) -> _Part:
        """Run a filter up to the step before `last`, or to the one before it stops."""
        part = _Part(None, None, {"cycles": []})
        states, weights = [], []
        try:
            for cycle in cycles:
                states.append(cycle.ensemble)
                weights.append(cycle.weights)
                part.carried = cycle.carried
                if cycle.info:
                    part.report["cycles"].append(_scalars(cycle.info))
                if progress is not None:
                    progress(cycle.step + 1, self.plan.total)
                if cycle.step + 1 == last:
                    break
        except RunError as error:
            part.stopped = error
        if states:
            part.states = torch.stack(states, 1)
        known = [w for w in weights if w is not None]
        if known:
            equal = torch.full_like(known[0], 1 / self.members)
            part.weights = torch.stack([equal if w is None else w for w in weights], 1)
        return part

    def _record_stop(self, unit: int, part: _Part, error: RunError) -> None:
        """Note beside the store how far the run came, and why no further."""
        made = self.plan.bounds(unit)[0] + (0 if part.states is None else part.states.shape[1])
        if not made:
            return
        reports = [*self.work.reports(unit), part.report]
        stopped = {
            "error": type(error).__name__,
            "reason": str(error),
            "step": error.step,
            "cycle": error.cycle,
            "members": list(error.members),
            "states": made,
        }
        report = _columns([cycle for part in reports for cycle in part["cycles"]])
        info = circumstances(reports) | {"stopped": stopped, "report": report}
        layout.write_json(info_path(self.work.path), info)
        error.add_note(f"Steps 0 to {made - 1} are in {self.work.path}.")

    def _stored(self, unit: int) -> Cycle:
        """Read the last step of a finished block, from which the next one starts."""
        step = self.plan.bounds(unit)[1] - 1
        root = zarr.open_group(self.work.path, mode="r")
        ensemble = groups.read_states(root, self.problem.space, step)
        if self.problem.initial is not None:
            ensemble = ensemble.to(self.problem.initial.device)
        weights, carried = None, None
        if json.loads(self.work.marker(unit).read_text())["weighted"]:
            weights = torch.from_numpy(np.asarray(layout.array(root, "weight")[:, step]))
        if self._carried(unit).exists():
            carried = read_tensors(self._carried(unit))[0]
        return Cycle(step, ensemble, weights, carried=carried)

    def _create(
        self, states: Tensor, truth: Tensor | None, configuration: Mapping[str, Any]
    ) -> None:
        problem, path = self.problem, self.work.path
        attributes = {
            "method": type(self.method).__name__,
            "conditioned_on": "all data" if self.method.smoother else "past data only",
            "settings": json.dumps(settings_of(self.method)),
            "members": self.members,
            "seed": self.seed,
            "system": str(getattr(problem.system, "name", type(problem.system).__name__)),
            "source": f"scorda {__version__}",
            "configuration": json.dumps(configuration),
        }
        dtype = states.detach().cpu().numpy().dtype
        shape = (self.members, problem.steps + 1)
        layout.create(path, problem.space, shape, dtype, self.plan, attributes, self.start)
        root = zarr.open_group(path, mode="r+")
        table = groups.observation_table(problem.instruments, problem.space)
        groups.write_table(root, "observations", table)
        if truth is not None:
            groups.write_truth(root, truth, problem.space, self.start)

    def _write(self, unit: int, states: Tensor, weights: Tensor | None) -> None:
        first, last = self.plan.bounds(unit)
        root, space = zarr.open_group(self.work.path, mode="r+"), self.problem.space
        values = space.masked(states).detach().cpu().numpy()
        # A run that was stopped in a block of steps has fewer than the block.
        along_time = self.plan.axis == "time"
        steps = slice(first, first + values.shape[1])
        region = (slice(None), steps) if along_time else (slice(first, last),)
        for name in space.variables:
            layout.array(root, name)[region] = space.field(values, name)
        if weights is not None:
            layout.write_weights(root, weights.detach().cpu().numpy(), first, self.plan)


def _check(method: Assimilator, problem: Problem, truth: Tensor | None, block: int | None) -> None:
    if block is not None and block < 1:
        raise ValueError(f"Got units of work of {block} steps or members: give at least 1.")
    check_needs(method, problem)
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


def settings_of(made: Any) -> dict[str, Any]:
    """Return the settings of a method or of its parts, as far as they are plain."""
    kept: dict[str, Any] = {}
    for field in fields(made) if is_dataclass(made) else ():
        value = getattr(made, field.name)
        if not field.init:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            kept[field.name] = {"name": type(value).__name__, **settings_of(value)}
        elif value is None or isinstance(value, str | int | float):
            kept[field.name] = value
        elif isinstance(value, tuple) and all(isinstance(v, str | int | float) for v in value):
            kept[field.name] = list(value)
    return kept


def _scalars(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a report that JSON can hold: numbers, text, and series of numbers."""
    kept: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, torch.Tensor) and value.ndim < 2:
            value = value.tolist()
        series = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        if series or isinstance(value, str | int | float):
            kept[key] = value
    return kept


def _columns(cycles: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for cycle in cycles for name in cycle)
    return {name: [cycle.get(name) for cycle in cycles] for name in names}
