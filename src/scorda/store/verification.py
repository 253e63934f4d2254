r"""Scores of a forecast by its lead time, against observations and a truth of later.

What member i predicts of a value y with the error :math:`\sigma` is :math:`N(h(x_i), \sigma^2)`.
Over all values of an instrument, a variable and a step,

.. math:: \text{rmse}^2 = \overline{(y - \bar h)^2}, \qquad
    \text{spread}^2 = \overline{v}, \qquad
    \text{expected}^2 = \overline{(1 + \textstyle\sum_i w_i^2) v + \sigma^2},

with the weighted mean :math:`\bar h` and the unbiased variance v of the members. A reliable
forecast has an rmse of about what is expected; the CRPS is the fair one of the mixture. Against a
truth the error :math:`\sigma` is 0. ``log`` is the mean of minus the log density of the mixture,
:math:`-\log \sum_i w_i \, p(y \mid h(x_i))`. Of a law other than the Gaussian there is this alone;
of a truth, or correlated errors, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.transforms import Circular
from scorda.metrics.accuracy import pointwise_crps
from scorda.observations.circular import check_circular, predicted
from scorda.observations.observations import Observations
from scorda.store.groups import observation_table
from scorda.store.members import LARGEST
from scorda.store.posterior import Posterior, open_posterior
from scorda.store.withheld import mixture_crps, mixture_log_density

__all__ = ["COLUMNS", "verify"]

COLUMNS = (
    "against",
    "variable",
    "step",
    "lead",
    "values",
    "rmse",
    "spread",
    "expected",
    "crps",
    "log",
)
Row = dict[str, Any]


def verify(
    forecast: Posterior | str | Path,
    observations: Sequence[Observations] | Observations | None = None,
    truth: Float[Tensor, "time ..."] | None = None,
) -> list[Row]:
    """Score a stored forecast at each lead time that was observed.

    Arguments:
        forecast: The forecast, or its path; the end of a run of a filter is one, too.
        observations: What was observed later, in steps of the forecast; one instrument or several.
        truth: True states ``(time, *state)``; NaN is absent.

    Returns:
        One row for each instrument, variable and step, with the ``COLUMNS``. ``lead`` is in the
        unit of ``space.dt``.

    Raises:
        ValueError: If there is nothing to score with, an observation lies beyond the forecast or
            is of several steps, the truth does not fit, or the store does not keep all members.

    Example:
        A forecast of eight steps, scored by what was observed at the last:

        >>> from scorda import store
        >>> run = store.run(sc.EnKF(), problem, 20, "run.zarr", seed=0)
        >>> ahead = sc.forecast(run, problem.system, steps=8, path="ahead.zarr")
        >>> seen = sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> (row,) = sc.verify(ahead, sc.Observations(seen, steps=[8], values=[[1.0]]))
        >>> row["lead"], row["variable"]
        (0.2, 'x')
    """
    if isinstance(forecast, str | Path):
        forecast = open_posterior(forecast)
    given = (
        (observations,) if isinstance(observations, Observations) else tuple(observations or ())
    )
    if not given and truth is None:
        raise ValueError("Got neither observations nor a truth: give one of them.")
    states = forecast.states
    for instrument in given:
        check_circular(instrument, forecast.space)
        if any(isinstance(step, tuple) for step in instrument.steps):
            raise ValueError("Got observations of several steps: a forecast is scored at each.")
        last = max((step for step in instrument.steps if isinstance(step, int)), default=0)
        if last >= states:
            raise ValueError(
                f"Got an observation at step {last} of a forecast of {states - 1} "
                "steps: leave it out."
            )
    if truth is not None and tuple(truth.shape) != (states, *forecast.space.shape):
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)} for {states} states of shape "
            f"{forecast.space.shape}: give one state for each."
        )
    rows = [row for i, one in enumerate(given) for row in _observed(forecast, one, i, len(given))]
    return rows if truth is None else [*rows, *_true(forecast, truth)]


def _observed(
    forecast: Posterior, instrument: Observations, number: int, several: int
) -> Iterator[Row]:
    """Yield the rows of an instrument."""
    against = "observations" if several == 1 else f"instrument {number + 1}"
    names = observation_table([instrument], forecast.space)["variable"]
    low = 0
    for k, step in enumerate(instrument.steps):
        if not instrument.observed(k):
            continue
        y, model = instrument.at(k)
        own, low = names[low : low + len(y)], low + len(y)
        x, w = _members(forecast, int(step))  # type: ignore[arg-type]
        seen = predicted(model.operator, x, forecast.space, y, w).flatten(1).double()
        std = model.scale(tuple(y.shape), y).double()
        log = torch.full_like(std, math.nan)
        if model.cov is None:
            log = -mixture_log_density(model.log_densities(y, seen), w[:, None].expand(seen.shape))
        for name in dict.fromkeys(own):
            of = torch.from_numpy(own == name)
            if model.law is None:
                scores = _scores(seen[:, of], w, y[of].double(), std[of])
            else:
                scores = {"values": int(of.sum()), **dict.fromkeys(COLUMNS[5:], math.nan)}
            scores["log"] = float(log[of].mean())
            yield _row(forecast, against, str(name), step, scores)


def _true(forecast: Posterior, truth: Tensor) -> Iterator[Row]:
    """Yield the rows of the truth."""
    space = forecast.space
    for step in range(forecast.states):
        x, w = _members(forecast, step)
        for name in space.variables:
            y = space.field(truth[step], name).reshape(-1).double()
            known = space.inside[space.entries(name)] & ~y.isnan()
            members = space.field(x, name).reshape(len(x), -1).double()[:, known]
            if known.any():
                circle = space.circular.get(name)
                scores = _scores(
                    members, w, y[known], torch.zeros(int(known.sum())).double(), circle
                )
                yield _row(forecast, "truth", name, step, scores)


def _members(forecast: Posterior, step: int) -> tuple[Tensor, Tensor]:
    """Return the members that are left at a step, and their weights, of sum 1."""
    members, at = forecast.members, slice(step, step + 1)
    there, weights = members.left(at)[:, 0], members.weights(at)
    x = forecast.space.filled(members.states(at)[:, 0])[there]
    w = torch.ones(len(x)).double() if weights is None else weights[there, 0].double()
    return x, w / w.sum()


def _scores(x: Tensor, w: Tensor, y: Tensor, std: Tensor, circle: Circular | None = None) -> Row:
    """Return the scores of members ``(ensemble, values)``."""
    if circle is not None:
        x = circle.unrolled(x, w)
        y = circle.near(y, w @ x)
    own, mean = w.square().sum(), w @ x
    var = (w @ (x - mean).square()) / (1 - own).clamp_min(1e-12) if len(x) > 1 else 0 * mean
    if bool((std > 0).all()):
        each = w[:, None].expand(x.shape)
        # So that the pairs of members of a block take 16 MB.
        cuts = torch.arange(len(y)).split(max(LARGEST // len(x) ** 2, 1))
        crps = torch.cat([mixture_crps(x[:, c], each[:, c], y[c], std[c]) for c in cuts])
    else:
        crps = pointwise_crps(x[:, None], y[None], w[:, None], circle and circle.period)[0]
    return {
        "values": len(y),
        "rmse": float((y - mean).square().mean().sqrt()),
        "spread": float(var.mean().sqrt()),
        "expected": float(((1 + own) * var + std.square()).mean().sqrt()),
        "crps": float(crps.mean()),
        "log": math.nan,
    }


def _row(forecast: Posterior, against: str, name: str, step: Any, scores: Row) -> Row:
    place = {"against": against, "variable": name, "step": int(step)}
    return {**place, "lead": float(f"{int(step) * forecast.space.dt:.15g}"), **scores}
