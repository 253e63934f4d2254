"""Scores of an analysis in memory, as those of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import xarray

from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.observations.circular import predicted
from scorda.observations.observations import Observations
from scorda.store.groups import observation_table
from scorda.store.members import InMemory
from scorda.store.scores import member_weights, states_by_variable
from scorda.store.sums import as_members, scales, state_sums
from scorda.store.withheld import observations_by_variable

__all__ = ["analysis_scores", "predictions"]


def analysis_scores(
    analysis: Analysis,
    truth: Float[Tensor, "time ..."] | None = None,
    withheld: Sequence[Observations] = (),
    first: int = 0,
) -> dict[str, float]:
    """Score an analysis by name, as `scorda.store.scores.scores` does a store.

    Arguments:
        analysis: The members at all steps.
        truth: True states, ``(time, *state)``.
        withheld: Observations that were kept back.
        first: First step of the truth that counts.
    """
    found: dict[str, float] = {}
    members = InMemory(analysis)
    if truth is not None:
        true = as_members(truth, analysis.space)
        found |= states_by_variable(state_sums(members, true), scales(true, first), first)
    if withheld:
        columns = observation_table(withheld, analysis.space)
        rows = {name: ("observation", values) for name, values in columns.items()}
        parts = [p for one in withheld for p in predictions(analysis, one)]
        predicted = torch.cat(parts, 1).numpy(force=True)
        rows["predicted"] = (("ensemble", "observation"), predicted)  # type: ignore[assignment]
        found |= observations_by_variable(xarray.Dataset(rows), member_weights(members))
    return found


def predictions(analysis: Analysis, instrument: Observations) -> Iterator[Tensor]:
    """Yield what each member predicts of the present values of each row, ``(ensemble, present)``.

    It is without the error of observation; a row without a present value is left out.
    """
    states = analysis.space.filled(analysis.states)
    for k, entry in enumerate(instrument.steps):
        if instrument.observed(k):
            y, model = instrument.at(k)
            at = entry if isinstance(entry, int) else list(entry)
            w = None if analysis.weights is None else analysis.weights[:, at]
            yield predicted(model.operator, states[:, at], analysis.space, y, w).flatten(1)
