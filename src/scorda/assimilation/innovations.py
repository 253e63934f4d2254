r"""Whether the errors of observations and forecasts are as large as they are said to be.

With :math:`d_b = y - \overline{h(x^b)}` and :math:`d_a = y - \overline{h(x^a)}`, the innovations
of the forecast and of the analysis *with the same observations*, a gain K that is optimal gives

.. math:: E[d_a d_b^T] = R, \quad E[(d_b - d_a) d_b^T] = H P H^T, \quad
    E[d_b d_b^T] = H P H^T + R.

Of each instrument and variable the diagonals are averaged here, with the means taken off and in
units of the stated variance :math:`\sigma^2` of each value, so that the root of the first is 1
where the errors are as large as stated.

Exact for linear-Gaussian problems with the optimal gain. With another gain :math:`K_0` the
expectation of :math:`d_a d_b^T` is :math:`(I - H K_0)(H P H^T + R)`: one step of a fixed-point
iteration towards R. So a wrong R shows too little, and a wrong spread of the members as a wrong R.
Where R and P are wrong by one factor nothing tells them apart: only their sum is seen.
With localization, whose gain is none of these, the identities are approximate.

Source: Desroziers, Berre, Chapnik & Poli (2005), Q. J. R. Meteorol. Soc. 131, 3385-3396,
equations 1 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorda.assimilation.cycle import Cycle
from scorda.assimilation.filter import Filter
from scorda.assimilation.gross_errors import gross_errors
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.circular import predicted, unrolled
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem

__all__ = [
    "PREFIX",
    "Consistency",
    "Innovations",
    "Kind",
    "consistencies",
    "desroziers",
    "sentences",
]

# What is summed over the values of a kind at each cycle.
SUMS = ("number", "b", "a", "bb", "ab", "spread", "chi2")
# What the names of these begin with in the report of a run.
PREFIX = "desroziers/"
# A ratio of standard deviations that is worth a sentence, if it is no chance.
TOLD = 1.15
# Standard errors beyond which a ratio is no chance.
BEYOND = 2.0

# Number of an instrument, and a variable ("" where the operator does not name it).
Kind = tuple[int, str]


@dataclass(frozen=True)
class Consistency:
    r"""Estimates of one instrument and variable, in standard deviations of its stated error.

    Arguments:
        kind: Instrument, from 0, and variable.
        number: Number of values.
        error: Estimated standard deviation of the error, 1 if as stated; NaN if the estimate of
            the variance is not positive, as it may be for few values.
        standard_error: Standard error of `error`, as if cycles were independent.
        background: Estimated standard deviation of the forecast at the observations.
        spread: That of the members there.
        bias: Mean of the innovations.
        chi2: Mean of :math:`d_b^2 / (s^2 + \sigma^2)`, 1 where spread and errors are right.
    """

    kind: Kind
    number: int
    error: float
    standard_error: float
    background: float
    spread: float
    bias: float
    chi2: float

    @property
    def name(self) -> str:
        """Name of the instrument and the variable."""
        instrument, variable = self.kind
        return f"instrument {instrument + 1}" + (f" ({variable})" if variable else "")

    def sentence(self) -> str | None:
        """Say whether the errors look larger or smaller than stated; None where they do not."""
        off = max(self.error, 1 / self.error) if self.error > 0 else math.nan
        sure = abs(self.error - 1) > BEYOND * self.standard_error
        if not (off >= TOLD and sure):
            return None
        return f"The errors of {self.name} look {self.error:.2g} times as large as stated."


def sentences(found: Sequence[Consistency]) -> list[str]:
    """Say which instruments look better or worse than stated, or that none does."""
    said = [words for one in found if (words := one.sentence())]
    return said or ["The errors of all instruments look as large as stated."]


class Innovations:
    """Sums over the values of each instrument and variable, made of the cycles of a run.

    Arguments:
        method: The filter, whose check of gross errors leaves values out here too.
        problem: What is assimilated.
        weights: Weights of the members before the first cycle, or None where all are equal.
    """

    def __init__(
        self, method: Filter, problem: Problem, weights: Float[Tensor, "ensemble"] | None = None
    ) -> None:
        for instrument in problem.instruments:
            instrument.check_gaussian("diagnostics of errors")
        self._method, self._problem, self._weights = method, problem, weights
        self._observed = problem.observed()
        each = [_variables(one, problem) for one in problem.instruments]
        self.kinds: list[Kind] = sorted({(i, v) for i, names in enumerate(each) for v in names})
        number = {kind: i for i, kind in enumerate(self.kinds)}
        self._kind = [
            torch.tensor([number[i, v] for v in names], dtype=torch.long)
            for i, names in enumerate(each)
        ]
        self._rows = [{step: k for k, step in enumerate(o.steps)} for o in problem.instruments]

    def of(self, cycle: Cycle) -> dict[str, float]:
        """Return the sums of one cycle by name; none where nothing was observed."""
        weights, self._weights = self._weights, cycle.weights
        if cycle.forecast is None:
            return {}
        y, model = self._observed[cycle.step]
        y = y.to(cycle.forecast)
        kind = self._kinds_at(cycle.step)
        space = self._problem.space
        mean, var = _moments(cycle.forecast, weights, y, model, space)
        after, _ = _moments(cycle.ensemble, cycle.weights, y, model, space)
        std = model.error_std(tuple(y.shape), mean)
        b, a, s = (y.double() - mean) / std, (y.double() - after) / std, var / std.square()
        values = torch.stack([torch.ones_like(b), b, a, b * b, a * b, s, b * b / (1 + s)])
        if (limit := self._method.gross_error_check) is not None:
            seen = unrolled(cycle.forecast, weights, y, model, space)
            used = ~gross_errors(seen[0], weights, *seen[1:], limit)
            values, kind = values[:, used], kind[used]
        sums = torch.zeros(len(SUMS), len(self.kinds), dtype=torch.float64)
        sums.index_add_(1, kind, values.cpu())
        return {
            f"{PREFIX}{i}/{v}/{name}": value
            for (i, v), column in zip(self.kinds, sums.T.tolist(), strict=True)
            for name, value in zip(SUMS, column, strict=True)
        }

    def _kinds_at(self, step: int) -> Tensor:
        """Return the kind of each value at a step, in the order of `Problem.observed`."""
        found = []
        for one, rows, kind in zip(self._problem.instruments, self._rows, self._kind, strict=True):
            if (k := rows.get(step)) is not None and one.observed(k):
                found.append(kind[~one.flat[k].isnan().cpu()])
        return torch.cat(found)


def desroziers(
    method: Filter,
    problem: Problem,
    members: int,
    generator: rng.Seed = None,
    first: int = 0,
) -> list[Consistency]:
    """Run a filter, and estimate the errors of each instrument and of the forecast.

    Arguments:
        method: The filter.
        problem: What is to be assimilated.
        members: Number of members.
        generator: Source of randomness or its seed.
        first: First step that counts: before it a filter may not yet know where it is.

    Raises:
        ValueError: If no observed step is left.
    """
    sums, report = Innovations(method, problem), list[dict[str, float]]()
    for cycle in method.run(problem, members, generator):
        found = sums.of(cycle)
        if found and cycle.step >= first:
            report.append(found)
    columns = {name: [entry[name] for entry in report] for name in (report or [{}])[0]}
    return consistencies(columns)


def consistencies(report: Mapping[str, Sequence[Any]]) -> list[Consistency]:
    """Return the estimates of each kind from the columns of a report, an entry for each cycle.

    Raises:
        ValueError: If there is none.
    """
    found: dict[Kind, dict[str, np.ndarray]] = {}
    for name, column in report.items():
        if name.startswith(PREFIX):
            instrument, variable, total = name.removeprefix(PREFIX).split("/")
            values = np.array([0.0 if v is None else v for v in column], dtype=float)
            found.setdefault((int(instrument), variable), {})[total] = values
    kinds = [_estimates(kind, sums) for kind, sums in found.items() if sums["number"].any()]
    if not kinds:
        raise ValueError("No observation counts for the diagnostics of errors: take more steps.")
    return kinds


def _estimates(kind: Kind, sums: Mapping[str, np.ndarray]) -> Consistency:
    """Return the estimates from the sums of each cycle."""
    n = float(sums["number"].sum())
    mean = {name: float(values.sum()) / n for name, values in sums.items()}
    error = mean["ab"] - mean["a"] * mean["b"]
    background = mean["bb"] - mean["b"] ** 2 - error
    # Of a ratio of sums over cycles, about its value.
    off = sums["ab"] - (error + mean["a"] * mean["b"]) * sums["number"]
    deviation = math.sqrt(float(np.square(off).sum())) / n
    root = math.sqrt(error) if error > 0 else math.nan
    return Consistency(
        kind,
        int(n),
        root,
        deviation / (2 * root),
        math.sqrt(max(background, 0.0)),
        math.sqrt(mean["spread"]),
        mean["b"],
        mean["chi2"],
    )


def _variables(instrument: Observations, problem: Problem) -> tuple[str, ...]:
    """Return the variable of each entry of a flattened observation, "" where it has none."""
    try:
        return tuple(instrument.operator(0).variables(problem.space))
    except (ValueError, IndexError):
        return ("",) * instrument.flat.shape[1]


def _moments(
    ensemble: Tensor, weights: Tensor | None, y: Tensor, model: ObservationModel, space: StateSpace
) -> tuple[Float[Tensor, "obs"], Float[Tensor, "obs"]]:
    """Return mean and variance of what the members predict; those that were dropped are NaN."""
    x = predicted(model.operator, ensemble, space, y, weights).flatten(1).double()
    there = x.isfinite().all(1)
    x = x[there]
    w = torch.ones(len(x)).to(x) if weights is None else weights.to(x)[there]
    w = (w / w.sum())[:, None]
    mean = (w * x).sum(0)
    free = (1 - w.square().sum()).clamp_min(torch.finfo(x.dtype).eps)
    return mean, (w * (x - mean).square()).sum(0) / free
