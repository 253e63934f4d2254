"""Columns of tables as numbers, entry by entry: one bad field spoils one row alone."""

from __future__ import annotations

import numpy as np

__all__ = ["numbers"]

# Fields without content, in lower case.
EMPTY = {"", "na", "nan", "nat", "none", "<na>"}
# Digits of the largest float before its point.
LONGEST = 309


def numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as numbers, NaN where there is none, and where it has text instead."""
    import pandas

    if column.dtype.kind in "fiu":
        return column.astype(float), np.zeros(len(column), dtype=bool)
    given = pandas.Series(column, dtype=object)
    try:
        values = pandas.to_numeric(given, errors="coerce").to_numpy(float)
    except OverflowError:
        # Integers of more digits than a float has are text.
        short = given.map(lambda entry: entry if len(str(entry)) < LONGEST else "text")
        values = pandas.to_numeric(short, errors="coerce").to_numpy(float)
    text = np.isnan(values)
    text[text] = [str(entry).strip().lower() not in EMPTY for entry in column[text]]
    return values, text
