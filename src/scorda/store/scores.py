r"""Scores of a stored posterior: against the truth, or against observations that were kept back.

A posterior without a truth is scored in observation space. What member i predicts of a value is
:math:`N(h(x_i), \sigma^2)`, with the error of the observation, so the predictive distribution is a
mixture of Gaussians whose scores are closed forms.

Values of different variables are never pooled as they are. Each variable has scores of its own,
named such as ``observation_rmse[wind]``; those of all variables together are in standard
deviations, of the observation error or of the truth, and their names say so:
``observation_rmse[error std]``, ``rmse[std]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray

from scorda import metrics
from scorda.core.shapes import Float, Tensor
from scorda.observations.analysis import Analysis
from scorda.store.members import LARGEST, InMemory, Members
from scorda.store.posterior import Posterior
from scorda.store.sums import Sums, scales, scores_of

__all__ = [
    "by_variable",
    "distance",
    "first_scored",
    "observation_scores",
    "observations_by_variable",
    "score_table",
    "scores",
    "states_by_variable",
]

# Names of the scores that pool variables: in standard deviations of the error, or of the truth.
POOLED_ERRORS, POOLED_STATES = "error std", "std"
# A distance to a reference matches so many members: 10 ms per step for three variables.
MATCHED = 256


def scores(posterior: Posterior, spinup: int | None = None) -> dict[str, float]:
    """Compute all scores that the stored groups allow, by name.

    Arguments:
        posterior: A complete posterior.
        spinup: Steps that do not count. Default: those before the first observation.
    """
    found: dict[str, float] = {}
    truth = posterior.true_member
    if posterior.sums is not None and truth is not None:
        first = first_scored(posterior, spinup)
        found |= states_by_variable(posterior.sums, scales(truth, first), first)
    withheld = posterior.group("withheld")
    if withheld is not None:
        found |= observations_by_variable(withheld, _weights(posterior.members))
    return found


def score_table(
    posteriors: Mapping[str, Posterior],
    references: Sequence[Posterior] = (),
    spinup: int | None = None,
) -> dict[str, dict[str, float]]:
    """Compute scores and cost of each posterior, by name and score.

    ``wasserstein`` is the `distance` to the reference, between at most 256 members of each. The
    one of a reference is between two of its own draws: the floor that the finite size sets.

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
        if reference is not None:
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
        values = torch.tensor([scale[name] for name in exact.space.variables])
        unit = exact.space.constant(values.double())
    name = "wasserstein" if scale is None else f"wasserstein[{POOLED_STATES}]"
    return {name: _distance((members, own[:size]), (exact, order[:size]), first, unit)}


def _weights(members: Members) -> Float[Tensor, "ensemble time"] | None:
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
        states = posterior.to_xarray().sizes["time"]
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


def observations_by_variable(
    withheld: xarray.Dataset, weights: Float[Tensor, "ensemble time"] | None = None
) -> dict[str, float]:
    """Compute `observation_scores` of each variable, and of each instrument that observed it.

    Where there are several, those of all together are in standard deviations of the error.
    """
    variable, instrument = (withheld[name].values for name in ("variable", "instrument"))
    kinds = sorted(set(zip(instrument.tolist(), map(str, variable), strict=True)))
    rows = _of_rows(withheld, weights)
    if len(kinds) < 2:
        return _mean_scores(rows)
    names = [name for _, name in kinds]
    found: dict[str, float] = {}
    for number, name in kinds:
        label = name or "unnamed"
        if names.count(name) > 1:
            label += f", instrument {number + 1}"
        here = torch.from_numpy((instrument == number) & (variable == name))
        scored = _mean_scores({score: values[here] for score, values in rows.items()})
        found |= {f"{score}[{label}]": value for score, value in scored.items()}
    unit = torch.from_numpy(withheld["std"].values).double()
    relative = {"square": rows["square"] / unit.square(), "crps": rows["crps"] / unit}
    scored = _mean_scores(rows | relative)
    return found | {f"{score}[{POOLED_ERRORS}]": value for score, value in scored.items()}


