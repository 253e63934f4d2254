"""What a run stores of its ensemble: some variables, steps and members, or statistics of them.

Whatever is kept, the store has the ensemble of the last step with all variables and members, in
the group ``last``, and where there is a truth or values were kept back the sums from which the
scores follow, in the group ``scores``: they are made before members are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorda.core.headers import check_fields
from scorda.core.space import StateSpace

__all__ = ["LAST", "MEMBER", "TIME", "Keep", "Kept", "array_name", "level_of"]

LAST = "last"
QUANTILE = re.compile(r"q\d{2,6}")
# Axis and times of the groups of such a store, whose names differ from those of the root: xarray
# wants axes of one name to agree in all groups, and other members and steps are at the root.
MEMBER, TIME = "member", "valid_time"
# What it has beside what every store has.
OWN = (LAST, "scores", MEMBER, TIME)
AXES_OF_SCORES = ("quantity", "observed_quantity", "kind")
RECORD: dict[str, Any] = {
    "variables": list[str],
    "steps": int | Literal["last"],
    "first_members": int,
    "statistics": list[str],
    "states": int,
}


@dataclass(frozen=True)
class Keep:
    r"""What a run stores, beside the ensemble of the last step.

    Statistics are taken over all members, by the weights :math:`w_i` of a filter that has such, in
    double precision, and are stored in the precision of the states:

    * ``mean``: :math:`\bar x = \sum_i w_i x_i`;
    * ``std``: the root of :math:`\sum_i w_i (x_i - \bar x)^2 / (1 - \sum_i w_i^2)`, the spread
      that scores compare with the error; 0 of a single member;
    * ``q05``, ``q50``, ``q975``: the quantile at 0.05, 0.5 or 0.975, `scorda.metrics.quantile`.
      The k-th smallest of N members sits at :math:`k / (N + 1)`, or of weighted ones at
      :math:`(n (W_{k-1} + W_k) / 2 + 1/2) / (n + 1)`, :math:`n = 1 / \sum_i w_i^2`, with linear
      interpolation between members and the extreme members beyond.

    Members that were dropped, because their model failed, do not count.

    Arguments:
        variables: Names of variables (default: all).
        steps: Every n-th step, counted from step 0, or "last", the last one alone.
        members: Number of members, the first ones. Default: none where there are statistics, all
            where there are none.
        statistics: Names of statistics.

    Raises:
        ValueError: If a name or a number cannot be one.
    """

    variables: tuple[str, ...] | None = None
    steps: int | str = 1
    members: int | None = None
    statistics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("variables", "statistics"):
            value = getattr(self, name)
            if value is not None:
                value = (value,) if isinstance(value, str) else tuple(value)
                object.__setattr__(self, name, value)
                if len(set(value)) < len(value):
                    raise ValueError(f"Got {', '.join(value)} to keep: give each name once.")
        if self.variables == ():
            raise ValueError("Got no variables to keep: name one at least, or leave them out.")
        for name in self.statistics:
            level_of(name)
        steps = self.steps
        if steps != "last" and (not isinstance(steps, int) or steps < 1):
            raise ValueError(
                f"Got steps {steps!r} to keep: give 1 for each, n for every n-th, or last."
            )
        if self.members is not None and self.members < 0:
            raise ValueError(f"Got {self.members} members to keep: give 0 or more.")
        if self.members == 0 and not self.statistics:
            raise ValueError("Got 0 members and no statistics to keep: give one of them.")

    def of(self, space: StateSpace, members: int, states: int) -> Kept:
        """Return what is kept of a run.

        Arguments:
            space: Space of its states.
            members: Number of its members.
            states: Number of its states, one more than its steps.

        Raises:
            ValueError: If there is no such variable, or there are fewer members, or the name of
                an array would be there twice.
        """
        variables = space.variables if self.variables is None else self.variables
        for name in variables:
            if name not in space.variables:
                raise ValueError(
                    f"Got the variable {name!r} to keep: choose {', '.join(space.variables)}."
                )
        number = (0 if self.statistics else members) if self.members is None else self.members
        if number > members:
            raise ValueError(f"Got {number} members to keep of {members}: give {members} at most.")
        ordered = tuple(name for name in space.variables if name in variables)
        kept = Kept(ordered, self.steps, number, self.statistics, states)
        axes = {*space.position_names, *(a for p in space.pieces for a in p.axes)}
        arrays = [array_name(n, s) for n in ordered for s in self.statistics]
        taken = [made for made in (*OWN, *arrays) if made in axes | {*space.variables}]
        taken += [made for made in AXES_OF_SCORES if made in axes]
        if taken:
            raise ValueError(
                f"Got the variable or axis {taken[0]!r}, a name that the store of this run has "
                "for itself: rename it."
            )
        return kept


@dataclass(frozen=True)
class Kept:
    """What is kept of one run, with all that is left to defaults in `Keep`.

    Arguments:
        variables: Names of variables, in the order of the space.
        every: Every n-th step, or "last".
        members: Number of members, the first ones.
        statistics: Names of statistics.
        states: Number of states of the run, one more than its steps.
    """

    variables: tuple[str, ...]
    every: int | str
    members: int
    statistics: tuple[str, ...]
    states: int

    @staticmethod
    def from_json(content: Mapping[str, Any], where: str) -> Kept:
        """Return what a store says that it keeps.

        Raises:
            ValueError: If it says none such; the sentence begins with `where`.
        """
        check_fields(content, RECORD, where)
        names, statistics = tuple(content["variables"]), tuple(content["statistics"])
        try:
            Keep(names, content["steps"], content["first_members"], statistics)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        steps, first, states = (content[key] for key in ("steps", "first_members", "states"))
        return Kept(names, steps, first, statistics, states)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "variables": list(self.variables),
            "steps": self.every,
            "first_members": self.members,
            "statistics": list(self.statistics),
            "states": self.states,
        }

    @property
    def steps(self) -> range:
        """The steps that are kept."""
        if isinstance(self.every, int):
            return range(0, self.states, self.every)
        return range(self.states - 1, self.states)

    def whole(self, members: int, variables: Collection[str]) -> bool:
        """Return whether all members of all variables are kept, at every step."""
        everything = self.members == members and set(self.variables) == set(variables)
        return everything and len(self.steps) == self.states

    @property
    def words(self) -> str:
        """Say what is kept."""
        parts = [f"the first {self.members} members"] if self.members else []
        parts += [f"the {', '.join(self.statistics)}"] if self.statistics else []
        steps = f"{len(self.steps)} of {self.states} states"
        return f"{' and '.join(parts)} of {', '.join(self.variables)} at {steps}"

    def before(self, step: int) -> int:
        """Return how many kept steps there are before a step."""
        steps = self.steps
        return min(max(-(-(step - steps.start) // steps.step), 0), len(steps))

    def within(self, first: int, last: int) -> tuple[slice, slice]:
        """Return where the kept steps from `first` to the one before `last` are.

        Returns:
            Their places counted from `first`, and their places among all that are kept.
        """
        low, high = self.before(first), self.before(last)
        begin = self.steps.start + low * self.steps.step - first
        return slice(begin, last - first, self.steps.step), slice(low, high)


def array_name(variable: str, statistic: str) -> str:
    """Return the name of the array of a statistic."""
    return f"{variable}_{statistic}"


def level_of(statistic: str) -> float | None:
    """Return the level of a quantile, None for the mean and the standard deviation.

    Raises:
        ValueError: If there is no such statistic.
    """
    if statistic in ("mean", "std"):
        return None
    level = float(f"0.{statistic[1:]}") if QUANTILE.fullmatch(statistic) else 0.0
    if level == 0:
        raise ValueError(
            f"Got the statistic {statistic!r} to keep: choose mean, std, or quantiles such as "
            "q05, q50 and q975."
        )
    return level
