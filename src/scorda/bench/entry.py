"""What a benchmark is, one row of it, and the settings that may be tried for it."""

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
    """A method as tried on a set-up.

    Arguments:
        label: Name of the row, unique within its set-up.
        method: The method with its settings.
        members: Number of members.
        grid: Options of the method that the benchmark chooses among, on other seeds than it
            reports (see `scorda.bench.tuning`); none: the settings are those of `method`.
        trained: Makes of `method` the one that filters (`Setup`), where a prior is trained
            beforehand: once, within the seconds of the first run. Nothing is chosen then.
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
        """The method, trained where it has to be, which may take minutes."""
        return self.method if self.trained is None else self.trained(self.method)

    def at(self, point: int) -> Entry:
        """The entry with the options of one point of its grid, and nothing left to choose."""
        return replace(self, method=replace(self.method, **self.grid[point]), grid=())


@runtime_checkable
class Benchmark(Protocol):
    """Entries, and what they are scored on: `prepare` once per seed, `score` once per run.

    `score` raises FloatingPointError for a run that diverges; `shortened` is a test that the
    benchmark runs, whose scores mean nothing.
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
    """All combinations of the values of some options, the last one varying fastest."""
    return tuple(dict(zip(options, values, strict=True)) for values in product(*options.values()))


def in_words(options: Options) -> str:
    """Options as text, such as ``inflation=1.05, radius=4``."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in options.items()
    )