def observation_scores(
    withheld: xarray.Dataset, weights: Float[Tensor, "ensemble time"] | None = None
) -> dict[str, float]:
    r"""Score what the members predict of the values that were kept back.

    The scores are ``observation_rmse``; ``innovation_chi2``, the mean of
    :math:`(y - \bar h)^2 / (s^2 + \sigma^2)`, which is 1 for a reliable ensemble (less 2/N of
    it for the sampling error of its N members); ``observation_crps``, fair; and
    ``observation_coverage``, the share of values in the central 90 % of the predictive mixture.
    """
    return _mean_scores(_of_rows(withheld, weights))


def _mean_scores(rows: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        "observation_rmse": float(rows["square"].mean().sqrt()),
        "innovation_chi2": float(rows["chi2"].mean()),
        "observation_crps": float(rows["crps"].mean()),
        "observation_coverage": float(rows["inside"].mean()),
    }


def _of_rows(withheld: xarray.Dataset, weights: Tensor | None) -> dict[str, Tensor]:
    """Return what the scores of each withheld value are means of, read block by block."""
    members, number = withheld["predicted"].shape
    # So that the pairs of members of a block take 16 MB.
    together = max(LARGEST // members**2, 1)
    found: dict[str, list[Tensor]] = {name: [] for name in ("square", "chi2", "crps", "inside")}
    # What lies in one chunk is read once.
    wide = together * max(LARGEST // (members * together), 1)
    for low in range(0, number, wide):
        part = withheld.isel(observation=slice(low, low + wide)).load()
        for cut in torch.arange(part.sizes["observation"]).split(together):
            scored = _scored(part.isel(observation=cut.numpy()), weights)
            for name, values in scored.items():
                found[name].append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def _scored(withheld: xarray.Dataset, weights: Tensor | None) -> dict[str, Tensor]:
    y, std, predicted = (
        torch.from_numpy(withheld[name].values).double() for name in ("value", "std", "predicted")
    )
    if weights is None:
        w = predicted.new_full(predicted.shape, 1 / len(predicted))
    else:
        w = weights.double()[:, torch.from_numpy(withheld["step"].values)]
        predicted = torch.where(w > 0, predicted, 0.0)
    mean = (w * predicted).sum(0)
    free = 1 - w.square().sum(0)
    variance = (w * (predicted - mean).square()).sum(0) / free.clamp_min(1e-12)
    position = (w * torch.special.ndtr((y - predicted) / std)).sum(0)
    square = (y - mean).square()
    return {
        "square": square,
        "chi2": square / (variance + std.square()),
        "crps": _mixture_crps(predicted, w, y, std),
        "inside": ((position > 0.05) & (position < 0.95)).double(),
    }


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


def _mixture_crps(x: Tensor, w: Tensor, y: Tensor, std: Tensor) -> Tensor:
    r"""Return the fair CRPS of a mixture of normals.

    .. math:: \sum_i w_i A(y - x_i, \sigma) - \frac{\sum_{i \ne j} w_i w_j A(x_i - x_j,
        \sqrt 2 \sigma)}{2 (1 - \sum_i w_i^2)}, \quad A(m, s) = E |N(m, s^2)|

    Source: Grimit et al. (2006), Q. J. R. Meteorol. Soc. 132, 2925, equation 5, with the pairs of
    a member with itself left out.
    """
    skill = (w * _expected_norm(y - x, std)).sum(0)
    pairs = torch.einsum(
        "im,jm,ijm->m", w, w, _expected_norm(x[:, None] - x[None], math.sqrt(2) * std)
    )
    own = w.square().sum(0)
    # The diagonal of the pairs is A(0, sqrt(2) std).
    pairs = pairs - own * _expected_norm(torch.zeros_like(std), math.sqrt(2) * std)
    return skill - pairs / (2 * (1 - own).clamp_min(1e-12))


def _expected_norm(mean: Tensor, std: Tensor) -> Tensor:
    r"""Return E |N(mean, std^2)|."""
    z = mean / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density)
