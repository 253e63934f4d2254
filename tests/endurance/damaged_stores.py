"""Stores with one file damaged: what `--resume` and reading make of them.

``python tests/endurance/damaged_stores.py 200`` tries 200 cases, drawn at random of all kinds of
runs, of files and of damage, and counts what was right, what ended in one sentence, and what was
wrong.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from scorda import store
from scorda.assimilation.base import Assimilator
from scorda.assimilation.filter import PreparedFilter, Run
from scorda.core import rng
from scorda.methods.enkf import EnKF
from scorda.methods.particle import ParticleFilter
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.store.series import read_series, simulate_series
from scorda.systems.lorenz import Lorenz63, Lorenz96

STEPS, MEMBERS = 23, 6
# Steps, members or series after which runs are stopped, in the middle of a unit.
AFTER = {"members": 36, "series": 16, "kept-members": 36}


class Memory(Run):
    """A run that pulls members to the mean of what it has seen, which it carries."""

    def __init__(self):
        self.seen = torch.zeros(2)

    def analyse(self, forecast, y, model, generator=None):
        self.seen = self.seen + torch.tensor([1.0, float(y.mean())])
        pull = 0.1 * (self.seen[1] / self.seen[0] - forecast.mean())
        return forecast + pull, {"carried": {"seen": self.seen}, "count": float(self.seen[0])}

    def restore(self, carried):
        self.seen = carried["seen"]


@dataclass(frozen=True)
class Carrying(PreparedFilter):
    """A filter whose analyses carry something."""

    def begin(self, problem, weights=None):
        return Memory()


@dataclass(frozen=True)
class Members(Assimilator):
    """A smoother whose members are rows of noise."""

    smoother = True

    def assimilate(self, problem, members, generator=None):
        return self.assimilate_members(problem, 0, members, generator)

    def assimilate_members(self, problem, first, last, generator=None):
        shape = (problem.steps + 1, *problem.space.shape)
        states = rng.normal_rows(rng.key(generator), first, last, shape)
        return Analysis(states, problem.space, info={"seconds": 0.5}, method="Members")


METHODS: dict[str, tuple[Assimilator, int]] = {
    "filter": (EnKF(1.05), 5),
    "weighted": (ParticleFilter(0.5), 5),
    "carried": (Carrying(), 5),
    "members": (Members(), 20),
    "kept": (ParticleFilter(0.5), 5),
    "kept-members": (Members(), 20),
}
KINDS = [*METHODS, "series"]
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": lambda data: b"",
    "halved": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "flipped": lambda data: data[: len(data) // 3] + _flipped(data[len(data) // 3 :]),
    "deleted": lambda data: None,
}


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:] if data else data


class Stop(Exception):
    """What ends a run in the middle."""


def act(kind: str, path: Path, after: float = float("inf"), **options) -> None:
    """Make a store of a kind, or resume it; stop it once that many steps are done."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    options |= {"progress": stop, "save_every": 0.0}
    if kind == "series":
        system = Lorenz96(dim=6, spinup=0.2, noise_std=0.1)
        simulate_series(system, 37, 4, path, seed=3, **options)
        return
    method, block = METHODS[kind]
    model = ObservationModel(Select([0]), std=0.5)
    truth, problem = twin_experiment(Lorenz63(spinup=0.1), model, STEPS, 2, rng.seeded(0))
    withheld = (Observations(model, [3], torch.zeros(1, 1)),)
    options |= {"block": block, "truth": truth, "withheld": withheld}
    members = 40 if "members" in kind else MEMBERS
    if "kept" in kind:
        options |= {"keep": store.Keep(members=members, statistics=("mean", "q05"))}
    store.run(method, problem, members, path, 1, **options)


def read(kind: str, path: Path) -> bytes:
    """Return all numbers of a store as bytes."""
    if kind == "series":
        return read_series(path)[0].numpy().tobytes()
    posterior = store.open_posterior(path)
    analysis = posterior.analysis
    made = [analysis.states, analysis.weights, posterior.truth]
    posterior.check()
    table = posterior.observations["value"].values.tobytes()
    for name in ("last", "scores") if posterior.kept else ():
        table += repr(posterior.group(name).load().to_dict()).encode()
    return table + b"".join(t.numpy().tobytes() for t in made if t is not None)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def whole(folder: Path) -> None:
    """Make each kind of store, complete and interrupted, with a checkpoint in it."""
    for kind in KINDS:
        for state, after in (("complete", float("inf")), ("stopped", AFTER.get(kind, 13))):
            at = folder / kind / state
            at.mkdir(parents=True)
            try:
                act(kind, at / "run.zarr", after)
            except Stop:
                pass


def files_of(folder: Path) -> list[str]:
    """Return the names of all files of a run, those of the markers too."""
    return sorted(contents(folder))


def try_case(folder: Path, kind: str, state: str, name: str, damage: str, command: str) -> str:
    """Damage a file, resume or read, and return "right", "sentence", or what was wrong."""
    good, here = folder / kind / state, folder / "case"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(good, here)
    data = DAMAGE[damage]((here / name).read_bytes())
    if data is None:
        (here / name).unlink()
    else:
        (here / name).write_bytes(data)
    complete = folder / kind / "complete"
    try:
        if command == "resume":
            act(kind, here / "run.zarr", resume=True)
            right = contents(here / "run.zarr") == contents(complete / "run.zarr")
            left = sorted(p.name for p in here.iterdir())
            if left != ["run.zarr", "run.zarr.json"]:
                return f"left {left}"
            return "right" if right else "other bytes"
        same = read(kind, here / "run.zarr") == read(kind, complete / "run.zarr")
        return "right" if same else "other numbers"
    except ValueError as error:
        said = str(error)
        named = Path(name).name in said or "incomplete" in said or "no posterior" in said
        single = "\n" not in said and ": " in said and str(here) in said
        return "sentence" if single and named else f"ValueError: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def cases(folder: Path) -> list[tuple[str, str, str, str, str]]:
    """Return all cases: kind of run, its state, file, damage, command."""
    return [
        (kind, state, name, damage, command)
        for kind in KINDS
        for state in ("complete", "stopped")
        for name in files_of(folder / kind / state)
        for damage in DAMAGE
        for command in (("resume", "read") if state == "complete" else ("resume",))
    ]


def main(number: int, seed: int = 0) -> Counter[str]:
    """Try cases drawn at random, print those that are wrong, and return the counts."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        whole(folder)
        every = cases(folder)
        for case in random.Random(seed).sample(every, min(number, len(every))):
            found = try_case(folder, *case)
            counts[f"{case[4]}: {found if found in ('right', 'sentence') else 'wrong'}"] += 1
            if found not in ("right", "sentence"):
                print(*case, "->", found)
    return counts


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
