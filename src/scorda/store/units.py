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
import shutil
import time
from collections.abc import Callable, Mapping
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
from scorda.core.times import Start, parse_start
from scorda.observations.observations import Observations
from scorda.observations.problem import Analysis, Problem
from scorda.store import groups, layout
from scorda.store.circumstances import circumstances
from scorda.store.posterior import Posterior, info_path
from scorda.store.resume import prepare, progress_folder

__all__ = ["MemberSampler", "run", "settings_of"]

Progress = Callable[[int, int], None]


@runtime_checkable
class MemberSampler(Protocol):
    """A smoother whose members are independent: member i is a function of (seed, i) alone."""

    def assimilate_members(
        self, problem: Problem, first: int, last: int, generator: torch.Generator | None = None
    ) -> Analysis:
        """Members ``first`` to ``last - 1`` of the ensemble that belongs to the generator."""


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
    """Assimilate and store the posterior; returns it once it is complete.

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
    path = Path(path)
    if path.suffix != ".zarr":
        raise ValueError(f"Got the output {path}: its name must end in .zarr.")
    if block is not None and block < 1:
        raise ValueError(f"Got units of work of {block} steps or members: give at least 1.")
    check_needs(method, problem)
    if truth is not None and tuple(truth.shape) != (problem.steps + 1, *problem.space.shape):
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)} for {problem.steps} steps of states of "
            f"shape {problem.space.shape}: it needs one state more than steps."
        )
    record = json.dumps(
        {
            "configuration": dict(configuration or {}),
            "method": {"name": type(method).__name__, **settings_of(method)},
            "members": members,
            "seed": seed,
            "block": block,
            "start": None if start is None else str(parse_start(start)),
        },
        sort_keys=True,
    )
    plan = _plan(method, problem, members, block)
    work = _Run(method, problem, members, path, seed, plan, start)
    if prepare(path, work.folder, record, resume, overwrite):
        return Posterior(path)
    work.compute(record, truth, configuration or {}, progress)
    _finish(work, withheld)
    return Posterior(path)


@dataclass
class _Run:
    method: Assimilator
    problem: Problem
    members: int
    path: Path
    seed: int
    plan: layout.Plan
    start: Start | None

    @property
    def folder(self) -> Path:
        """Where the markers are while the run goes on."""
        return progress_folder(self.path)

    def marker(self, unit: int) -> Path:
        return self.folder / f"unit-{unit:06d}.json"

    def carried(self, unit: int) -> Path:
        """What a filter hands to the block after this one, beside its members."""
        return self.marker(unit).with_suffix(".safetensors")

    def compute(
        self,
        record: str,
        truth: Tensor | None,
        configuration: Mapping[str, Any],
        progress: Progress | None,
    ) -> None:
        """Do every unit that has no marker."""
        for unit in range(self.plan.units):
            if self.marker(unit).exists():
                continue
            begin = time.perf_counter()
            states, weights, report, carried = self._unit(unit, progress)
            stopped = report.pop("stopped", None)
            if states is not None:
                if not (self.folder / "created").exists():
                    self._create(states, truth, record, configuration)
                self._write(unit, states, weights)
            report |= {"seconds": time.perf_counter() - begin, "weighted": weights is not None}
            if stopped is not None:
                self._record_stop(unit, states, report, stopped)
                raise stopped
            if carried is not None:
                write_tensors(self.carried(unit), carried, {"kind": "carried"})
            layout.write_json(self.marker(unit), report)
            if progress is not None:
                progress(self.plan.bounds(unit)[1], self.plan.total)

    def _unit(
        self, unit: int, progress: Progress | None
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Any], dict[str, Tensor] | None]:
        """States and weights of a unit, its report, and what its method carries on.

        The report has the error that ``stopped`` it, if one did.
        """
        first, last = self.plan.bounds(unit)
        generator = rng.seeded(self.seed)
        if isinstance(self.method, Filter):
            start = self._stored(unit - 1) if unit else None
            states, weights, carried = [], [], None
            report: dict[str, Any] = {"cycles": []}
            try:
                for cycle in self.method.run(self.problem, self.members, generator, start):
                    states.append(cycle.ensemble)
                    weights.append(cycle.weights)
                    carried = cycle.carried
                    if cycle.info:
                        report["cycles"].append(_scalars(cycle.info))
                    if progress is not None:
                        progress(cycle.step + 1, self.plan.total)
                    if cycle.step + 1 == last:
                        break
            except RunError as error:
                report["stopped"] = error
            known = [w for w in weights if w is not None]
            joint = None
            if known:
                equal = torch.full_like(known[0], 1 / self.members)
                joint = torch.stack([equal if w is None else w for w in weights], 1)
            return torch.stack(states, 1) if states else None, joint, report, carried
        if isinstance(self.method, MemberSampler):
            analysis = self.method.assimilate_members(self.problem, first, last, generator)
        else:
            analysis = self.method.assimilate(self.problem, self.members, generator)
        return analysis.states, analysis.weights, {"report": _scalars(analysis.info)}, None

    def _record_stop(
        self, unit: int, states: Tensor | None, report: dict[str, Any], error: RunError
    ) -> None:
        """Note beside the store how far the run came, and why no further."""
        made = self.plan.bounds(unit)[0] + (0 if states is None else states.shape[1])
        if not made:
            return
        reports = [*(json.loads(self.marker(u).read_text()) for u in range(unit)), report]
        cycles = [cycle for part in reports for cycle in part["cycles"]]
        stopped = {
            "error": type(error).__name__,
            "reason": str(error),
            "step": error.step,
            "cycle": error.cycle,
            "members": list(error.members),
            "states": made,
        }
        record = {"stopped": stopped, "report": _columns(cycles)}
        layout.write_json(info_path(self.path), circumstances(reports) | record)
        error.add_note(f"Steps 0 to {made - 1} are in {self.path}.")

    def _stored(self, unit: int) -> Cycle:
        """The last step of a finished block, from which the next one starts."""
        step = self.plan.bounds(unit)[1] - 1
        root = zarr.open_group(self.path, mode="r")
        ensemble = groups.read_states(root, self.problem.space, step)
        if self.problem.initial is not None:
            ensemble = ensemble.to(self.problem.initial.device)
        weights = None
        if json.loads(self.marker(unit).read_text())["weighted"]:
            weights = torch.from_numpy(np.asarray(layout.array(root, "weight")[:, step]))
        carried = None
        if self.carried(unit).exists():
            carried = read_tensors(self.carried(unit))[0]
        return Cycle(step, ensemble, weights, carried=carried)

    def _create(
        self, states: Tensor, truth: Tensor | None, record: str, configuration: Mapping[str, Any]
    ) -> None:
        from scorda.core.version import __version__

        # The folder of markers comes first: from then on a kill leaves a run to resume.
        self.folder.mkdir(parents=True, exist_ok=True)
        problem = self.problem
        attributes = {
            "method": type(self.method).__name__,
            "conditioned_on": "all data" if self.method.smoother else "past data only",
            "settings": json.dumps(settings_of(self.method)),
            "members": self.members,
            "seed": self.seed,
            "system": str(getattr(problem.system, "name", type(problem.system).__name__)),
            "source": f"scorda {__version__}",
            "configuration": json.dumps(dict(configuration)),
        }
        dtype = states.detach().cpu().numpy().dtype
        shape = (self.members, problem.steps + 1)
        layout.create(self.path, problem.space, shape, dtype, self.plan, attributes, self.start)
        root = zarr.open_group(self.path, mode="r+")
        instruments = problem.instruments
        table = groups.observation_table(instruments, problem.space)
        groups.write_table(root, "observations", table)
        if truth is not None:
            groups.write_truth(root, truth, problem.space)
        layout.write_json(self.folder / "record.json", json.loads(record))
        layout.write_json(self.folder / "created", True)

    def _write(self, unit: int, states: Tensor, weights: Tensor | None) -> None:
        first, last = self.plan.bounds(unit)
        root, space = zarr.open_group(self.path, mode="r+"), self.problem.space
        values = states.detach().cpu().numpy()
        along_time = self.plan.axis == "time"
        if along_time:
            # Fewer than the block has where the run was stopped in it.
            last = first + values.shape[1]
        region = (slice(None), slice(first, last)) if along_time else (slice(first, last),)
        for i, name in enumerate(space.variables):
            layout.array(root, name)[region] = values[:, :, i] if space.has_channels else values
        if weights is not None:
            layout.write_weights(root, weights.detach().cpu().numpy(), first, self.plan)


def _plan(method: Assimilator, problem: Problem, members: int, block: int | None) -> layout.Plan:
    if isinstance(method, Filter):
        return layout.plan_steps(problem.space, members, problem.steps, block)
    if isinstance(method, MemberSampler):
        return layout.plan_members(members, block)
    return layout.plan_steps(problem.space, members, problem.steps, problem.steps + 1)


def _finish(work: _Run, withheld: tuple[Observations, ...]) -> None:
    root = zarr.open_group(work.path, mode="r+")
    if withheld:
        groups.write_withheld(root, work.problem.space, withheld)
    reports = [json.loads(work.marker(u).read_text()) for u in range(work.plan.units)]
    cycles = [cycle for report in reports for cycle in report.pop("cycles", [])]
    report = _columns(cycles) if cycles else _merged([r.pop("report", {}) for r in reports])
    layout.write_json(
        info_path(work.path),
        circumstances(reports) | {"report": report},
    )
    layout.complete(work.path)
    shutil.rmtree(work.folder)


def settings_of(made: Any) -> dict[str, Any]:
    """Settings of a method or of its parts, as far as they are plain."""
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
    """What of a report fits into a JSON file: numbers, text, and series of numbers."""
    kept: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, torch.Tensor):
            if value.ndim < 2:
                kept[key] = value.tolist()
        elif isinstance(value, str | int | float):
            kept[key] = value
        elif isinstance(value, list) and all(isinstance(v, int | float) for v in value):
            kept[key] = value
    return kept


def _columns(cycles: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for cycle in cycles for name in cycle)
    return {name: [cycle.get(name) for cycle in cycles] for name in names}


def _merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Reports of blocks of members: one as it is, several as a list per key."""
    return reports[0] if len(reports) == 1 else _columns(reports)
