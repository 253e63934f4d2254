"""A benchmark has entries; each entry is a method, with the options that may be tried for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Protocol, runtime_checkable

__all__ = ["Benchmark", "Entry", "grid"]

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A method that a benchmark runs.

    Arguments:
        label: Name of the row, unique within its set-up.
        method: The method with its settings.
        members: Number of members.
        grid: Options of the method that the benchmark chooses among, on other seeds than it
            reports (see `scorda.bench.tuning`). Without a grid `method` runs as it is.
        trained: Function that trains the prior of `method` beforehand and returns the method that
            filters (`Setup`). It runs once, within the seconds of the first run, and nothing is
            chosen then.
    """

    label: str
    method: Any
    members: int
    grid: tuple[Options, ...] = ()
    trained: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.trained is not None and self.grid:
            raise ValueError(f"Got a grid for {self.label!r}, which is trained: leave one out.")

    @cached_property
    def ready(self) -> Any:
        """Return the method, trained where it has to be; training may take minutes."""
        return self.method if self.trained is None else self.trained(self.method)

    def at(self, point: int) -> Entry:
        """Return the entry with the options of one point of its grid, and without the grid."""
        return replace(self, method=replace(self.method, **self.grid[point]), grid=())


@runtime_checkable
class Benchmark(Protocol):
    """A benchmark calls `prepare` once per seed and `score` once per run of an entry.

    `score` raises FloatingPointError for a run that diverges. `shortened` returns a benchmark that
    only tests that everything runs: its scores mean nothing.
    """

    @property
    def entries(self) -> tuple[Entry, ...]: ...
    @property
    def seeds(self) -> int: ...
    @property
    def statistic(self) -> str: ...
    @property
    def source(self) -> str: ...
    def prepare(self, seed: int) -> Any: ...
    def score(self, entry: Entry, prepared: Any, seed: int) -> dict[str, float]: ...
    def shortened(self) -> Benchmark: ...


def grid(**options: Iterable[Any]) -> tuple[Options, ...]:
    """Return all combinations of the values of some options; the last one varies fastest."""
    return tuple(dict(zip(options, values, strict=True)) for values in product(*options.values()))


def in_words(options: Options) -> str:
    """Write options as text, such as ``inflation=1.05, radius=4``."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in options.items()
    )
