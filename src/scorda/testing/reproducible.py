"""Contract of reproducibility: the same bits, however a run is cut into parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem
from scorda.testing.promise import draw, is_slow, promise

__all__ = ["check_reproducible"]

# Steps of a filter, or members of a smoother, that are computed in one piece.
PARTS = (1, 3, 7)
# Members of a smoother at once; more than there are stands for all.
CHUNKS = (1, 5, 1000)
PRECISIONS = (torch.float32, torch.float64)
SHAPES = ((3, 14), (2, 3, 5))
STEPS, OBSERVED = 8, (0, 2, 3, 5, 6, 8)


def check_reproducible(
    method: Assimilator, problem: Problem | None = None, members: int = 17
) -> None:
    """Check that a run in parts has the bits of a run in one piece.

    Promises of a filter: a run that is continued after every step, every third and every seventh
    from numbers that were copied, as to a file and back, has the same states and weights, in
    single and double precision and for states of one and two dimensions. Promises of a smoother
    that has `assimilate_members`: members drawn alone, by three and by seven are those of the
    whole ensemble, and the same for any `chunk`, if it has that setting. Other methods do all
    in one piece, and promise the same bits for the same seed.

    Arguments:
        method: The method.
        problem: What a smoother solves; filters have a problem of their own.
        members: Number of members.

    Raises:
        AssertionError: If the promise is broken.
    """
    members = max(members, method.least_members)
    if isinstance(method, Filter):
        # A slow method has one precision for each shape.
        pairs = zip(SHAPES, PRECISIONS, strict=True)
        cases = pairs if is_slow(method) else [(s, d) for s in SHAPES for d in PRECISIONS]
        for shape, dtype in cases:
            _check_continued(method, _problem(shape, members, dtype), members)
        return
    if problem is None:
        raise ValueError(f"{method.name} is no filter: give a problem that it can solve.")
    for dtype in PRECISIONS:
        _check_members(method, _in_precision(problem, dtype), members)


def _check_continued(method: Filter, problem: Problem, members: int) -> None:
    whole = list(method.run(problem, members, rng.seeded(1)))
    for part in PARTS:
        start: Cycle | None = None
        for cycle in whole:
            if start is None or (cycle.step % part) == 0:
                running = method.run(problem, members, rng.seeded(1), start)
            start = next(running)
            weighted = cycle.weights is not None and start.weights is not None
            same = torch.equal(start.ensemble, cycle.ensemble)
            if weighted:
                same &= torch.equal(start.weights.double(), cycle.weights.double())  # type: ignore[union-attr]
            promise(
                same and weighted == (cycle.weights is not None),
                method,
                f"has other bits at step {cycle.step} in parts of {part} steps, in "
                f"{problem.space.shape} and {_precision(cycle.ensemble)}",
            )
            start = _copied(start)


def _copied(cycle: Cycle) -> Cycle:
    """The same cycle as it comes from a file: contiguous, weights in double precision."""
    carried, weights = cycle.carried, cycle.weights
    return Cycle(
        cycle.step,
        _elsewhere(cycle.ensemble),
        None if weights is None else _elsewhere(weights.double()),
        carried=None if carried is None else {k: _elsewhere(v) for k, v in carried.items()},
    )


def _elsewhere(x: Tensor) -> Tensor:
    """Copy numbers to where NumPy may place them: at any multiple of 16 bytes."""
    values = x.detach().cpu().numpy()
    buffer = np.empty(values.nbytes + 128, np.uint8)
    first = -buffer.ctypes.data % 64 + 16
    copy = buffer[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return torch.from_numpy(copy).to(x.device)


def _check_members(method: Any, problem: Problem, members: int) -> None:
    seed = 1
    whole = method.assimilate(problem, members, rng.seeded(seed)).states
    what = _precision(whole)
    again = method.assimilate(problem, members, rng.seeded(seed)).states
    promise(torch.equal(again, whole), method, f"has other bits for the same seed in {what}")
    if not hasattr(method, "assimilate_members"):
        return
    subjects = {"": method}
    if hasattr(method, "chunk"):
        subjects |= {f" with chunk={c}": replace(method, chunk=c) for c in CHUNKS}
    for how, subject in subjects.items():
        for part in (*PARTS, members):
            pieces = [
                subject.assimilate_members(
                    problem, low, min(low + part, members), rng.seeded(seed)
                ).states
                for low in range(0, members, part)
            ]
            promise(
                torch.equal(torch.cat(pieces), whole),
                method,
                f"has other bits in {what} for members {part} at a time{how}",
            )


def _problem(shape: tuple[int, ...], members: int, dtype: torch.dtype) -> Problem:
    """A stochastic model of several variables whose sums and products see the memory layout."""
    names = ("p", "q", "t")[: shape[0]]
    grid = shape[1:]
    axes = {name: np.arange(n) for name, n in zip("yx"[-len(grid) :], grid, strict=True)}
    period = {name: float(n) for name, n in zip(axes, grid, strict=True)}
    space = StateSpace(shape, variables=names, coordinates=axes, period=period)
    matrix = draw(space.size, (space.size,), torch.float64, "cpu", 3) / space.size**0.5

    def step(x: Tensor) -> Tensor:
        mixed = (x.flatten(1) @ matrix.to(x)).tanh().view(x.shape)
        total = x.mean(tuple(range(1, x.ndim)), keepdim=True)
        return 0.6 * x.roll(1, -1) + 0.4 * mixed + 0.1 * total + 0.2

    def initial(members: int, seed: int) -> Tensor:
        return rng.normal(members, shape, rng.seeded(seed))

    system = FunctionSystem(step, initial, space, noise_std=0.3, library="torch")
    sites = list(range(0, space.size, 3))
    values = draw(len(OBSERVED), (len(sites),), dtype, "cpu", 7)
    model = ObservationModel(Select(sites), std=0.7)
    start = initial(members, 5).to(dtype)
    return Problem(system, Observations(model, OBSERVED, values), STEPS, start)


def _in_precision(problem: Problem, dtype: torch.dtype) -> Problem:
    parts = [replace(part, values=part.values.to(dtype)) for part in problem.instruments]
    initial = None if problem.initial is None else problem.initial.to(dtype)
    return replace(problem, observations=parts, initial=initial)


def _precision(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
