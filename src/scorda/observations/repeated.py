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
    reports: list[pandas.DataFrame] = []
    for instrument in instruments:
        own, values = _reports(instrument, space), instrument.values
        for k, other in enumerate(reports):
            known = own.merge(other.drop(columns=["row", "entry"]).drop_duplicates())
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
        reports.append(own)
    return kept


def _reports(instrument: Observations, space: StateSpace) -> pandas.DataFrame:
    """Return a row for each present value: its steps, place, value, error and law."""
    import pandas

    steps = np.array([str(step) for step in instrument.steps], dtype=object)
    parts = []
    for piece in present_values(instrument):
        places = piece.operator.coordinates(space)[piece.entry].numpy(force=True)
        columns = {
            "row": piece.row,
            "entry": piece.entry,
            "steps": steps[piece.row],
            "variable": np.array(piece.operator.variables(space), dtype=object)[piece.entry],
            "law": instrument.laws()[piece.entry],
            "value": piece.value.numpy(force=True),
            "std": piece.std.numpy(force=True),
        }
        columns |= {f"place {i}": column for i, column in enumerate(places.T)}
        parts.append(pandas.DataFrame(columns))
    return pandas.concat(parts, ignore_index=True)
