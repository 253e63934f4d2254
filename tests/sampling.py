"""A smoother whose members are independent, and a run of it, for tests of workers."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from scorda.assimilation.base import Assimilator
from scorda.core import rng
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.store import run
from scorda.systems.lorenz import Lorenz63


@dataclass(frozen=True)
class Drawing(Assimilator):
    """Draws noise; takes its time, and ends the process once where a file says so.

    Arguments:
        pause: Seconds per batch of members.
        ends: File; who removes it is killed, before the member `at`.
        at: Member.
        fails: Member at which an error is raised, or none.
    """

    pause: float = 0.0
    ends: Path | None = None
    at: int = 0
    fails: int = -1

    smoother = True

    def assimilate(self, problem, members, generator=None):
        return self.assimilate_members(problem, 0, members, generator)

    def assimilate_members(self, problem, first, last, generator=None):
        time.sleep(self.pause)
        if first <= self.at < last and self.ends is not None and self.ends.exists():
            self.ends.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if first <= self.fails < last:
            raise FloatingPointError(f"member {self.fails} fails")
        shape = (problem.steps + 1, *problem.space.shape)
        like = torch.empty(0)
        states = rng.normal_rows(rng.key(generator), first, last, shape, like)
        return Analysis(states, problem.space, info={"evaluations": 3})


def problem():
    model = ObservationModel(Select([0]), std=torch.tensor(1.0))
    return twin_experiment(Lorenz63(spinup=0.5), model, 8, every=4, generator=0)[1]


def draw(path, method=None, members=24, block=2, **options):
    """Make a store of twelve units."""
    return run(method or Drawing(), problem(), members, path, 5, block=block, **options)


def contents(path):
    """The bytes of a folder by file."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
