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
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray

from scorda import metrics
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.store.posterior import Posterior

__all__ = [
    "by_variable",
    "distance",
    "first_scored",
    "observation_scores",
    "scale_of_units",
    "score_table",
    "scores",
    "state_scores",
]

# The pairs of members are formed for so many observations at once (64 MB for 256 members).
ROWS = 128
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
    truth = posterior.truth
    if truth is not None:
        first = first_scored(posterior, spinup)
        found |= states_by_variable(posterior.analysis, truth, first)
    withheld = posterior.group("withheld")
    if withheld is not None:
        found |= observations_by_variable(withheld, posterior.analysis.weights)
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
    loaded = {kind: reference.analysis for kind, reference in exact.items()}
    table = {}
    for name, posterior in posteriors.items():
        row, info = scores(posterior, spinup), posterior.info
        reference = exact.get(posterior.smoother)
        if reference is not None:
            analysis, draws = posterior.analysis, loaded[posterior.smoother]
            size = min(len(analysis.states), len(draws.states) // 2, MATCHED)
            parts = _shuffled(draws, 2 * size)
            other = Analysis(parts.states[size:], parts.space)
            if reference.path != posterior.path:
                other = _shuffled(analysis, size)
            first = Analysis(parts.states[:size], parts.space)
            scale = scale_of_units(draws.space, draws.states.flatten(0, 1))
            unit = 1.0 if scale is None else scale
            pair = [replace(a, states=a.states / unit) for a in (other, first)]
            score = "wasserstein" if scale is None else f"wasserstein[{POOLED_STATES}]"
            row[score] = distance(pair[0], pair[1], first_scored(posterior, spinup))
        evaluations = info.get("report", {}).get("evaluations")
        if evaluations is not None:
            row["evaluations"] = float(np.max(evaluations))
        table[name] = row | {"seconds": info["seconds"]}
    return table


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


def state_scores(
    analysis: Analysis, truth: Float[Tensor, "time ..."], first: int = 0
) -> dict[str, float]:
    """Compute the scores of `scorda.metrics` of the states at the steps from `first` on."""
    states = analysis.states[:, first:].double()
    weights = None if analysis.weights is None else analysis.weights[:, first:]
    y, names = truth[first:].double(), ("rmse", "spread", "spread_skill", "crps", "coverage")
    return {name: float(getattr(metrics, name)(states, y, weights)) for name in names}


def states_by_variable(
    analysis: Analysis, truth: Float[Tensor, "time ..."], first: int = 0
) -> dict[str, float]:
    """Compute `state_scores`: of all variables, or of each where their units differ.

    Then the scores of all together are in standard deviations of the truth.
    """
    space = analysis.space
    scale = scale_of_units(space, truth[first:])
    if scale is None:
        return state_scores(analysis, truth, first)
    found: dict[str, float] = {}
    for name in space.variables:
        part = replace(analysis, states=space.field(analysis.states, name), space=space.only(name))
        scored = state_scores(part, space.field(truth, name), first)
        found |= {f"{score}[{name}]": value for score, value in scored.items()}
    pooled = replace(analysis, states=analysis.states / scale)
    scored = state_scores(pooled, truth / scale, first)
    return found | {f"{score}[{POOLED_STATES}]": value for score, value in scored.items()}


def scale_of_units(
    space: StateSpace, states: Float[Tensor, "sample ..."]
) -> Float[Tensor, "..."] | None:
    """Return the standard deviation of each variable, to divide states by; None where units agree.

    A variable that is constant has 1.
    """
    if len({space.units.get(name, "") for name in space.variables}) < 2:
        return None
    each = [space.field(states, name).double().std(correction=0) for name in space.variables]
    std = torch.stack(each)
    return space.constant(torch.where(std > 0, std, 1.0))


def observations_by_variable(
    withheld: xarray.Dataset, weights: Float[Tensor, "ensemble time"] | None = None
) -> dict[str, float]:
    """Compute `observation_scores` of each variable, and of each instrument that observed it.

    Where there are several, those of all together are in standard deviations of the error.
    """
    variable, instrument = (withheld[name].values for name in ("variable", "instrument"))
    kinds = sorted(set(zip(instrument.tolist(), map(str, variable), strict=True)))
    if len(kinds) < 2:
        return observation_scores(withheld, weights)
    names = [name for _, name in kinds]
    found: dict[str, float] = {}
    for number, name in kinds:
        label = name or "unnamed"
        if names.count(name) > 1:
            label += f", instrument {number + 1}"
        part = withheld.isel(observation=(instrument == number) & (variable == name))
        scored = observation_scores(part, weights)
        found |= {f"{score}[{label}]": value for score, value in scored.items()}
    unit = withheld["std"]
    relative = withheld.assign({n: withheld[n] / unit for n in ("value", "std", "predicted")})
    scored = observation_scores(relative, weights)
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
    y = torch.from_numpy(withheld["value"].values).double()
    std = torch.from_numpy(withheld["std"].values).double()
    predicted = torch.from_numpy(withheld["predicted"].values).double()
    if weights is None:
        w = predicted.new_full(predicted.shape, 1 / len(predicted))
    else:
        w = weights.double()[:, torch.from_numpy(withheld["step"].values)]
    mean = (w * predicted).sum(0)
    free = 1 - w.square().sum(0)
    variance = (w * (predicted - mean).square()).sum(0) / free.clamp_min(1e-12)
    position = (w * torch.special.ndtr((y - predicted) / std)).sum(0)
    crps = [
        _mixture_crps(predicted[:, part], w[:, part], y[part], std[part])
        for part in torch.arange(len(y)).split(ROWS)
    ]
    return {
        "observation_rmse": float((mean - y).square().mean().sqrt()),
        "innovation_chi2": float(((y - mean).square() / (variance + std.square())).mean()),
        "observation_crps": float(torch.cat(crps).mean()),
        "observation_coverage": float(((position > 0.05) & (position < 0.95)).double().mean()),
    }


def distance(analysis: Analysis, reference: Analysis, first: int = 0) -> float:
    """Return the mean over the steps of the exact W1 distance between the states of two ensembles.

    Weighted members are first resampled systematically to equal weights.

    Arguments:
        analysis: One ensemble.
        reference: The other, of the same number of times.
        first: First step that counts.
    """
    clouds = [_equal(a)[:, first:].flatten(2) for a in (analysis, reference)]
    steps = clouds[0].shape[1]
    return float(np.mean([metrics.wasserstein(*(c[:, k] for c in clouds)) for k in range(steps)]))


def _shuffled(analysis: Analysis, size: int) -> Analysis:
    """Return that many members with equal weights, at random but always the same ones."""
    states = _equal(analysis)
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    return Analysis(states[order[:size]], analysis.space)


def _equal(analysis: Analysis) -> Float[Tensor, "ensemble time ..."]:
    states, weights = analysis.space.filled(analysis.states.double()), analysis.weights
    if weights is None:
        return states
    members = len(states)
    u = (torch.arange(members, dtype=torch.float64) + 0.5) / members
    columns = []
    for k in range(states.shape[1]):
        total = weights[:, k].double().cumsum(0)
        index = torch.searchsorted(total, u * total[-1], right=True).clamp_max(members - 1)
        columns.append(states[index, k])
    return torch.stack(columns, 1)


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
