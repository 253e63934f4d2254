"""The forecast of an ensemble over workers: some members each, with the bits of one process."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorda.core import executors, rng
from scorda.core.deadline import check_seconds, limited
from scorda.core.errors import ModelFailure
from scorda.core.shapes import Float, Tensor
from scorda.core.transforms import Transform
from scorda.systems.base import AdditiveNoise, System
from scorda.systems.function import FunctionSystem
from scorda.systems.parameters import WithParameters

__all__ = ["Mapped", "policy", "unmapped"]

# Bytes of the states of a task beyond which they go through the folder of exchange.
LARGE = 2**20


class Mapped(System):
    r"""Advance the members of an ensemble on workers, `chunk` of them in each task.

    The model error is drawn here, for all members, and seeds of a model that draws by itself are
    made here: each is a function of (key, member). A run thus has the same bits with every engine
    and any number of workers, and, for a model whose members do not depend on those beside them
    (all of Scorda's but a matrix, whose products round by the number of rows), with any `chunk`.
    In all other respects it is the system that it wraps.

    Arguments:
        system: A system whose model error is additive or absent (`AdditiveNoise`, such as a
            `FunctionSystem`).
        executor: The engine, any `concurrent.futures.Executor`; None: this process.
        chunk: Members of a task.
        on_failure: If the model of a member fails, that is raises an error, takes too long or is
            not finite: "stop" the run; "retry:3", try it so many times more, then stop; "drop",
            leave the member out from then on, which is NaN, and go on with the others.
        timeout: Seconds that a member may take; see ``scorda.core.deadline.limited`` for what is
            interrupted in time. None: any time.
        exchange: Folder that all workers see, through which states of more than 1 MB go instead
            of through the engine.

    Raises:
        ValueError: If a setting does not fit.
        TypeError: If the model error of the system is not additive.
    """

    def __init__(
        self,
        system: System,
        executor: Executor | None = None,
        chunk: int = 1,
        on_failure: str = "stop",
        timeout: float | None = None,
        exchange: str | Path | None = None,
    ) -> None:
        if chunk < 1:
            raise ValueError(f"Got chunk = {chunk}: give the members of a task, at least 1.")
        if timeout is not None:
            check_seconds(timeout, "timeout =")
        if system.stochastic and not isinstance(system, AdditiveNoise):
            raise TypeError(
                f"{type(system).__name__} draws its model error inside of its step, where a "
                "member cannot be advanced apart from the others: make it an AdditiveNoise, or a "
                "FunctionSystem with per_member=True."
            )
        self.retries, self.drops = policy(on_failure)
        if (self.drops or timeout is not None) and chunk > 1:
            raise ValueError(
                f"Got chunk = {chunk} with a timeout, or with members to be dropped: they fail "
                "one by one, so give chunk = 1."
            )
        self.system, self.executor, self.chunk = system, executor, chunk
        self.timeout, self.exchange = timeout, None if exchange is None else Path(exchange)
        self.space, self.name = system.space, system.name
        self.stochastic, self.differentiable = system.stochastic, system.differentiable
        # Reason and step of each member that was dropped, by its number.
        self.dropped: dict[int, str] = {}
        self._step: int = 0
        self._members: tuple[int, ...] | None = None
        self._packed: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        # `advance`, `noise_std` and all that other systems may have.
        if name.startswith("_") or "system" not in vars(self):
            raise AttributeError(name)
        return getattr(self.system, name)

    def __repr__(self) -> str:
        return f"Mapped({self.system!r}, chunk={self.chunk})"

    @property
    def context(self) -> Float[Tensor, "fields *grid"] | None:
        return self.system.context

    def prior(self, members: int, generator: rng.Seed = None) -> Float[Tensor, "ensemble *state"]:
        return self.system.prior(members, rng.as_generator(generator))

    def log_transition(
        self, x: Float[Tensor, "..."], x_next: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        return self.system.log_transition(x, x_next)

    def apart_from(self, truth: Float[Tensor, "*state"]) -> Mapped:
        return self._with(system=self.system.apart_from(truth), _packed=[])

    def with_transforms(self, transforms: Mapping[str, Transform]) -> Mapped:
        system = self.system.with_transforms(transforms)
        return self._with(system=system, space=system.space, _packed=[])

    def at(self, step: int, members: Sequence[int] | None = None) -> Mapped:
        return self._with(_step=step, _members=None if members is None else tuple(members))

    def through(self, folder: Path) -> Mapped:
        """Return the same system, whose large states go through a folder, unless it has one."""
        return self if self.exchange is not None else self._with(exchange=folder)

    def step(self, x: Float[Tensor, "..."], generator: rng.Seed = None) -> Float[Tensor, "..."]:
        """Advance by one step: the model on the workers, its error here.

        Raises:
            ModelFailure: If the model of a member fails and is not to be dropped.
            WorkersLost: If the engine has lost a worker that it does not replace.
        """
        generator = rng.as_generator(generator)
        key = rng.key(generator) if getattr(self.system, "per_member", False) else None
        flat = x.detach().reshape(-1, *self.space.shape)
        moved = self._moved(flat, key).reshape(x.shape)
        if not isinstance(self.system, AdditiveNoise):
            return moved
        system = self.system.at(self._step, self._members)
        assert isinstance(system, AdditiveNoise)
        return system.disturbed(moved, generator, self._members)

    def _with(self, **changed: Any) -> Mapped:
        other = copy.copy(self)
        vars(other).update(changed)
        return other

    def _moved(self, flat: Tensor, key: rng.Key | None) -> Tensor:
        """Return the states of all members after the model, NaN where one is dropped."""
        numbers = self._members or tuple(range(len(flat)))
        moved = torch.full_like(flat, torch.nan)
        bounds = [(low, low + self.chunk) for low in range(0, len(flat), self.chunk)]
        tasks = [_Task(numbers[a:b], self._step, key, self.timeout) for a, b in bounds]
        with self._exchanged() as folder:
            states = [_sent(flat[a:b], folder) for a, b in bounds]
            for i, made in self._results(tasks, states, folder):
                low, high = bounds[i]
                moved[low:high] = torch.from_numpy(_received(made)).to(flat.device)
        return moved

    def _results(
        self, tasks: list[_Task], states: list[Any], folder: str | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task and what it made, and try again what fails."""
        tries = [0] * len(tasks)
        futures = {self._begin(tasks[i], states[i], folder): i for i in range(len(tasks))}
        try:
            while futures:
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    i = futures.pop(future)
                    try:
                        yield i, executors.result(future)
                    except BrokenExecutor:
                        raise
                    except Exception as error:
                        tries[i] += 1
                        if tries[i] <= self.retries:
                            futures[self._begin(tasks[i], states[i], folder)] = i
                        else:
                            self._give_up(tasks[i], error)
        finally:
            for future in futures:
                future.cancel()

    def _begin(self, task: _Task, states: Any, folder: str | None) -> Future[Any]:
        arguments = (self._content, task, states, folder)
        if self.executor is not None:
            return executors.submit(self.executor, _advance, *arguments)
        future: Future[Any] = Future()
        try:
            future.set_result(_advance(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def _give_up(self, task: _Task, error: Exception) -> None:
        """Drop the member of a task, or stop."""
        said = str(error) if isinstance(error, FloatingPointError | TimeoutError) else repr(error)
        first, *others = task.members
        named = f"member {first}" if not others else f"members {first} to {others[-1]}"
        if not self.drops:
            tried = f" {self.retries + 1} times" if self.retries else ""
            raise ModelFailure(
                f"The model failed{tried} for {named}: {said}; mend it, or leave out what fails "
                "with on_failure = 'drop'.",
                members=task.members,
            ) from error
        self.dropped[first] = f"step {task.step}: {said}"
        warnings.warn(
            f"The {named} is dropped, because its model failed at step {task.step}: {said}",
            stacklevel=2,
        )

    @property
    def _content(self) -> Any:
        """The system as the workers get it, packed once."""
        if executors.shares_memory(self.executor):
            return self.system
        if not self._packed:
            self._packed.append(executors.packed(self.system))
        return self._packed[0]

    @contextlib.contextmanager
    def _exchanged(self) -> Iterator[str | None]:
        """Give a folder for the states of one step, where they are large enough for one."""
        if self.exchange is None or executors.shares_memory(self.executor):
            yield None
            return
        self.exchange.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.exchange, ignore_cleanup_errors=True) as folder:
            yield folder


@dataclass(frozen=True)
class _Task:
    """The members of a task, their step, the key of their seeds, and the seconds they have."""

    members: tuple[int, ...]
    step: int
    key: rng.Key | None
    timeout: float | None


def unmapped(system: Any) -> Any:
    """Return the system without its workers, which decide nothing of its numbers."""
    return system.system if isinstance(system, Mapped) else system


def _advance(content: Any, task: _Task, states: Any, folder: str | None) -> Any:
    """Advance some members by the model, on a worker."""
    system = executors.unpacked(content) if isinstance(content, bytes) else content
    system = system.at(task.step, task.members)
    x = torch.from_numpy(_received(states))
    with limited(task.timeout), torch.no_grad():
        if isinstance(system, FunctionSystem | WithParameters) and system.per_member:
            assert task.key is not None
            moved = system.advance_members(x, task.members, task.step, task.key)
        elif isinstance(system, AdditiveNoise):
            moved = system.advance(x)
        else:
            moved = system.step(x)
    finite = torch.isfinite(moved).flatten(1).all(1)
    if not finite.all():
        bad = task.members[int((~finite).nonzero()[0])]
        raise FloatingPointError(f"the state of member {bad} is not finite after the step")
    return _sent(moved, folder)


def _sent(states: Tensor, folder: str | None) -> Any:
    """Return an array, or the file that it is in."""
    values = np.ascontiguousarray(states.cpu().numpy())
    if folder is None or values.nbytes <= LARGE:
        return values
    # Named as what is no one's work: a run that is killed before its first unit can be resumed.
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
        np.save(file, values)
    return file.name


def _received(states: Any) -> np.ndarray:
    found = np.load(states) if isinstance(states, str) else states
    # What an engine hands over may be protected.
    return found if found.flags.writeable else found.copy()


def policy(on_failure: str) -> tuple[int, bool]:
    """Return the number of retries, and whether members are dropped.

    Raises:
        ValueError: If it is not one of stop, drop and retry:3.
    """
    word, _, number = on_failure.partition(":")
    if word == "retry" and number.isdecimal():
        return int(number), False
    if on_failure not in ("stop", "drop"):
        raise ValueError(f"Got on_failure = {on_failure!r}: give stop, drop, or retry:3.")
    return 0, on_failure == "drop"
