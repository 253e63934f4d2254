r"""Scores of what members predict of observations that were kept back.

What member i predicts of a value is :math:`N(h(x_i), \sigma^2)`, with the error of the
observation, so the predictive distribution is a mixture of Gaussians whose scores are closed
forms. They are means over values, made of sums by kind: the instrument, and the variable that it
observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.observations.law_names import law_named
from scorda.observations.observations import Observations
from scorda.store.members import LARGEST

__all__ = [
    "QUANTITIES",
    "Kind",
    "check_scored",
    "expected_norm",
    "kinds_of",
    "mixture_crps",
    "mixture_log_density",
    "observation_scores",
    "observations_by_variable",
    "row_sums",
    "scores_by_kind",
]

# Name of the scores that pool variables: in standard deviations of the error.
POOLED_ERRORS = "error std"
# What is summed over values: their number, and what scores are means of, also in units of the
# error of each value.
QUANTITIES = ("present", "square", "chi2", "crps", "inside", "relative_square", "relative_crps")
# Number of an instrument, and a variable.
Kind = tuple[int, str]


def check_scored(instrument: Observations, kept: bool) -> None:
    """Check that values can be scored by what is stored of them.

    Arguments:
        instrument: Observations that were kept back.
        kept: Whether the store keeps their scores alone, and not all members.

    Raises:
        ValueError: If their law is none that a store can name, or there are no such scores of it.
    """
    if kept:
        instrument.check_gaussian("scores in a store without all members")
    if any(text.startswith("own:") for text in instrument.laws()):
        instrument.check_gaussian("scores, since a store cannot name a law of your own")


def kinds_of(table: Any) -> tuple[list[Kind], Tensor]:
    """Return the kinds of the values in a table, sorted, and which of them each value is."""
    instrument, variable = (np.asarray(table[name]) for name in ("instrument", "variable"))
    pairs = list(zip(instrument.tolist(), map(str, variable), strict=True))
    kinds = sorted(set(pairs))
    number = {kind: i for i, kind in enumerate(kinds)}
    return kinds, torch.tensor([number[pair] for pair in pairs], dtype=torch.long)


def observations_by_variable(
    withheld: Any, weights: Float[Tensor, "ensemble time"] | None = None
) -> dict[str, float]:
    """Compute `observation_scores` of each variable, and of each instrument that observed it.

    Where there are several, those of all together are in standard deviations of the error. Of
    values with another law than the Gaussian there is ``observation_log`` alone, the mean of minus
    the log density of the mixture, and where one has such a law there is none of all together.

    Arguments:
        withheld: The group ``withheld`` of a store, with what each member predicts.
        weights: Weights of the members.
    """
    kinds, kind = kinds_of(withheld)
    sums = _sums(withheld, weights, kind, len(kinds))
    if "law" not in withheld:
        return scores_by_kind(kinds, sums)
    laws = [str(text) for text in withheld["law"].values]
    of_law = {int(k) for k, text in zip(kind, laws, strict=True) if text != "gaussian"}
    logs = _logs(withheld, weights, kind, len(kinds), laws)
    found: dict[str, float] = {}
    for i, label in enumerate(_labels(kinds)):
        own = {"observation_log": float(logs[i])} if i in of_law else _means(sums[:, i])
        bracket = f"[{label}]" if len(kinds) > 1 else ""
        found |= {f"{score}{bracket}": value for score, value in own.items()}
    return found


def observation_scores(
    withheld: Any, weights: Float[Tensor, "ensemble time"] | None = None
) -> dict[str, float]:
    r"""Score what the members predict of the values that were kept back.

    The scores are ``observation_rmse``; ``innovation_chi2``, the mean of
    :math:`(y - \bar h)^2 / (s^2 + \sigma^2)`, which is 1 for a reliable ensemble (less 2/N of
    it for the sampling error of its N members); ``observation_crps``, fair; and
    ``observation_coverage``, the share of values in the central 90 % of the predictive mixture.
    """
    kind = torch.zeros(withheld["predicted"].shape[1], dtype=torch.long)
    return _means(_sums(withheld, weights, kind, 1)[:, 0])


def scores_by_kind(
    kinds: Sequence[Kind], sums: Float[Tensor, "quantities kinds"]
) -> dict[str, float]:
    """Return the scores of each kind and of all together, of the sums over their values."""
    if len(kinds) < 2:
        return _means(sums[:, 0])
    found: dict[str, float] = {}
    for i, label in enumerate(_labels(kinds)):
        found |= {f"{score}[{label}]": value for score, value in _means(sums[:, i]).items()}
    of = dict(zip(QUANTITIES, sums.sum(1), strict=True))
    of |= {"square": of["relative_square"], "crps": of["relative_crps"]}
    pooled = _means(torch.stack([of[name] for name in QUANTITIES]))
    return found | {f"{score}[{POOLED_ERRORS}]": value for score, value in pooled.items()}


def _labels(kinds: Sequence[Kind]) -> list[str]:
    """Return what stands in brackets behind the scores of each kind."""
    names = [name for _, name in kinds]
    return [
        (name or "unnamed") + (f", instrument {number + 1}" if names.count(name) > 1 else "")
        for number, name in kinds
    ]


def row_sums(
    table: Mapping[str, Tensor], predicted: Tensor, w: Tensor, place: Tensor, places: int
) -> Float[Tensor, "quantities places"]:
    """Return sums over values, each of which belongs to a place.

    Arguments:
        table: ``value`` and ``std``, one for each value, in double precision.
        predicted: What each member predicts, ``(ensemble, values)``.
        w: Weights of the members at each value, of sum 1.
        place: Place of each value.
        places: Number of places.
    """
    sums = torch.zeros(len(QUANTITIES), places, dtype=torch.float64)
    # So that the pairs of members of a block take 16 MB.
    for cut in torch.arange(len(place)).split(max(LARGEST // len(predicted) ** 2, 1)):
        y, std = table["value"][cut], table["std"][cut]
        rows = _scored(y, std, predicted[:, cut].double(), w[:, cut].double())
        sums.index_add_(1, place[cut], torch.stack([rows[name] for name in QUANTITIES]))
    return sums


def _means(sums: Tensor) -> dict[str, float]:
    of = dict(zip(QUANTITIES, sums, strict=True))
    return {
        "observation_rmse": float((of["square"] / of["present"]).sqrt()),
        "innovation_chi2": float(of["chi2"] / of["present"]),
        "observation_crps": float(of["crps"] / of["present"]),
        "observation_coverage": float(of["inside"] / of["present"]),
    }


def _sums(withheld: Any, weights: Tensor | None, kind: Tensor, kinds: int) -> Tensor:
    """Return the sums by kind of a group in a store, which is read block by block."""
    members, number = withheld["predicted"].shape
    sums = torch.zeros(len(QUANTITIES), kinds, dtype=torch.float64)
    together = max(LARGEST // members, 1)
    for low in range(0, number, together):
        cut = slice(low, low + together)
        part = withheld.isel(observation=cut).load()
        table = {name: torch.from_numpy(part[name].values).double() for name in ("value", "std")}
        predicted = torch.from_numpy(part["predicted"].values)
        w = torch.full((1, 1), 1 / members, dtype=torch.float64).expand(predicted.shape)
        if weights is not None:
            w = weights[:, torch.from_numpy(part["step"].values)]
        sums += row_sums(table, predicted, w, kind[cut], kinds)
    return sums


def _logs(
    withheld: Any, weights: Tensor | None, kind: Tensor, kinds: int, laws: Sequence[str]
) -> Float[Tensor, "kinds"]:
    """Return the mean of minus the log density of the values of each kind."""
    members, number = withheld["predicted"].shape
    found = torch.zeros(number, dtype=torch.float64)
    together = max(LARGEST // members, 1)
    for low in range(0, number, together):
        part = withheld.isel(observation=slice(low, low + together)).load()
        y, std = (torch.from_numpy(part[name].values).double() for name in ("value", "std"))
        x = torch.from_numpy(part["predicted"].values).double()
        w = torch.full(x.shape, 1 / members, dtype=torch.float64)
        if weights is not None:
            w = weights[:, torch.from_numpy(part["step"].values)].double()
        texts = np.array(laws[low : low + together])
        for text in set(texts):
            of = torch.from_numpy(texts == text)
            scale = std[of].nan_to_num(1.0)
            density = law_named(text).log_density(y[of], x[:, of], scale)
            # A member that was dropped is NaN and weighs nothing.
            density = density.masked_fill(w[:, of] == 0, 0.0)
            found[low : low + len(of)][of] = -mixture_log_density(density, w[:, of])
    sums = torch.zeros(kinds, dtype=torch.float64).index_add(0, kind, found)
    return sums / torch.bincount(kind, minlength=kinds)


def _scored(y: Tensor, std: Tensor, predicted: Tensor, w: Tensor) -> dict[str, Tensor]:
    """Return what the scores are means of, for each value."""
    predicted = torch.where(w > 0, predicted, 0.0)
    mean = (w * predicted).sum(0)
    free = 1 - w.square().sum(0)
    variance = (w * (predicted - mean).square()).sum(0) / free.clamp_min(1e-12)
    position = (w * torch.special.ndtr((y - predicted) / std)).sum(0)
    square, crps = (y - mean).square(), mixture_crps(predicted, w, y, std)
    return {
        "present": torch.ones_like(y),
        "square": square,
        "chi2": square / (variance + std.square()),
        "crps": crps,
        "inside": ((position > 0.05) & (position < 0.95)).double(),
        "relative_square": square / std.square(),
        "relative_crps": crps / std,
    }


def mixture_crps(x: Tensor, w: Tensor, y: Tensor, std: Tensor) -> Tensor:
    r"""Return the fair CRPS of a mixture of normals.

    .. math:: \sum_i w_i A(y - x_i, \sigma) - \frac{\sum_{i \ne j} w_i w_j A(x_i - x_j,
        \sqrt 2 \sigma)}{2 (1 - \sum_i w_i^2)}, \quad A(m, s) = E |N(m, s^2)|

    Source: Grimit et al. (2006), Q. J. R. Meteorol. Soc. 132, 2925, equation 5, with the pairs of
    a member with itself left out.
    """
    skill = (w * expected_norm(y - x, std)).sum(0)
    pairs = torch.einsum(
        "im,jm,ijm->m", w, w, expected_norm(x[:, None] - x[None], math.sqrt(2) * std)
    )
    own = w.square().sum(0)
    # The diagonal of the pairs is A(0, sqrt(2) std).
    pairs = pairs - own * expected_norm(torch.zeros_like(std), math.sqrt(2) * std)
    return skill - pairs / (2 * (1 - own).clamp_min(1e-12))


def mixture_log_density(
    density: Float[Tensor, "ensemble values"], w: Float[Tensor, "ensemble values"]
) -> Float[Tensor, "values"]:
    """Return the log density of each value, of those given each member, with weights of sum 1."""
    return torch.logsumexp(density + w.log(), 0)


def expected_norm(mean: Tensor, std: Tensor) -> Tensor:
    r"""Return E |N(mean, std^2)|."""
    z = mean / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density)
