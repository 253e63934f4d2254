"""A problem of one's own as a benchmark, on which methods are compared, and tuned without a truth.

Every method gets the same observations, and runs with several seeds of its own randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral
from typing import Any, ClassVar

from scorda.assimilation.base import Assimilator, check_members, check_needs
from scorda.bench.entry import Entry, grid
from scorda.bench.tuning import Length, Tuning
from scorda.core import rng
from scorda.core.errors import RunError
from scorda.core.shapes import Float, Tensor
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem

__all__ = ["Grid", "OwnProblem", "observed_after", "seeds_of", "setting_words", "settings_in"]

# Values to try by the name of the setting.
Grid = Mapping[str, Iterable[Any]]


@dataclass(frozen=True)
class OwnProblem:
    """A problem that entries are run on, a `scorda.bench.tuning.Tunable`.

    Arguments:
        problem: The problem.
        entries: Methods, with their grids where settings are to be chosen.
        scores: Function that runs a method with so many members and a generator, and scores it.
        truth: True states, ``(time, *state)``, or None.
        withheld: Observations that were kept back.
        first: First step that counts.
        trials: Seeds of the runs.
        chosen_by: Score that is minimised where settings are chosen.
    """

    problem: Problem
    entries: tuple[Entry, ...]
    scores: Callable[[OwnProblem, Assimilator, int, rng.Seed], dict[str, float]]
    truth: Float[Tensor, "time ..."] | None = None
    withheld: Sequence[Observations] = ()
    first: int = 0
    trials: tuple[int, ...] = (0,)
    chosen_by: str = ""

    source: ClassVar[str] = "a problem of one's own"
    statistic: ClassVar[str] = "mean"
    shown: ClassVar[tuple[str, ...]] = ()

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.trials)

    @property
    def tuning(self) -> Tuning:
        """How settings are chosen: by runs over the whole problem."""
        return Tuning(self.trials, Length(self.problem.steps, 0), self.chosen_by)

    def prepare(self, seed: int) -> None:
        """Prepare nothing: all seeds share the problem."""

    def score(self, entry: Entry, prepared: None, seed: int) -> dict[str, float]:
        """Return the scores of one run.

        Raises:
            FloatingPointError: If the run diverges, or its ensemble degenerates on the way.
        """
        method: Assimilator = entry.ready
        check_needs(method, self.problem)
        check_members(method, entry.members)
        try:
            return self.scores(self, method, entry.members, rng.seeded(seed))
        except RunError as error:
            raise FloatingPointError(str(error)) from error

    def shortened(self) -> OwnProblem:
        """Return the problem itself."""
        return self

    def trial(self) -> OwnProblem:
        """Return the problem itself."""
        return self


def observed_after(problem: Problem, share: float) -> int:
    """Return the first observed step after a share of the observed steps; 0 where there is none.

    Raises:
        ValueError: If the share leaves nothing.
    """
    if not 0 <= share < 1:
        raise ValueError(f"Got a spin-up of {share} of the observed steps: give 0 to below 1.")
    entries = (step for one in problem.instruments for step in one.steps)
    steps = sorted({step[-1] if isinstance(step, tuple) else step for step in entries})
    return steps[int(share * len(steps))] if steps else 0


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds: so many from 0 on, or those given.

    Raises:
        ValueError: If there is none.
        TypeError: If one is no whole number.
    """
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if strange := [seed for seed in found if not isinstance(seed, Integral)]:
        raise TypeError(f"Got the seed {strange[0]!r}: give whole numbers, or how many.")
    if not found:
        raise ValueError("Got no seed: at least one run of each method is needed.")
    return found


def settings_in(method: Assimilator, values: Grid) -> tuple[dict[str, Any], ...]:
    """Return all combinations of the values of those settings that a method has.

    Raises:
        ValueError: If the method refuses one of them.
        TypeError: If it is no method.
    """
    if not isinstance(method, Assimilator):
        raise TypeError(f"Got the method {method!r}: give an instance, such as sc.EnKF().")
    known: set[str] = set()
    if is_dataclass(method):
        known = {f.name for f in fields(method) if f.init}
    found = grid(**{name: list(v) for name, v in values.items() if name in known})
    for options in found:
        replace(method, **options)  # type: ignore[type-var]
    return tuple(dict(options) for options in found)


def setting_words(options: Mapping[str, Any]) -> str:
    """Write settings as text, such as ``inflation=1.05, rotation=True``."""
    return ", ".join(f"{name}={_word(value)}" for name, value in options.items())


def _word(value: Any) -> str:
    """Write a value; what is made of others, such as a taper, as ``GaspariCohn(4)``."""
    if isinstance(value, float):
        return f"{value:g}"
    if is_dataclass(value) and not isinstance(value, type):
        inner = [_word(getattr(value, f.name)) for f in fields(value) if f.init]
        return f"{type(value).__name__}({' '.join(inner)})"
    return str(value)
