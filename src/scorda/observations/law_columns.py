"""Laws of the rows of a table, and of the columns of values that become of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scorda.core.columns import distinct
from scorda.observations.law_names import law_named
from scorda.observations.laws import Law, Several
from scorda.observations.robust_laws import Normal

__all__ = ["law_of_columns", "laws_of_rows"]


def laws_of_rows(
    column: np.ndarray | None, variable: np.ndarray, usual: Sequence[Law]
) -> tuple[np.ndarray, list[Law]]:
    """Return the index of each row's law, and the laws.

    Arguments:
        column: Names of laws, "" or absent where there is none; None: there are none.
        variable: Index of each row's variable.
        usual: Law of each variable where the column does not say.

    Raises:
        ValueError: If a name is none of a law.
    """
    names, told = np.array([""], dtype=object), np.zeros(len(variable), dtype=np.int64)
    if column is not None:
        told, names = distinct(column)
    laws, index = list[Law](), np.zeros(len(variable), dtype=np.int64)
    for k, name in enumerate(names):
        text = name.strip() if isinstance(name, str) else ""
        for v, default in enumerate(usual):
            of = (told == k) & (variable == v)
            if of.any():
                law = law_named(text) if text else default
                if law not in laws:
                    laws.append(law)
                index[of] = laws.index(law)
    return index, laws or [Normal()]


def law_of_columns(
    laws: tuple[Law, ...],
    which: np.ndarray | int,
    averaged: int,
    column: np.ndarray,
    entry: np.ndarray,
    size: int,
    moving: bool,
) -> Law | None:
    """Return the law of the columns of values; None where all are Gaussian.

    Arguments:
        laws: Laws of the rows.
        which: Index of each row's law.
        averaged: Number of rows that share a place and a step with others.
        column: Column of each value.
        entry: Value that each row is part of.
        size: Number of columns.
        moving: Whether the columns are no places.

    Raises:
        ValueError: If values of one place have several laws, or share a step where they may not.
    """
    if laws == (Normal(),):
        return None
    if averaged:
        raise ValueError(
            f"Got {averaged} reports that share a place and a step with others, and a law other "
            "than the Gaussian, of which no mean can be taken: keep one of each."
        )
    if len(laws) == 1:
        return laws[0]
    if moving:
        raise ValueError(
            "Got several laws for moving platforms: give the reports of each law as a table of "
            "their own."
        )
    of_value = np.empty(len(column), dtype=np.int64)
    of_value[entry] = which
    of_column = np.zeros(size, dtype=np.int64)
    of_column[column] = of_value
    if (of_column[column] != of_value).any():
        raise ValueError("Got several laws for the values of one place: give one for each place.")
    return Several(laws, torch.from_numpy(of_column))
