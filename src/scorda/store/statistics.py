"""Statistics of members: the mean, the standard deviation and quantiles, as stores keep them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.metrics.calibration import quantiles
from scorda.metrics.series import as_series, variance
from scorda.reading.units import conversion
from scorda.store.keep import level_of
from scorda.store.layout import attributes_of
from scorda.store.members import Members, blocks

__all__ = ["attributes", "statistics"]


def statistics(
    members: Members, variable: str, names: Sequence[str]
) -> dict[str, Float[Tensor, "time ..."]]:
    """Return statistics of a variable at each step, in double precision, block by block.

    Their definitions are those of `scorda.store.keep.Keep`. They are NaN where a member is.
    """
    grid, times = members.space.piece_of(variable).grid, members.shape[1]
    found = {name: torch.empty(times, math.prod(grid), dtype=torch.float64) for name in names}
    levels = {name: level for name in names if (level := level_of(name)) is not None}
    for block in blocks(members, names=[variable]):
        x, _, w = as_series(block.states, block.states.new_zeros(()), block.weights)
        made: dict[str, Tensor] = {}
        if levels:
            ordered = quantiles(x, tuple(levels.values()), block.weights)
            made |= dict(zip(levels, ordered, strict=True))
        if "mean" in names:
            made["mean"] = (w * x).sum(0)
        if "std" in names:
            made["std"] = variance(x, w).sqrt()
        if (circle := members.space.circular.get(variable)) is not None:
            made |= {name: circle.within(v) for name, v in made.items() if name != "std"}
        for name, values in made.items():
            found[name][block.steps, block.entries] = values
    return {name: values.reshape(times, *grid) for name, values in found.items()}


def attributes(space: StateSpace, variable: str, statistic: str) -> dict[str, Any]:
    """Return the attributes of the array of a statistic, after the CF conventions.

    These have no cell method for quantiles but the median: others have an attribute ``quantile``.
    """
    found: dict[str, Any] = dict(attributes_of(space, variable))
    level = level_of(statistic)
    if level is None:
        method = {"mean": "mean", "std": "standard_deviation"}[statistic]
        if statistic == "std" and _is_temperature(found.get("units", "")):
            # A spread of 1 degC is 1 K, not 274.15 K.
            found["units_metadata"] = "temperature: difference"
        words = {"mean": "mean", "std": "standard deviation"}[statistic]
    else:
        method, words = "median" if level == 0.5 else "", f"quantile {level:g}"
        found["quantile"] = level
    if method:
        found["cell_methods"] = f"realization: {method}"
    return found | {"long_name": f"{words} of {variable} over the members"}


def _is_temperature(unit: str) -> bool:
    try:
        conversion(unit, "K")
    except ValueError:
        return False
    return bool(unit)
