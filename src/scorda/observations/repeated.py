"""Reports that several instruments have: the same file twice, or files that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.observations.present import present_values

if TYPE_CHECKING:
    import pandas

__all__ = ["without_repeated"]


def without_repeated(instruments: Sequence[Observations], space: StateSpace) -> list[Observations]:
    """Count a report once that an earlier instrument has with the same place, steps and numbers.

    The earlier instrument says so in its notes; one that has no report of its own is left out.
    """
    kept: list[Observations] = []
    for instrument in instruments:
        values = instrument.values
        for k, other in enumerate(kept):
            both = np.intersect1d(_numbers(instrument), _numbers(other))
            if not len(both):
                continue
            own, others = (_reports(o, space, both) for o in (instrument, other))
            known = own.merge(others.drop(columns=["row", "entry"]).drop_duplicates())
            if not len(known):
                continue
            flat = values.clone().reshape(len(values), -1)
            row, entry = torch.tensor(known[["row", "entry"]].to_numpy().T)
            flat[row, entry] = torch.nan
            values = flat.reshape(values.shape)
            told = f"{len(known)} reports are in a later file too and counted once"
            kept[k] = replace(kept[k], notes=(*kept[k].notes, told))
        if values.isnan().all():
            continue
        kept.append(
            instrument if values is instrument.values else replace(instrument, values=values)
        )
    return kept


def _numbers(instrument: Observations) -> np.ndarray:
    """Return all present values."""
    return instrument.flat[~instrument.flat.isnan()].numpy(force=True)


def _reports(instrument: Observations, space: StateSpace, among: np.ndarray) -> pandas.DataFrame:
    """Return a row for each value that is one of these: its steps, place, value, error and law."""
    import pandas

    steps = np.array([str(step) for step in instrument.steps], dtype=object)
    parts = []
    for piece in present_values(instrument):
        value = piece.value.numpy(force=True)
        some = np.isin(value, among)
        row, entry = piece.row[some], piece.entry[some]
        places = piece.operator.coordinates(space)[entry].numpy(force=True)
        columns = {
            "row": row,
            "entry": entry,
            "steps": steps[row],
            "variable": np.array(piece.operator.variables(space), dtype=object)[entry],
            "law": instrument.laws()[entry],
            "value": value[some],
            "std": piece.std.numpy(force=True)[some],
        }
        columns |= {f"place {i}": column for i, column in enumerate(places.T)}
        parts.append(pandas.DataFrame(columns))
    return pandas.concat(parts, ignore_index=True)
