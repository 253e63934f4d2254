"""Periods of a table of observations: rows that are means or sums over time.

A row with a column ``since`` observes the states after that time, up to ``time``: those of the
steps (since, time]. ``cell_methods`` says how, in the words of the CF conventions: ``time: mean``,
which is the usual, or ``time: sum`` of the states of these steps. A row without ``since``, or with
``time: point``, observes the state of its step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scorda.core.calendars import Start
from scorda.core.columns import distinct, numbers
from scorda.core.space import StateSpace
from scorda.core.times import match_times
from scorda.observations.operators import Operator
from scorda.observations.over_time import OverTime

__all__ = ["POINT", "Period", "periods_of"]

METHODS = {"": "mean", "mean": "mean", "average": "mean", "sum": "sum", "point": "point"}


class Period(NamedTuple):
    """Number of the steps that a row observes, and whether it is their sum; else their mean."""

    steps: int = 1
    sums: bool = False

    def operator(self, one: Operator) -> OverTime:
        """Return the operator of the states of these steps, from that of one."""
        return OverTime(one, (1.0,) * self.steps if self.sums else None)


# A row of a single step.
POINT = Period()


def periods_of(
    columns: Mapping[str, np.ndarray],
    step: np.ndarray,
    space: StateSpace,
    start: Start | None,
    tolerance: float | None,
) -> tuple[np.ndarray, list[Period], np.ndarray]:
    """Return the index of each row's period, the periods, and why a row cannot be used, or "".

    Arguments:
        columns: The table.
        step: Step of the ``time`` of each row.
        space: Space of the states.
        start: Datetime of step 0.
        tolerance: As in `match_times`.
    """
    count = len(step)
    reason = np.full(count, "", dtype=object)
    since = columns.get("since")
    if since is None:
        return np.zeros(count, dtype=np.int64), [POINT], reason
    method, words = _methods(columns.get("cell_methods"), count)
    reason[method == "other"] = words[method == "other"]
    spans = _given(since) & (method != "point")
    first, why = step - 1, np.full(count, "", dtype=object)
    if spans.any():
        first[spans], why[spans] = match_times(since[spans], space, start, tolerance)
    why = np.where(why == "", why, "since: " + why.astype(object))
    reason = np.where(reason == "", why, reason)
    length = step - first
    reason[(reason == "") & (length < 1)] = "period without a step"
    # The sum over one step is its mean.
    sums = (method == "sum") & (length > 1)
    kinds, kind = np.unique(np.stack([np.maximum(length, 1), sums]), axis=1, return_inverse=True)
    return kind.ravel(), [Period(int(n), bool(s)) for n, s in kinds.T], reason


def _given(column: np.ndarray) -> np.ndarray:
    """Return where a column of times has one."""
    if column.dtype.kind == "M":
        return ~np.isnat(column)
    value, text = numbers(column)
    blank = np.array([isinstance(v, str) and not v.strip() for v in column])
    return (text & ~blank) | ~np.isnan(value)


def _methods(column: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the method of each row, "other" where it is none of them, and then the reason."""
    if column is None:
        column = np.full(count, "", dtype=object)
    code, found = distinct(column)
    plain = [str(v).strip().lower().removeprefix("time:").strip() if v == v else "" for v in found]
    method = np.array([METHODS.get(word, "other") for word in plain], dtype=object)
    words = np.array([f"unknown cell method {word!r}" for word in plain], dtype=object)
    return method[code], words[code]
