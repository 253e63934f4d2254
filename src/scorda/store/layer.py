"""The store of a run without its ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorda.assimilation.base import Assimilator
from scorda.core.calendars import Start
from scorda.core.shapes import Tensor
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.store import groups, layout
from scorda.store.keep import Kept
from scorda.store.outputs import Output
from scorda.store.records import settings_of

__all__ = ["Layer"]


@dataclass(frozen=True)
class Layer:
    """The store of a run without its ensemble.

    Arguments:
        method: The method.
        problem: The problem.
        members: Number of members.
        seed: Seed of the run.
        start: Datetime of step 0, where the times are to be datetimes.
        plan: Units of work.
        truth: True states.
        record: Settings of the run.
        withheld: Observations that were kept back.
        output: What is written of the states.
        kept: What is kept of them; None: all.
        first: Number of step 0 in the runs that this one goes on from.
    """

    method: Assimilator
    problem: Problem
    members: int
    seed: int
    start: Start | None
    plan: layout.Plan
    truth: Tensor | None
    record: Mapping[str, Any]
    withheld: tuple[Observations, ...]
    output: Output
    kept: Kept | None
    first: int = 0

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
        if self.first:
            attributes["first_step"] = self.first
        if self.kept is not None:
            attributes["keep"] = json.dumps(self.kept.as_json())
        root = layout.new_store(path, problem.space, layout.conventions() | attributes)
        self.output.make(root, np.dtype(dtype), weighted)
        table = groups.observation_columns(problem.instruments, problem.space)
        groups.write_table(root, "observations", table)
        if self.truth is not None:
            steps = range(problem.steps + 1) if self.kept is None else self.kept.steps
            kept = slice(steps.start, steps.stop, steps.step)
            groups.write_truth(root, self.truth, problem.space, self.start, kept)
        if self.withheld and self.kept is not None:
            # What members predict of them goes with the members.
            table = groups.observation_columns(self.withheld, problem.space)
            groups.write_table(root, "withheld", table)
