"""Columns of tables entry by entry: what is distinct, and numbers.

One bad field spoils one row alone. Few entries of a column of text are distinct, as a rule, and
what is done with text is done once for each of these.
"""

from __future__ import annotations

import numpy as np

__all__ = ["distinct", "is_text", "numbers"]

# Fields without content, in lower case.
EMPTY = {"", "na", "nan", "nat", "none", "<na>"}
# Digits of the largest float before its point.
LONGEST = 309


def is_text(column: np.ndarray) -> bool:
    """Say whether a column has objects that are all text, or nothing."""
    import pandas

    return column.dtype == object and pandas.api.types.infer_dtype(column) == "string"


def distinct(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each entry among the distinct ones, and these as objects."""
    import pandas

    code, found = pandas.factorize(column)
    if (code < 0).any():
        code, found = pandas.factorize(column, use_na_sentinel=False)
    return code, np.asarray(found, dtype=object)


def numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as numbers, NaN where there is none, and where it has text instead."""
    if column.dtype.kind in "fiu":
        return column.astype(float), np.zeros(len(column), dtype=bool)
    if not is_text(column):
        return _numbers(column)
    code, found = distinct(column)
    values, text = _numbers(found)
    return values[code], text[code]


def _numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import pandas

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
