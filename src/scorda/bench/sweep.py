"""A sweep runs one set-up at several values of a parameter, such as members or the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from scorda.bench.entry import Benchmark, Entry
from scorda.bench.tuning import Tunable, Tuning

__all__ = ["Sweep", "only"]


@dataclass(frozen=True)
class Sweep:
    """Several set-ups in one benchmark; the label of an entry begins with that of its set-up.

    Arguments:
        points: Set-ups by label, of the form ``name=value``; the number of seeds and the way of
            tuning are those of the first.
        source: Where the set-up is from.
    """

    points: Mapping[str, Tunable]
    source: str

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the entries of all points."""
        return tuple(
            replace(entry, label=f"{point}, {entry.label}")
            for point, setup in self.points.items()
            for entry in setup.entries
        )

    @property
    def seeds(self) -> int:
        """Number of twin experiments."""
        return self._first.seeds

    @property
    def statistic(self) -> str:
        """Statistic over the seeds."""
        return self._first.statistic

    @property
    def tuning(self) -> Tuning:
        """Seeds and score of the trials; their length is that of each point."""
        return self._first.tuning

    @property
    def shown(self) -> tuple[str, ...]:
        """Scores that the command prints."""
        return self._first.shown

    def prepare(self, seed: int) -> _Prepared:
        """Return what each point prepares, which is made when it is asked for."""
        return _Prepared(self, seed)

    def score(self, entry: Entry, prepared: _Prepared, seed: int) -> dict[str, float]:
        """Return the scores of one run."""
        point = entry.label.split(",", 1)[0]
        return self.points[point].score(entry, prepared[point], seed)

    def shortened(self) -> Sweep:
        """Return the first point with few cycles, to test that it runs."""
        point, setup = next(iter(self.points.items()))
        return replace(self, points={point: setup.shortened()})

    def trial(self) -> Sweep:
        """Return the set-ups in which options are chosen."""
        return replace(self, points={name: s.trial() for name, s in self.points.items()})

    @cached_property
    def _first(self) -> Tunable:
        return next(iter(self.points.values()))


class _Prepared:
    """The data of one seed for each point; only those of the last point are kept."""

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self._sweep, self._seed = sweep, seed
        self._last: tuple[str, Any] | None = None

    def __getitem__(self, point: str) -> Any:
        if self._last is None or self._last[0] != point:
            self._last = point, self._sweep.points[point].prepare(self._seed)
        return self._last[1]


def only(setup: Benchmark, patterns: Sequence[str]) -> Benchmark:
    """Return the benchmark with those entries whose label matches one of the patterns.

    Arguments:
        setup: The benchmark.
        patterns: Patterns as those of file names, such as ``gap=10, *``.

    Raises:
        ValueError: If a pattern matches no label.
    """
    labels = [entry.label for entry in setup.entries]
    for pattern in patterns:
        if not any(fnmatchcase(label, pattern) for label in labels):
            raise ValueError(f"No row matches {pattern!r}: the rows are {'; '.join(labels)}.")
    wanted = {label for label in labels if any(fnmatchcase(label, p) for p in patterns)}

    def kept(entries: Sequence[Entry], head: str = "") -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if head + entry.label in wanted)

    if not isinstance(setup, Sweep):
        return replace(setup, entries=kept(setup.entries))  # type: ignore[type-var]
    points = {p: replace(s, entries=kept(s.entries, f"{p}, ")) for p, s in setup.points.items()}  # type: ignore[type-var]
    return replace(setup, points={p: s for p, s in points.items() if s.entries})
