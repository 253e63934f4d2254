r"""Scores of a stored posterior: against the truth, or against observations that were kept back.

A posterior without a truth is scored in observation space (`scorda.store.withheld`).

Values of different variables are never pooled as they are. Each variable has scores of its own,
named such as ``observation_rmse[wind]``; those of all variables together are in standard
deviations, of the observation error or of the truth, and their names say so:
``observation_rmse[error std]``, ``rmse[std]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from scorda import metrics
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.store.members import LARGEST, InMemory, Members
from scorda.store.posterior import Posterior
from scorda.store.sums import Sums, scales, scores_of
from scorda.store.withheld import kinds_of, observations_by_variable, scores_by_kind

__all__ = [
    "by_variable",
    "distance",
    "first_scored",
    "member_weights",
    "score_table",
    "scores",
    "states_by_variable",
]

# Name of the scores that pool variables: in standard deviations of the truth.
POOLED_STATES = "std"
# A distance to a reference matches so many members: 10 ms per step for three variables.
MATCHED = 256


def scores(posterior: Posterior, spinup: int | None = None) -> dict[str, float]:
    """Compute all scores that the stored groups allow, by name.

    Arguments:
        posterior: A complete posterior.
        spinup: Steps that do not count. Default: those before the first observation.
    """
    found: dict[str, float] = {}
    if posterior.sums is not None:
        first = first_scored(posterior, spinup)
        found |= states_by_variable(posterior.sums, posterior.scales(first), first)
    withheld = posterior.group("withheld")
    if withheld is not None and posterior.kept is None:
        found |= observations_by_variable(withheld, member_weights(posterior.members))
    elif withheld is not None:
        kinds, _ = kinds_of(withheld)
        found |= scores_by_kind(kinds, posterior.observation_sums(len(kinds)))
    return found


def score_table(
    posteriors: Mapping[str, Posterior],
    references: Sequence[Posterior] = (),
    spinup: int | None = None,
) -> dict[str, dict[str, float]]:
    """Compute scores and cost of each posterior, by name and score.

    ``wasserstein`` is the `distance` to the reference, between at most 256 members of each. The
    one of a reference is between two of its own draws: the floor that the finite size sets. There
    is none of a store that does not keep all members.

    Arguments:
        posteriors: Complete posteriors by name.
        references: Posteriors that are near exact. One with past data only serves the filters,
            one with all data the smoothers.
        spinup: Steps that do not count (default: those before the first observation).
    """
    exact = {reference.smoother: reference for reference in references}
    table = {}
    for name, posterior in posteriors.items():
        row, info = scores(posterior, spinup), posterior.info
        reference = exact.get(posterior.smoother)
        if reference is not None and posterior.holds_all:
            row |= _to_reference(posterior, reference, first_scored(posterior, spinup))
        evaluations = info.get("report", {}).get("evaluations")
        if evaluations is not None:
            row["evaluations"] = float(np.max(evaluations))
        # A store that was moved without its record has none.
        table[name] = row | {n: info[n] for n in ("seconds",) if n in info}
    return table


def _to_reference(posterior: Posterior, reference: Posterior, first: int) -> dict[str, float]:
    """Return the distance between draws of a posterior and of the one that is near exact."""
    members, exact = posterior.members, reference.members
    order, own = _shuffled(exact), _shuffled(members)
    size = min(len(own), len(order) // 2, MATCHED)
    if reference.path == posterior.path:
        own = order[size:]
    scale = scales(exact)
    unit: float | Tensor = 1.0
    if scale is not None:
        values = torch.tensor([scale.get(name, 1.0) for name in exact.space.variables])
        unit = exact.space.constant(values.double())
    name = "wasserstein" if scale is None else f"wasserstein[{POOLED_STATES}]"
    return {name: _distance((members, own[:size]), (exact, order[:size]), first, unit)}


def member_weights(members: Members) -> Float[Tensor, "ensemble time"] | None:
    """Return the weights of all members, 0 of those that were dropped; None: all are equal."""
    weights = members.weights(slice(None))
    if weights is not None or not members.dropped:
        return weights
    there = members.left(slice(None)).double()
    return there / there.sum(0)


def by_variable(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return a row of scores for each variable, or what else stands in brackets in their names.

    What has no variable, such as the cost, stands in the first row, whose name is "" if there is
    no other.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        score, bracket, of = name.removesuffix("]").partition("[")
        if bracket:
            rows.setdefault(of, {})[score] = value
    plain = {name: value for name, value in scores.items() if "[" not in name}
    if not rows:
        return {"": plain}
    first = next(iter(rows))
    return rows | {first: rows[first] | plain}


def first_scored(posterior: Posterior, spinup: int | None = None) -> int:
    """Return the first step that counts: `spinup`, or the first observed step.

    Raises:
        ValueError: If no state is left.
    """
    if spinup is not None:
        states = posterior.states
        if not 0 <= spinup < states:
            raise ValueError(f"Got a spin-up of {spinup} of {states} states: leave some to score.")
        return spinup
    steps = posterior.observations["step"].values
    return int(steps.min()) if len(steps) else 0


def states_by_variable(
    sums: Sums, scale: Mapping[str, float] | None, first: int = 0
) -> dict[str, float]:
    """Compute the scores of `scorda.metrics` of the states at the steps from `first` on.

    They are those of all variables, or of each where their units differ. Then the scores of all
    together are in standard deviations of the truth.

    Arguments:
        sums: Sums of all steps, as `state_sums` makes them.
        scale: Standard deviation of the truth by variable, or None where units agree.
        first: First step that counts.
    """
    counted = {
        name: {quantity: values[first:] for quantity, values in own.items()}
        for name, own in sums.items()
    }
    if scale is None:
        return scores_of(counted)
    found: dict[str, float] = {}
    for name, own in counted.items():
        found |= {f"{score}[{name}]": value for score, value in scores_of({name: own}).items()}
    pooled = scores_of(counted, scale)
    return found | {f"{score}[{POOLED_STATES}]": value for score, value in pooled.items()}


def distance(analysis: Analysis, reference: Analysis, first: int = 0) -> float:
    """Return the mean over the steps of the exact W1 distance between the states of two ensembles.

    Weighted members are first resampled systematically to equal weights. Members that were dropped
    at some step are left out of all.

    Arguments:
        analysis: One ensemble.
        reference: The other, of the same number of times.
        first: First step that counts.
    """
    one, other = ((m := InMemory(a), _staying(m)) for a in (analysis, reference))
    return _distance(one, other, first, 1.0)


def _distance(
    one: tuple[Members, Tensor], other: tuple[Members, Tensor], first: int, unit: float | Tensor
) -> float:
    """Return the `distance` between some of the members of two ensembles, in a unit."""
    found = [
        float(metrics.wasserstein(x, y))
        for x, y in zip(_clouds(*one, first, unit), _clouds(*other, first, unit), strict=True)
    ]
    return float(np.mean(found))


def _staying(members: Members) -> Tensor:
    """Return the numbers of the members that are there to the end."""
    return members.left(slice(-1, None))[:, 0].nonzero()[:, 0]


def _shuffled(members: Members) -> Tensor:
    """Return the members that stay in an order at random, which is always the same."""
    staying = _staying(members)
    return staying[torch.randperm(len(staying), generator=torch.Generator().manual_seed(0))]


def _clouds(
    members: Members, chosen: Tensor, first: int, unit: float | Tensor
) -> Iterator[Float[Tensor, "ensemble state"]]:
    """Yield the states of chosen ones of equally weighted members at each step."""
    number, times = members.shape
    together = max(LARGEST // (number * members.space.size), 1)
    for low in range(first, times, together):
        steps = slice(low, min(low + together, times))
        states = members.space.filled(members.states(steps).double()) / unit
        if (weights := members.weights(steps)) is None:
            states = states[chosen]
        else:
            u = (torch.arange(number, dtype=torch.float64) + 0.5) / number
            total = weights.double().cumsum(0)
            index = torch.searchsorted(
                total.T.contiguous(), u * total[-1][:, None], right=True
            ).clamp_max(number - 1)
            states = torch.stack([states[i[chosen], k] for k, i in enumerate(index)], 1)
        yield from states.flatten(2).movedim(1, 0)
